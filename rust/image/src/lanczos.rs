//! The Lanczos kernel of three lobes, as fast as the resampler calls it: thousands of times per image.

use std::f64::consts::{FRAC_PI_3, PI};

/// Distance in pixels from which the kernel is zero.
pub const SUPPORT: f64 = 3.0;

/// Weight at a distance of `x` pixels: `sinc(x) · sinc(x / 3)`.
///
/// With `s = sin(πx / 3)` the triple-angle formula gives `sin(πx) = s (3 − 4 s²)`, so that one sine does, and a series
/// instead of the system's sine gives the same bytes on every machine.
#[must_use]
pub fn weight(x: f64) -> f64 {
    let distance = x.abs();
    if distance >= SUPPORT {
        return 0.0;
    }
    if distance < 1e-6 {
        return 1.0;
    }
    let sine = sine(distance * FRAC_PI_3);
    let square = sine * sine;
    3.0 * square * (3.0 - 4.0 * square) / (PI * PI * distance * distance)
}

/// Sine of 0 to π by its Taylor series about zero, mirrored at π/2; within 1e-11.
fn sine(angle: f64) -> f64 {
    const RATIOS: [f64; 7] = [
        1.0 / 210.0,
        1.0 / 156.0,
        1.0 / 110.0,
        1.0 / 72.0,
        1.0 / 42.0,
        1.0 / 20.0,
        1.0 / 6.0,
    ];
    let angle = angle.min(PI - angle);
    let square = angle * angle;
    let series = RATIOS
        .iter()
        .fold(1.0, |inner, ratio| 1.0 - square * ratio * inner);
    angle * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_product_of_two_sincs() {
        let sinc = |x: f64| {
            if x == 0.0 {
                1.0
            } else {
                (PI * x).sin() / (PI * x)
            }
        };
        for step in -3500..=3500 {
            let x = f64::from(step) / 1000.0;
            let expected = if x.abs() < 3.0 {
                sinc(x) * sinc(x / 3.0)
            } else {
                0.0
            };
            assert!((weight(x) - expected).abs() < 1e-10, "at {x}");
        }
    }
}

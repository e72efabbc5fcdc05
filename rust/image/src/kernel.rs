//! The kernels of resampling, evaluated without a branch so that the compiler takes several weights at once.
//!
//! A series instead of the system's sine gives the same bytes on every machine.

use std::f32::consts::{FRAC_PI_3, PI};

/// Bits after the point of the weights.
pub const FIXED_BITS: u32 = 20;

/// Weights that are computed together.
pub const LANES: usize = 8;

/// What a sample counts by its distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// A triangle: linear interpolation.
    Triangle,
    /// Catmull and Rom's cubic.
    Cubic,
    /// Lanczos's of three lobes.
    Lanczos,
}

impl Kernel {
    /// Distance in pixels from which the kernel is zero.
    #[must_use]
    pub fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Cubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// Fill `weights` with the kernel at `first`, `first + step`, and so on, within two units of [`FIXED_BITS`].
    pub fn fill(self, weights: &mut [[i32; LANES]], first: f32, step: f32) {
        match self {
            Self::Triangle => fill(weights, first, step, triangle),
            Self::Cubic => fill(weights, first, step, cubic),
            Self::Lanczos => fill(weights, first, step, lanczos),
        }
    }
}

#[inline]
fn fill(weights: &mut [[i32; LANES]], mut first: f32, step: f32, kernel: impl Fn(f32) -> f32) {
    for weights in weights {
        for (weight, index) in weights.iter_mut().zip(0_i32..) {
            *weight = fixed(kernel((first + index as f32 * step).abs()));
        }
        first += LANES as f32 * step;
    }
}

/// Round a weight, by the bits of a sum whose unit in the last place is that of the result; faster than a cast, which
/// minds what is out of range.
#[inline]
fn fixed(weight: f32) -> i32 {
    const SCALE: f32 = (1 << FIXED_BITS) as f32;
    const EVEN: f32 = 1.5 * (1 << 23) as f32;
    (weight * SCALE + EVEN).to_bits() as i32 - EVEN.to_bits() as i32
}

fn triangle(distance: f32) -> f32 {
    larger(1.0 - distance, 0.0)
}

fn cubic(distance: f32) -> f32 {
    let near = (1.5 * distance - 2.5) * distance * distance + 1.0;
    let far = ((2.5 - 0.5 * distance) * distance - 4.0) * distance + 2.0;
    let weight = if distance < 1.0 { near } else { far };
    if distance < 2.0 { weight } else { 0.0 }
}

/// `sinc(x) · sinc(x / 3)`: with `s = sin(πx / 3)` the triple-angle formula gives `sin(πx) = s (3 − 4 s²)`, so that one
/// sine does.
fn lanczos(distance: f32) -> f32 {
    let x = larger(smaller(distance, 3.0), 1e-6);
    let sine = sine(x * FRAC_PI_3);
    let square = sine * sine;
    let weight = 3.0 * square * (3.0 - 4.0 * square) / (PI * PI * x * x);
    if distance < 3.0 { weight } else { 0.0 }
}

/// Sine of 0 to π by its Taylor series about zero, mirrored at π/2.
#[inline]
fn sine(angle: f32) -> f32 {
    const RATIOS: [f32; 6] = [
        1.0 / 156.0,
        1.0 / 110.0,
        1.0 / 72.0,
        1.0 / 42.0,
        1.0 / 20.0,
        1.0 / 6.0,
    ];
    let angle = smaller(angle, PI - angle);
    let square = angle * angle;
    let series = RATIOS
        .iter()
        .fold(1.0, |inner, ratio| 1.0 - square * ratio * inner);
    angle * series
}

/// As `f32::min` without its care for what is not a number, so in one instruction.
#[inline]
fn smaller(one: f32, other: f32) -> f32 {
    if one < other { one } else { other }
}

#[inline]
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kernel: Kernel, x: f64) -> f64 {
        let mut weights = [[0; LANES]; 2];
        let step = 0.125;
        kernel.fill(&mut weights, x as f32 - 9.0 * step, step);
        f64::from(weights[1][1]) / f64::from(1 << FIXED_BITS)
    }

    #[test]
    fn lanczos_is_the_product_of_two_sincs() {
        let sinc = |x: f64| {
            let angle = std::f64::consts::PI * x;
            if x == 0.0 { 1.0 } else { angle.sin() / angle }
        };
        for step in -3500..=3500 {
            let x = f64::from(step) / 1000.0;
            let expected = if x.abs() < 3.0 {
                sinc(x) * sinc(x / 3.0)
            } else {
                0.0
            };
            let found = at(Kernel::Lanczos, x);
            assert!((found - expected).abs() < 2e-6, "{found} at {x}");
        }
    }

    #[test]
    fn kernels_are_one_in_the_middle_and_zero_at_other_whole_pixels() {
        for kernel in [Kernel::Triangle, Kernel::Cubic, Kernel::Lanczos] {
            for pixel in -4..=4 {
                let expected = if pixel == 0 { 1.0 } else { 0.0 };
                let found = at(kernel, f64::from(pixel));
                assert!((found - expected).abs() < 2e-6, "{kernel:?} at {pixel}");
            }
        }
    }
}

//! Resampling against its definition in floating point, on any processor, for any size.

use proptest::prelude::*;
use turbo_fetch_image::convolution::Convolution;
use turbo_fetch_image::geometry::{Size, Window};
use turbo_fetch_image::kernel::Kernel;
use turbo_fetch_image::raster::Source;

const KERNELS: [Kernel; 3] = [Kernel::Triangle, Kernel::Cubic, Kernel::Lanczos];

#[derive(Debug, Clone)]
struct Case {
    size: Size,
    channels: usize,
    pixels: Vec<u8>,
    window: Window,
    target: Size,
    kernel: Kernel,
}

impl Case {
    fn run(&self, convolution: &mut Convolution) -> Vec<u8> {
        let source = Source::new(&self.pixels, self.size, self.channels).expect("an image");
        let pitch = self.target.width as usize * self.channels + 3;
        let mut laid = vec![77; pitch * self.target.height as usize];
        convolution.resample(
            source,
            (self.window, self.target),
            self.kernel,
            &mut laid,
            pitch,
        );
        let mut pixels = Vec::new();
        for row in laid.chunks_exact(pitch) {
            let (seen, spare) = row.split_at(pitch - 3);
            assert_eq!(spare, [77; 3], "bytes between the rows");
            pixels.extend_from_slice(seen);
        }
        pixels
    }

    /// The sums of the kernel's formula, rows first, without rounding in between.
    fn exact(&self) -> Vec<f64> {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let down = shares(
            self.window.top,
            self.window.height,
            self.target.height,
            height,
            self.kernel,
        );
        let across = shares(
            self.window.left,
            self.window.width,
            self.target.width,
            width,
            self.kernel,
        );
        let mut exact = Vec::new();
        for row in &down {
            let mut line = vec![0.0; width * self.channels];
            for &(y, share) in row {
                let pixels = &self.pixels[y * line.len()..];
                for (sum, &value) in line.iter_mut().zip(pixels) {
                    *sum += share * f64::from(value);
                }
            }
            for column in &across {
                for channel in 0..self.channels {
                    let samples = column
                        .iter()
                        .map(|&(x, share)| share * line[x * self.channels + channel]);
                    exact.push(samples.sum());
                }
            }
        }
        exact
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let found = self.run(&mut Convolution::default());
        prop_assert_eq!(&found, &self.run(&mut Convolution::portable()));
        for (found, exact) in found.iter().zip(self.exact()) {
            let distance = (f64::from(*found) - exact.clamp(0.0, 255.0)).abs();
            prop_assert!(distance < 1.0, "{} for {}", found, exact);
        }
        Ok(())
    }
}

/// For each of `count` samples which samples of a side count, and how much.
fn shares(
    start: f64,
    seen: f64,
    count: u32,
    length: usize,
    kernel: Kernel,
) -> Vec<Vec<(usize, f64)>> {
    let step = seen / f64::from(count);
    let stretch = step.max(1.0);
    let reach = (kernel.support() * stretch).ceil() as usize + 1;
    let share = |index: u32| {
        let middle = start + (f64::from(index) + 0.5) * step;
        let near = middle as usize;
        let range = near.saturating_sub(reach)..(near + reach).min(length);
        let weights: Vec<_> = range
            .map(|sample| {
                (
                    sample,
                    formula(kernel, (sample as f64 + 0.5 - middle) / stretch),
                )
            })
            .collect();
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        weights
            .into_iter()
            .map(|(sample, weight)| (sample, weight / sum))
            .collect()
    };
    (0..count).map(share).collect()
}

fn formula(kernel: Kernel, x: f64) -> f64 {
    let x = x.abs();
    let sinc = |x: f64| {
        let angle = std::f64::consts::PI * x;
        if angle == 0.0 {
            1.0
        } else {
            angle.sin() / angle
        }
    };
    match kernel {
        _ if x >= kernel.support() => 0.0,
        Kernel::Triangle => 1.0 - x,
        Kernel::Cubic if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        Kernel::Cubic => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
        Kernel::Lanczos => sinc(x) * sinc(x / 3.0),
    }
}

/// Noise, stripes, and edges of black and white, of which the filters overshoot most.
fn pixels(kind: u8, size: Size, channels: usize, seed: u32) -> Vec<u8> {
    let stride = size.width as usize * channels;
    let mut state = seed;
    (0..stride * size.height as usize)
        .map(|index| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (x, y) = (index % stride / channels, index / stride);
            let white = match kind {
                0 => return (state >> 24) as u8,
                1 => x % 2 == 0,
                2 => y / 3 % 2 == 0,
                3 => x + y > seed as usize % 90,
                _ => state >> 31 == 0,
            };
            if white { 255 } else { 0 }
        })
        .collect()
}

fn cases() -> impl Strategy<Value = Case> {
    let sides = || (1_u32..90, 1_u32..90);
    let part = || (0.0_f64..0.7, 0.05_f64..1.0);
    let looks = (
        0_u8..5,
        any::<u32>(),
        prop::sample::select(vec![1_usize, 3, 4]),
    );
    let kernels = prop::sample::select(KERNELS.to_vec());
    (sides(), sides(), part(), part(), looks, kernels).prop_map(
        |(source, target, across, down, (kind, seed, channels), kernel)| {
            let size = Size::new(source.0, source.1);
            let part = |(start, seen): (f64, f64), side: u32| {
                (
                    start * f64::from(side),
                    seen.min(1.0 - start) * f64::from(side),
                )
            };
            let ((left, width), (top, height)) = (part(across, source.0), part(down, source.1));
            Case {
                size,
                channels,
                pixels: pixels(kind, size, channels, seed),
                window: Window {
                    left,
                    top,
                    width,
                    height,
                },
                target: Size::new(target.0, target.1),
                kernel,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pixels_are_those_of_the_formula_on_every_processor(case in cases()) {
        case.check()?;
    }

    #[test]
    fn no_image_depends_on_those_before_it(cases in prop::collection::vec(cases(), 1..6)) {
        let mut shared = Convolution::default();
        for case in &cases {
            prop_assert_eq!(case.run(&mut shared), case.run(&mut Convolution::default()));
        }
    }
}

fn whole(size: Size) -> Window {
    Window {
        left: 0.0,
        top: 0.0,
        width: size.width.into(),
        height: size.height.into(),
    }
}

#[test]
fn extreme_sides_are_resampled_too() {
    let sizes = [(1, 1), (1, 65_535), (65_535, 1), (2, 40_000), (33, 31)]
        .map(|(width, height)| Size::new(width, height));
    let targets =
        [(1, 1), (64, 1), (1, 64), (3, 700)].map(|(width, height)| Size::new(width, height));
    for size in sizes {
        for target in targets {
            let case = Case {
                size,
                channels: 1,
                pixels: pixels(0, size, 1, 7),
                window: whole(size),
                target,
                kernel: Kernel::Lanczos,
            };
            case.check()
                .unwrap_or_else(|error| panic!("{size:?} to {target:?}: {error}"));
        }
    }
}

#[test]
fn even_areas_stay_as_they_are() {
    for level in [0, 1, 128, 254, 255] {
        for width in 1..80 {
            let size = Size::new(61, 47);
            let case = Case {
                size,
                channels: 3,
                pixels: vec![level; 61 * 47 * 3],
                window: whole(size),
                target: Size::new(width, 80 - width),
                kernel: Kernel::Lanczos,
            };
            let found = case.run(&mut Convolution::default());
            assert!(
                found.iter().all(|&value| value == level),
                "{level} at {width}"
            );
        }
    }
}

//! The inverse cosine transform of the lowest N × N frequencies of a block to N × N pixels, N from 1 to 8, of sixteen
//! blocks side by side.
//!
//! Integers throughout. At 8 the pixels are those of libjpeg-turbo's `islow`, or one level beside them.

#[cfg(target_arch = "x86_64")]
pub mod wide;

use crate::processor::{Instructions, Processor, Work};
use crate::tables::Quantisers;
use crate::zigzag::Corner;

/// Blocks that are transformed together.
pub const GROUP: usize = 16;

/// Bits after the point of the cosines, and of what is between the two passes.
const COSINE_BITS: u32 = 13;
const BETWEEN_BITS: u32 = 4;

/// One channel of an image, rows without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plane {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// How one component goes from coefficients to pixels.
#[derive(Debug, Clone)]
pub struct Inverse {
    pub corner: Corner,
    /// In rows of the corner.
    quantisers: [i16; 64],
    /// Where each place of the corner is in a source of coefficients.
    offsets: [usize; 64],
}

/// Blocks side by side: coefficients of place `p` are at `offsets[p]`, one block after the other.
pub struct Strip<'a> {
    pub inverse: &'a Inverse,
    pub source: &'a [i16],
    /// How many blocks, and which block of the plane is the first.
    pub count: usize,
    pub column: usize,
    pub row: usize,
    pub plane: &'a mut Plane,
}

impl Inverse {
    /// `offset` says where the source has the coefficient with an index of the file's order and a place in the corner.
    pub fn new(
        corner: Corner,
        quantisers: &Quantisers,
        offset: impl Fn(usize, usize) -> usize,
    ) -> Self {
        let mut inverse = Self {
            corner,
            quantisers: [0; 64],
            offsets: [0; 64],
        };
        for (index, &quantiser) in quantisers.iter().enumerate() {
            if let Some(place) = corner.place(index) {
                inverse.quantisers[place] = quantiser;
                inverse.offsets[place] = offset(index, place);
            }
        }
        inverse
    }

    pub fn offsets(&self) -> &[usize] {
        &self.offsets[..self.corner.len()]
    }
}

impl Strip<'_> {
    /// Transform the blocks and write what is image of them.
    pub fn transform(self, processor: Processor) {
        processor.run(self);
    }
}

impl Work for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(mut self) {
        match self.inverse.corner.side {
            1 => strip::<I, 1>(&mut self),
            2 => strip::<I, 2>(&mut self),
            3 => strip::<I, 3>(&mut self),
            4 => strip::<I, 4>(&mut self),
            5 => strip::<I, 5>(&mut self),
            6 => strip::<I, 6>(&mut self),
            7 => strip::<I, 7>(&mut self),
            _ => strip::<I, 8>(&mut self),
        }
    }
}

#[inline(always)]
fn strip<I: Instructions, const N: usize>(strip: &mut Strip<'_>) {
    let Plane {
        width,
        height,
        ref mut pixels,
    } = *strip.plane;
    let top = strip.row * N;
    let rows = N.min(height.saturating_sub(top));
    for at in (0..strip.count).step_by(GROUP) {
        let left = (strip.column + at) * N;
        let seen = (GROUP.min(strip.count - at) * N).min(width.saturating_sub(left));
        if seen == 0 || rows == 0 {
            return;
        }
        let lines = I::group::<N>(strip.inverse, strip.source, at);
        let bottom = &mut pixels[top * width..(top + rows) * width];
        for (row, line) in bottom.chunks_exact_mut(width).zip(&lines) {
            row[left..left + seen].copy_from_slice(&line[..seen]);
        }
    }
}

/// Rows of N pixels of each block, one block after the other; a few bytes after the last pixel are spare.
pub type Lines<const N: usize> = [[u8; GROUP * 8 + 8]; N];

/// Transform the blocks from `at` on, lane by lane.
#[inline(always)]
pub fn group<const N: usize>(inverse: &Inverse, source: &[i16], at: usize) -> Lines<N> {
    let mut between = [[[0_i16; GROUP]; N]; N];
    for column in 0..N {
        let mut input = [[0_i16; GROUP]; N];
        for row in 0..N {
            let place = row * N + column;
            let start = inverse.offsets[place] + at;
            let coefficients = &source[start..start + GROUP];
            for (value, &coefficient) in input[row].iter_mut().zip(coefficients) {
                *value = coefficient.wrapping_mul(inverse.quantisers[place]);
            }
        }
        let output = one::<N>(&input, 1 << (COSINE_BITS - BETWEEN_BITS - 1));
        for row in 0..N {
            for lane in 0..GROUP {
                let value = output[row][lane] >> (COSINE_BITS - BETWEEN_BITS);
                between[row][column][lane] = value.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
            }
        }
    }
    let shift = COSINE_BITS + BETWEEN_BITS;
    let mut lines = [[0; GROUP * 8 + 8]; N];
    for row in 0..N {
        let output = one::<N>(&between[row], (128 << shift) + (1 << (shift - 1)));
        let mut words = [[0_u32; GROUP]; 2];
        for x in 0..N {
            for lane in 0..GROUP {
                let pixel = (output[x][lane] >> shift).clamp(0, 255) as u32;
                words[x / 4][lane] |= pixel << (8 * (x % 4));
            }
        }
        for lane in 0..GROUP {
            let word = u64::from(words[0][lane]) | u64::from(words[1][lane]) << 32;
            lines[row][lane * N..lane * N + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    lines
}

/// One dimension: the even frequencies are the same at both ends, the odd ones of opposite sign.
#[inline(always)]
fn one<const N: usize>(input: &[[i16; GROUP]; N], bias: i32) -> [[i32; GROUP]; N] {
    let cosines = const { cosines::<N>() };
    let mut output = [[0; GROUP]; N];
    for x in 0..N.div_ceil(2) {
        let (mut sums, mut differences) = ([0; GROUP], [0; GROUP]);
        // Lanes outermost, which the compiler turns into vectors.
        for lane in 0..GROUP {
            let (mut even, mut odd) = (bias, 0);
            for frequency in 0..N {
                let product = i32::from(input[frequency][lane]) * i32::from(cosines[frequency][x]);
                if frequency % 2 == 0 {
                    even += product;
                } else {
                    odd += product;
                }
            }
            sums[lane] = even + odd;
            differences[lane] = even - odd;
        }
        output[N - 1 - x] = differences;
        output[x] = sums;
    }
    output
}

/// ½ c(u) cos((2x + 1) u π / 2N) in fixed point, by frequency and place; below half in magnitude, so that eight products
/// with sixteen bits stay within 31.
const fn cosines<const N: usize>() -> [[i16; N]; N] {
    let mut table = [[0; N]; N];
    let mut frequency = 0;
    while frequency < N {
        let mut x = 0;
        while x < N {
            let scale = if frequency == 0 {
                std::f64::consts::FRAC_1_SQRT_2
            } else {
                1.0
            };
            let angle = ((2 * x + 1) * frequency % (4 * N)) as f64;
            let value = 0.5 * scale * cosine(angle * std::f64::consts::PI / (2 * N) as f64);
            let scaled = value * (1 << COSINE_BITS) as f64;
            let half = if scaled < 0.0 { -0.5 } else { 0.5 };
            table[frequency][x] = (scaled + half) as i16;
            x += 1;
        }
        frequency += 1;
    }
    table
}

/// Cosine of 0 to 2π, by its series, since the standard library's is not for constants.
const fn cosine(angle: f64) -> f64 {
    let (mut sum, mut term, mut count) = (1.0, 1.0, 1.0);
    while count < 40.0 {
        term *= -angle * angle / (count * (count + 1.0));
        sum += term;
        count += 2.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::zigzag::ZIGZAG;

    /// ITU-T T.81, A.3.3, for the corner of `side`, in floating point.
    fn exact(coefficients: &[i16; 64], quantisers: &Quantisers, side: usize) -> Vec<f64> {
        let angle = |x: usize, u: usize| {
            ((2 * x + 1) * u) as f64 * std::f64::consts::PI / (2 * side) as f64
        };
        let scale = |u: usize| if u == 0 { 0.5_f64.sqrt() } else { 1.0 };
        let mut pixels = vec![128.0; side * side];
        for (index, &natural) in ZIGZAG.iter().enumerate() {
            let (v, u) = (usize::from(natural) / 8, usize::from(natural) % 8);
            if u < side && v < side {
                let value = f64::from(coefficients[index]) * f64::from(quantisers[index]);
                for (place, pixel) in pixels.iter_mut().enumerate() {
                    let (y, x) = (place / side, place % side);
                    *pixel +=
                        value / 4.0 * scale(u) * scale(v) * angle(x, u).cos() * angle(y, v).cos();
                }
            }
        }
        pixels
    }

    fn transformed(
        coefficients: &[i16; 64],
        quantisers: &Quantisers,
        side: usize,
        processor: Processor,
    ) -> Vec<u8> {
        // Each coefficient for all blocks of a group; the block at hand is the third.
        let mut source = vec![0; 64 * GROUP];
        for (index, &coefficient) in coefficients.iter().enumerate() {
            source[index * GROUP + 2] = coefficient;
        }
        let inverse = Inverse::new(Corner::new(side), quantisers, |index, _| index * GROUP);
        let mut plane = Plane {
            width: 3 * side,
            height: side,
            pixels: vec![7; 3 * side * side],
        };
        let strip = Strip {
            inverse: &inverse,
            source: &source,
            count: 3,
            column: 0,
            row: 0,
            plane: &mut plane,
        };
        strip.transform(processor);
        plane
            .pixels
            .chunks_exact(3 * side)
            .flat_map(|row| row[2 * side..].to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn pixels_are_those_of_the_standards_formula(
            side in 1_usize..=8,
            dc in -64_i16..64,
            others in prop::collection::vec(-12_i16..12, 63),
            quantisers in prop::collection::vec(1_i16..16, 64),
        ) {
            let coefficients: [i16; 64] = std::array::from_fn(|index| if index == 0 { dc } else { others[index - 1] });
            let quantisers: Quantisers = std::array::from_fn(|index| quantisers[index]);
            let found = transformed(&coefficients, &quantisers, side, Processor::detect());
            for (found, expected) in found.iter().zip(exact(&coefficients, &quantisers, side)) {
                let distance = (f64::from(*found) - expected.clamp(0.0, 255.0)).abs();
                prop_assert!(distance < 0.75, "{} for {}", found, expected);
            }
        }

        #[test]
        fn any_processor_gives_the_same_bytes(
            side in 1_usize..=8,
            coefficients in prop::collection::vec(any::<i16>(), 64),
            quantisers in prop::collection::vec(1_i16..=255, 64),
        ) {
            let coefficients: [i16; 64] = std::array::from_fn(|index| coefficients[index]);
            let quantisers: Quantisers = std::array::from_fn(|index| quantisers[index]);
            let [any, this] = [Processor::Any, Processor::detect()]
                .map(|processor| transformed(&coefficients, &quantisers, side, processor));
            prop_assert_eq!(any, this);
        }
    }
}

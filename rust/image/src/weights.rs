//! How much each sample of a side counts for each sample that the side becomes.

use std::ops::Range;
use std::sync::Arc;

use crate::kernel::{self, Kernel};

/// Bits after the point of the weights where the image becomes no smaller, so that they fit sixteen bits. They have more
/// where many weights share the sum, as far as sums of products fit 32.
const LEAST_BITS: u32 = 14;
pub const MOST_BITS: u32 = 20;

/// Weights are stored for a multiple of so many samples.
pub const LANES: usize = 16;

/// A part of a side that becomes `count` samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Side {
    /// Samples of the whole side.
    pub length: usize,
    /// Where the part begins and how long it is; inside the side.
    pub start: f64,
    pub seen: f64,
    pub count: usize,
    pub kernel: Kernel,
}

/// The weights of one side.
#[derive(Debug)]
pub struct Weights {
    /// For each sample of the target the first of the source that counts.
    firsts: Vec<usize>,
    /// And how many count.
    counts: Vec<usize>,
    /// As many chunks of weights as the longest span needs, for each sample; zeros after its own.
    values: Vec<[i16; LANES]>,
    chunks: usize,
    /// Bits after the point.
    bits: u32,
}

impl Weights {
    #[must_use]
    pub fn new(side: &Side) -> Self {
        let step = side.seen / side.count as f64;
        // When the image becomes smaller, the kernel is stretched, so that no detail of the source is aliased.
        let stretch = step.max(1.0);
        let radius = side.kernel.support() * stretch;
        let most = ((2.0 * radius) as usize + 2).min(side.length);
        let chunks = most.div_ceil(LANES);
        let mut weights = Self {
            firsts: Vec::with_capacity(side.count),
            counts: Vec::with_capacity(side.count),
            values: vec![[0; LANES]; side.count * chunks],
            chunks,
            bits: (LEAST_BITS + (stretch as u32).ilog2()).min(MOST_BITS),
        };
        let mut exact = vec![[0; kernel::LANES]; most.div_ceil(kernel::LANES)];
        for (index, values) in weights.values.chunks_exact_mut(chunks).enumerate() {
            let middle = side.start + (index as f64 + 0.5) * step;
            let middle = middle.clamp(0.0, side.length as f64);
            let first = ((middle - radius + 0.5).max(0.0) as usize).min(side.length - 1);
            let last = ((middle + radius - 0.5) as usize).clamp(first, side.length - 1);
            let count = last + 1 - first;
            let exact = &mut exact[..count.div_ceil(kernel::LANES)];
            let from = (first as f64 + 0.5 - middle) / stretch;
            side.kernel.fill(exact, from as f32, (1.0 / stretch) as f32);
            let exact = &exact.as_flattened()[..count];
            let (skipped, count) = rounded(exact, weights.bits, values.as_flattened_mut());
            weights.firsts.push(first + skipped);
            weights.counts.push(count);
        }
        weights
    }

    /// Bits after the point of the weights.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Samples that count for any.
    #[must_use]
    pub fn reach(&self) -> Range<usize> {
        let spans = self.firsts.iter().zip(&self.counts);
        let end = spans.map(|(first, count)| first + count).max();
        self.firsts.iter().min().copied().unwrap_or(0)..end.unwrap_or(0)
    }

    /// For each sample the first that counts for it.
    #[must_use]
    pub fn firsts(&self) -> &[usize] {
        &self.firsts
    }

    /// The weights from the first on, in as many chunks for each sample, zeros after those that count.
    #[must_use]
    pub fn padded(&self) -> (usize, &[[i16; LANES]]) {
        (self.chunks, &self.values)
    }

    /// The weights for the sample at `index`, and a zero where they are of an odd number.
    #[must_use]
    pub fn pairs(&self, index: usize) -> &[[i16; 2]] {
        let values = &self.values[index * self.chunks..(index + 1) * self.chunks];
        &values.as_flattened().as_chunks().0[..self.counts[index].div_ceil(2)]
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.values[..])
            + size_of_val(&self.firsts[..])
            + size_of_val(&self.counts[..])
    }
}

/// Bring `exact` to a sum of one in fixed point. Each weight takes over what rounding left of those before it, so that they
/// sum to one and errors cancel in even areas. Zeros at the ends are left out: return how many at the front, and how many
/// weights there are.
fn rounded(exact: &[i32], bits: u32, values: &mut [i16]) -> (usize, usize) {
    /// Bits after the point of what brings the sum to one.
    const FACTOR_BITS: u32 = 32;
    let whole: i64 = exact.iter().map(|&weight| i64::from(weight)).sum();
    let factor = (1_i64 << (bits + FACTOR_BITS)) / whole;
    let mut sum = 0;
    let mut before = 0;
    for (value, &weight) in values.iter_mut().zip(exact) {
        sum += i64::from(weight);
        let now = (sum * factor + (1 << (FACTOR_BITS - 1))) >> FACTOR_BITS;
        *value = (now - before) as i16;
        before = now;
    }
    let used = &values[..exact.len()];
    let skipped = used.iter().take_while(|&&value| value == 0).count();
    let unused = used.iter().rev().take_while(|&&value| value == 0).count();
    let count = exact.len() - unused - skipped;
    values.copy_within(skipped..skipped + count, 0);
    values[count..exact.len()].fill(0);
    (skipped, count)
}

/// Weights that were computed, for the next image of the same sides.
#[derive(Debug, Default)]
pub struct Cache {
    /// The last used is the last.
    kept: Vec<(Side, Arc<Weights>)>,
}

impl Cache {
    /// A few sizes of images, of which each has four sides: luma's and chroma's.
    const KEPT: usize = 32;
    /// Larger ones come from images of rare sizes.
    const MAX_BYTES: usize = 1 << 18;

    /// The weights of `side`.
    pub fn get(&mut self, side: &Side) -> Arc<Weights> {
        let found = self.kept.iter().rposition(|(kept, _)| kept == side);
        let (side, weights) = match found {
            Some(index) => self.kept.remove(index),
            None => (*side, Arc::new(Weights::new(side))),
        };
        if weights.bytes() <= Self::MAX_BYTES {
            if self.kept.len() == Self::KEPT {
                self.kept.remove(0);
            }
            self.kept.push((side, Arc::clone(&weights)));
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn weights_sum_to_one_inside_the_side(
            length in 1_usize..3_000,
            count in 1_usize..300,
            start in 0.0_f64..0.9,
            seen in 0.01_f64..1.0,
            kernel in prop::sample::select(vec![Kernel::Triangle, Kernel::Cubic, Kernel::Lanczos]),
        ) {
            let whole = length as f64;
            let seen = seen.min(1.0 - start) * whole;
            let side = Side { length, start: start * whole, seen, count, kernel };
            let weights = Weights::new(&side);
            let (chunks, values) = weights.padded();
            prop_assert_eq!(weights.firsts().len(), count);
            for (index, &first) in weights.firsts().iter().enumerate() {
                let pairs = weights.pairs(index).as_flattened();
                let padded = values[index * chunks..(index + 1) * chunks].as_flattened();
                let used = padded.len() - padded.iter().rev().take_while(|&&value| value == 0).count();
                prop_assert!(weights.reach().contains(&first) && first + used <= weights.reach().end);
                prop_assert!(weights.reach().end <= length);
                prop_assert_eq!(&pairs[..used], &padded[..used]);
                let sum: i32 = padded.iter().map(|&value| i32::from(value)).sum();
                prop_assert_eq!(sum, 1 << weights.bits());
            }
        }
    }

    #[test]
    fn a_side_that_stays_as_it_is_takes_each_sample_alone() {
        let side = Side {
            length: 9,
            start: 2.0,
            seen: 5.0,
            count: 5,
            kernel: Kernel::Lanczos,
        };
        let weights = Weights::new(&side);
        for index in 0..5 {
            assert_eq!(weights.firsts()[index], 2 + index);
            assert_eq!(weights.pairs(index), [[1 << weights.bits(), 0]]);
        }
    }

    #[test]
    fn the_cache_keeps_few_and_tells_sides_apart() {
        let mut cache = Cache::default();
        for round in 0..100 {
            let side = Side {
                length: 100 + round % 40,
                start: 0.0,
                seen: 90.0,
                count: 30,
                kernel: Kernel::Cubic,
            };
            let (kept, fresh) = (cache.get(&side), Weights::new(&side));
            assert_eq!(kept.values, fresh.values);
            assert!(cache.kept.len() <= Cache::KEPT);
        }
    }
}

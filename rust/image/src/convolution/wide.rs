//! Both passes with AVX2: the same sums of the same products as in [`super::portable`].
#![expect(
    unsafe_code,
    reason = "instructions that a processor may lack are called where it was seen to have them; registers are read and \
              written as arrays, which needs no check but that of their size"
)]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi32_si128, _mm_packus_epi16, _mm_unpacklo_epi64, _mm256_add_epi32,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_hadd_epi32, _mm256_madd_epi16,
    _mm256_packs_epi32, _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_sra_epi32, _mm256_srai_epi32, _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};
use std::mem::transmute;

use super::{ACROSS_BITS, Rows, portable};
use crate::weights::{LANES, Weights};

/// Proof that the processor has what the passes need.
#[derive(Debug, Clone, Copy)]
pub struct Detected(());

impl Detected {
    pub fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

/// See [`portable::down`].
pub fn down(_: Detected, rows: &Rows<'_>, row: &mut [i16]) {
    // SAFETY: a value of the type exists only where the instructions were detected.
    unsafe { sum_rows(rows, row) }
}

/// See [`portable::across`].
pub fn across(_: Detected, row: &[i16], weights: &Weights, first: usize, pixels: &mut [u8]) {
    // SAFETY: as above.
    unsafe { sum_columns(row, weights, first, pixels) }
}

/// Columns of a step of [`sum_rows`].
const COLUMNS: usize = 32;
/// Pixels of a step of [`sum_columns`].
const PIXELS: usize = 8;

fn bytes(lanes: [u8; COLUMNS]) -> __m256i {
    // SAFETY: both are 32 bytes, of any bits.
    unsafe { transmute::<[u8; COLUMNS], __m256i>(lanes) }
}

fn words(lanes: [i16; LANES]) -> __m256i {
    // SAFETY: both are 32 bytes, of any bits.
    unsafe { transmute::<[i16; LANES], __m256i>(lanes) }
}

fn stored(registers: [__m256i; 2]) -> [i16; COLUMNS] {
    // SAFETY: both are 64 bytes, of any bits.
    unsafe { transmute::<[__m256i; 2], [i16; COLUMNS]>(registers) }
}

fn first_eight(register: __m128i) -> [u8; PIXELS] {
    // SAFETY: both are 16 bytes, of any bits.
    let [first, _] = unsafe { transmute::<__m128i, [[u8; PIXELS]; 2]>(register) };
    first
}

#[target_feature(enable = "avx2")]
fn sum_rows(rows: &Rows<'_>, row: &mut [i16]) {
    let Some(last) = row.len().checked_sub(COLUMNS) else {
        portable::down(rows, row);
        return;
    };
    let mut column = 0;
    while column + 2 * COLUMNS <= row.len() {
        columns::<2>(rows, column, row);
        column += 2 * COLUMNS;
    }
    while column < row.len() {
        // The last block may do some columns again.
        column = column.min(last);
        columns::<1>(rows, column, row);
        column += COLUMNS;
    }
}

/// One step of [`sum_rows`]: some blocks of columns, two rows at a time.
#[inline]
#[target_feature(enable = "avx2")]
fn columns<const BLOCKS: usize>(rows: &Rows<'_>, column: usize, row: &mut [i16]) {
    let zero = _mm256_setzero_si256();
    let mut sums = [[_mm256_set1_epi32(1 << (rows.shift - 1)); 4]; BLOCKS];
    let mut start = column;
    for &[first, second] in rows.weights {
        let weights = _mm256_set1_epi32(i32::from(first) & 0xffff | i32::from(second) << 16);
        let above = block::<BLOCKS>(rows.pixels, start);
        let below = block::<BLOCKS>(rows.pixels, start + rows.stride);
        for index in 0..BLOCKS {
            let low = _mm256_unpacklo_epi8(above[index], below[index]);
            let high = _mm256_unpackhi_epi8(above[index], below[index]);
            let quarters = [
                _mm256_unpacklo_epi8(low, zero),
                _mm256_unpackhi_epi8(low, zero),
                _mm256_unpacklo_epi8(high, zero),
                _mm256_unpackhi_epi8(high, zero),
            ];
            for quarter in 0..4 {
                let products = _mm256_madd_epi16(quarters[quarter], weights);
                let sum = &mut sums[index][quarter];
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        start += 2 * rows.stride;
    }
    let target = &mut row[column..column + BLOCKS * COLUMNS];
    for (sums, target) in sums.iter().zip(target.as_chunks_mut::<COLUMNS>().0) {
        *target = narrowed(sums, rows.shift);
    }
}

/// Columns of one row, or zeros past the last.
#[inline]
#[target_feature(enable = "avx2")]
fn block<const BLOCKS: usize>(pixels: &[u8], start: usize) -> [__m256i; BLOCKS] {
    let mut registers = [_mm256_setzero_si256(); BLOCKS];
    if let Some(pixels) = pixels.get(start..start + BLOCKS * COLUMNS) {
        for (register, &block) in registers.iter_mut().zip(pixels.as_chunks().0) {
            *register = bytes(block);
        }
    }
    registers
}

/// Shift the sums of a block, and put its columns in order.
#[inline]
#[target_feature(enable = "avx2")]
fn narrowed(sums: &[__m256i; 4], shift: u32) -> [i16; COLUMNS] {
    let shift = _mm_cvtsi32_si128(shift as i32);
    // Columns 0 to 7 and 16 to 23, then the others.
    let even = _mm256_packs_epi32(
        _mm256_sra_epi32(sums[0], shift),
        _mm256_sra_epi32(sums[1], shift),
    );
    let odd = _mm256_packs_epi32(
        _mm256_sra_epi32(sums[2], shift),
        _mm256_sra_epi32(sums[3], shift),
    );
    stored([
        _mm256_permute2x128_si256::<0x20>(even, odd),
        _mm256_permute2x128_si256::<0x31>(even, odd),
    ])
}

#[target_feature(enable = "avx2")]
fn sum_columns(row: &[i16], weights: &Weights, first: usize, pixels: &mut [u8]) {
    let Some(last) = pixels.len().checked_sub(PIXELS) else {
        portable::across(row, weights, first, pixels);
        return;
    };
    let mut index = 0;
    while index < pixels.len() {
        // The last block may do some pixels again.
        index = index.min(last);
        let block = match weights.padded().0 {
            1 => eight::<1>(row, weights, first, index),
            2 => eight::<2>(row, weights, first, index),
            _ => eight_of_any(row, weights, first, index),
        };
        pixels[index..index + PIXELS].copy_from_slice(&block);
        index += PIXELS;
    }
}

/// Eight pixels of as many chunks of weights.
#[inline]
#[target_feature(enable = "avx2")]
fn eight<const CHUNKS: usize>(
    row: &[i16],
    weights: &Weights,
    first: usize,
    index: usize,
) -> [u8; PIXELS] {
    let mut sums = [_mm256_setzero_si256(); PIXELS];
    let values = &weights.padded().1[index * CHUNKS..(index + PIXELS) * CHUNKS];
    let starts = &weights.firsts()[index..index + PIXELS];
    for pixel in 0..PIXELS {
        let start = starts[pixel] - first;
        let samples = row[start..start + CHUNKS * LANES].as_chunks::<LANES>().0;
        for chunk in 0..CHUNKS {
            let weights = words(values[pixel * CHUNKS + chunk]);
            let products = _mm256_madd_epi16(words(samples[chunk]), weights);
            sums[pixel] = _mm256_add_epi32(sums[pixel], products);
        }
    }
    rounded(sums)
}

#[inline]
#[target_feature(enable = "avx2")]
fn eight_of_any(row: &[i16], weights: &Weights, first: usize, index: usize) -> [u8; PIXELS] {
    let (chunks, values) = weights.padded();
    let mut sums = [_mm256_setzero_si256(); PIXELS];
    for (offset, sum) in sums.iter_mut().enumerate() {
        let pixel = index + offset;
        let samples = row[weights.firsts()[pixel] - first..].as_chunks().0;
        let values = &values[pixel * chunks..(pixel + 1) * chunks];
        for (&samples, &weights) in samples.iter().zip(values) {
            let products = _mm256_madd_epi16(words(samples), words(weights));
            *sum = _mm256_add_epi32(*sum, products);
        }
    }
    rounded(sums)
}

/// Add up the sums of each pixel, and round them.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(sums: [__m256i; PIXELS]) -> [u8; PIXELS] {
    let pair = |first: usize| _mm256_hadd_epi32(sums[first], sums[first + 1]);
    let low = _mm256_hadd_epi32(pair(0), pair(2));
    let high = _mm256_hadd_epi32(pair(4), pair(6));
    let whole = _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
    );
    let half = _mm256_set1_epi32(1 << (ACROSS_BITS - 1));
    let shifted = _mm256_srai_epi32::<{ ACROSS_BITS as i32 }>(_mm256_add_epi32(whole, half));
    let words = _mm256_packs_epi32(shifted, shifted);
    first_eight(_mm_packus_epi16(merged(words), merged(words)))
}

/// The first four lanes of each half.
#[inline]
#[target_feature(enable = "avx2")]
fn merged(words: __m256i) -> __m128i {
    _mm_unpacklo_epi64(
        _mm256_castsi256_si128(words),
        _mm256_extracti128_si256::<1>(words),
    )
}

//! The transform of a group with AVX2: the same sums of the same products, so the same bytes.
#![expect(
    unsafe_code,
    reason = "registers are read and written as arrays, which needs no check but that of their size"
)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_madd_epi16, _mm256_mullo_epi16, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_srai_epi32, _mm256_sub_epi32, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16,
    _mm256_unpackhi_epi32, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16, _mm256_unpacklo_epi32,
};
use std::mem::transmute;

use super::{BETWEEN_BITS, COSINE_BITS, GROUP, Inverse, Lines, cosines};

fn register(lanes: [i16; GROUP]) -> __m256i {
    // SAFETY: both are 32 bytes, of any bits.
    unsafe { transmute::<[i16; GROUP], __m256i>(lanes) }
}

fn lanes(register: __m256i) -> [[u8; 8]; 4] {
    // SAFETY: both are 32 bytes, of any bits.
    unsafe { transmute::<__m256i, [[u8; 8]; 4]>(register) }
}

/// Sums of 32 bits: of lanes 0 to 3 and 8 to 11, and of the others, as unpacking orders them.
type Sums = [__m256i; 2];

#[inline]
#[target_feature(enable = "avx2")]
pub fn group<const N: usize>(inverse: &Inverse, source: &[i16], at: usize) -> Lines<N> {
    let zero = _mm256_setzero_si256();
    let mut between = [[zero; N]; N];
    for column in 0..N {
        let mut input = [zero; N];
        for row in 0..N {
            let place = row * N + column;
            let start = inverse.offsets[place] + at;
            if let Some(coefficients) = source.get(start..).and_then(<[i16]>::first_chunk) {
                let quantiser = _mm256_set1_epi16(inverse.quantisers[place]);
                input[row] = _mm256_mullo_epi16(register(*coefficients), quantiser);
            }
        }
        let output = one::<N>(&input, 1 << (COSINE_BITS - BETWEEN_BITS - 1));
        for row in 0..N {
            between[row][column] = narrowed::<{ (COSINE_BITS - BETWEEN_BITS) as i32 }>(output[row]);
        }
    }
    let mut lines = [[0; GROUP * 8 + 8]; N];
    for (row, line) in lines.iter_mut().enumerate() {
        const SHIFT: u32 = COSINE_BITS + BETWEEN_BITS;
        let output = one::<N>(&between[row], (128 << SHIFT) + (1 << (SHIFT - 1)));
        let mut pixels = [zero; 8];
        for x in 0..N {
            pixels[x] = narrowed::<{ SHIFT as i32 }>(output[x]);
        }
        interleave::<N>(&pixels, line);
    }
    lines
}

#[inline]
#[target_feature(enable = "avx2")]
fn narrowed<const SHIFT: i32>(sums: Sums) -> __m256i {
    _mm256_packs_epi32(
        _mm256_srai_epi32::<SHIFT>(sums[0]),
        _mm256_srai_epi32::<SHIFT>(sums[1]),
    )
}

/// One dimension, as [`super::one`] has it, two frequencies at a time.
#[inline]
#[target_feature(enable = "avx2")]
fn one<const N: usize>(input: &[__m256i; N], bias: i32) -> [Sums; N] {
    let cosines = const { cosines::<N>() };
    let zero = _mm256_setzero_si256();
    let mut pairs = [[zero; 2]; 4];
    for (index, pair) in pairs.iter_mut().enumerate() {
        let (first, second) = frequencies(index);
        if first < N {
            let other = if second < N { input[second] } else { zero };
            *pair = [
                _mm256_unpacklo_epi16(input[first], other),
                _mm256_unpackhi_epi16(input[first], other),
            ];
        }
    }
    let mut output = [[zero; 2]; N];
    for x in 0..N.div_ceil(2) {
        let mut sums = [[_mm256_set1_epi32(bias); 2], [zero; 2]];
        for (index, pair) in pairs.iter().enumerate() {
            let (first, second) = frequencies(index);
            if first >= N {
                continue;
            }
            let other = if second < N { cosines[second][x] } else { 0 };
            let both = i32::from(cosines[first][x]) & 0xffff | i32::from(other) << 16;
            for half in 0..2 {
                let product = _mm256_madd_epi16(pair[half], _mm256_set1_epi32(both));
                let sum = &mut sums[index % 2][half];
                *sum = _mm256_add_epi32(*sum, product);
            }
        }
        let [even, odd] = sums;
        for half in 0..2 {
            output[N - 1 - x][half] = _mm256_sub_epi32(even[half], odd[half]);
            output[x][half] = _mm256_add_epi32(even[half], odd[half]);
        }
    }
    output
}

/// The frequencies of a pair: even ones in pairs 0 and 2, odd ones in 1 and 3.
#[inline(always)]
const fn frequencies(pair: usize) -> (usize, usize) {
    let first = pair % 2 + pair / 2 * 4;
    (first, first + 2)
}

/// N pixels of each block, one block after the other.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave<const N: usize>(pixels: &[__m256i; 8], line: &mut [u8; GROUP * 8 + 8]) {
    // Four pixels of each block: blocks 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15.
    let fours = |first: usize| {
        let even = _mm256_packus_epi16(pixels[first], pixels[first + 2]);
        let odd = _mm256_packus_epi16(pixels[first + 1], pixels[first + 3]);
        let (low, high) = (
            _mm256_unpacklo_epi8(even, odd),
            _mm256_unpackhi_epi8(even, odd),
        );
        [
            _mm256_unpacklo_epi16(low, high),
            _mm256_unpackhi_epi16(low, high),
        ]
    };
    let (left, right) = (fours(0), fours(4));
    let eights: [[[u8; 8]; 4]; 4] = [
        lanes(_mm256_unpacklo_epi32(left[0], right[0])),
        lanes(_mm256_unpackhi_epi32(left[0], right[0])),
        lanes(_mm256_unpacklo_epi32(left[1], right[1])),
        lanes(_mm256_unpackhi_epi32(left[1], right[1])),
    ];
    for block in 0..GROUP {
        // The lower half of each register holds two of the first eight blocks, the upper half two of the others.
        let word = eights[block % 8 / 2][block / 8 * 2 + block % 2];
        line[block * N..block * N + 8].copy_from_slice(&word);
    }
}

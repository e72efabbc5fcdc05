//! Sixteen messages side by side with AVX-512: the same steps on a word of each.
#![expect(
    unsafe_code,
    reason = "instructions that a processor may lack are called where it was seen to have them; registers are read and \
              written as arrays, which needs no check but that of their size"
)]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_set4_epi32,
    _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_ternarylogic_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use super::lanes::Block;

pub const LANES: usize = 16;

/// The first 32 bits of the fractional parts of the square roots of the first 8 primes.
#[rustfmt::skip]
const INITIAL: [u32; 8] = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
];

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[rustfmt::skip]
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Proof that the processor has what [`compress`] needs.
#[derive(Debug, Clone, Copy)]
pub struct Detected(());

impl Detected {
    pub fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        present.then_some(Self(()))
    }
}

/// The states of all lanes: of each of the eight words, that of every lane.
#[derive(Debug)]
pub struct States([[u32; LANES]; 8]);

impl States {
    pub fn new() -> Self {
        Self(INITIAL.map(|word| [word; LANES]))
    }

    pub fn reset(&mut self, lane: usize) {
        for (words, initial) in self.0.iter_mut().zip(INITIAL) {
            words[lane] = initial;
        }
    }

    pub fn of(&self, lane: usize) -> [u32; 8] {
        self.0.map(|words| words[lane])
    }

    /// Add blocks to each state, as many to the one as to the others.
    pub fn compress(&mut self, _: Detected, blocks: &[&[Block]; LANES]) {
        // SAFETY: a `Detected` exists only where the instructions were detected.
        unsafe { compress(&mut self.0, blocks) };
    }
}

fn register(words: [u32; LANES]) -> __m512i {
    // SAFETY: both are 64 bytes, of any bits.
    unsafe { transmute::<[u32; LANES], __m512i>(words) }
}

fn words(register: __m512i) -> [u32; LANES] {
    // SAFETY: both are 64 bytes, of any bits.
    unsafe { transmute::<__m512i, [u32; LANES]>(register) }
}

fn bytes(block: Block) -> __m512i {
    // SAFETY: both are 64 bytes, of any bits.
    unsafe { transmute::<Block, __m512i>(block) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn compress(states: &mut [[u32; LANES]; 8], blocks: &[&[Block]; LANES]) {
    let mut state = states.map(register);
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for at in 0..count {
        let before = state;
        rounds(&mut state, schedule(blocks, at));
        for (word, before) in state.iter_mut().zip(before) {
            *word = _mm512_add_epi32(*word, before);
        }
    }
    *states = state.map(words);
}

/// The words of block `at` of each message, every register one of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn schedule(blocks: &[&[Block]; LANES], at: usize) -> [__m512i; 16] {
    let big_endian = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let mut rows = [big_endian; LANES];
    for (row, blocks) in rows.iter_mut().zip(blocks) {
        *row = _mm512_shuffle_epi8(bytes(blocks[at]), big_endian);
    }
    // Squares of four words first, then the squares.
    let mut squares = rows;
    for four in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[4 * four + row]);
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        squares[4 * four] = _mm512_unpacklo_epi64(ab, cd);
        squares[4 * four + 1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        squares[4 * four + 2] = _mm512_unpacklo_epi64(ab, cd);
        squares[4 * four + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    let mut words = rows;
    for word in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|four| squares[four + word]);
        let even = [(a, b), (c, d)].map(|(a, b)| _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b));
        let odd = [(a, b), (c, d)].map(|(a, b)| _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
        words[word] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]);
        words[word + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]);
        words[word + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]);
        words[word + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]);
    }
    words
}

const XOR: i32 = 0x96;
const CHOICE: i32 = 0xca;
const MAJORITY: i32 = 0xe8;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rotated<const A: i32, const B: i32, const C: i32>(word: __m512i) -> __m512i {
    let [a, b, c] = [
        _mm512_ror_epi32::<A>(word),
        _mm512_ror_epi32::<B>(word),
        _mm512_ror_epi32::<C>(word),
    ];
    _mm512_ternarylogic_epi32::<XOR>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shifted<const A: i32, const B: i32, const SHIFT: u32>(word: __m512i) -> __m512i {
    let [a, b, c] = [
        _mm512_ror_epi32::<A>(word),
        _mm512_ror_epi32::<B>(word),
        _mm512_srli_epi32::<SHIFT>(word),
    ];
    _mm512_ternarylogic_epi32::<XOR>(a, b, c)
}

/// The 64 rounds of a block of each message.
#[expect(clippy::many_single_char_names, reason = "the names of the standard")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rounds(state: &mut [__m512i; 8], mut words: [__m512i; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    macro_rules! round {
        ($constants:ident, $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $word:literal) => {
            let constant = _mm512_set1_epi32($constants[$word] as i32);
            let chosen = _mm512_ternarylogic_epi32::<CHOICE>($e, $f, $g);
            let added = _mm512_add_epi32(_mm512_add_epi32($h, constant), words[$word]);
            let sum = _mm512_add_epi32(_mm512_add_epi32(added, chosen), rotated::<6, 11, 25>($e));
            let majority = _mm512_ternarylogic_epi32::<MAJORITY>($a, $b, $c);
            $d = _mm512_add_epi32($d, sum);
            $h = _mm512_add_epi32(_mm512_add_epi32(sum, majority), rotated::<2, 13, 22>($a));
        };
    }
    macro_rules! following {
        ($($word:literal)*) => {$(
            let sum = _mm512_add_epi32(words[$word], words[($word + 9) % 16]);
            let far = shifted::<7, 18, 3>(words[($word + 1) % 16]);
            let near = shifted::<17, 19, 10>(words[($word + 14) % 16]);
            words[$word] = _mm512_add_epi32(_mm512_add_epi32(sum, far), near);
        )*};
    }
    // Registers cannot be indexed: what is no literal here would keep the words in memory.
    for (quarter, constants) in ROUND_CONSTANTS.as_chunks::<16>().0.iter().enumerate() {
        if quarter > 0 {
            following!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        round!(constants, a b c d e f g h, 0);
        round!(constants, h a b c d e f g, 1);
        round!(constants, g h a b c d e f, 2);
        round!(constants, f g h a b c d e, 3);
        round!(constants, e f g h a b c d, 4);
        round!(constants, d e f g h a b c, 5);
        round!(constants, c d e f g h a b, 6);
        round!(constants, b c d e f g h a, 7);
        round!(constants, a b c d e f g h, 8);
        round!(constants, h a b c d e f g, 9);
        round!(constants, g h a b c d e f, 10);
        round!(constants, f g h a b c d e, 11);
        round!(constants, e f g h a b c d, 12);
        round!(constants, d e f g h a b c, 13);
        round!(constants, c d e f g h a b, 14);
        round!(constants, b c d e f g h a, 15);
    }
    *state = [a, b, c, d, e, f, g, h];
}

//! The same work, compiled for any processor and for one with wide registers.
//!
//! All arithmetic is on integers, so that both give the same bytes; the compiler turns loops over lanes into vectors.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "instructions that a processor may lack are called where it was seen to have them"
    )
)]

use crate::inverse::{self, Inverse, Lines};

/// Work that is compiled once for each kind of processor. `run` and all it calls must be inlined.
pub trait Work {
    type Output;
    fn run<I: Instructions>(self) -> Self::Output;
}

/// What is written for a kind of processor by hand, because the compiler would not find it.
pub trait Instructions {
    /// The lowest bits of `bits`, each in the place of one bit of `mask`, in order.
    fn deposit(bits: u64, mask: u64) -> u64;

    /// The pixels of sixteen blocks; see [`inverse::group`].
    fn group<const N: usize>(inverse: &Inverse, source: &[i16], at: usize) -> Lines<N>;
}

/// What the processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    Any,
    /// AVX2 and BMI2; made by `detect` alone.
    #[cfg(target_arch = "x86_64")]
    Wide(wide::Detected),
}

impl Processor {
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(detected) = wide::Detected::new() {
            return Self::Wide(detected);
        }
        Self::Any
    }

    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Self::Any => work.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Self::Wide(detected) => wide::run(detected, work),
        }
    }
}

pub struct Portable;

impl Instructions for Portable {
    #[inline(always)]
    fn deposit(mut bits: u64, mut mask: u64) -> u64 {
        let mut spread = 0;
        while mask != 0 && bits != 0 {
            let lowest = mask & mask.wrapping_neg();
            if bits & 1 != 0 {
                spread |= lowest;
            }
            bits >>= 1;
            mask ^= lowest;
        }
        spread
    }

    #[inline(always)]
    fn group<const N: usize>(inverse: &Inverse, source: &[i16], at: usize) -> Lines<N> {
        inverse::group(inverse, source, at)
    }
}

#[cfg(target_arch = "x86_64")]
pub mod wide {
    use std::arch::x86_64::_pdep_u64;

    use super::{Instructions, Work};
    use crate::inverse::{self, Inverse, Lines};

    /// Proof that the processor has what [`compiled`] needs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Detected(());

    impl Detected {
        pub fn new() -> Option<Self> {
            let present = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            present.then_some(Self(()))
        }
    }

    #[inline]
    pub fn run<W: Work>(_: Detected, work: W) -> W::Output {
        // SAFETY: a value of the type exists only where all features were detected.
        unsafe { compiled(work) }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn compiled<W: Work>(work: W) -> W::Output {
        work.run::<Avx2>()
    }

    /// Named by [`compiled`] alone.
    struct Avx2;

    impl Instructions for Avx2 {
        #[inline(always)]
        fn deposit(bits: u64, mask: u64) -> u64 {
            // SAFETY: only work that `compiled` runs calls this, on a processor that has the instruction.
            unsafe { _pdep_u64(bits, mask) }
        }

        #[inline(always)]
        fn group<const N: usize>(inverse: &Inverse, source: &[i16], at: usize) -> Lines<N> {
            // SAFETY: as above.
            unsafe { inverse::wide::group(inverse, source, at) }
        }
    }
}

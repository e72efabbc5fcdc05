//! JPEG files (ITU-T T.81) to planes of eight bits, at any eighth of their size.
//!
//! Made for thumbnails: frequencies that a reduced image does not show are parsed, since the code has no other way past
//! them, and then dropped. What is decoded is the ordinary: Huffman coding, sequential or progressive, eight bits, grey or
//! YCbCr. All else, and every file that breaks a rule in the least, is declined ([`Declined`]) for a library that knows
//! the whole standard and says what is wrong. So an image that comes out here is one that libjpeg-turbo decodes without
//! complaint, to the same coefficients.

#![expect(
    clippy::inline_always,
    reason = "work is compiled for a processor's instructions only where it is inlined; see `processor`"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "the same index goes through several arrays"
)]

mod bits;
mod decoder;
mod frame;
mod huffman;
mod inverse;
mod markers;
mod processor;
mod progressive;
mod sequential;
mod tables;
mod zigzag;

pub use decoder::Decoder;
pub use frame::{Component, Frame};
pub use inverse::Plane;

/// Why a file is left to another decoder: it is of a rare kind, or it breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declined(pub &'static str);

impl std::fmt::Display for Declined {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Declined {}

type Result<T> = std::result::Result<T, Declined>;

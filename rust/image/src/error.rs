//! Why an image is turned away: an outcome of the contract and a short deterministic reason.

use std::borrow::Cow;

use thiserror::Error;

use crate::header::Reader;

/// An image that yields no image. A row's data, never a failure of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The body ends before the image does; fetching again may help.
    #[error("{0}")]
    Truncated(Cow<'static, str>),
    /// The body is something else; the text names what.
    #[error("{0}")]
    NotAnImage(&'static str),
    /// An image in a format or variant that is not decoded; the text names it.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The bytes break the rules of their format.
    #[error("{0}")]
    Corrupt(Cow<'static, str>),
    /// More pixels than allowed, by the header.
    #[error("image area too large")]
    TooManyPixels,
    /// There was no memory for it, even while no other image was made; on another machine there may be.
    #[error("takes more memory than there is")]
    OutOfMemory,
    /// A side shorter than allowed.
    #[error("image too small")]
    TooSmall,
    /// Longer and shorter side are further apart than allowed.
    #[error("aspect ratio too large")]
    Aspect,
    /// The caller decodes the image, with the decoder named; not an outcome of the contract.
    #[error("{0:?}")]
    Foreign(Reader),
    /// Not begun, because the batch holds enough already; not an outcome of the contract.
    #[error("postponed")]
    Postponed,
}

/// Number of a row that succeeded.
pub const SUCCESS: u8 = 0;
/// Numbers of a row whose image the caller must decode itself, with OpenCV or Pillow, and hand back as pixels.
pub const FOREIGN_OPENCV: u8 = 255;
pub const FOREIGN_PILLOW: u8 = 254;
/// Number of a row that the caller must bring again, in another batch.
pub const POSTPONED: u8 = 253;

impl Rejection {
    /// Number of the outcome, as listed in `turbo_fetch.outcomes`.
    #[must_use]
    pub fn number(&self) -> u8 {
        match self {
            Self::Truncated(_) => 17,
            Self::NotAnImage(_) => 32,
            Self::Unsupported(_) => 33,
            Self::Corrupt(_) => 34,
            Self::TooManyPixels => 35,
            Self::TooSmall => 36,
            Self::Aspect => 37,
            Self::OutOfMemory => 39,
            Self::Foreign(Reader::OpenCv) => FOREIGN_OPENCV,
            Self::Foreign(_) => FOREIGN_PILLOW,
            Self::Postponed => POSTPONED,
        }
    }

    /// Corrupt, with a reason known at compile time.
    #[must_use]
    pub fn corrupt(reason: &'static str) -> Self {
        Self::Corrupt(Cow::Borrowed(reason))
    }

    /// Truncated, with a reason known at compile time.
    #[must_use]
    pub fn truncated(reason: &'static str) -> Self {
        Self::Truncated(Cow::Borrowed(reason))
    }
}

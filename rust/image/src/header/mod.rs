//! What an image says of itself before its pixels: sides, orientation, where metadata lies, whether it is all there.
//!
//! Read without allocating by anything that the header claims, so that limits can be checked first.

use crate::error::Rejection;
use crate::geometry::Size;
use crate::options::Limits;
use crate::orient::Orientation;
use crate::sniff::Format;

mod av1;
pub mod avif;
pub mod bmff;
pub mod bmp;
pub mod gif;
pub mod ico;
pub mod jpeg;
pub mod jpeg2000;
pub mod png;
pub mod riff;
pub mod tiff;
pub mod tiff_page;
mod xmp;

/// Who decodes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// This crate.
    Native,
    /// The caller, with OpenCV: only what it provably reads right.
    OpenCv,
    /// The caller, with Pillow: what OpenCV misreads or does not read.
    Pillow,
}

/// The header of any format. Slices borrow from the body.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    pub format: Format,
    /// Sides as stored, before orientation.
    pub size: Size,
    pub orientation: Orientation,
    /// EXIF as a TIFF stream.
    pub exif: Option<&'a [u8]>,
    /// Colour profile, where the header holds it plainly.
    pub icc: Option<Vec<u8>>,
    /// Whether the body reaches the end that its structure promises.
    pub complete: bool,
    pub reader: Reader,
    /// Pixels that the decoder will hold at once, where the file makes it hold more than the image has.
    pub held_pixels: u64,
    /// Bytes that a decoder of this crate, or of a library that it calls, holds besides the pixels that it yields.
    pub working_bytes: u64,
    /// The sample of 16 bits that stands for white.
    pub white: u16,
}

impl Header<'_> {
    /// The header of an upright image without metadata, whole, that this crate decodes.
    #[must_use]
    pub fn plain(format: Format, size: Size) -> Self {
        Self {
            format,
            size,
            orientation: Orientation::default(),
            exif: None,
            icc: None,
            complete: true,
            reader: Reader::Native,
            held_pixels: size.pixels(),
            working_bytes: 0,
            white: u16::MAX,
        }
    }
}

/// Read the header of a body whose format is known.
///
/// # Errors
/// `Truncated` or `Corrupt` when the header cannot be read, `Unsupported` for variants that are not decoded.
pub fn read(format: Format, body: &[u8]) -> Result<Header<'_>, Rejection> {
    let header = match format {
        Format::Jpeg => jpeg::read(body).map(jpeg::Markers::header)?,
        Format::Png => png::read(body)?,
        Format::Webp => riff::read(body).map(riff::Webp::header)?,
        Format::Gif => gif::read(body)?.header(),
        Format::Avif => avif::read(body)?,
        Format::Tiff => tiff_page::read(body)?,
        Format::Bmp => bmp::read(body).map(|bitmap| bitmap.header())?,
        Format::Ico => ico::read(body)?.header(),
        Format::Jpeg2000 => jpeg2000::read(body)?,
    };
    if header.size.width == 0 || header.size.height == 0 {
        return Err(Rejection::corrupt("a side is zero pixels"));
    }
    Ok(header)
}

/// Check the sides of the original, and what its decoder will hold, against the limits.
///
/// # Errors
/// The first limit that is broken, in the order too small, too many pixels, aspect.
pub fn check(limits: &Limits, header: &Header<'_>) -> Result<(), Rejection> {
    let size = header.size;
    let (shorter, longer) = (size.width.min(size.height), size.width.max(size.height));
    if shorter < limits.min_side {
        return Err(Rejection::TooSmall);
    }
    if size.pixels().max(header.held_pixels) > limits.max_pixels {
        return Err(Rejection::TooManyPixels);
    }
    if limits.max_aspect > 0.0 && f64::from(longer) / f64::from(shorter) > limits.max_aspect {
        return Err(Rejection::Aspect);
    }
    Ok(())
}

/// Two bytes at `offset`, most significant first.
pub(crate) fn u16_be(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(
        bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?,
    ))
}

/// Four bytes at `offset`, most significant first.
pub(crate) fn u32_be(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(
        bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// Two bytes at `offset`, least significant first.
pub(crate) fn u16_le(bytes: &[u8], offset: usize) -> Option<u16> {
    u16_be(bytes, offset).map(u16::swap_bytes)
}

/// Eight bytes at `offset`, most significant first.
pub(crate) fn u64_be(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_be_bytes(
        bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// Four bytes at `offset`, least significant first.
pub(crate) fn u32_le(bytes: &[u8], offset: usize) -> Option<u32> {
    u32_be(bytes, offset).map(u32::swap_bytes)
}

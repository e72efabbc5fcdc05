//! JPEG 2000 sides: the image header box of JP2 (ITU-T T.800, annex I) or the SIZ marker of a raw codestream.

use super::{Header, bmff, u32_be};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::orient::Orientation;
use crate::sniff::Format;

/// Read the sides of `body`.
///
/// # Errors
/// `Corrupt` when no header states them.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let sides = if body.starts_with(b"\xff\x4f") {
        codestream(body)
    } else {
        boxes(body)
    };
    Ok(Header {
        format: Format::Jpeg2000,
        size: sides.ok_or(Rejection::corrupt("JPEG 2000 without an image header"))?,
        orientation: Orientation::default(),
        exif: None,
        icc: bmff::find(body, &[b"jp2h", b"colr"])
            .and_then(profile)
            .map(<[u8]>::to_vec),
        complete: true,
    })
}

fn boxes(body: &[u8]) -> Option<Size> {
    let header = bmff::find(body, &[b"jp2h", b"ihdr"])?;
    Some(Size::new(u32_be(header, 4)?, u32_be(header, 0)?))
}

/// Extent of the reference grid less the offset of the picture on it.
fn codestream(body: &[u8]) -> Option<Size> {
    let side = |end: usize, start: usize| u32_be(body, end)?.checked_sub(u32_be(body, start)?);
    Some(Size::new(side(8, 16)?, side(12, 20)?))
}

/// The ICC profile of a colour box of method 2, restricted ICC.
fn profile(colour: &[u8]) -> Option<&[u8]> {
    if *colour.first()? == 2 {
        colour.get(3..)
    } else {
        None
    }
}

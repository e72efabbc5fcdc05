//! Windows bitmap headers, all versions.

use super::{Header, u16_le, u32_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::orient::Orientation;
use crate::sniff::Format;

const CORE_HEADER_BYTES: u32 = 12;

/// Read the sides of `body`; a negative height only means that rows are stored top down.
///
/// # Errors
/// `Truncated` when the header is cut off.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let sides = || {
        if u32_le(body, 14)? == CORE_HEADER_BYTES {
            return Some(Size::new(
                u16_le(body, 18)?.into(),
                u16_le(body, 20)?.into(),
            ));
        }
        let height = u32_le(body, 22)?.cast_signed().unsigned_abs();
        Some(Size::new(
            u32_le(body, 18)?.cast_signed().unsigned_abs(),
            height,
        ))
    };
    Ok(Header {
        format: Format::Bmp,
        size: sides().ok_or(Rejection::truncated("BMP ends in its header"))?,
        orientation: Orientation::default(),
        exif: None,
        icc: None,
        complete: u32_le(body, 2).is_some_and(|stated| stated as usize <= body.len()),
    })
}

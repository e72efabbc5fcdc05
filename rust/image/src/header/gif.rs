//! GIF logical screen (GIF89a specification); frames are left to the decoder.

use super::{Header, u16_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::orient::Orientation;
use crate::sniff::Format;

/// Read the screen descriptor of `body` and look for the trailer.
///
/// # Errors
/// `Truncated` when the body is shorter than the descriptor.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let (Some(width), Some(height)) = (u16_le(body, 6), u16_le(body, 8)) else {
        return Err(Rejection::truncated("GIF ends in its header"));
    };
    Ok(Header {
        format: Format::Gif,
        size: Size::new(width.into(), height.into()),
        orientation: Orientation::default(),
        exif: None,
        icc: None,
        complete: reaches_trailer(body),
    })
}

/// Whether the blocks can be walked to the trailer. Only lengths are read, no pixels.
fn reaches_trailer(body: &[u8]) -> bool {
    let Some(&flags) = body.get(10) else {
        return false;
    };
    let mut position = 13 + color_table_bytes(flags);
    loop {
        match body.get(position) {
            Some(0x3b) => return true,
            Some(0x21) => position += 2,
            Some(0x2c) => {
                let Some(&flags) = body.get(position + 9) else {
                    return false;
                };
                // Ten bytes of descriptor, the local colours, and the code size of the data.
                position += 11 + color_table_bytes(flags);
            }
            _ => return false,
        }
        loop {
            let Some(&length) = body.get(position) else {
                return false;
            };
            position += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
}

fn color_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

//! PNG chunks (ISO/IEC 15948), walked to the end.

use super::{Header, tiff, u32_be};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

const SIGNATURE_BYTES: usize = 8;

/// Read the chunks of `body`; the colour profile is left to the decoder, which inflates it.
///
/// # Errors
/// `Truncated` or `Corrupt` when the first chunk is not a whole image header.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let mut chunks = Chunks {
        rest: body.get(SIGNATURE_BYTES..).unwrap_or_default(),
    };
    let Some((kind, head)) = chunks.next() else {
        return Err(Rejection::truncated("PNG ends in its header"));
    };
    let (b"IHDR", Some(width), Some(height)) = (kind, u32_be(head, 0), u32_be(head, 4)) else {
        return Err(Rejection::corrupt(
            "PNG does not begin with an image header",
        ));
    };
    let mut header = Header {
        format: Format::Png,
        size: Size::new(width, height),
        orientation: tiff::orientation(None),
        exif: None,
        icc: None,
        complete: false,
    };
    for (kind, data) in chunks {
        match kind {
            b"eXIf" => header.exif = Some(data),
            b"IEND" => header.complete = true,
            _ => {}
        }
    }
    header.orientation = tiff::orientation(header.exif);
    Ok(header)
}

struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const CHECKSUM_BYTES: usize = 4;
        let length = u32_be(self.rest, 0)? as usize;
        let kind = self.rest.get(4..8)?.try_into().ok()?;
        let data = self.rest.get(8..length.checked_add(8)?)?;
        self.rest = self.rest.get(8 + length + CHECKSUM_BYTES..)?;
        Some((kind, data))
    }
}

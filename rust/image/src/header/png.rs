//! PNG chunks (ISO/IEC 15948), walked to the end.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::{Header, tiff, u32_be};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

const SIGNATURE_BYTES: usize = 8;

/// Longest text that is inflated; Pillow's limit too.
const MAX_TEXT_BYTES: u64 = 1 << 20;

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
        complete: false,
        ..Header::plain(Format::Png, Size::new(width, height))
    };
    let (mut raw_profile, mut packet) = (None, None);
    let mut is_transparent = false;
    for (kind, data) in chunks {
        match kind {
            b"eXIf" => header.exif = Some(tiff::without_prefix(data)),
            b"tRNS" => is_transparent = true,
            b"IEND" => header.complete = true,
            b"tEXt" | b"zTXt" | b"iTXt" => {
                let keyword = data.split(|&byte| byte == 0).next();
                match keyword {
                    Some(b"Raw profile type exif") => raw_profile = Some((kind, data)),
                    Some(b"XML:com.adobe.xmp") => packet = Some((kind, data)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    header.working_bytes = header.size.pixels() * working_bytes_per_pixel(head, is_transparent);
    // ImageMagick wrote EXIF as text before there was a chunk for it.
    let exif = raw_profile
        .filter(|_| header.exif.is_none())
        .and_then(text)
        .and_then(|text| from_hex(&text));
    let packet = packet.and_then(text);
    header.orientation = tiff::orientation(header.exif.or(exif.as_deref()), packet.as_deref());
    Ok(header)
}

/// Samples with alpha, and those of 16 bits, are held beside the pixels that they become.
fn working_bytes_per_pixel(head: &[u8], is_transparent: bool) -> u64 {
    const COLOUR: u8 = 2;
    const ALPHA: u8 = 4;
    let kind = head.get(9).copied().unwrap_or(COLOUR | ALPHA);
    let is_wide = head.get(8) == Some(&16);
    let has_alpha = is_transparent || kind & ALPHA != 0;
    if !is_wide && !has_alpha {
        return 0;
    }
    let colours = if kind & COLOUR == 0 { 1 } else { 3 };
    (colours + u64::from(has_alpha)) * if is_wide { 2 } else { 1 }
}

/// The text of a chunk after its keyword, inflated where it is compressed.
fn text((kind, data): (&[u8; 4], &[u8])) -> Option<Vec<u8>> {
    let data = &data[memchr::memchr(0, data)? + 1..];
    match kind {
        b"tEXt" => Some(data.to_vec()),
        b"zTXt" => inflated(data.strip_prefix(b"\0")?),
        _ => {
            let compressed = *data.first()? != 0;
            let mut parts = data.get(2..)?.splitn(3, |&byte| byte == 0);
            // Language and translated keyword come before the text.
            let text = parts.nth(2)?;
            if compressed {
                inflated(text)
            } else {
                Some(text.to_vec())
            }
        }
    }
}

fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut reader = ZlibDecoder::new(data).take(MAX_TEXT_BYTES);
    reader.read_to_end(&mut text).ok()?;
    Some(text)
}

/// The block of a raw profile: hexadecimal after an empty line, the name and the length; the prefix that only JPEG asks
/// for goes.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .splitn(4, |&byte| byte == b'\n')
        .nth(3)?
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|&byte| (byte as char).to_digit(16).map(|digit| digit as u8))
        .collect();
    let block: Vec<u8> = digits?
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    Some(tiff::without_prefix(&block).to_vec())
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

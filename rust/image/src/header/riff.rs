//! WebP container (RFC 9649), walked to the first frame and through the metadata.

use super::{Header, tiff, u32_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

/// What the chunks of a WebP file say.
#[derive(Debug, Clone)]
pub struct Webp<'a> {
    /// Sides of the canvas.
    pub size: Size,
    pub exif: Option<&'a [u8]>,
    pub xmp: Option<&'a [u8]>,
    pub icc: Option<&'a [u8]>,
    /// The first frame of an animation.
    pub frame: Option<Frame<'a>>,
    pub complete: bool,
    working_bytes: u64,
}

/// One frame of an animation.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub left: u32,
    pub top: u32,
    pub size: Size,
    /// Chunks of the image, which libwebp reads without a container around them.
    pub data: &'a [u8],
}

impl<'a> Webp<'a> {
    /// The part that all formats share.
    #[must_use]
    pub fn header(self) -> Header<'a> {
        Header {
            orientation: tiff::orientation(self.exif, self.xmp),
            exif: self.exif,
            icc: self.icc.map(<[u8]>::to_vec),
            complete: self.complete,
            working_bytes: self.working_bytes,
            ..Header::plain(Format::Webp, self.size)
        }
    }
}

const CONTAINER_BYTES: usize = 12;
const FRAME_HEADER_BYTES: usize = 16;

/// Read the chunks of `body`.
///
/// # Errors
/// `Truncated` when the first chunk is cut off, `Corrupt` when it is none that an image may begin with.
pub fn read(body: &[u8]) -> Result<Webp<'_>, Rejection> {
    let stated = u32_le(body, 4).map_or(0, |bytes| bytes as usize + 8);
    let mut webp = Webp {
        size: Size::new(0, 0),
        exif: None,
        xmp: None,
        icc: None,
        frame: None,
        complete: stated <= body.len(),
        working_bytes: 0,
    };
    let mut chunks = Chunks {
        rest: body
            .get(CONTAINER_BYTES..stated.min(body.len()))
            .unwrap_or_default(),
    };
    let first = chunks
        .next()
        .ok_or(Rejection::truncated("WebP ends in its header"))?;
    webp.size = canvas(first).ok_or_else(|| first_chunk_error(&webp))?;
    // Four bytes of each pixel while they are unpacked, and four of colour and alpha.
    if first.0 != b"VP8 " {
        webp.working_bytes = 8 * webp.size.pixels();
    }
    for (kind, data) in chunks {
        match kind {
            b"ICCP" => webp.icc = Some(data),
            // Some writers keep the prefix that only JPEG asks for.
            b"EXIF" => webp.exif = Some(tiff::without_prefix(data)),
            b"XMP " => webp.xmp = webp.xmp.or(Some(data)),
            b"ANMF" if webp.frame.is_none() => webp.frame = frame(data),
            _ => {}
        }
    }
    if let Some(frame) = webp.frame {
        let fits = frame.left + frame.size.width <= webp.size.width
            && frame.top + frame.size.height <= webp.size.height;
        if !fits {
            return Err(Rejection::corrupt("WebP frame outside its canvas"));
        }
    }
    Ok(webp)
}

fn first_chunk_error(webp: &Webp<'_>) -> Rejection {
    if webp.complete {
        Rejection::corrupt("WebP without an image header")
    } else {
        Rejection::truncated("WebP ends in its header")
    }
}

/// Sides that a first chunk states: extended header, lossy key frame, or lossless signature.
fn canvas((kind, data): (&[u8; 4], &[u8])) -> Option<Size> {
    match kind {
        b"VP8X" => Some(Size::new(u24(data, 4)? + 1, u24(data, 7)? + 1)),
        b"VP8 " => {
            let sides = (data.get(3..6)? == b"\x9d\x01\x2a").then_some(u32_le(data, 6)?)?;
            Some(Size::new(sides & 0x3fff, (sides >> 16) & 0x3fff))
        }
        b"VP8L" => {
            let sides = (*data.first()? == 0x2f).then_some(u32_le(data, 1)?)?;
            Some(Size::new(
                (sides & 0x3fff) + 1,
                ((sides >> 14) & 0x3fff) + 1,
            ))
        }
        _ => None,
    }
}

fn frame(data: &[u8]) -> Option<Frame<'_>> {
    Some(Frame {
        left: u24(data, 0)? * 2,
        top: u24(data, 3)? * 2,
        size: Size::new(u24(data, 6)? + 1, u24(data, 9)? + 1),
        data: data.get(FRAME_HEADER_BYTES..)?,
    })
}

fn u24(bytes: &[u8], offset: usize) -> Option<u32> {
    let three = bytes.get(offset..offset + 3)?;
    Some(u32::from_le_bytes([three[0], three[1], three[2], 0]))
}

/// Chunks of four letters and a length; the last may be cut off.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.rest.get(..4)?.try_into().ok()?;
        let length = u32_le(self.rest, 4)? as usize;
        let data = self.rest.get(8..)?;
        let padded = length.saturating_add(length & 1);
        self.rest = data.get(padded..).unwrap_or_default();
        Some((kind, &data[..length.min(data.len())]))
    }
}

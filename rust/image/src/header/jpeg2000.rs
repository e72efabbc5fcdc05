//! JPEG 2000: the SIZ marker of the codestream (ITU-T T.800, annex A) and the header boxes of JP2 (annex I).

use std::collections::HashMap;

use super::bmff::{Boxes, find};
use super::{Header, Reader, u16_be, u32_be};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

/// What the decoder holds for each tile, counted as pixels.
const TILE_PIXELS: u64 = 2048;

/// What the SIZ marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Siz {
    size: Size,
    tiles: u64,
    components: Vec<Component>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Component {
    bits: u8,
    signed: bool,
    subsampled: bool,
}

/// Read the header of `body`.
///
/// # Errors
/// `Corrupt` when no header states the sides or two state different ones, `Truncated` when the body ends where a part of
/// a tile is due, `Unsupported` for samples that nothing here reads right.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let missing = Rejection::corrupt("JPEG 2000 without an image header");
    let bare = body.starts_with(b"\xff\x4f");
    let boxes = if bare { None } else { find(body, &[b"jp2h"]) };
    let stream = if bare { Some(body) } else { find_stream(body) };
    let siz = stream.and_then(read_siz).ok_or(missing)?;
    if stream.is_some_and(|stream| lacks_parts(stream, siz.tiles) == Some(true)) {
        return Err(Rejection::truncated("JPEG 2000 ends before its last tile"));
    }
    if let Some(header) = boxes.and_then(|boxes| find(boxes, &[b"ihdr"])) {
        let stated = u32_be(header, 4).zip(u32_be(header, 0));
        if stated != Some((siz.size.width, siz.size.height)) {
            return Err(Rejection::corrupt(
                "JPEG 2000 headers state different sizes",
            ));
        }
    }
    let profile = boxes.and_then(|boxes| profile(find(boxes, &[b"colr"])?));
    Ok(Header {
        icc: profile.map(<[u8]>::to_vec),
        held_pixels: siz.size.pixels().max(siz.tiles.saturating_mul(TILE_PIXELS)),
        reader: reader(&siz.components, boxes)?,
        // OpenCV leaves samples of more than eight bits as they are.
        white: u16::MAX
            >> (16
                - siz
                    .components
                    .first()
                    .map_or(16, |component| component.bits.min(16))),
        ..Header::plain(Format::Jpeg2000, siz.size)
    })
}

/// The codestream, which may be cut off.
fn find_stream(body: &[u8]) -> Option<&[u8]> {
    let mut boxes = Boxes::of(body);
    if let Some((_, stream)) = boxes.find(|(kind, _)| *kind == b"jp2c") {
        return Some(stream);
    }
    let cut_off = boxes.rest();
    let start = if u32_be(cut_off, 0)? == 1 { 16 } else { 8 };
    cut_off.get(start..).filter(|_| cut_off[4..8] == *b"jp2c")
}

fn read_siz(stream: &[u8]) -> Option<Siz> {
    let length =
        |end: usize, start: usize| u32_be(stream, end)?.checked_sub(u32_be(stream, start)?);
    let size = Size::new(length(8, 16)?, length(12, 20)?);
    let count = |end: usize, tile: usize, start: usize| {
        let reach = u32_be(stream, end)?.checked_sub(u32_be(stream, start)?)?;
        Some(u64::from(
            reach.div_ceil(u32_be(stream, tile).filter(|&side| side > 0)?),
        ))
    };
    let tiles = count(8, 24, 32)?.saturating_mul(count(12, 28, 36)?);
    let components = (0..usize::from(u16_be(stream, 40)?)).map(|index| {
        let [depth, across, down] = *stream.get(42 + 3 * index..)?.first_chunk()?;
        Some(Component {
            bits: (depth & 0x7f) + 1,
            signed: depth & 0x80 != 0,
            subsampled: (across, down) != (1, 1),
        })
    });
    Some(Siz {
        size,
        tiles,
        components: components.collect::<Option<_>>()?,
    })
}

/// Whether a codestream ends between two parts of tiles (ITU-T T.800, A.4.2), without all of them: decoders leave black
/// what they lack. Nothing where it ends elsewhere, or cannot be walked.
fn lacks_parts(stream: &[u8], tiles: u64) -> Option<bool> {
    const START_OF_TILE: u16 = 0xff90;
    let mut at = 2;
    while u16_be(stream, at)? != START_OF_TILE {
        at += 2 + usize::from(u16_be(stream, at + 2)?.max(2));
    }
    // Of each tile how many parts are still to come; of those that do not say, none.
    let mut to_come: HashMap<u16, i64> = HashMap::new();
    while at < stream.len() {
        if u16_be(stream, at)? != START_OF_TILE {
            return None;
        }
        let tile = u16_be(stream, at + 4)?;
        let length = u32_be(stream, at + 6)?;
        let &[part, parts] = stream.get(at + 10..at + 12)?.first_chunk()?;
        to_come.insert(tile, i64::from(parts) - i64::from(part) - 1);
        at = at.checked_add((length >= 12).then_some(length as usize)?)?;
    }
    let is_cut = at == stream.len();
    let lacks = (to_come.len() as u64) < tiles || to_come.values().any(|&parts| parts > 0);
    Some(is_cut && lacks)
}

/// The decoder that reads these components in these colours right.
fn reader(components: &[Component], boxes: Option<&[u8]>) -> Result<Reader, Rejection> {
    const SRGB: u32 = 16;
    const GREY: u32 = 17;
    const YCC: u32 = 18;
    const CMYK: u32 = 12;
    let first = *components
        .first()
        .ok_or(Rejection::corrupt("JPEG 2000 without components"))?;
    let alike = components
        .iter()
        .all(|component| (component.bits, component.signed) == (first.bits, first.signed));
    if !alike || components.len() > 4 {
        return Err(Rejection::Unsupported("JPEG 2000 components"));
    }
    // Decoders shift shallow samples to eight bits, which leaves white grey.
    if !(8..=16).contains(&first.bits) {
        return Err(Rejection::Unsupported("JPEG 2000 depth"));
    }
    let colour = boxes.and_then(|boxes| space(find(boxes, &[b"colr"])?));
    if !matches!(colour, None | Some(SRGB | GREY | YCC | CMYK)) {
        return Err(Rejection::Unsupported("JPEG 2000 colour space"));
    }
    let has = |kind: &[u8; 4]| boxes.is_some_and(|boxes| find(boxes, &[kind]).is_some());
    if has(b"cdef")
        && !boxes.is_some_and(|boxes| is_usual(find(boxes, &[b"cdef"]).unwrap_or_default()))
    {
        return Err(Rejection::Unsupported("JPEG 2000 channel order"));
    }
    let is_plain = !first.signed
        && !components.iter().any(|component| component.subsampled)
        && matches!(
            (components.len(), colour),
            (1, None | Some(GREY)) | (3, None | Some(SRGB))
        )
        && !has(b"pclr");
    match first.bits {
        _ if is_plain => Ok(Reader::OpenCv),
        8 => Ok(Reader::Pillow),
        // Pillow rounds deep white up to black.
        _ => Err(Rejection::Unsupported(
            "JPEG 2000 depth with alpha, sign or a palette",
        )),
    }
}

/// The enumerated colour space of a colour box.
fn space(colour: &[u8]) -> Option<u32> {
    if *colour.first()? == 1 {
        u32_be(colour, 3)
    } else {
        None
    }
}

/// Whether channels are defined in their order: colours, and then at most one of alpha.
fn is_usual(definition: &[u8]) -> bool {
    let channels = definition.get(2..).unwrap_or_default().chunks_exact(6);
    let last = channels.len().saturating_sub(1);
    channels.enumerate().all(|(index, channel)| {
        let [number, kind, meaning] =
            [0, 2, 4].map(|at| usize::from(u16_be(channel, at).unwrap_or(u16::MAX)));
        let is_colour = kind == 0 && meaning == index + 1;
        let is_alpha = kind == 1 && index == last;
        number == index && (is_colour || is_alpha)
    })
}

/// The ICC profile of a colour box of method 2, restricted ICC.
fn profile(colour: &[u8]) -> Option<&[u8]> {
    if *colour.first()? == 2 {
        colour.get(3..)
    } else {
        None
    }
}

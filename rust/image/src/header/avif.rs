//! AVIF (AV1 Image File Format, on ISO/IEC 23008-12): the primary item, its properties, and what its decoder will hold.

use std::collections::HashMap;

use super::bmff::{Boxes, find};
use super::{Header, Reader, av1, tiff, u16_be, u32_be, u64_be, xmp};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::orient::Orientation;
use crate::sniff::Format;

/// Read the header of an AVIF file.
///
/// # Errors
/// `Corrupt` when nothing states its sides.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let file = File::of(body);
    let properties = file.primary_properties();
    let property = |wanted: &[u8; 4]| {
        let found = properties.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, data)| *data)
    };
    let extent = property(b"ispe")
        .and_then(|data| Some(Size::new(u32_be(data, 4)?, u32_be(data, 8)?)))
        .or_else(|| track_size(body))
        .ok_or(Rejection::corrupt("AVIF without an extent"))?;
    let profile = properties
        .iter()
        .filter(|(kind, _)| *kind == b"colr")
        .find_map(|(_, data)| data.strip_prefix(b"prof").or(data.strip_prefix(b"rICC")));
    Ok(Header {
        orientation: file.orientation(property(b"irot"), property(b"imir")),
        icc: profile.map(<[u8]>::to_vec),
        complete: Boxes::of(body).reaches_end(),
        reader: Reader::Pillow,
        held_pixels: extent.pixels().max(file.coded_pixels()),
        ..Header::plain(Format::Avif, extent)
    })
}

/// An item of the file: its number, its kind, and for kind `mime` its content type.
struct Item<'a> {
    id: u32,
    kind: &'a [u8],
    content_type: &'a [u8],
}

struct File<'a> {
    body: &'a [u8],
    /// Boxes of the `meta` box, which describes the items; none in a file of tracks alone.
    meta: &'a [u8],
    items: Vec<Item<'a>>,
    /// The first part of each item. Decoders put the parts together; what is looked for here stands in the first.
    places: HashMap<u32, &'a [u8]>,
}

impl<'a> File<'a> {
    fn of(body: &'a [u8]) -> Self {
        let meta = find(body, &[b"meta"]).unwrap_or_default();
        Self {
            body,
            meta,
            items: items(meta),
            places: places(body, meta),
        }
    }

    fn primary(&self) -> Option<u32> {
        let data = find(self.meta, &[b"pitm"])?;
        number(data, 4, *data.first()? > 0).map(|(id, _)| id)
    }

    /// Properties of the primary item, as its associations name them.
    fn primary_properties(&self) -> Vec<(&'a [u8; 4], &'a [u8])> {
        let all: Vec<_> = find(self.meta, &[b"iprp", b"ipco"])
            .map(Boxes::of)
            .into_iter()
            .flatten()
            .collect();
        let named = self
            .primary()
            .and_then(|id| self.associated(id))
            .unwrap_or_default();
        named
            .into_iter()
            .filter_map(|index| all.get(index.checked_sub(1)?).copied())
            .collect()
    }

    /// Numbers, from one, of the properties of an item.
    fn associated(&self, wanted: u32) -> Option<Vec<usize>> {
        let data = find(self.meta, &[b"iprp", b"ipma"])?;
        let (has_long_ids, has_long_indices) = (*data.first()? > 0, data.get(3)? & 1 == 1);
        let mut at = 8;
        for _ in 0..u32_be(data, 4)? {
            let (id, next) = number(data, at, has_long_ids)?;
            let count = usize::from(*data.get(next)?);
            let each = if has_long_indices { 2 } else { 1 };
            at = next + 1 + count * each;
            if id == wanted {
                let indices = data.get(next + 1..at)?.chunks_exact(each);
                // The first bit says whether a reader must understand the property.
                return Some(
                    indices
                        .map(|index| match index {
                            [high, low] => usize::from(high & 0x7f) << 8 | usize::from(*low),
                            short => usize::from(short[0] & 0x7f),
                        })
                        .collect(),
                );
            }
        }
        None
    }

    /// Pixels of all coded images, tiles, alpha and thumbnails among them, and of the first frames of tracks.
    fn coded_pixels(&self) -> u64 {
        /// No decoder is fed more units for one image.
        const MAX_UNITS: usize = 1 << 20;
        let mut budget = MAX_UNITS;
        let coded = self.items.iter().filter(|item| item.kind == b"av01");
        let items = coded.filter_map(|item| self.places.get(&item.id).copied());
        let samples = tracks(self.body).filter_map(|track| first_sample(self.body, track));
        items
            .chain(samples)
            .filter_map(|units| av1::largest_frame(units, &mut budget))
            .map(Size::pixels)
            .fold(0, u64::saturating_add)
    }

    /// How to turn the image: by its properties, which EXIF must not contradict; without them by XMP, which Pillow
    /// asks where EXIF is silent.
    fn orientation(&self, rotation: Option<&[u8]>, mirror: Option<&[u8]>) -> Orientation {
        let stated = transformation(rotation, mirror);
        if stated != 1 {
            return Orientation::from_exif(stated);
        }
        let contents = |kind: &[u8], content_type: &[u8]| {
            let mut fitting = self
                .items
                .iter()
                .filter(|item| item.kind == kind && item.content_type == content_type);
            fitting.find_map(|item| self.places.get(&item.id).copied())
        };
        let has_own = contents(b"Exif", b"").is_some_and(|exif| {
            let start = u32_be(exif, 0).map_or(0, |skipped| (skipped as usize).saturating_add(4));
            exif.get(start..)
                .map(tiff::without_prefix)
                .and_then(tiff::stated_orientation)
                .is_some()
        });
        let packet = contents(b"mime", b"application/rdf+xml").filter(|_| !has_own);
        Orientation::from_exif(packet.and_then(xmp::orientation).unwrap_or(1))
    }
}

fn items(meta: &[u8]) -> Vec<Item<'_>> {
    let Some(data) = find(meta, &[b"iinf"]) else {
        return Vec::new();
    };
    let start = if data.first() == Some(&0) { 6 } else { 8 };
    let entries = Boxes::of(data.get(start..).unwrap_or_default());
    entries.filter_map(|(_, entry)| item(entry)).collect()
}

/// The first part of each item (ISO/IEC 14496-12, 8.11.3), as many as are whole.
fn places<'a>(body: &'a [u8], meta: &'a [u8]) -> HashMap<u32, &'a [u8]> {
    let mut found = HashMap::new();
    let mut read = || {
        let data = find(meta, &[b"iloc"])?;
        let version = *data.first()?;
        let [offset_bytes, length_bytes] = nibbles(*data.get(4)?);
        let [base_bytes, index_bytes] = nibbles(*data.get(5)?);
        let index_bytes = if version == 0 { 0 } else { index_bytes };
        let (count, mut at) = number(data, 6, version == 2)?;
        for _ in 0..count {
            let (id, next) = number(data, at, version == 2)?;
            at = next;
            let mut within = body;
            if version > 0 {
                if u16_be(data, at)? & 0xf == 1 {
                    within = find(meta, &[b"idat"])?;
                }
                at += 2;
            }
            let base = sized(data, at + 2, base_bytes)?;
            at += 2 + base_bytes;
            let parts = usize::from(u16_be(data, at)?);
            at += 2;
            let offset = sized(data, at + index_bytes, offset_bytes)?.checked_add(base)?;
            let length = sized(data, at + index_bytes + offset_bytes, length_bytes)?;
            at += parts * (index_bytes + offset_bytes + length_bytes);
            let part = within.get(offset..).unwrap_or_default();
            // A length of none is all that follows.
            let length = if length == 0 {
                part.len()
            } else {
                length.min(part.len())
            };
            found.insert(id, &part[..length]);
        }
        Some(())
    };
    // What stands before a cut is as good as without it.
    let _ = read();
    found
}

/// The EXIF value of the same effect as a rotation (anticlockwise quarters) and then a mirroring (ISO/IEC 23008-12,
/// 6.5.10 and 6.5.12).
fn transformation(rotation: Option<&[u8]>, mirror: Option<&[u8]>) -> u16 {
    let byte = |property: Option<&[u8]>| property.and_then(|data| data.first().copied());
    let quarters = byte(rotation).map_or(0, |byte| byte & 3);
    match (quarters, byte(mirror).map(|byte| byte & 1)) {
        (0, Some(1)) | (2, Some(0)) => 2,
        (2, None) => 3,
        (0 | 2, Some(_)) => 4,
        (1, Some(0)) | (3, Some(1)) => 5,
        (3, None) => 6,
        (1 | 3, Some(_)) => 7,
        (1, None) => 8,
        _ => 1,
    }
}

/// An entry of the item table, of version 2 or 3, which alone are in use.
fn item(entry: &[u8]) -> Option<Item<'_>> {
    let (id, at) = number(entry, 4, *entry.first()? == 3)?;
    let kind = entry.get(at + 2..at + 6)?;
    let mut texts = entry.get(at + 6..)?.split(|&byte| byte == 0);
    let content_type = if kind == b"mime" {
        texts.nth(1).unwrap_or_default()
    } else {
        b""
    };
    Some(Item {
        id,
        kind,
        content_type,
    })
}

fn tracks(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let boxes = Boxes::of(find(body, &[b"moov"]).unwrap_or_default());
    boxes
        .filter(|(kind, _)| *kind == b"trak")
        .map(|(_, data)| data)
}

/// Sides of the first track that shows images, by the description of its samples.
fn track_size(body: &[u8]) -> Option<Size> {
    tracks(body).find_map(|track| {
        let entries = find(track, &[b"mdia", b"minf", b"stbl", b"stsd"])?.get(8..)?;
        let (_, entry) = Boxes::of(entries).find(|(kind, _)| *kind == b"av01")?;
        Some(Size::new(
            u16_be(entry, 24)?.into(),
            u16_be(entry, 26)?.into(),
        ))
    })
}

/// The first sample of a track, from its place to the end of the file at most.
fn first_sample<'a>(body: &'a [u8], track: &[u8]) -> Option<&'a [u8]> {
    let table = find(track, &[b"mdia", b"minf", b"stbl"])?;
    let offset = find(table, &[b"stco"])
        .and_then(|data| u32_be(data, 8).map(u64::from))
        .or_else(|| u64_be(find(table, &[b"co64"])?, 8))?;
    let sizes = find(table, &[b"stsz"])?;
    let length = match u32_be(sizes, 4)? {
        0 => u32_be(sizes, 12)?,
        common => common,
    } as usize;
    let rest = body.get(usize::try_from(offset).ok()?..)?;
    Some(&rest[..length.min(rest.len())])
}

/// A number of two or four bytes, and where the next begins.
fn number(data: &[u8], at: usize, is_long: bool) -> Option<(u32, usize)> {
    if is_long {
        Some((u32_be(data, at)?, at + 4))
    } else {
        Some((u16_be(data, at)?.into(), at + 2))
    }
}

/// A number of none, four or eight bytes.
fn sized(data: &[u8], at: usize, bytes: usize) -> Option<usize> {
    match bytes {
        0 => Some(0),
        4 => u32_be(data, at).map(|value| value as usize),
        8 => usize::try_from(u64_be(data, at)?).ok(),
        _ => None,
    }
}

fn nibbles(byte: u8) -> [usize; 2] {
    [usize::from(byte >> 4), usize::from(byte & 0xf)]
}

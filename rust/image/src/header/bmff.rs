//! Boxes of the ISO base media format (ISO/IEC 14496-12), and the item properties of AVIF.

use super::{Header, u32_be};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::orient::Orientation;
use crate::sniff::Format;

/// Read the sides of an AVIF file: the largest spatial extent among its properties, which is the whole picture's where
/// tiles, thumbnails and alpha have extents of their own.
///
/// # Errors
/// `Corrupt` when there is no such property.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let properties = find(body, &[b"meta", b"iprp", b"ipco"])
        .ok_or(Rejection::corrupt("AVIF without properties"))?;
    let extents = Boxes { rest: properties }
        .filter(|(kind, _)| *kind == b"ispe")
        .filter_map(|(_, data)| Some(Size::new(u32_be(data, 4)?, u32_be(data, 8)?)));
    let largest = extents.max_by_key(|size| u64::from(size.width) * u64::from(size.height));
    let colours = Boxes { rest: properties }.filter(|(kind, _)| *kind == b"colr");
    let mut colours = colours;
    let profile =
        colours.find_map(|(_, data)| data.strip_prefix(b"prof").or(data.strip_prefix(b"rICC")));
    Ok(Header {
        format: Format::Avif,
        size: largest.ok_or(Rejection::corrupt("AVIF without an extent"))?,
        orientation: orientation(properties),
        exif: None,
        icc: profile.map(<[u8]>::to_vec),
        complete: Boxes { rest: body }.reaches_end(),
    })
}

/// Orientation that the rotation (anticlockwise quarters) and mirror properties state, as the EXIF value of the same
/// effect (ISO/IEC 23008-12, 6.5.10 and 6.5.12; rotation comes first).
fn orientation(properties: &[u8]) -> Orientation {
    let property = |wanted: &[u8; 4]| {
        let (_, data) = Boxes { rest: properties }.find(|(kind, _)| *kind == wanted)?;
        data.first().copied()
    };
    let quarters = property(b"irot").map_or(0, |byte| byte & 3);
    let mirror = property(b"imir").map(|byte| byte & 1);
    Orientation::from_exif(match (quarters, mirror) {
        (0, Some(1)) | (2, Some(0)) => 2,
        (2, None) => 3,
        (0 | 2, Some(_)) => 4,
        (1, Some(0)) | (3, Some(1)) => 5,
        (3, None) => 6,
        (1 | 3, Some(_)) => 7,
        (1, None) => 8,
        _ => 1,
    })
}

/// Bits per sample of an AVIF file, by its first pixel information property.
#[must_use]
pub fn sample_bits(body: &[u8]) -> Option<u8> {
    let information = find(body, &[b"meta", b"iprp", b"ipco", b"pixi"])?;
    // Version, flags and the number of channels come before the bits of the first.
    information.get(5).copied()
}

/// Contents of the box at the end of a path of nested boxes, taking the first of each kind.
#[must_use]
pub fn find<'a>(body: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    let mut within = body;
    for wanted in path {
        let (kind, data) = Boxes { rest: within }.find(|(kind, _)| kind == wanted)?;
        // The one full box among the containers: version and flags come before its children.
        within = if kind == b"meta" {
            data.get(4..)?
        } else {
            data
        };
    }
    Some(within)
}

struct Boxes<'a> {
    rest: &'a [u8],
}

impl Boxes<'_> {
    /// Whether the boxes fill the body exactly or leave only what is too short to be one.
    fn reaches_end(mut self) -> bool {
        while self.next().is_some() {}
        self.rest.len() < 8
    }
}

impl<'a> Iterator for Boxes<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let short = u32_be(self.rest, 0)? as usize;
        let kind = self.rest.get(4..8)?.try_into().ok()?;
        let (start, end) = match short {
            0 => (8, self.rest.len()),
            1 => (
                16,
                usize::try_from(
                    (u64::from(u32_be(self.rest, 8)?) << 32) | u64::from(u32_be(self.rest, 12)?),
                )
                .ok()?,
            ),
            length => (8, length),
        };
        let data = self.rest.get(start..end)?;
        self.rest = &self.rest[end..];
        Some((kind, data))
    }
}

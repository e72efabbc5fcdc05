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
        orientation: Orientation::default(),
        exif: None,
        icc: profile.map(<[u8]>::to_vec),
        complete: Boxes { rest: body }.reaches_end(),
    })
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

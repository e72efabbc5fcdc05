//! Boxes of the ISO base media format (ISO/IEC 14496-12).

use super::u32_be;

/// Contents of the box at the end of a path of nested boxes, taking the first of each kind.
#[must_use]
pub fn find<'a>(body: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    let mut within = body;
    for wanted in path {
        let (kind, data) = Boxes::of(within).find(|(kind, _)| kind == wanted)?;
        // The one full box among the containers: version and flags come before its children.
        within = if kind == b"meta" {
            data.get(4..)?
        } else {
            data
        };
    }
    Some(within)
}

/// Iterates over the boxes that lie side by side; the last may not be cut off.
#[derive(Debug, Clone)]
pub struct Boxes<'a> {
    rest: &'a [u8],
}

impl<'a> Boxes<'a> {
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What follows the boxes seen: a box that is cut off, or nothing.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether the boxes fill the body exactly or leave only what is too short to be one.
    #[must_use]
    pub fn reaches_end(mut self) -> bool {
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

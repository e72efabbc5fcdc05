//! Windows icons: a directory of bitmaps and PNG files, of which the one that Pillow takes.

use super::bmp::{self, Bitmap};
use super::{Header, png, u16_le, u32_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

const DIRECTORY_BYTES: usize = 6;
const ENTRY_BYTES: usize = 16;
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The image of an icon.
#[derive(Debug)]
pub enum Icon<'a> {
    Png {
        size: Size,
        file: &'a [u8],
    },
    /// Colours, and the mask of what is transparent, one bit per pixel; none where the fourth byte is alpha.
    Bitmap {
        bitmap: Box<Bitmap<'a>>,
        mask: Option<&'a [u8]>,
    },
}

impl Icon<'_> {
    /// The part that all formats share. Icons are neither turned nor converted.
    #[must_use]
    pub fn header(&self) -> Header<'static> {
        let size = self.size();
        Header {
            // Those of the PNG in it, which may have 16 bits.
            working_bytes: 8 * size.pixels(),
            ..Header::plain(Format::Ico, size)
        }
    }

    fn size(&self) -> Size {
        match self {
            Self::Png { size, .. } => *size,
            Self::Bitmap { bitmap, .. } => bitmap.size,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    area: u32,
    /// Bits per pixel that the directory states, or that the number of its colours needs.
    depth: u32,
    bits: u16,
    bytes: usize,
    offset: usize,
}

/// Read the directory of `body` and the header of its largest image; of several, the one of fewest colours.
///
/// # Errors
/// `Truncated` when the directory or the image is not there, and what the readers of bitmap and PNG say.
pub fn read(body: &[u8]) -> Result<Icon<'_>, Rejection> {
    let cut_off = || Rejection::truncated("icon ends in its header");
    let count = usize::from(u16_le(body, 4).ok_or_else(cut_off)?);
    let entries: Option<Vec<Entry>> = (0..count)
        .map(|index| entry(body, DIRECTORY_BYTES + index * ENTRY_BYTES))
        .collect();
    let entries = entries.ok_or_else(cut_off)?;
    let chosen = entries
        .into_iter()
        .min_by_key(|entry| (u32::MAX - entry.area, entry.depth));
    let chosen = chosen.ok_or_else(cut_off)?;
    let file = body.get(chosen.offset..).ok_or_else(cut_off)?;
    if file.starts_with(PNG_SIGNATURE) {
        let size = png::read(file)?.size;
        return Ok(Icon::Png { size, file });
    }
    let mut bitmap = Box::new(bmp::read_bare(file)?);
    // Colours and mask are counted as one image, one above the other.
    bitmap.size.height /= 2;
    let mask = if chosen.bits == 32 {
        None
    } else {
        let bytes = mask_row_bytes(bitmap.size) * bitmap.size.height as usize;
        let end = chosen
            .offset
            .checked_add(chosen.bytes)
            .ok_or_else(cut_off)?;
        let start = end.checked_sub(bytes).ok_or_else(cut_off)?;
        Some(body.get(start..end).ok_or_else(cut_off)?)
    };
    Ok(Icon::Bitmap { bitmap, mask })
}

/// Bytes of a row of a mask, which ends at four bytes.
#[must_use]
pub fn mask_row_bytes(size: Size) -> usize {
    (size.width as usize).div_ceil(32) * 4
}

fn entry(body: &[u8], at: usize) -> Option<Entry> {
    let side = |byte: u8| if byte == 0 { 256 } else { u32::from(byte) };
    let bits = u16_le(body, at + 6)?;
    let colours = u32::from(*body.get(at + 2)?);
    Some(Entry {
        area: side(*body.get(at)?) * side(*body.get(at + 1)?),
        depth: match (bits, colours) {
            // A single colour needs no bits, which Pillow counts as unknown.
            (0, 0 | 1) => 256,
            (0, colours) => u32::BITS - (colours - 1).leading_zeros(),
            (bits, _) => bits.into(),
        },
        bits,
        bytes: u32_le(body, at + 8)? as usize,
        offset: u32_le(body, at + 12)? as usize,
    })
}

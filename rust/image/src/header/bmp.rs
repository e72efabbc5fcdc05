//! Windows and OS/2 bitmaps, all versions: sides, depth, masks, colours, and where the pixels are.

use super::{Header, u16_le, u32_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

const FILE_HEADER_BYTES: usize = 14;
const CORE_HEADER_BYTES: usize = 12;
const V2_HEADER_BYTES: usize = 52;
const V3_HEADER_BYTES: usize = 56;
const OS2_HEADER_BYTES: usize = 64;

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Indices of colours, of 1, 4 or 8 bits.
    Indices,
    /// Indices of colours in runs, of 4 or 8 bits.
    Runs,
    /// Pixels of 16, 24 or 32 bits; the masks say which bits are red, green, blue and alpha.
    Masks([u32; 4]),
}

/// A bitmap whose header was read.
#[derive(Debug)]
pub struct Bitmap<'a> {
    pub size: Size,
    pub is_top_down: bool,
    pub bits: u16,
    pub coding: Coding,
    /// Red, green and blue; colours that the file does not state are black.
    pub colours: [[u8; 3]; 256],
    /// From the first row stored to the end of the file.
    pub data: &'a [u8],
    complete: bool,
}

impl Bitmap<'_> {
    /// Whether pixels are indices of colours of which none has any.
    #[must_use]
    pub fn colours_are_grey(&self) -> bool {
        let is_grey = |colour: &[u8; 3]| colour[0] == colour[1] && colour[1] == colour[2];
        !matches!(self.coding, Coding::Masks(_)) && self.colours.iter().all(is_grey)
    }

    /// The part that all formats share.
    #[must_use]
    pub fn header(&self) -> Header<'static> {
        Header {
            complete: self.complete,
            working_bytes: if self.coding == Coding::Runs {
                self.size.pixels()
            } else {
                0
            },
            ..Header::plain(Format::Bmp, self.size)
        }
    }
}

/// Read the headers of the file `body`.
///
/// # Errors
/// `Truncated` when they are cut off, `Unsupported` for pixels that are not decoded.
pub fn read(body: &[u8]) -> Result<Bitmap<'_>, Rejection> {
    let stated = u32_le(body, 10).map(|offset| offset as usize);
    let bare = body.get(FILE_HEADER_BYTES..).unwrap_or_default();
    let data = stated
        .filter(|&offset| offset != 0)
        .and_then(|offset| offset.checked_sub(FILE_HEADER_BYTES));
    let bitmap = parse(bare, data)?;
    Ok(Bitmap {
        complete: u32_le(body, 2).is_some_and(|stated| stated as usize <= body.len()),
        ..bitmap
    })
}

/// Read the headers of a bitmap without a file header, as in an icon.
///
/// # Errors
/// As for [`read`].
pub fn read_bare(bare: &[u8]) -> Result<Bitmap<'_>, Rejection> {
    if matches!(u32_le(bare, 0), Some(12 | 40 | 52 | 56 | 64 | 108 | 124)) {
        parse(bare, None)
    } else {
        Err(Rejection::corrupt("icon without a bitmap header"))
    }
}

fn parse(bare: &[u8], data_offset: Option<usize>) -> Result<Bitmap<'_>, Rejection> {
    let cut_off = || Rejection::truncated("BMP ends in its header");
    let head = Head::read(bare).ok_or_else(cut_off)?;
    let (coding, mask_bytes) = coding(&head, bare)?;
    let table = head.bytes + mask_bytes;
    let table_bytes = head.colour_count() * head.bytes_per_colour;
    let unindexed = matches!(coding, Coding::Masks(_));
    let after_table = table + if unindexed { 0 } else { table_bytes };
    // Some writers count the colours as image.
    let offset = data_offset
        .filter(|&offset| unindexed || offset != head.bytes)
        .unwrap_or(after_table);
    let mut colours = [[0; 3]; 256];
    let stated = bare
        .get(table..)
        .unwrap_or_default()
        .chunks_exact(head.bytes_per_colour);
    if !unindexed {
        for (colour, stored) in colours.iter_mut().zip(stated.take(head.colour_count())) {
            *colour = [stored[2], stored[1], stored[0]];
        }
    }
    Ok(Bitmap {
        size: Size::new(head.width, head.height.unsigned_abs()),
        is_top_down: head.height < 0,
        bits: head.bits,
        coding,
        colours,
        data: bare.get(offset..).unwrap_or_default(),
        complete: true,
    })
}

#[derive(Debug, Clone, Copy)]
struct Head {
    bytes: usize,
    width: u32,
    height: i32,
    bits: u16,
    compression: u32,
    stated_colours: u32,
    bytes_per_colour: usize,
}

impl Head {
    fn read(bare: &[u8]) -> Option<Self> {
        let bytes = u32_le(bare, 0)? as usize;
        if bytes == CORE_HEADER_BYTES {
            return Some(Self {
                bytes,
                width: u16_le(bare, 4)?.into(),
                height: u16_le(bare, 6)?.into(),
                bits: u16_le(bare, 10)?,
                compression: 0,
                stated_colours: 0,
                bytes_per_colour: 3,
            });
        }
        Some(Self {
            bytes,
            width: u32_le(bare, 4)?.cast_signed().unsigned_abs(),
            height: u32_le(bare, 8)?.cast_signed(),
            bits: u16_le(bare, 14)?,
            compression: u32_le(bare, 16)?,
            stated_colours: u32_le(bare, 32)?,
            bytes_per_colour: 4,
        })
    }

    fn colour_count(&self) -> usize {
        match self.stated_colours {
            0 => 1 << self.bits.min(8),
            stated => stated.min(1 << 16) as usize,
        }
    }
}

/// How pixels are coded, and the bytes of masks between header and colours.
fn coding(head: &Head, bare: &[u8]) -> Result<(Coding, usize), Rejection> {
    const RAW: u32 = 0;
    const RUNS_OF_8: u32 = 1;
    const RUNS_OF_4: u32 = 2;
    const MASKS: u32 = 3;
    const MASKS_WITH_ALPHA: u32 = 6;
    const RGB: [u32; 4] = [0xff_0000, 0xff00, 0xff, 0];
    match (head.compression, head.bits) {
        (RAW, 1 | 4 | 8) => Ok((Coding::Indices, 0)),
        (RUNS_OF_8, 8) | (RUNS_OF_4, 4) => Ok((Coding::Runs, 0)),
        (RAW, 16) => Ok((Coding::Masks([0x7c00, 0x3e0, 0x1f, 0]), 0)),
        (RAW, 24 | 32) => Ok((Coding::Masks(RGB), 0)),
        (MASKS | MASKS_WITH_ALPHA, 16 | 24 | 32) if head.bytes != OS2_HEADER_BYTES => {
            let count = if head.compression == MASKS_WITH_ALPHA || head.bytes >= V3_HEADER_BYTES {
                4
            } else {
                3
            };
            let mut masks = [0; 4];
            for (index, mask) in masks.iter_mut().take(count).enumerate() {
                let cut_off = Rejection::truncated("BMP ends in its header");
                *mask = u32_le(bare, 40 + 4 * index).ok_or(cut_off)?;
            }
            let outside = if head.bytes < V2_HEADER_BYTES {
                4 * count
            } else {
                0
            };
            if masks.iter().any(|&mask| !is_contiguous(mask)) || masks[..3] == [0; 3] {
                return Err(Rejection::Unsupported("BMP with masks of scattered bits"));
            }
            Ok((Coding::Masks(masks), outside))
        }
        _ => Err(Rejection::Unsupported("BMP depth or compression")),
    }
}

fn is_contiguous(mask: u32) -> bool {
    let bits = mask >> mask.trailing_zeros().min(31);
    bits & bits.wrapping_add(1) == 0
}

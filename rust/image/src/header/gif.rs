//! GIF blocks (GIF89a specification), up to the first frame and from there to the trailer.

use super::{Header, u16_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

/// The first frame of a GIF.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The screen, made larger where the frame reaches beyond it.
    pub canvas: Size,
    pub left: u32,
    pub top: u32,
    pub size: Size,
    pub interlaced: bool,
    /// Its own colours or those of the file, three bytes each; empty where there are none.
    pub colours: &'a [u8],
    pub transparent: Option<u8>,
    /// Bits of the codes before compression.
    pub code_bits: u8,
    /// Sub-blocks of the compressed indices, and whatever follows them.
    pub data: &'a [u8],
    complete: bool,
}

impl Frame<'_> {
    /// The part that all formats share.
    #[must_use]
    pub fn header(&self) -> Header<'static> {
        Header {
            complete: self.complete,
            working_bytes: self.size.pixels(),
            ..Header::plain(Format::Gif, self.canvas)
        }
    }
}

const EXTENSION: u8 = 0x21;
const IMAGE: u8 = 0x2c;
const TRAILER: u8 = 0x3b;
const GRAPHIC_CONTROL: u8 = 0xf9;

/// Read the blocks of `body`. Bytes between blocks that begin none are passed over, as browsers and Pillow do.
///
/// # Errors
/// `Truncated` when the body ends before the first frame, `Corrupt` when its trailer does.
pub fn read(body: &[u8]) -> Result<Frame<'_>, Rejection> {
    let cut_off = || Rejection::truncated("GIF ends in its header");
    let screen_flags = *body.get(10).ok_or_else(cut_off)?;
    let screen_colours = colour_bytes(screen_flags);
    let mut position = 13 + screen_colours;
    let mut transparent = None;
    loop {
        match *body.get(position).ok_or_else(cut_off)? {
            TRAILER => return Err(Rejection::corrupt("GIF without a frame")),
            EXTENSION => {
                if let Some([GRAPHIC_CONTROL, _, flags, _, _, index]) =
                    body.get(position + 1..position + 7)
                {
                    transparent = (flags & 1 == 1).then_some(*index);
                }
                position = after_blocks(body, position + 2).ok_or_else(cut_off)?;
            }
            IMAGE => break,
            _ => position += 1,
        }
    }
    let number = |at: usize| u16_le(body, at).map(u32::from).ok_or_else(cut_off);
    let (left, top) = (number(position + 1)?, number(position + 3)?);
    let size = Size::new(number(position + 5)?, number(position + 7)?);
    let flags = *body.get(position + 9).ok_or_else(cut_off)?;
    let own_colours = position + 10;
    let code_bits = own_colours + colour_bytes(flags);
    let data = code_bits + 1;
    let colours = if flags & 0x80 == 0 {
        13..13 + screen_colours
    } else {
        own_colours..code_bits
    };
    Ok(Frame {
        canvas: Size::new(
            number(6)?.max(left + size.width),
            number(8)?.max(top + size.height),
        ),
        left,
        top,
        size,
        interlaced: flags & 0x40 != 0,
        colours: body.get(colours).ok_or_else(cut_off)?,
        transparent,
        code_bits: *body.get(code_bits).ok_or_else(cut_off)?,
        data: &body[data..],
        complete: reaches_trailer(body, data),
    })
}

/// Whether the blocks can be walked to the trailer, given where sub-blocks begin. Only lengths are read, no pixels.
fn reaches_trailer(body: &[u8], data: usize) -> bool {
    let mut position = after_blocks(body, data);
    while let Some(at) = position {
        position = match body.get(at) {
            None => None,
            Some(&TRAILER) => return true,
            Some(&EXTENSION) => after_blocks(body, at + 2),
            // Ten bytes of descriptor, the local colours, and the code size of the data.
            Some(&IMAGE) => body
                .get(at + 9)
                .and_then(|&flags| after_blocks(body, at + 11 + colour_bytes(flags))),
            Some(_) => Some(at + 1),
        };
    }
    false
}

/// Where the sub-blocks that begin at `position` end.
fn after_blocks(body: &[u8], mut position: usize) -> Option<usize> {
    loop {
        let length = usize::from(*body.get(position)?);
        position += 1 + length;
        if length == 0 {
            return Some(position);
        }
    }
}

/// Sub-blocks of `data`, up to the empty one that ends them or the end of the file.
pub fn blocks(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = data.split_first().filter(|(length, _)| **length > 0)?;
        let (block, after) = rest.split_at(usize::from(length).min(rest.len()));
        data = after;
        Some(block)
    })
}

fn colour_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

//! Windows and OS/2 bitmaps: indices, runs of indices, and pixels cut apart by masks.

use super::{Decoded, on_white};
use crate::error::Rejection;
use crate::header::bmp::{self, Bitmap, Coding};
use crate::raster::{Model, Picture, Raster};
use crate::scratch::Scratch;

/// Decode a bitmap file.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(body: &[u8], scratch: &mut Scratch) -> Result<Decoded, Rejection> {
    let bitmap = bmp::read(body)?;
    let alpha = matches!(bitmap.coding, Coding::Masks([.., alpha]) if alpha != 0);
    let raster = if bitmap.colours_are_grey() {
        read(&bitmap, Model::Grey, scratch)?
    } else {
        read(&bitmap, Model::Rgb, scratch)?
    };
    Ok(Decoded {
        picture: Picture::Raster(raster),
        flattened: alpha,
        icc: None,
    })
}

/// Read the pixels, top row first, alpha laid on white.
///
/// # Errors
/// `Truncated` when rows are missing.
pub fn read(bitmap: &Bitmap<'_>, model: Model, scratch: &mut Scratch) -> Result<Raster, Rejection> {
    let channels = model.channels();
    let width = bitmap.size.width as usize;
    let height = bitmap.size.height as usize;
    let mut unpacked = Vec::new();
    let (data, bits) = if bitmap.coding == Coding::Runs {
        unpacked = scratch.buffers.take(bitmap.size.pixels() as usize);
        unpack(bitmap, &mut unpacked)?;
        (unpacked.as_slice(), 8)
    } else {
        (bitmap.data, usize::from(bitmap.bits))
    };
    let row_bytes = (width * bits).div_ceil(8);
    let stride = if bitmap.coding == Coding::Runs {
        width
    } else {
        row_bytes.next_multiple_of(4)
    };
    // Before room is made for an image that is not there. The last row may lack what fills it up.
    if data.len() < stride * (height - 1) + row_bytes {
        return Err(Rejection::truncated("BMP data ends before the image"));
    }
    let mut pixels = scratch
        .buffers
        .take(bitmap.size.pixels() as usize * channels);
    let masks = if let Coding::Masks(masks) = bitmap.coding {
        masks
    } else {
        [0; 4]
    };
    let channels_of_masks = masks.map(Channel::of);
    let rows = pixels.chunks_exact_mut(width * channels);
    for (line, row) in rows.enumerate() {
        let line = if bitmap.is_top_down {
            line
        } else {
            height - 1 - line
        };
        let stored = &data[line * stride..][..row_bytes];
        match bitmap.coding {
            Coding::Masks(_) if bits == 16 => cut_apart::<2>(stored, &channels_of_masks, row),
            Coding::Masks(_) if bits == 24 => cut_apart::<3>(stored, &channels_of_masks, row),
            Coding::Masks(_) => cut_apart::<4>(stored, &channels_of_masks, row),
            _ => look_up(
                stored,
                bits,
                &bitmap.colours,
                row.chunks_exact_mut(channels),
            ),
        }
    }
    scratch.buffers.recycle(unpacked);
    Ok(Raster {
        size: bitmap.size,
        model,
        pixels,
    })
}

fn look_up<'a>(
    stored: &[u8],
    bits: usize,
    colours: &[[u8; 3]; 256],
    row: impl Iterator<Item = &'a mut [u8]>,
) {
    let per_byte = 8 / bits;
    for (x, pixel) in row.enumerate() {
        let shift = 8 - bits - x % per_byte * bits;
        let index = stored[x / per_byte] >> shift & (0xff >> (8 - bits));
        pixel.copy_from_slice(&colours[usize::from(index)][..pixel.len()]);
    }
}

/// Bits of a pixel that make a channel, at most the upper eight of them, and the level that each of their values is.
struct Channel {
    shift: u32,
    mask: u32,
    levels: [u8; 256],
}

impl Channel {
    fn of(mask: u32) -> Self {
        let unused = mask.count_ones().saturating_sub(8);
        let shift = mask.trailing_zeros() % u32::BITS + unused;
        let white = mask >> shift;
        Self {
            shift,
            mask: white,
            levels: std::array::from_fn(|value| (value as u32 * 255 / white.max(1)) as u8),
        }
    }

    fn read(&self, pixel: u32) -> u8 {
        self.levels[(pixel >> self.shift & self.mask & 0xff) as usize]
    }
}

fn cut_apart<const BYTES: usize>(stored: &[u8], channels: &[Channel; 4], row: &mut [u8]) {
    let [red, green, blue, alpha] = channels;
    let (pixels, _) = row.as_chunks_mut::<3>();
    for (pixel, stored) in pixels.iter_mut().zip(stored.as_chunks::<BYTES>().0) {
        let mut word = [0; 4];
        word[..BYTES].copy_from_slice(stored);
        let value = u32::from_le_bytes(word);
        *pixel = [red, green, blue].map(|channel| channel.read(value));
        if alpha.mask != 0 {
            let opacity = alpha.read(value).into();
            for sample in pixel {
                *sample = on_white((*sample).into(), opacity);
            }
        }
    }
}

/// Unpack runs of indices, bottom row first; what the codes pass over or leave out is index zero.
fn unpack(bitmap: &Bitmap<'_>, indices: &mut [u8]) -> Result<(), Rejection> {
    const END_OF_LINE: u8 = 0;
    const END: u8 = 1;
    const MOVE: u8 = 2;
    let width = bitmap.size.width as usize;
    let is_narrow = bitmap.bits == 4;
    indices.fill(0);
    let mut data = bitmap.data;
    let (mut at, mut x) = (0, 0);
    while at < indices.len() {
        let Some((&[first, second], rest)) = data.split_first_chunk() else {
            return Err(Rejection::truncated("BMP data ends before the image"));
        };
        data = rest;
        match (first, second) {
            (0, END_OF_LINE) => {
                at = at.next_multiple_of(width);
                x = 0;
            }
            (0, END) => break,
            (0, MOVE) => {
                let Some((&[right, up], rest)) = data.split_first_chunk() else {
                    break;
                };
                data = rest;
                at += usize::from(right) + usize::from(up) * width;
                x = at % width;
            }
            (0, count) => {
                let count = usize::from(count).min(indices.len() - at);
                let bytes = if is_narrow { count.div_ceil(2) } else { count };
                let stated = data
                    .get(..bytes)
                    .ok_or(Rejection::truncated("BMP data ends before the image"))?;
                for (step, index) in indices[at..at + count].iter_mut().enumerate() {
                    *index = if is_narrow {
                        nibble(stated[step / 2], step)
                    } else {
                        stated[step]
                    };
                }
                data = data.get(bytes.next_multiple_of(2)..).unwrap_or_default();
                at += count;
                x += count;
            }
            (count, value) => {
                // A run does not go over the end of its row.
                let count = usize::from(count)
                    .min(width.saturating_sub(x))
                    .min(indices.len() - at);
                for (step, index) in indices[at..at + count].iter_mut().enumerate() {
                    *index = if is_narrow {
                        nibble(value, step)
                    } else {
                        value
                    };
                }
                at += count;
                x += count;
            }
        }
    }
    Ok(())
}

fn nibble(byte: u8, step: usize) -> u8 {
    if step.is_multiple_of(2) {
        byte >> 4
    } else {
        byte & 0xf
    }
}

//! GIF: the first frame on its screen, indices unpacked by `weezl`.

use weezl::decode::Configuration;
use weezl::{BitOrder, LzwStatus};

use super::Decoded;
use crate::error::Rejection;
use crate::header::gif::{self, Frame};
use crate::raster::{Model, Picture, Raster};
use crate::scratch::Scratch;

/// Decode a GIF.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(body: &[u8], scratch: &mut Scratch) -> Result<Decoded, Rejection> {
    let frame = gif::read(body)?;
    let mut indices = scratch.buffers.take(frame.size.pixels() as usize);
    unpack(&frame, &mut indices)?;
    let pixels = paint(&frame, &indices, scratch);
    scratch.buffers.recycle(indices);
    Ok(Decoded {
        picture: Picture::Raster(Raster {
            size: frame.canvas,
            model: Model::Rgb,
            pixels,
        }),
        flattened: frame.transparent.is_some(),
        icc: None,
    })
}

/// Unpack as many indices as the frame has pixels; codes beyond them are not looked at. Pixels that no code stands for,
/// where the codes say that they end, are transparent or of the first colour.
fn unpack(frame: &Frame<'_>, indices: &mut [u8]) -> Result<(), Rejection> {
    if !(1..=11).contains(&frame.code_bits) {
        return Err(Rejection::corrupt(
            "GIF with codes of a length that none have",
        ));
    }
    let mut decoder = Configuration::new(BitOrder::Lsb, frame.code_bits)
        .with_yield_on_full_buffer(true)
        .build();
    indices.fill(frame.transparent.unwrap_or(0));
    let mut filled = 0;
    // The empty block at the end brings what the decoder holds back.
    for mut block in gif::blocks(frame.data).chain([&[][..]]) {
        while filled < indices.len() {
            let step = decoder.decode_bytes(block, &mut indices[filled..]);
            block = &block[step.consumed_in..];
            filled += step.consumed_out;
            match step.status {
                Ok(LzwStatus::Done) => return Ok(()),
                Ok(LzwStatus::NoProgress) => break,
                Ok(LzwStatus::Ok) => {}
                Err(error) => return Err(Rejection::Corrupt(error.to_string().into())),
            }
        }
    }
    if filled < indices.len() {
        return Err(Rejection::corrupt("GIF data ends before the image"));
    }
    Ok(())
}

/// Look up the frame's colours. The screen around it is transparent where the frame has a transparent colour, else of
/// the first colour, as in Pillow. Indices without a colour are black, and levels of grey in a file without any.
fn paint(frame: &Frame<'_>, indices: &[u8], scratch: &mut Scratch) -> Vec<u8> {
    let has_none = frame.colours.is_empty();
    let mut colours: [[u8; 3]; 256] =
        std::array::from_fn(|index| [if has_none { index as u8 } else { 0 }; 3]);
    for (colour, stated) in colours.iter_mut().zip(frame.colours.as_chunks::<3>().0) {
        *colour = *stated;
    }
    if let Some(index) = frame.transparent {
        colours[usize::from(index)] = [255; 3];
    }
    let around = colours[usize::from(frame.transparent.unwrap_or(0))];
    let mut pixels = scratch.buffers.take(frame.canvas.pixels() as usize * 3);
    let (target, _) = pixels.as_chunks_mut::<3>();
    target.fill(around);
    let (width, left) = (frame.size.width as usize, frame.left as usize);
    if width == 0 {
        return pixels;
    }
    let stride = frame.canvas.width as usize;
    for (row, stored) in indices.chunks_exact(width).zip(line_numbers(frame)) {
        let start = (frame.top as usize + stored) * stride + left;
        for (pixel, index) in target[start..start + width].iter_mut().zip(row) {
            *pixel = colours[usize::from(*index)];
        }
    }
    pixels
}

/// Numbers of a frame's lines in the order in which they are stored.
fn line_numbers(frame: &Frame<'_>) -> impl Iterator<Item = usize> {
    const PASSES: [(usize, usize); 4] = [(0, 8), (4, 8), (2, 4), (1, 2)];
    let passes: &[(usize, usize)] = if frame.interlaced { &PASSES } else { &[(0, 1)] };
    let height = frame.size.height as usize;
    passes
        .iter()
        .flat_map(move |&(first, step)| (first..height).step_by(step))
}

//! GIF through the `gif` crate: the first frame on a white canvas.

use std::io::ErrorKind;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, Frame, MemoryLimit};

use super::Decoded;
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::Header;
use crate::raster::{Model, Picture, Raster};
use crate::scratch::Scratch;

/// Decode a GIF.
///
/// # Errors
/// See [`super::decode`]; also `Corrupt` for a frame that lies outside the screen.
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.check_frame_consistency(true);
    let pixel_count = u64::from(header.size.width) * u64::from(header.size.height);
    if let Some(bytes) = NonZeroU64::new(pixel_count + (1 << 20)) {
        options.set_memory_limit(MemoryLimit::Bytes(bytes));
    }
    let mut decoder = options.read_info(body).map_err(|error| judge(&error))?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(|error| judge(&error))?;
    let frame = frame.ok_or(Rejection::corrupt("GIF without a frame"))?;
    let palette = frame.palette.as_deref().or(global.as_deref());
    let palette = palette.ok_or(Rejection::corrupt("GIF without colours"))?;
    let transparent = frame.transparent.is_some();
    let pixels = paint(frame, palette, header.size, scratch);
    let icc = decoder.icc_profile().map(<[u8]>::to_vec);
    Ok(Decoded {
        picture: Picture::Raster(Raster {
            size: header.size,
            model: Model::Rgb,
            pixels,
        }),
        flattened: transparent,
        icc,
    })
}

/// Look up the frame's colours on a white canvas; transparent and unknown colours stay white.
fn paint(frame: &Frame<'_>, palette: &[u8], canvas: Size, scratch: &mut Scratch) -> Vec<u8> {
    let mut colours = [[255_u8; 3]; 256];
    for (colour, stated) in colours.iter_mut().zip(palette.as_chunks::<3>().0) {
        *colour = *stated;
    }
    if let Some(index) = frame.transparent {
        colours[usize::from(index)] = [255; 3];
    }
    let mut pixels = scratch
        .buffers
        .take(canvas.width as usize * canvas.height as usize * 3);
    pixels.fill(255);
    let (target, _) = pixels.as_chunks_mut::<3>();
    let rows = target
        .chunks_exact_mut(canvas.width as usize)
        .skip(frame.top.into());
    for (row, indices) in rows.zip(frame.buffer.chunks_exact(frame.width.max(1).into())) {
        for (pixel, index) in row[frame.left.into()..].iter_mut().zip(indices) {
            *pixel = colours[usize::from(*index)];
        }
    }
    pixels
}

fn judge(error: &DecodingError) -> Rejection {
    match error {
        DecodingError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Rejection::truncated("GIF data ends before the picture")
        }
        other => Rejection::Corrupt(other.to_string().into()),
    }
}

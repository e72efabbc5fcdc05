//! WebP through libwebp; the first frame of an animation, placed on its white canvas.
#![expect(
    unsafe_code,
    reason = "the library is C; each call states why its pointers are good"
)]

use libwebp_sys as raw;

use super::{Decoded, flatten};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::{Header, riff};
use crate::memory::can_be_had;
use crate::raster::{Model, Picture, Raster};
use crate::scratch::Scratch;

/// Decode a WebP.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
    let webp = riff::read(body)?;
    let icc = header.icc.clone();
    let (raster, alpha) = match webp.frame {
        None => read(body, header.size, header.complete, scratch)?,
        Some(frame) => {
            let (still, alpha) = read(frame.data, frame.size, header.complete, scratch)?;
            if frame.size == header.size {
                (still, alpha)
            } else {
                (place(&still, frame, header.size, scratch), true)
            }
        }
    };
    Ok(Decoded {
        picture: Picture::Raster(raster),
        flattened: alpha,
        icc,
    })
}

/// Put a frame on a white canvas.
fn place(still: &Raster, frame: riff::Frame<'_>, canvas: Size, scratch: &mut Scratch) -> Raster {
    const BYTES: usize = 3;
    let stride = canvas.width as usize * BYTES;
    let mut pixels = scratch.buffers.take(stride * canvas.height as usize);
    pixels.fill(255);
    let row_bytes = still.size.width as usize * BYTES;
    let start = frame.top as usize * stride + frame.left as usize * BYTES;
    for (row, target) in still
        .pixels
        .chunks_exact(row_bytes)
        .zip(pixels[start..].chunks_mut(stride))
    {
        target[..row_bytes].copy_from_slice(row);
    }
    Raster {
        size: canvas,
        model: Model::Rgb,
        pixels,
    }
}

/// Decode a still image, and say whether it has alpha.
fn read(
    data: &[u8],
    size: Size,
    complete: bool,
    scratch: &mut Scratch,
) -> Result<(Raster, bool), Rejection> {
    let judge = |status| judge(status, size, complete);
    let mut config =
        raw::WebPDecoderConfig::new().map_err(|()| Rejection::corrupt("WebP decoder version"))?;
    // SAFETY: pointer and length are of one live slice, the target is a live structure.
    let status = unsafe { raw::WebPGetFeatures(data.as_ptr(), data.len(), &raw mut config.input) };
    judge(status)?;
    let stated = Size::new(
        config.input.width.unsigned_abs(),
        config.input.height.unsigned_abs(),
    );
    if stated != size {
        return Err(Rejection::corrupt(
            "WebP image is not the size that its header states",
        ));
    }
    let alpha = config.input.has_alpha != 0;
    let channels = if alpha { 4 } else { 3 };
    let stride = size.width as usize * channels;
    let mut samples = scratch.buffers.take(stride * size.height as usize);
    config.output.colorspace = if alpha {
        raw::WEBP_CSP_MODE::MODE_RGBA
    } else {
        raw::WEBP_CSP_MODE::MODE_RGB
    };
    config.output.is_external_memory = 1;
    config.output.u.RGBA = raw::WebPRGBABuffer {
        rgba: samples.as_mut_ptr(),
        stride: stride as i32,
        size: samples.len(),
    };
    // SAFETY: the source is one live slice; the library checks the target's stated length and frees only what it
    // allocated itself.
    let status = unsafe {
        let status = raw::WebPDecode(data.as_ptr(), data.len(), &raw mut config);
        raw::WebPFreeDecBuffer(&raw mut config.output);
        status
    };
    judge(status)?;
    if !alpha {
        let raster = Raster {
            size,
            model: Model::Rgb,
            pixels: samples,
        };
        return Ok((raster, false));
    }
    let mut pixels = scratch
        .buffers
        .take(size.width as usize * size.height as usize * 3);
    flatten(Model::Rgb, &samples, &mut pixels);
    scratch.buffers.recycle(samples);
    let raster = Raster {
        size,
        model: Model::Rgb,
        pixels,
    };
    Ok((raster, true))
}

fn judge(status: raw::VP8StatusCode, size: Size, complete: bool) -> Result<(), Rejection> {
    use raw::VP8StatusCode as Code;
    match status {
        Code::VP8_STATUS_OK => Ok(()),
        // The library says so of broken alpha, too.
        Code::VP8_STATUS_OUT_OF_MEMORY if !can_be_had(8 * size.pixels()) => {
            Err(Rejection::OutOfMemory)
        }
        Code::VP8_STATUS_UNSUPPORTED_FEATURE => Err(Rejection::Unsupported("WebP variant")),
        _ if !complete => Err(Rejection::truncated("WebP data ends before the image")),
        Code::VP8_STATUS_NOT_ENOUGH_DATA => {
            Err(Rejection::corrupt("WebP data ends before the image"))
        }
        _ => Err(Rejection::corrupt("WebP data is broken")),
    }
}

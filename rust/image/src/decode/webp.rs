//! WebP through libwebp; the first frame of an animation, placed on its white canvas.
//!
//! A lossy image that will be resampled stays in the planes that the format has, as JPEG does. libwebp's own scaling
//! costs more than it saves.
#![expect(
    unsafe_code,
    reason = "the library is C; each call states why its pointers are good"
)]

use libwebp_sys as raw;

use super::{Decoded, Demand, flatten};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::{Header, riff};
use crate::memory::can_be_had;
use crate::raster::{Model, Picture, Plane, Planes, Raster};
use crate::scratch::Scratch;

/// Decode a WebP.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    demand: Demand,
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
    let webp = riff::read(body)?;
    let icc = header.icc.clone();
    let (raster, alpha) = match webp.frame {
        None if shrinks(demand, header.size) && has_planes(body) => {
            let planes = read_planes(body, header.size, header.complete, scratch)?;
            return Ok(Decoded {
                picture: Picture::Planes(planes),
                flattened: false,
                icc,
            });
        }
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

/// Whether the image gets smaller. Where it gets larger, chroma is interpolated as browsers do it first.
fn shrinks(demand: Demand, size: Size) -> bool {
    match demand {
        Demand::AtLeast { luma, .. } => luma.width <= size.width && luma.height <= size.height,
        Demand::Exact | Demand::Hashed(_) => false,
    }
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
    let mut config = configured(data, size, complete)?;
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
    decode_into(&mut config, data, size, complete)?;
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

/// Whether a still image is lossy and without alpha. What cannot be read is left for [`read`] to refuse.
fn has_planes(data: &[u8]) -> bool {
    const LOSSY: i32 = 1;
    raw::WebPDecoderConfig::new().is_ok_and(|mut config| {
        // SAFETY: pointer and length are of one live slice, the target is a live structure.
        let status =
            unsafe { raw::WebPGetFeatures(data.as_ptr(), data.len(), &raw mut config.input) };
        status == raw::VP8StatusCode::VP8_STATUS_OK
            && config.input.format == LOSSY
            && config.input.has_alpha == 0
    })
}

/// Decode a lossy still image to planes of JPEG's range.
fn read_planes(
    data: &[u8],
    size: Size,
    complete: bool,
    scratch: &mut Scratch,
) -> Result<Planes, Rejection> {
    let mut config = configured(data, size, complete)?;
    let halves = Size::new(size.width.div_ceil(2), size.height.div_ceil(2));
    let [mut luma, mut blue, mut red] = [size, halves, halves].map(|size| Plane {
        size,
        pixels: scratch
            .buffers
            .take(size.width as usize * size.height as usize),
    });
    config.output.colorspace = raw::WEBP_CSP_MODE::MODE_YUV;
    config.output.is_external_memory = 1;
    config.output.u.YUVA = raw::WebPYUVABuffer {
        y: luma.pixels.as_mut_ptr(),
        u: blue.pixels.as_mut_ptr(),
        v: red.pixels.as_mut_ptr(),
        a: std::ptr::null_mut(),
        y_stride: size.width as i32,
        u_stride: halves.width as i32,
        v_stride: halves.width as i32,
        a_stride: 0,
        y_size: luma.pixels.len(),
        u_size: blue.pixels.len(),
        v_size: red.pixels.len(),
        a_size: 0,
    };
    decode_into(&mut config, data, size, complete)?;
    widen::<16, 219, 0>(&mut luma.pixels);
    widen::<128, 224, 128>(&mut blue.pixels);
    widen::<128, 224, 128>(&mut red.pixels);
    Ok(Planes {
        width: f64::from(size.width),
        height: f64::from(size.height),
        luma,
        chroma: [blue, red],
        subsampling: (2.0, 2.0),
    })
}

/// From the range of ITU-R BT.601, `SPAN` steps from or around `REST`, to JPEG's of 255 from or around `TO` (JFIF 1.02).
fn widen<const REST: i32, const SPAN: i32, const TO: i32>(samples: &mut [u8]) {
    const SHIFT: i32 = 16;
    let factor = ((255 << SHIFT) + SPAN / 2) / SPAN;
    for sample in samples {
        let value = (i32::from(*sample) - REST) * factor + (1 << (SHIFT - 1));
        *sample = ((value >> SHIFT) + TO).clamp(0, 255) as u8;
    }
}

/// Read the features of an image, which must be of `size`.
fn configured(
    data: &[u8],
    size: Size,
    complete: bool,
) -> Result<raw::WebPDecoderConfig, Rejection> {
    let mut config =
        raw::WebPDecoderConfig::new().map_err(|()| Rejection::corrupt("WebP decoder version"))?;
    // SAFETY: pointer and length are of one live slice, the target is a live structure.
    let status = unsafe { raw::WebPGetFeatures(data.as_ptr(), data.len(), &raw mut config.input) };
    judge(status, size, complete)?;
    let stated = Size::new(
        config.input.width.unsigned_abs(),
        config.input.height.unsigned_abs(),
    );
    if stated != size {
        return Err(Rejection::corrupt(
            "WebP image is not the size that its header states",
        ));
    }
    Ok(config)
}

/// Decode into the buffers that `config` names.
fn decode_into(
    config: &mut raw::WebPDecoderConfig,
    data: &[u8],
    size: Size,
    complete: bool,
) -> Result<(), Rejection> {
    // SAFETY: the source is one live slice; the library checks the target's stated length and frees only what it
    // allocated itself.
    let status = unsafe {
        let status = raw::WebPDecode(data.as_ptr(), data.len(), config);
        raw::WebPFreeDecBuffer(&raw mut config.output);
        status
    };
    judge(status, size, complete)
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

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
        None => {
            let still = Still::open(body, header.size, header.complete)?;
            if still.is_lossy && !still.has_alpha && shrinks(demand, header.size) {
                return Ok(Decoded {
                    picture: Picture::Planes(still.planes(scratch)?),
                    flattened: false,
                    icc,
                });
            }
            still.raster(scratch)?
        }
        Some(frame) => {
            let still = Still::open(frame.data, frame.size, header.complete)?;
            let (still, alpha) = still.raster(scratch)?;
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

/// An image without a container around it, whose header was read.
struct Still<'a> {
    data: &'a [u8],
    size: Size,
    complete: bool,
    is_lossy: bool,
    has_alpha: bool,
    config: raw::WebPDecoderConfig,
}

impl<'a> Still<'a> {
    /// Read the features of an image, which must be of `size`.
    fn open(data: &'a [u8], size: Size, complete: bool) -> Result<Self, Rejection> {
        const LOSSY: i32 = 1;
        let mut config = raw::WebPDecoderConfig::new()
            .map_err(|()| Rejection::corrupt("WebP decoder version"))?;
        // SAFETY: pointer and length are of one live slice, the target is a live structure.
        let status =
            unsafe { raw::WebPGetFeatures(data.as_ptr(), data.len(), &raw mut config.input) };
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
        Ok(Self {
            data,
            size,
            complete,
            is_lossy: config.input.format == LOSSY,
            has_alpha: config.input.has_alpha != 0,
            config,
        })
    }

    /// Decode it to pixels on white, and say whether it has alpha.
    fn raster(mut self, scratch: &mut Scratch) -> Result<(Raster, bool), Rejection> {
        let size = self.size;
        let channels = if self.has_alpha { 4 } else { 3 };
        let stride = size.width as usize * channels;
        let mut samples = scratch.buffers.take(stride * size.height as usize);
        self.config.output.colorspace = if self.has_alpha {
            raw::WEBP_CSP_MODE::MODE_RGBA
        } else {
            raw::WEBP_CSP_MODE::MODE_RGB
        };
        self.config.output.u.RGBA = raw::WebPRGBABuffer {
            rgba: samples.as_mut_ptr(),
            stride: stride as i32,
            size: samples.len(),
        };
        self.decode()?;
        let pixels = if self.has_alpha {
            let mut pixels = scratch
                .buffers
                .take(size.width as usize * size.height as usize * 3);
            flatten(Model::Rgb, &samples, &mut pixels);
            scratch.buffers.recycle(samples);
            pixels
        } else {
            samples
        };
        let raster = Raster {
            size,
            model: Model::Rgb,
            pixels,
        };
        Ok((raster, self.has_alpha))
    }

    /// Decode it, which is lossy, to planes of JPEG's range.
    fn planes(mut self, scratch: &mut Scratch) -> Result<Planes, Rejection> {
        let size = self.size;
        let halves = Size::new(size.width.div_ceil(2), size.height.div_ceil(2));
        let [mut luma, mut blue, mut red] = [size, halves, halves].map(|size| Plane {
            size,
            pixels: scratch
                .buffers
                .take(size.width as usize * size.height as usize),
        });
        self.config.output.colorspace = raw::WEBP_CSP_MODE::MODE_YUV;
        self.config.output.u.YUVA = raw::WebPYUVABuffer {
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
        self.decode()?;
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

    /// Decode into the buffers that the configuration names.
    fn decode(&mut self) -> Result<(), Rejection> {
        self.config.output.is_external_memory = 1;
        // SAFETY: the source is one live slice; the library checks the target's stated length and frees only what it
        // allocated itself.
        let status = unsafe {
            let status = raw::WebPDecode(self.data.as_ptr(), self.data.len(), &raw mut self.config);
            raw::WebPFreeDecBuffer(&raw mut self.config.output);
            status
        };
        judge(status, self.size, self.complete)
    }
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

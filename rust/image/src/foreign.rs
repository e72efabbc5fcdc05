//! Pixels of formats that the caller decodes, with OpenCV, because Rust does not.

use crate::decode::flatten;
use crate::error::Rejection;
use crate::geometry::Size;
use crate::raster::{Buffers, Model, Raster};

/// A decoded picture: interleaved, top row first, samples of 16 bits in native byte order, channels in OpenCV's order
/// (grey, grey and alpha, BGR, or BGRA).
#[derive(Debug, Clone, Copy)]
pub struct ForeignPixels<'a> {
    pub samples: &'a [u8],
    pub size: Size,
    pub channels: usize,
    /// 8 or 16.
    pub bits: u8,
}

impl ForeignPixels<'_> {
    /// Bring the pixels to the house form: eight bits, RGB order, alpha laid on white.
    ///
    /// # Errors
    /// `Unsupported` for other numbers of channels or bits, or too few samples for the sides.
    pub fn raster(&self, buffers: &mut Buffers) -> Result<Raster, Rejection> {
        let count = self.size.width as usize * self.size.height as usize * self.channels;
        let known = matches!(self.channels, 1..=4) && matches!(self.bits, 8 | 16);
        if !known || self.samples.len() != count * usize::from(self.bits / 8) {
            return Err(Rejection::Unsupported("pixel layout"));
        }
        let mut samples = buffers.take(count);
        if self.bits == 16 {
            for (narrow, wide) in samples.iter_mut().zip(self.samples.as_chunks::<2>().0) {
                *narrow = ((u32::from(u16::from_ne_bytes(*wide)) + 128) / 257) as u8;
            }
        } else {
            samples.copy_from_slice(self.samples);
        }
        reverse_colours(&mut samples, self.channels);
        let model = if self.channels < 3 {
            Model::Grey
        } else {
            Model::Rgb
        };
        if self.channels == model.channels() {
            return Ok(Raster {
                size: self.size,
                model,
                pixels: samples,
            });
        }
        let mut pixels = buffers.take(count / self.channels * model.channels());
        flatten(model, &samples, &mut pixels);
        buffers.recycle(samples);
        Ok(Raster {
            size: self.size,
            model,
            pixels,
        })
    }
}

/// Blue, green, red to red, green, blue.
fn reverse_colours(samples: &mut [u8], channels: usize) {
    if channels >= 3 {
        samples
            .chunks_exact_mut(channels)
            .for_each(|pixel| pixel.swap(0, 2));
    }
}

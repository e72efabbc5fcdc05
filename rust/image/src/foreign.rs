//! Pixels of formats that the caller decodes, with OpenCV, because Rust does not.

use crate::decode::flatten;
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::{Header, bmff, tiff};
use crate::orient::Orientation;
use crate::raster::{Buffers, Model, Raster};
use crate::sniff::Format;

/// A decoded picture: interleaved, top row first, samples of 16 bits in native byte order, channels in OpenCV's order
/// (grey, grey and alpha, BGR, or BGRA).
#[derive(Debug, Clone, Copy)]
pub struct ForeignPixels<'a> {
    pub samples: &'a [u8],
    pub size: Size,
    pub channels: usize,
    /// Width of a sample in memory, 8 or 16.
    pub bits: u8,
}

/// What OpenCV has done to the pixels of a format, or left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Treatment {
    /// The picture is upright already.
    oriented: bool,
    /// Colours are multiplied by alpha already.
    premultiplied: bool,
    /// Largest value of a sample.
    white: u32,
}

impl Treatment {
    fn of(format: Format, body: &[u8], bits: u8) -> Self {
        let stated = if format == Format::Avif {
            bmff::sample_bits(body)
        } else {
            None
        };
        let significant = stated
            .filter(|&stated| (8..=bits).contains(&stated))
            .unwrap_or(bits);
        Self {
            oriented: format == Format::Tiff,
            premultiplied: format == Format::Tiff && is_premultiplied(body, bits),
            white: (1 << significant) - 1,
        }
    }
}

impl ForeignPixels<'_> {
    /// Bring the pixels to the house form, eight bits, RGB order, alpha laid on white, and say how to turn them upright.
    ///
    /// # Errors
    /// `Unsupported` for other numbers of channels or bits, `Corrupt` when the sides are not those of the header.
    pub fn raster(
        &self,
        header: &Header<'_>,
        body: &[u8],
        buffers: &mut Buffers,
    ) -> Result<(Raster, Orientation), Rejection> {
        let count = self.size.width as usize * self.size.height as usize * self.channels;
        let known = matches!(self.channels, 1..=4) && matches!(self.bits, 8 | 16);
        if !known || self.samples.len() != count * usize::from(self.bits / 8) {
            return Err(Rejection::Unsupported("pixel layout"));
        }
        let treatment = Treatment::of(header.format, body, self.bits);
        let expected = if treatment.oriented {
            header.orientation.size(header.size)
        } else {
            header.size
        };
        if self.size != expected {
            return Err(Rejection::corrupt(
                "picture is not the size that its header states",
            ));
        }
        let mut samples = buffers.take(count);
        self.narrow(treatment.white, &mut samples);
        reverse_colours(&mut samples, self.channels);
        let orientation = if treatment.oriented {
            Orientation::default()
        } else {
            header.orientation
        };
        Ok((
            self.opaque(samples, treatment.premultiplied, buffers),
            orientation,
        ))
    }

    /// Scale samples to eight bits, rounding to the nearest.
    fn narrow(&self, white: u32, samples: &mut [u8]) {
        if self.bits == 8 {
            samples.copy_from_slice(self.samples);
            return;
        }
        for (narrow, wide) in samples.iter_mut().zip(self.samples.as_chunks::<2>().0) {
            let value = u32::from(u16::from_ne_bytes(*wide)).min(white);
            *narrow = ((value * 255 + white / 2) / white) as u8;
        }
    }

    fn opaque(&self, samples: Vec<u8>, premultiplied: bool, buffers: &mut Buffers) -> Raster {
        let model = if self.channels < 3 {
            Model::Grey
        } else {
            Model::Rgb
        };
        if self.channels == model.channels() {
            return Raster {
                size: self.size,
                model,
                pixels: samples,
            };
        }
        let mut pixels = buffers.take(samples.len() / self.channels * model.channels());
        if premultiplied {
            let colours = model.channels();
            for (from, to) in samples
                .chunks_exact(self.channels)
                .zip(pixels.chunks_exact_mut(colours))
            {
                let light = 255 - from[colours];
                for channel in 0..colours {
                    to[channel] = from[channel].saturating_add(light);
                }
            }
        } else {
            flatten(model, &samples, &mut pixels);
        }
        buffers.recycle(samples);
        Raster {
            size: self.size,
            model,
            pixels,
        }
    }
}

/// Whether colours come multiplied by alpha: where the file says that it stores them so, and where it says that it does
/// not but libtiff's eight-bit reader multiplies them.
fn is_premultiplied(body: &[u8], bits: u8) -> bool {
    match tiff::extra_sample(body) {
        Some(tiff::ASSOCIATED_ALPHA) => true,
        Some(tiff::UNASSOCIATED_ALPHA) => bits == 8,
        _ => false,
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

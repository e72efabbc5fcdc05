//! Pixels of formats that the caller decodes, with OpenCV or Pillow, because Rust does not.

use std::str::FromStr;

use crate::decode::flatten;
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::Header;
use crate::orient::Orientation;
use crate::raster::{Buffers, Model, Raster};
use crate::sniff::Format;

/// A decoded image: interleaved, top row first, samples of 16 bits in native byte order.
#[derive(Debug, Clone, Copy)]
pub struct ForeignPixels<'a> {
    pub samples: &'a [u8],
    pub size: Size,
    pub layout: Layout,
    /// Width of a sample in memory, 8 or 16.
    pub bits: u8,
}

/// What the samples of a pixel are, in their order; alpha is not multiplied into the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    Cmyk,
    Bgr,
}

impl Layout {
    fn channels(self) -> usize {
        self.model().channels() + usize::from(self.has_alpha())
    }

    fn model(self) -> Model {
        match self {
            Self::Grey | Self::GreyAlpha => Model::Grey,
            Self::Rgb | Self::Rgba | Self::Bgr => Model::Rgb,
            Self::Cmyk => Model::Cmyk,
        }
    }

    #[must_use]
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GreyAlpha | Self::Rgba)
    }
}

/// Layouts by the names that Pillow gives to them, and OpenCV's order of colours.
impl FromStr for Layout {
    type Err = Rejection;

    fn from_str(name: &str) -> Result<Self, Rejection> {
        match name {
            "L" => Ok(Self::Grey),
            "LA" => Ok(Self::GreyAlpha),
            "RGB" => Ok(Self::Rgb),
            "RGBA" => Ok(Self::Rgba),
            "CMYK" => Ok(Self::Cmyk),
            "BGR" => Ok(Self::Bgr),
            _ => Err(Rejection::Unsupported("pixel layout")),
        }
    }
}

impl ForeignPixels<'_> {
    /// Bring the pixels to the house form, eight bits, RGB order, alpha laid on white, and say how to turn them upright.
    ///
    /// # Errors
    /// `Corrupt` when the sides are not those of the header.
    pub fn raster(
        &self,
        header: &Header<'_>,
        buffers: &mut Buffers,
    ) -> Result<(Raster, Orientation), Rejection> {
        // Pillow turns TIFF upright itself, and OpenCV gets no other.
        let is_upright = header.format == Format::Tiff;
        let (expected, orientation) = if is_upright {
            (header.orientation.size(header.size), Orientation::default())
        } else {
            (header.size, header.orientation)
        };
        if self.size != expected {
            return Err(Rejection::corrupt(
                "image is not the size that its header states",
            ));
        }
        let count = self.size.pixels() as usize * self.layout.channels();
        if !matches!(self.bits, 8 | 16) || self.samples.len() != count * usize::from(self.bits / 8)
        {
            return Err(Rejection::Unsupported("pixel layout"));
        }
        let mut samples = buffers.take(count);
        self.narrow(header.white.into(), &mut samples);
        if self.layout == Layout::Bgr {
            samples
                .chunks_exact_mut(3)
                .for_each(|pixel| pixel.swap(0, 2));
        }
        Ok((self.opaque(samples, buffers), orientation))
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

    fn opaque(&self, samples: Vec<u8>, buffers: &mut Buffers) -> Raster {
        let model = self.layout.model();
        let mut pixels = samples;
        if self.layout.has_alpha() {
            let mut flat = buffers.take(self.size.pixels() as usize * model.channels());
            flatten(model, &pixels, &mut flat);
            buffers.recycle(std::mem::replace(&mut pixels, flat));
        }
        Raster {
            size: self.size,
            model,
            pixels,
        }
    }
}

//! The eight EXIF orientations, as a transposition and two flips.

use crate::geometry::{Resampling, Size, Window};
use crate::raster::Raster;

/// How stored pixels become the upright image: the upright pixel (x, y) is the stored pixel (x, y), or (y, x) when
/// transposed, counted from the far side where flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation {
    transposed: bool,
    flipped_x: bool,
    flipped_y: bool,
}

impl Orientation {
    /// Orientation of an EXIF tag value (TIFF 6.0, tag 274); anything but 2 to 8 is upright.
    #[must_use]
    pub fn from_exif(value: u16) -> Self {
        let (transposed, flipped_x, flipped_y) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (true, true, false),
            _ => (false, false, false),
        };
        Self {
            transposed,
            flipped_x,
            flipped_y,
        }
    }

    #[must_use]
    pub fn is_upright(self) -> bool {
        self == Self::default()
    }

    /// Size of the upright image, given the stored one; its own inverse.
    #[must_use]
    pub fn size(self, size: Size) -> Size {
        if self.transposed {
            size.transposed()
        } else {
            size
        }
    }

    /// The same resampling on the stored pixels, given one on the upright image.
    #[must_use]
    pub fn stored(self, upright: Resampling, stored: Size) -> Resampling {
        Resampling {
            window: self.stored_window(upright.window, stored),
            size: self.size(upright.size),
            whole: self.size(upright.whole),
            filter: upright.filter,
        }
    }

    fn stored_window(self, window: Window, stored: Size) -> Window {
        let mut mapped = window;
        if self.transposed {
            mapped = Window {
                left: window.top,
                top: window.left,
                width: window.height,
                height: window.width,
            };
        }
        if self.flipped_x {
            mapped.left = f64::from(stored.width) - mapped.left - mapped.width;
        }
        if self.flipped_y {
            mapped.top = f64::from(stored.height) - mapped.top - mapped.height;
        }
        mapped
    }

    /// Write the upright image of `stored` into `pixels`, which must hold as many bytes.
    pub fn apply(self, stored: &Raster, pixels: &mut [u8]) {
        match stored.model.channels() {
            1 => self.permute::<1>(stored, pixels),
            3 => self.permute::<3>(stored, pixels),
            _ => self.permute::<4>(stored, pixels),
        }
    }

    fn permute<const CHANNELS: usize>(self, stored: &Raster, pixels: &mut [u8]) {
        let upright = self.size(stored.size);
        let (width, height) = (stored.size.width as usize, stored.size.height as usize);
        let (source, _) = stored.pixels.as_chunks::<CHANNELS>();
        let (target, _) = pixels.as_chunks_mut::<CHANNELS>();
        for (y, row) in target.chunks_exact_mut(upright.width as usize).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let (column, line) = if self.transposed { (y, x) } else { (x, y) };
                let column = if self.flipped_x {
                    width - 1 - column
                } else {
                    column
                };
                let line = if self.flipped_y {
                    height - 1 - line
                } else {
                    line
                };
                *pixel = source[line * width + column];
            }
        }
    }
}

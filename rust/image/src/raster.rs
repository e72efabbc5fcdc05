//! Pixels in memory, and the buffers they live in.

use crate::geometry::Size;

/// What the channels of a pixel mean, one byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Grey,
    Rgb,
    /// Amount of ink, 255 is full.
    Cmyk,
}

impl Model {
    /// Bytes per pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// Interleaved rows without padding, top row first.
#[derive(Debug, Clone)]
pub struct Raster {
    pub size: Size,
    pub model: Model,
    pub pixels: Vec<u8>,
}

/// One channel of a planar image.
#[derive(Debug, Clone)]
pub struct Plane {
    pub size: Size,
    pub pixels: Vec<u8>,
}

/// Interleaved rows without padding that are resampled, of `channels` bytes a pixel, at least one.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub pixels: &'a [u8],
    pub size: Size,
    pub channels: usize,
}

impl<'a> Source<'a> {
    /// Nothing when `pixels` is shorter than the image, or the image is empty.
    #[must_use]
    pub fn new(pixels: &'a [u8], size: Size, channels: usize) -> Option<Self> {
        let bytes = size.width as usize * size.height as usize * channels;
        (bytes > 0 && pixels.len() >= bytes).then_some(Self {
            pixels: &pixels[..bytes],
            size,
            channels,
        })
    }
}

/// Y, Cb and Cr of a JPEG or a lossy WebP, chroma at its stored resolution, perhaps reduced by the decoder.
///
/// A plane may reach past the image's edge where the sides are not multiples of the block; `width` and `height` say
/// which part of the luma plane, in its own pixels, is image.
#[derive(Debug, Clone)]
pub struct Planes {
    pub luma: Plane,
    pub chroma: [Plane; 2],
    pub width: f64,
    pub height: f64,
    /// Luma pixels per chroma pixel, across and down, as both are here.
    pub subsampling: (f64, f64),
}

/// Decoded pixels in the form that suits the codec.
#[derive(Debug, Clone)]
pub enum Picture {
    Raster(Raster),
    Planes(Planes),
}

/// What a panic says where an image takes more memory than there is.
#[derive(Debug, Clone, Copy)]
pub struct OutOfMemory;

/// Buffers kept for the next image of the same thread, so that large ones are not mapped and cleared each time.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Vec<u8>>,
}

/// Larger buffers go back to the system, so that one huge image does not hold memory for the rest of the run.
pub const MAX_KEPT_BYTES: usize = 8 << 20;
const MAX_KEPT: usize = 8;

impl Buffers {
    /// Return a buffer of `bytes` bytes with unspecified contents.
    ///
    /// # Panics
    /// With `OutOfMemory` where there is no memory for it: otherwise the process would be aborted.
    pub fn take(&mut self, bytes: usize) -> Vec<u8> {
        let fitting = (0..self.free.len()).filter(|&index| self.free[index].capacity() >= bytes);
        let best = fitting.min_by_key(|&index| self.free[index].capacity());
        let mut buffer = match best {
            Some(index) => self.free.swap_remove(index),
            None => Vec::new(),
        };
        let missing = bytes.saturating_sub(buffer.len());
        if buffer.try_reserve_exact(missing).is_err() {
            // Unlike a panic it prints nothing: this is foreseen.
            std::panic::resume_unwind(Box::new(OutOfMemory));
        }
        buffer.resize(bytes, 0);
        buffer
    }

    /// Give a buffer back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() > MAX_KEPT_BYTES {
            return;
        }
        if self.free.len() == MAX_KEPT {
            let smallest = (0..MAX_KEPT)
                .min_by_key(|&index| self.free[index].capacity())
                .unwrap_or(0);
            self.free.swap_remove(smallest);
        }
        self.free.push(buffer);
    }
}

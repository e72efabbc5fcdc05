//! Resampling by weights: rows of the source to one row of sixteen bits, and that row to pixels.
//!
//! Integers throughout, and sums that no order changes, so that every processor gives the same bytes.

mod portable;
#[cfg(target_arch = "x86_64")]
mod wide;

use crate::geometry::{Size, Window};
use crate::kernel::Kernel;
use crate::raster::Source;
use crate::weights::{Cache, LANES, MOST_BITS, Side, Weights};

/// Bits after the point of the sums of the second pass. Of those its weights have as many as they need, at least 14, and the
/// row between the passes the rest, so that what overshoots black or white by less than the whole range stays.
const ACROSS_BITS: u32 = MOST_BITS;

/// Weights and buffers of one thread. Nothing in it changes a result.
#[derive(Debug)]
pub struct Convolution {
    processor: Processor,
    weights: Cache,
    /// A row of the source's columns, and one of each channel with spare samples at the end.
    row: Vec<i16>,
    channels: Vec<Vec<i16>>,
    line: Vec<u8>,
}

/// What the processor can do.
#[derive(Debug, Clone, Copy)]
enum Processor {
    Any,
    #[cfg(target_arch = "x86_64")]
    Wide(wide::Detected),
}

impl Processor {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(detected) = wide::Detected::new() {
            return Self::Wide(detected);
        }
        Self::Any
    }
}

impl Default for Convolution {
    fn default() -> Self {
        Self::on(Processor::detect())
    }
}

/// Rows of the source and their weights.
struct Rows<'a> {
    /// From the first column that counts of the first row; the last row may end after the last column that counts.
    pixels: &'a [u8],
    stride: usize,
    weights: &'a [[i16; 2]],
    /// Bits by which the sums are too long for the row.
    shift: u32,
}

impl Convolution {
    /// One that uses no instructions beyond those of every processor of its kind; it gives the same bytes.
    #[must_use]
    pub fn portable() -> Self {
        Self::on(Processor::Any)
    }

    fn on(processor: Processor) -> Self {
        Self {
            processor,
            weights: Cache::default(),
            row: Vec::new(),
            channels: Vec::new(),
            line: Vec::new(),
        }
    }

    /// Resample `window` of the source, which lies inside it, to `size` pixels; rows are written `pitch` bytes apart.
    ///
    /// # Panics
    /// When `target` is shorter than that.
    pub fn resample(
        &mut self,
        source: Source<'_>,
        (window, size): (Window, Size),
        kernel: Kernel,
        target: &mut [u8],
        pitch: usize,
    ) {
        let across = self.weights.get(&Side {
            length: source.size.width as usize,
            start: window.left,
            seen: window.width,
            count: size.width as usize,
            kernel,
        });
        let down = self.weights.get(&Side {
            length: source.size.height as usize,
            start: window.top,
            seen: window.height,
            count: size.height as usize,
            kernel,
        });
        let columns = across.reach();
        let stride = source.size.width as usize * source.channels;
        let width = size.width as usize * source.channels;
        let spare = across.padded().0 * LANES;
        self.prepare(columns.len(), spare, source.channels);
        let lines = target.chunks_mut(pitch).zip(down.firsts());
        for (index, (line, first)) in lines.enumerate() {
            let start = first * stride + columns.start * source.channels;
            let rows = Rows {
                pixels: &source.pixels[start..],
                stride,
                weights: down.pairs(index),
                shift: down.bits() + across.bits() - ACROSS_BITS,
            };
            self.down(&rows);
            self.across(&across, columns.start, &mut line[..width]);
        }
    }

    fn prepare(&mut self, columns: usize, spare: usize, channels: usize) {
        self.row.clear();
        self.row.resize(columns * channels, 0);
        self.channels.resize_with(channels, Vec::new);
        for channel in &mut self.channels {
            channel.clear();
            channel.resize(columns + spare, 0);
        }
    }

    /// Make one row of several.
    fn down(&mut self, rows: &Rows<'_>) {
        let row = match &mut self.channels[..] {
            [only] => &mut only[..self.row.len()],
            _ => &mut self.row[..],
        };
        match self.processor {
            Processor::Any => portable::down(rows, row),
            #[cfg(target_arch = "x86_64")]
            Processor::Wide(detected) => wide::down(detected, rows, row),
        }
    }

    /// Make pixels of the row.
    fn across(&mut self, weights: &Weights, first: usize, pixels: &mut [u8]) {
        if let [channel] = &self.channels[..] {
            self.line_across(channel, weights, first, pixels);
            return;
        }
        match self.channels.len() {
            3 => self.separate::<3>(weights, first, pixels),
            _ => self.separate::<4>(weights, first, pixels),
        }
    }

    /// Take the row apart into its channels, and put their pixels together again.
    fn separate<const CHANNELS: usize>(
        &mut self,
        weights: &Weights,
        first: usize,
        pixels: &mut [u8],
    ) {
        let (samples, _) = self.row.as_chunks::<CHANNELS>();
        let (pixels, _) = pixels.as_chunks_mut::<CHANNELS>();
        let mut line = std::mem::take(&mut self.line);
        line.resize(pixels.len(), 0);
        for (index, channel) in self.channels.iter_mut().enumerate() {
            for (value, sample) in channel.iter_mut().zip(samples) {
                *value = sample[index];
            }
        }
        for (index, channel) in self.channels.iter().enumerate() {
            self.line_across(channel, weights, first, &mut line);
            for (pixel, &value) in pixels.iter_mut().zip(&line) {
                pixel[index] = value;
            }
        }
        self.line = line;
    }

    fn line_across(&self, row: &[i16], weights: &Weights, first: usize, pixels: &mut [u8]) {
        match self.processor {
            Processor::Any => portable::across(row, weights, first, pixels),
            #[cfg(target_arch = "x86_64")]
            Processor::Wide(detected) => wide::across(detected, row, weights, first, pixels),
        }
    }
}

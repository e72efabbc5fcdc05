//! Resampling that takes the nearest pixel for each.

use crate::geometry::{Size, Window};
use crate::raster::Source;

/// Pick `target` pixels from `window` of the source, to rows that are `pitch` bytes apart.
pub fn pick(source: Source<'_>, window: Window, target: Size, pixels: &mut [u8], pitch: usize) {
    let columns = places(window.left, window.width, target.width, source.size.width);
    let rows = places(window.top, window.height, target.height, source.size.height);
    let channels = source.channels;
    let stride = source.size.width as usize * channels;
    for (row, line) in rows.into_iter().zip(pixels.chunks_mut(pitch)) {
        let row = &source.pixels[row * stride..(row + 1) * stride];
        for (&column, pixel) in columns.iter().zip(line.chunks_exact_mut(channels)) {
            pixel.copy_from_slice(&row[column * channels..(column + 1) * channels]);
        }
    }
}

/// Which pixel lies at the middle of each of `count` parts of a side.
fn places(start: f64, length: f64, count: u32, limit: u32) -> Vec<usize> {
    let step = length / f64::from(count);
    let middles = (0..count).map(|index| start + (f64::from(index) + 0.5) * step);
    middles
        .map(|middle| (middle as usize).min(limit as usize - 1))
        .collect()
}

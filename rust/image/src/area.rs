//! Averaging over areas, for making images smaller: every pixel of the source counts by the share of it that a pixel of
//! the target covers.
//!
//! A convolution with a box comes close, but takes whole pixels only, which shows at small factors.

use std::ops::Range;

use crate::geometry::{Size, Window};
use crate::raster::Source;

/// Pixels of the source along one side that a pixel of the target covers, and their shares, which sum to 1.
struct Span {
    pixels: Range<usize>,
    /// Where the shares begin in the list of all shares of the side.
    shares: usize,
}

struct Side {
    spans: Vec<Span>,
    shares: Vec<f32>,
}

impl Side {
    /// Cut `length` pixels from `start` into `count` equal spans of at least a pixel, inside a side of `limit` pixels.
    fn cut(start: f64, length: f64, count: u32, limit: u32) -> Self {
        let step = length / f64::from(count);
        let mut side = Self {
            spans: Vec::with_capacity(count as usize),
            shares: Vec::new(),
        };
        for index in 0..count {
            let begin = start + f64::from(index) * step;
            let end = (begin + step).min(f64::from(limit));
            let first = (begin.floor() as usize).min(limit as usize - 1);
            let last = (end.ceil() as usize).clamp(first + 1, limit as usize);
            let shares = side.shares.len();
            for pixel in first..last {
                let overlap = end.min(pixel as f64 + 1.0) - begin.max(pixel as f64);
                side.shares.push((overlap / (end - begin)) as f32);
            }
            side.spans.push(Span {
                pixels: first..last,
                shares,
            });
        }
        side
    }

    fn shares_of(&self, span: &Span) -> &[f32] {
        &self.shares[span.shares..span.shares + span.pixels.len()]
    }
}

/// Average `window` of the source down to `target`, which is no larger on either side, to rows that are `pitch` bytes apart.
pub fn average(source: Source<'_>, window: Window, target: Size, pixels: &mut [u8], pitch: usize) {
    let down = Side::cut(window.top, window.height, target.height, source.size.height);
    let across = Side::cut(window.left, window.width, target.width, source.size.width);
    let stride = source.size.width as usize * source.channels;
    let mut sums = vec![0.0_f32; stride];
    for (span, row) in down.spans.iter().zip(pixels.chunks_mut(pitch)) {
        sums.fill(0.0);
        for (line, share) in span.pixels.clone().zip(down.shares_of(span)) {
            let line = &source.pixels[line * stride..(line + 1) * stride];
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum += f32::from(value) * share;
            }
        }
        match source.channels {
            1 => average_row::<1>(&sums, &across, row),
            3 => average_row::<3>(&sums, &across, row),
            _ => average_row::<4>(&sums, &across, row),
        }
    }
}

fn average_row<const CHANNELS: usize>(sums: &[f32], across: &Side, row: &mut [u8]) {
    let (columns, _) = sums.as_chunks::<CHANNELS>();
    let (row, _) = row.as_chunks_mut::<CHANNELS>();
    for (span, pixel) in across.spans.iter().zip(row) {
        let mut total = [0.0_f32; CHANNELS];
        for (column, share) in columns[span.pixels.clone()]
            .iter()
            .zip(across.shares_of(span))
        {
            for (total, value) in total.iter_mut().zip(column) {
                *total += value * share;
            }
        }
        *pixel = total.map(|value| (value + 0.5) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn averaged(source: &[u8], width: u32, height: u32, window: Window, target: Size) -> Vec<u8> {
        let mut pixels = vec![0; target.width as usize * target.height as usize];
        let source = Source::new(source, Size::new(width, height), 1).expect("an image");
        let pitch = target.width as usize;
        average(source, window, target, &mut pixels, pitch);
        pixels
    }

    #[test]
    fn pixels_count_by_the_share_that_is_covered() {
        let window = Window {
            left: 0.0,
            top: 0.0,
            width: 3.0,
            height: 1.0,
        };
        // 1.5 pixels each: 100 and half of 40, half of 40 and 10.
        assert_eq!(
            averaged(&[100, 40, 10], 3, 1, window, Size::new(2, 1)),
            [80, 20]
        );
    }

    #[test]
    fn only_the_window_is_seen() {
        let window = Window {
            left: 1.0,
            top: 1.0,
            width: 2.0,
            height: 2.0,
        };
        let source = [255, 255, 255, 255, 8, 16, 255, 24, 32];
        assert_eq!(averaged(&source, 3, 3, window, Size::new(1, 1)), [20]);
    }

    #[test]
    fn white_stays_white_at_any_factor() {
        for width in 1..60 {
            let window = Window {
                left: 0.0,
                top: 0.0,
                width: 60.0,
                height: 60.0,
            };
            let pixels = averaged(&[255; 3600], 60, 60, window, Size::new(width, 60 - width));
            assert!(pixels.iter().all(|&pixel| pixel == 255), "{width}");
        }
    }
}

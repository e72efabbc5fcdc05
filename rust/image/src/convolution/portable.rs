//! Both passes for any processor; the compiler turns the loops over columns into vectors.

use super::{ACROSS_BITS, Rows};
use crate::weights::{LANES, Weights};

/// Columns that are summed together.
const COLUMNS: usize = 16;

/// Sum rows by their weights.
pub fn down(rows: &Rows<'_>, row: &mut [i16]) {
    let (blocks, rest) = row.as_chunks_mut::<COLUMNS>();
    let mut column = 0;
    for block in blocks {
        *block = columns(rows, column);
        column += COLUMNS;
    }
    for value in rest {
        [*value] = columns(rows, column);
        column += 1;
    }
}

#[inline]
fn columns<const COUNT: usize>(rows: &Rows<'_>, column: usize) -> [i16; COUNT] {
    let mut sums = [1 << (rows.shift - 1); COUNT];
    let mut start = column;
    for &weight in rows.weights.as_flattened() {
        // Past the last row there is nothing, and its weight is zero.
        let Some(samples) = rows
            .pixels
            .get(start..)
            .and_then(<[u8]>::first_chunk::<COUNT>)
        else {
            break;
        };
        for (sum, &sample) in sums.iter_mut().zip(samples) {
            *sum += i32::from(sample) * i32::from(weight);
        }
        start += rows.stride;
    }
    sums.map(|sum| (sum >> rows.shift).clamp(i16::MIN.into(), i16::MAX.into()) as i16)
}

/// Make pixels of a row that begins with column `first`, and has spare samples at its end.
pub fn across(row: &[i16], weights: &Weights, first: usize, pixels: &mut [u8]) {
    let (chunks, values) = weights.padded();
    let values = values.chunks_exact(chunks);
    for ((pixel, start), values) in pixels.iter_mut().zip(weights.firsts()).zip(values) {
        let mut sums = [0; LANES];
        let samples = row[start - first..].as_chunks::<LANES>().0;
        for (samples, values) in samples.iter().zip(values) {
            for lane in 0..LANES {
                sums[lane] += i32::from(samples[lane]) * i32::from(values[lane]);
            }
        }
        let sum = sums.iter().sum::<i32>() + (1 << (ACROSS_BITS - 1));
        *pixel = (sum >> ACROSS_BITS).clamp(0, 255) as u8;
    }
}

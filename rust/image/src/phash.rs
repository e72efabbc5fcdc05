//! The perceptual hash of an image: 64 bits that stay nearly the same when it is resized or encoded again.
//!
//! The pHash of Zauner (2010) as the Python package `imagehash` defines it: 32 × 32 grey values, their cosine transform,
//! its 8 × 8 lowest frequencies, and a bit for each that is above their median, first row first, highest bit first.
//! All arithmetic is in integers, so that the hash is the same on every machine.

use std::sync::LazyLock;

use crate::geometry::Size;
use crate::orient::Orientation;
use crate::raster::{Model, Picture, Raster};

/// Sides of the grey image that is transformed.
pub const SIDE: usize = 32;
const LOW: usize = 8;
const SCALE: f64 = (1_u32 << 20) as f64;

type Grid = [u8; SIDE * SIDE];

static COSINES: LazyLock<[[i64; SIDE]; LOW]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|place| {
            let angle = std::f64::consts::PI * frequency as f64 * (2 * place + 1) as f64
                / (2 * SIDE) as f64;
            (angle.cos() * SCALE).round() as i64
        })
    })
});

/// Return the hash of a stored image as it looks upright.
#[must_use]
pub fn phash(picture: &Picture, orientation: Orientation) -> u64 {
    let stored = match picture {
        Picture::Raster(raster) => shrink(raster.size, raster.size.width as usize, |y, line| {
            let stride = raster.size.width as usize * raster.model.channels();
            to_grey(raster.model, &raster.pixels[y * stride..][..stride], line);
        }),
        Picture::Planes(planes) => {
            let luma = &planes.luma;
            let seen = Size::new(
                (planes.width.round() as u32).clamp(1, luma.size.width),
                (planes.height.round() as u32).clamp(1, luma.size.height),
            );
            let stride = luma.size.width as usize;
            shrink(seen, seen.width as usize, |y, line| {
                line.copy_from_slice(&luma.pixels[y * stride..][..line.len()]);
            })
        }
    };
    bits(&upright(&stored, orientation))
}

fn upright(stored: &Grid, orientation: Orientation) -> Grid {
    if orientation.is_upright() {
        return *stored;
    }
    let raster = Raster {
        size: Size::new(SIDE as u32, SIDE as u32),
        model: Model::Grey,
        pixels: stored.to_vec(),
    };
    let mut turned = [0; SIDE * SIDE];
    orientation.apply(&raster, &mut turned);
    turned
}

/// ITU-R 601 luma, as Pillow's mode L.
fn to_grey(model: Model, row: &[u8], line: &mut [u8]) {
    let grey = |red: u32, green: u32, blue: u32| {
        ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
    };
    match model {
        Model::Grey => line.copy_from_slice(row),
        Model::Rgb => {
            for (value, pixel) in line.iter_mut().zip(row.as_chunks::<3>().0) {
                *value = grey(pixel[0].into(), pixel[1].into(), pixel[2].into());
            }
        }
        Model::Cmyk => {
            for (value, pixel) in line.iter_mut().zip(row.as_chunks::<4>().0) {
                let light = 255 - u32::from(pixel[3]);
                let [red, green, blue] =
                    [0, 1, 2].map(|ink| (255 - u32::from(pixel[ink])) * light / 255);
                *value = grey(red, green, blue);
            }
        }
    }
}

/// Return exact area means: a side of n pixels is n · 32 units, of which each mean covers n.
fn shrink(size: Size, width: usize, mut read: impl FnMut(usize, &mut [u8])) -> Grid {
    let height = size.height as usize;
    let mut line = vec![0_u8; width];
    let mut sums = [0_u64; SIDE * SIDE];
    for y in 0..height {
        read(y, &mut line);
        let across: [u64; SIDE] =
            std::array::from_fn(|bin| covered(&line, bin * width, (bin + 1) * width));
        let (top, bottom) = (y * SIDE, (y + 1) * SIDE);
        for row in top / height..=(bottom - 1) / height {
            let share = bottom.min((row + 1) * height) - top.max(row * height);
            for (sum, value) in sums[row * SIDE..][..SIDE].iter_mut().zip(across) {
                *sum += value * share as u64;
            }
        }
    }
    let area = width as u64 * height as u64;
    sums.map(|sum| ((sum + area / 2) / area) as u8)
}

/// Sum of the pixels from `start` to `end`, each weighed by how many of its 32 units lie between.
fn covered(line: &[u8], start: usize, end: usize) -> u64 {
    let (first, last) = (start / SIDE, end / SIDE);
    if first == last {
        return u64::from(line[first]) * (end - start) as u64;
    }
    let head = u64::from(line[first]) * ((first + 1) * SIDE - start) as u64;
    let whole: u64 = line[first + 1..last]
        .iter()
        .map(|&value| u64::from(value))
        .sum();
    let tail = match end % SIDE {
        0 => 0,
        units => u64::from(line[last]) * units as u64,
    };
    head + whole * SIDE as u64 + tail
}

fn bits(grey: &Grid) -> u64 {
    let rows: Vec<[i64; LOW]> = grey
        .chunks_exact(SIDE)
        .map(|row| {
            std::array::from_fn(|frequency| {
                product(&COSINES[frequency], row.iter().copied().map(i64::from))
            })
        })
        .collect();
    let mut low = [0_i64; LOW * LOW];
    for (index, value) in low.iter_mut().enumerate() {
        let column = rows.iter().map(|row| row[index % LOW]);
        *value = product(&COSINES[index / LOW], column);
    }
    let mut sorted = low;
    sorted.sort_unstable();
    let twice_the_median =
        i128::from(sorted[LOW * LOW / 2 - 1]) + i128::from(sorted[LOW * LOW / 2]);
    low.iter().fold(0, |hash, &value| {
        hash << 1 | u64::from(2 * i128::from(value) > twice_the_median)
    })
}

fn product(cosines: &[i64; SIDE], values: impl Iterator<Item = i64>) -> i64 {
    cosines
        .iter()
        .zip(values)
        .map(|(cosine, value)| cosine * value)
        .sum()
}

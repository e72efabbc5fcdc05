//! The part of an image that is kept instead of the whole.

use crate::blur::Bounds;
use crate::geometry::Size;
use crate::raster::{Buffers, Raster};

/// Return the size of what `crop` keeps of an upright image.
#[must_use]
pub fn cropped(size: Size, [left, top, right, bottom]: Bounds) -> Size {
    let length = |(first, end): (usize, usize)| (end - first) as u32;
    Size::new(
        length(span(left, right, size.width)),
        length(span(top, bottom, size.height)),
    )
}

/// Cut a box out of an upright image, its sides rounded to whole pixels, at least one each.
#[must_use]
pub fn crop(raster: Raster, bounds: Bounds, buffers: &mut Buffers) -> Raster {
    let [left, top, right, bottom] = bounds;
    let channels = raster.model.channels();
    let (left, right) = span(left, right, raster.size.width);
    let (top, bottom) = span(top, bottom, raster.size.height);
    let stride = raster.size.width as usize * channels;
    let row_bytes = (right - left) * channels;
    let mut pixels = buffers.take(row_bytes * (bottom - top));
    let rows = raster.pixels.chunks_exact(stride).skip(top);
    for (row, target) in rows.zip(pixels.chunks_exact_mut(row_bytes)) {
        target.copy_from_slice(&row[left * channels..right * channels]);
    }
    buffers.recycle(raster.pixels);
    Raster {
        size: cropped(raster.size, bounds),
        model: raster.model,
        pixels,
    }
}

/// First pixel and the one after the last, of which there is at least one, on a side of `side` pixels.
fn span(start: f64, end: f64, side: u32) -> (usize, usize) {
    let whole = f64::from(side);
    // Unlike `clamp`, these make a number of what is none.
    let first = (start * whole).round().max(0.0).min(whole - 1.0);
    let last = (end * whole).round().max(first + 1.0).min(whole);
    (first as usize, last as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raster::Model;

    proptest! {
        #[test]
        fn any_box_keeps_at_least_a_pixel_and_none_from_outside(
            bounds in prop::array::uniform4(prop_oneof![-2.0..3.0_f64, Just(f64::NAN), Just(f64::INFINITY)]),
            width in 1_u32..40,
            height in 1_u32..40,
        ) {
            let size = Size::new(width, height);
            let pixels: Vec<u8> = (0..size.pixels()).map(|place| (place % 251) as u8).collect();
            let raster = Raster { size, model: Model::Grey, pixels };
            let made = crop(raster, bounds, &mut Buffers::default());
            prop_assert_eq!(made.size, cropped(size, bounds));
            prop_assert!(made.size.pixels() >= 1);
            prop_assert!(made.size.width <= width && made.size.height <= height);
            prop_assert_eq!(made.pixels.len() as u64, made.size.pixels());
        }
    }
}

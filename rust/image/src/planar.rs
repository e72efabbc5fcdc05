//! An image from the planes of one JPEG file to those of another: luma at its final size, chroma at half of it (4:2:0),
//! white around them, and no RGB between.

use crate::error::Rejection;
use crate::geometry::{Canvas, Resampling, Size, Window};
use crate::raster::{Plane, Planes};
use crate::resize::{resize_plane, scaled};
use crate::scratch::Scratch;

/// White.
const LUMA: u8 = 255;
const CHROMA: u8 = 128;

/// Planes of a 4:2:0 file of `size` pixels, whose luma is as wide and high as whole chroma samples are.
#[derive(Debug)]
pub struct Halved {
    pub size: Size,
    pub planes: [Vec<u8>; 3],
}

/// Where the chroma samples of one side lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// Samples that are all image.
    first: u32,
    count: u32,
    /// Pixels of the image before them, 0 or 1.
    skipped: u32,
    /// Whether a sample before them is half image and half white.
    mixed_before: bool,
    after: After,
}

/// The sample after those that are all image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Not image.
    Nothing,
    /// Half image and half white.
    Mixed,
    /// Image, but the last pixel alone.
    Alone,
}

impl Span {
    /// For `length` pixels of image from `start` of a side of `whole` pixels; nothing when no sample is all image.
    fn new(start: u32, length: u32, whole: u32) -> Option<Self> {
        let end = start + length;
        let first = start.div_ceil(2);
        let count = (end / 2).checked_sub(first).filter(|&count| count > 0)?;
        Some(Self {
            first,
            count,
            skipped: 2 * first - start,
            mixed_before: !start.is_multiple_of(2),
            after: match (end % 2, end < whole) {
                (0, _) => After::Nothing,
                (_, true) => After::Mixed,
                (_, false) => After::Alone,
            },
        })
    }
}

/// Where the image and its chroma samples lie on the canvas.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    canvas: Canvas,
    across: Span,
    down: Span,
}

impl Layout {
    /// Nothing for images so small that no chroma sample is all image.
    #[must_use]
    pub fn new(size: Size, canvas: Option<Canvas>) -> Option<Self> {
        let canvas = canvas.unwrap_or(Canvas {
            size,
            left: 0,
            top: 0,
        });
        Some(Self {
            canvas,
            across: Span::new(canvas.left, size.width, canvas.size.width)?,
            down: Span::new(canvas.top, size.height, canvas.size.height)?,
        })
    }
}

/// Resample `picture`, a decoding of an image of `stored` pixels, as planned, and lay it out.
///
/// # Errors
/// As [`crate::resize::resize`].
pub fn halve(
    picture: &Planes,
    stored: Size,
    plan: &Resampling,
    layout: &Layout,
    scratch: &mut Scratch,
) -> Result<Halved, Rejection> {
    let scale = (
        picture.width / f64::from(stored.width),
        picture.height / f64::from(stored.height),
    );
    let (across, down) = (layout.across, layout.down);
    let pixel = (
        plan.window.width / f64::from(plan.size.width),
        plan.window.height / f64::from(plan.size.height),
    );
    let seen = Window {
        left: plan.window.left + pixel.0 * f64::from(across.skipped),
        top: plan.window.top + pixel.1 * f64::from(down.skipped),
        width: pixel.0 * f64::from(2 * across.count),
        height: pixel.1 * f64::from(2 * down.count),
    };
    let luma_plan = Resampling {
        window: scaled(plan.window, scale.0, scale.1),
        ..*plan
    };
    let chroma_plan = Resampling {
        window: scaled(
            seen,
            scale.0 / picture.subsampling.0,
            scale.1 / picture.subsampling.1,
        ),
        size: Size::new(across.count, down.count),
        ..*plan
    };
    let Canvas { size, left, top } = layout.canvas;
    let halves = Size::new(size.width.div_ceil(2), size.height.div_ceil(2));
    let evened = Size::new(2 * halves.width, 2 * halves.height);
    let mut luma = placed(
        &picture.luma,
        &luma_plan,
        (left, top),
        (evened, LUMA),
        scratch,
    )?;
    repeat_ends(&mut luma, size, evened);
    let mut chroma = |plane: &Plane| {
        let corner = (across.first, down.first);
        let mut laid = placed(plane, &chroma_plan, corner, (halves, CHROMA), scratch)?;
        mix_edges(&mut laid, layout);
        Ok(laid.pixels)
    };
    let [blue, red] = &picture.chroma;
    let planes = [luma.pixels, chroma(blue)?, chroma(red)?];
    Ok(Halved { size, planes })
}

/// Resample a plane to its place on a larger one of `fill`.
fn placed(
    plane: &Plane,
    plan: &Resampling,
    (left, top): (u32, u32),
    (size, fill): (Size, u8),
    scratch: &mut Scratch,
) -> Result<Plane, Rejection> {
    let pitch = size.width as usize;
    let mut pixels = scratch.buffers.take(pitch * size.height as usize);
    if plan.size != size {
        pixels.fill(fill);
    }
    let start = top as usize * pitch + left as usize;
    resize_plane(plane, plan, scratch, &mut pixels[start..], pitch)?;
    Ok(Plane { size, pixels })
}

/// Have the last column and row once more where the sides are odd.
fn repeat_ends(luma: &mut Plane, size: Size, evened: Size) {
    let pitch = evened.width as usize;
    if evened.width > size.width {
        for row in luma.pixels.chunks_exact_mut(pitch) {
            row[pitch - 1] = row[pitch - 2];
        }
    }
    if evened.height > size.height {
        let last = luma.pixels.len() - pitch;
        luma.pixels.copy_within(last - pitch..last, last);
    }
}

/// Set the samples beside those that are all image from their neighbours.
fn mix_edges(chroma: &mut Plane, Layout { across, down, .. }: &Layout) {
    let mixed = |value: u8| value.midpoint(CHROMA);
    let pitch = chroma.size.width as usize;
    let (first, end) = (
        across.first as usize,
        (across.first + across.count) as usize,
    );
    for row in chroma.pixels.chunks_exact_mut(pitch) {
        if across.mixed_before {
            row[first - 1] = mixed(row[first]);
        }
        match across.after {
            After::Nothing => {}
            After::Mixed => row[end] = mixed(row[end - 1]),
            After::Alone => row[end] = row[end - 1],
        }
    }
    let (first, end) = (down.first as usize, (down.first + down.count) as usize);
    let mut copy = |from: usize, to: usize, change: &dyn Fn(u8) -> u8| {
        for x in 0..pitch {
            chroma.pixels[to * pitch + x] = change(chroma.pixels[from * pitch + x]);
        }
    };
    if down.mixed_before {
        copy(first, first - 1, &mixed);
    }
    match down.after {
        After::Nothing => {}
        After::Mixed => copy(end - 1, end, &mixed),
        After::Alone => copy(end - 1, end, &|value| value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pixel_of_the_picture_has_a_chroma_sample(start in 0_u32..9, length in 1_u32..40, rest in 0_u32..9) {
            let whole = start + length + rest;
            if let Some(span) = Span::new(start, length, whole) {
                let first = span.first - u32::from(span.mixed_before);
                let end = span.first + span.count + u32::from(span.after != After::Nothing);
                prop_assert_eq!(first, start / 2);
                prop_assert_eq!(end, (start + length).div_ceil(2));
                prop_assert!(end <= whole.div_ceil(2));
                prop_assert_eq!(2 * span.first, start + span.skipped);
            } else {
                prop_assert!(length < 3);
            }
        }
    }

    #[test]
    fn a_sample_of_half_a_picture_and_half_white_is_their_mean() {
        let canvas = Canvas {
            size: Size::new(6, 4),
            left: 1,
            top: 0,
        };
        let layout = Layout::new(Size::new(4, 3), Some(canvas)).expect("large enough");
        let mut chroma = Plane {
            size: Size::new(3, 2),
            pixels: vec![128, 28, 128, 128, 128, 128],
        };
        mix_edges(&mut chroma, &layout);
        assert_eq!(chroma.pixels, [78, 28, 78, 103, 78, 103]);
    }
}

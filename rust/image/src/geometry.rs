//! Where every pixel goes: pure arithmetic on sides, following img2dataset and albumentations.

use std::fmt;

use crate::options::{Filter, Mode, Options};

/// Sides in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Area in pixels.
    #[must_use]
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Width and height exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self::new(self.height, self.width)
    }
}

/// What a size is called in names: `256` for a square, `512x256` for another box.
impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.width, self.height) {
            (width, height) if width == height => write!(formatter, "{width}"),
            (width, height) => write!(formatter, "{width}x{height}"),
        }
    }
}

/// A part of an image in pixels, at sub-pixel precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

/// Resampling of a window of the source to a size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resampling {
    /// Part of the source that is seen.
    pub window: Window,
    /// Size that the window becomes.
    pub size: Size,
    /// Size that the whole source would become at the same scale.
    pub whole: Size,
    pub filter: Filter,
}

/// White canvas around the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canvas {
    pub size: Size,
    /// Place of the image on the canvas.
    pub left: u32,
    pub top: u32,
}

/// What happens to an image of a given size; both empty when it stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Plan {
    pub resampling: Option<Resampling>,
    pub canvas: Option<Canvas>,
}

impl Plan {
    /// Whether the image stays as it is.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.resampling.is_none() && self.canvas.is_none()
    }
}

/// Return the plans for an upright image of `source` pixels: for its main file, then for those of `more_sizes`.
#[must_use]
pub fn plans(options: &Options, source: Size) -> Vec<Plan> {
    let main = Size::new(options.width, options.height);
    let targets = [main].into_iter().chain(options.more_sizes.iter().copied());
    targets
        .map(|target| plan_to(options, target, source))
        .collect()
}

/// Return the plan for the main file of an upright image of `source` pixels.
#[must_use]
pub fn plan(options: &Options, source: Size) -> Plan {
    plan_to(options, Size::new(options.width, options.height), source)
}

/// Return the plan for a file of the size `target` of an upright image of `source` pixels.
///
/// An image is bigger than the box when it does not fit in it (`border`, `keep_ratio_largest`) or when it covers it
/// with room to spare on both sides (the other modes); for a square box these are img2dataset's tests of the larger
/// and of the smaller side. Sides are rounded half to even, as Python does.
fn plan_to(options: &Options, target: Size, source: Size) -> Plan {
    let bigger = match options.mode {
        Mode::No => return Plan::default(),
        Mode::Border | Mode::KeepRatioLargest => {
            source.width > target.width || source.height > target.height
        }
        Mode::KeepRatio | Mode::CenterCrop | Mode::Stretch => {
            source.width > target.width && source.height > target.height
        }
    };
    if options.only_if_bigger && !bigger {
        return Plan::default();
    }
    let filter = if bigger {
        options.downscale
    } else {
        options.upscale
    };
    let whole = match options.mode {
        Mode::Stretch | Mode::No => target,
        Mode::Border | Mode::KeepRatioLargest => scaled(source, inner_scale(source, target)),
        Mode::KeepRatio | Mode::CenterCrop => scaled(source, outer_scale(source, target)),
    };
    let seen = if options.mode == Mode::CenterCrop {
        target
    } else {
        whole
    };
    Plan {
        resampling: resampling(source, whole, seen, filter),
        canvas: if options.mode == Mode::Border {
            canvas(whole, target)
        } else {
            None
        },
    }
}

fn inner_scale(source: Size, target: Size) -> f64 {
    let across = f64::from(target.width) / f64::from(source.width);
    across.min(f64::from(target.height) / f64::from(source.height))
}

fn outer_scale(source: Size, target: Size) -> f64 {
    let across = f64::from(target.width) / f64::from(source.width);
    across.max(f64::from(target.height) / f64::from(source.height))
}

/// Longest side of a resized image; a sliver scaled to fill a large box would overflow without it.
const MAX_SIDE: f64 = 65_535.0;

fn scaled(source: Size, scale: f64) -> Size {
    let side = |pixels: u32| {
        (f64::from(pixels) * scale)
            .round_ties_even()
            .clamp(1.0, MAX_SIDE) as u32
    };
    Size::new(side(source.width), side(source.height))
}

fn resampling(source: Size, whole: Size, seen: Size, filter: Filter) -> Option<Resampling> {
    if whole == source && seen == source {
        return None;
    }
    let across = f64::from(source.width) / f64::from(whole.width);
    let down = f64::from(source.height) / f64::from(whole.height);
    let seen = Size::new(seen.width.min(whole.width), seen.height.min(whole.height));
    let window = Window {
        left: f64::from((whole.width - seen.width) / 2) * across,
        top: f64::from((whole.height - seen.height) / 2) * down,
        width: f64::from(seen.width) * across,
        height: f64::from(seen.height) * down,
    };
    Some(Resampling {
        window,
        size: seen,
        whole,
        filter,
    })
}

fn canvas(picture: Size, target: Size) -> Option<Canvas> {
    if picture == target {
        return None;
    }
    let left = target.width.saturating_sub(picture.width) / 2;
    let top = target.height.saturating_sub(picture.height) / 2;
    Some(Canvas {
        size: target,
        left,
        top,
    })
}

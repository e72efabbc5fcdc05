//! Resampling with antialiased filters; a planar JPEG becomes RGB here, at its final size.

use crate::area;
use crate::error::Rejection;
use crate::geometry::{Resampling, Size, Window};
use crate::kernel::Kernel;
use crate::nearest;
use crate::options::Filter;
use crate::raster::{Model, Picture, Plane, Planes, Raster, Source};
use crate::scratch::Scratch;
use crate::ycc;

/// Resample `picture`, a decoding of a stored image of `stored` pixels perhaps at reduced size, as planned for that
/// stored image.
///
/// # Errors
/// `Corrupt` when the window lies outside the image, which no plan makes.
pub fn resize(
    picture: &Picture,
    stored: Size,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Raster, Rejection> {
    match picture {
        Picture::Raster(raster) => resize_raster(raster, stored, plan, scratch),
        Picture::Planes(planes) => resize_planes(planes, stored, plan, scratch),
    }
}

fn resize_raster(
    raster: &Raster,
    stored: Size,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Raster, Rejection> {
    let channels = raster.model.channels();
    let across = f64::from(raster.size.width) / f64::from(stored.width);
    let down = f64::from(raster.size.height) / f64::from(stored.height);
    let plan = Resampling {
        window: scaled(plan.window, across, down),
        ..*plan
    };
    let pitch = plan.size.width as usize * channels;
    let mut pixels = scratch.buffers.take(pitch * plan.size.height as usize);
    let source = Source::new(&raster.pixels, raster.size, channels).ok_or_else(outside)?;
    resample(source, &plan, scratch, &mut pixels, pitch);
    Ok(Raster {
        size: plan.size,
        model: raster.model,
        pixels,
    })
}

fn resize_planes(
    planes: &Planes,
    stored: Size,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Raster, Rejection> {
    let luma_window = scaled(
        plan.window,
        planes.width / f64::from(stored.width),
        planes.height / f64::from(stored.height),
    );
    let chroma_window = scaled(
        luma_window,
        1.0 / planes.subsampling.0,
        1.0 / planes.subsampling.1,
    );
    let [blue, red] = &planes.chroma;
    let pitch = plan.size.width as usize;
    let mut channels = Vec::with_capacity(3);
    for (plane, window) in [
        (&planes.luma, luma_window),
        (blue, chroma_window),
        (red, chroma_window),
    ] {
        let plan = Resampling { window, ..*plan };
        let mut pixels = scratch.buffers.take(pitch * plan.size.height as usize);
        resize_plane(plane, &plan, scratch, &mut pixels, pitch)?;
        channels.push(pixels);
    }
    let mut pixels = scratch
        .buffers
        .take(plan.size.width as usize * plan.size.height as usize * 3);
    ycc::to_rgb(&channels[0], &channels[1], &channels[2], &mut pixels);
    for channel in channels {
        scratch.buffers.recycle(channel);
    }
    Ok(Raster {
        size: plan.size,
        model: Model::Rgb,
        pixels,
    })
}

/// Resample one channel, its window given in its own pixels, to rows that are `pitch` bytes apart.
///
/// # Errors
/// As [`resize`].
pub fn resize_plane(
    plane: &Plane,
    plan: &Resampling,
    scratch: &mut Scratch,
    target: &mut [u8],
    pitch: usize,
) -> Result<(), Rejection> {
    let source = Source::new(&plane.pixels, plane.size, 1).ok_or_else(outside)?;
    resample(source, plan, scratch, target, pitch);
    Ok(())
}

/// A window in pixels of another size of the image.
#[must_use]
pub fn scaled(window: Window, across: f64, down: f64) -> Window {
    Window {
        left: window.left * across,
        top: window.top * down,
        width: window.width * across,
        height: window.height * down,
    }
}

fn resample(
    source: Source<'_>,
    plan: &Resampling,
    scratch: &mut Scratch,
    target: &mut [u8],
    pitch: usize,
) {
    // Rounding may push the far edge over the image's by less than a millionth of a pixel.
    let left = plan.window.left.max(0.0);
    let top = plan.window.top.max(0.0);
    let window = Window {
        left,
        top,
        width: plan.window.width.min(f64::from(source.size.width) - left),
        height: plan.window.height.min(f64::from(source.size.height) - top),
    };
    let size = plan.size;
    let enlarged = f64::from(size.width) > window.width || f64::from(size.height) > window.height;
    let kernel = match plan.filter {
        Filter::Nearest => {
            nearest::pick(source, window, size, target, pitch);
            return;
        }
        Filter::Area if !enlarged => {
            area::average(source, window, size, target, pitch);
            return;
        }
        // Area averaging has no meaning when enlarging, where OpenCV interpolates linearly.
        Filter::Area | Filter::Linear => Kernel::Triangle,
        Filter::Cubic => Kernel::Cubic,
        Filter::Lanczos => Kernel::Lanczos,
    };
    let convolution = &mut scratch.convolution;
    convolution.resample(source, (window, size), kernel, target, pitch);
}

fn outside() -> Rejection {
    Rejection::corrupt("image without pixels")
}

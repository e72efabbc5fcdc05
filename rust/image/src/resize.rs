//! Resampling with antialiased filters; a planar JPEG becomes RGB here, at its final size.

use std::sync::LazyLock;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{Filter as CustomFilter, FilterType, PixelType, ResizeAlg, ResizeOptions};

use crate::area;
use crate::error::Rejection;
use crate::geometry::{Resampling, Size, Window};
use crate::lanczos;
use crate::options::Filter;
use crate::raster::{Model, Picture, Plane, Planes, Raster};
use crate::scratch::Scratch;
use crate::ycc;

/// Resample `picture`, a decoding of a stored image of `stored` pixels perhaps at reduced size, as planned for that
/// stored image. The buffers of the input are recycled.
///
/// # Errors
/// `Corrupt` when the window lies outside the image, which no plan makes.
pub fn resize(
    picture: Picture,
    stored: Size,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Raster, Rejection> {
    match picture {
        Picture::Raster(raster) => resize_raster(raster, stored, plan, scratch),
        Picture::Planes(planes) => resize_planes(planes, stored, plan, scratch),
    }
}

/// A channel group as the resampler sees it.
struct Source<'a> {
    pixels: &'a [u8],
    size: Size,
    kind: PixelType,
}

fn resize_raster(
    raster: Raster,
    stored: Size,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Raster, Rejection> {
    let kind = match raster.model {
        Model::Grey => PixelType::U8,
        Model::Rgb => PixelType::U8x3,
        Model::Cmyk => PixelType::U8x4,
    };
    let across = f64::from(raster.size.width) / f64::from(stored.width);
    let down = f64::from(raster.size.height) / f64::from(stored.height);
    let window = scaled(plan.window, across, down);
    let source = Source {
        pixels: &raster.pixels,
        size: raster.size,
        kind,
    };
    let pixels = resample(&source, window, plan, scratch)?;
    let model = raster.model;
    scratch.buffers.recycle(raster.pixels);
    Ok(Raster {
        size: plan.size,
        model,
        pixels,
    })
}

fn resize_planes(
    planes: Planes,
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
    let [blue, red] = planes.chroma;
    let mut channels = Vec::with_capacity(3);
    for (plane, window) in [
        (planes.luma, luma_window),
        (blue, chroma_window),
        (red, chroma_window),
    ] {
        let plan = Resampling { window, ..*plan };
        channels.push(resize_plane(plane, &plan, scratch)?.pixels);
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

/// Resample one channel, its window given in its own pixels. The buffer of the input is recycled.
///
/// # Errors
/// As [`resize`].
pub fn resize_plane(
    plane: Plane,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Plane, Rejection> {
    let source = Source {
        pixels: &plane.pixels,
        size: plane.size,
        kind: PixelType::U8,
    };
    let pixels = resample(&source, plan.window, plan, scratch)?;
    scratch.buffers.recycle(plane.pixels);
    Ok(Plane {
        size: plan.size,
        pixels,
    })
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
    source: &Source<'_>,
    window: Window,
    plan: &Resampling,
    scratch: &mut Scratch,
) -> Result<Vec<u8>, Rejection> {
    let bytes = plan.size.width as usize * plan.size.height as usize * source.kind.size();
    let mut pixels = scratch.buffers.take(bytes);
    // Rounding may push the far edge over the image's by less than a millionth of a pixel.
    let left = window.left.max(0.0);
    let top = window.top.max(0.0);
    let width = window.width.min(f64::from(source.size.width) - left);
    let height = window.height.min(f64::from(source.size.height) - top);
    let enlarged = f64::from(plan.size.width) > width || f64::from(plan.size.height) > height;
    if plan.filter == Filter::Area && !enlarged {
        let window = Window {
            left,
            top,
            width,
            height,
        };
        average(source, window, plan.size, &mut pixels);
        return Ok(pixels);
    }
    let options = ResizeOptions::new()
        .resize_alg(algorithm(plan.filter))
        .crop(left, top, width, height)
        .use_alpha(false);
    let view = ImageRef::new(
        source.size.width,
        source.size.height,
        source.pixels,
        source.kind,
    )
    .map_err(|_| outside())?;
    let mut target =
        Image::from_slice_u8(plan.size.width, plan.size.height, &mut pixels, source.kind)
            .map_err(|_| outside())?;
    scratch
        .resizer
        .resize(&view, &mut target, &options)
        .map_err(|_| outside())?;
    Ok(pixels)
}

fn average(source: &Source<'_>, window: Window, target: Size, pixels: &mut [u8]) {
    let average = match source.kind {
        PixelType::U8x4 => area::average::<4>,
        PixelType::U8x3 => area::average::<3>,
        _ => area::average::<1>,
    };
    average(source.pixels, source.size, window, target, pixels);
}

fn outside() -> Rejection {
    Rejection::corrupt("resampling window outside the image")
}

static LANCZOS: LazyLock<Option<CustomFilter>> =
    LazyLock::new(|| CustomFilter::new("lanczos", lanczos::weight, lanczos::SUPPORT).ok());

/// The resampler's name of a filter. Area averaging has no meaning when enlarging, where OpenCV interpolates linearly.
fn algorithm(filter: Filter) -> ResizeAlg {
    match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Area | Filter::Linear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Cubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Lanczos => {
            ResizeAlg::Convolution(LANCZOS.map_or(FilterType::Lanczos3, FilterType::Custom))
        }
    }
}

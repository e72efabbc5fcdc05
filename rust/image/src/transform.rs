//! One image from the downloaded body to the files that are kept.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::blur::{Bounds, blur};
use crate::colour::to_srgb;
use crate::crop::{crop, cropped};
use crate::decode::jpeg::decode_reduced;
use crate::decode::{Decoded, Demand, decode};
use crate::encode::{encode, encode_planes};
use crate::error::Rejection;
use crate::exif;
use crate::footprint;
pub use crate::foreign::ForeignPixels;
use crate::geometry::{Canvas, Plan, Resampling, Size, plans};
use crate::header::{self, Header, Reader};
use crate::memory::{Held, Room};
use crate::options::{Encoding, Filter, Options};
use crate::orient::Orientation;
use crate::phash::{SIDE, phash};
use crate::planar::{Halved, Layout, halve};
use crate::raster::{Model, OutOfMemory, Picture, Raster};
use crate::resize::resize;
use crate::scratch::Scratch;
use crate::sniff::{Format, sniff};

/// What became of one body. Facts about the original are there even when the image was turned away.
#[derive(Debug)]
pub struct Transformed {
    pub result: Result<Output, Rejection>,
    pub original_size: Option<Size>,
    pub original_format: Option<Format>,
    /// EXIF tags as a JSON object.
    pub exif: Option<String>,
    /// Perceptual hash of the original, if the image is kept.
    pub phash: Option<u64>,
}

/// An image that is kept.
#[derive(Debug)]
pub struct Output {
    /// The main one, then one of each of the further sizes.
    pub images: Vec<Image>,
    pub(crate) phash: Option<u64>,
}

/// An image in one size.
#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// Its new file; none where the body is kept as it came.
    pub file: Option<Vec<u8>>,
    pub size: Size,
}

impl Transformed {
    /// The images in all sizes; none of an image that is turned away.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        self.result.as_ref().map_or(&[], |output| &output.images)
    }

    /// Length of the new files.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        let files = self.images().iter().flat_map(|image| &image.file);
        files.map(Vec::len).sum()
    }

    /// Whether the caller brings the image again, decoded or with others: facts are gathered once.
    pub(crate) fn is_asked_for_again(&self) -> bool {
        matches!(
            self.result,
            Err(Rejection::Foreign(_) | Rejection::Postponed)
        )
    }
}

/// Transform one body; `boxes` are of the upright image.
#[must_use]
pub fn transform(
    options: &Options,
    body: &[u8],
    boxes: &[Bounds],
    scratch: &mut Scratch,
) -> Transformed {
    transform_in(&Room::default(), options, (body, boxes), scratch)
}

/// As [`transform`], once there is room for the image.
#[must_use]
pub fn transform_in(
    room: &Room<'_>,
    options: &Options,
    (body, boxes): (&[u8], &[Bounds]),
    scratch: &mut Scratch,
) -> Transformed {
    examine(options, body, scratch, |header, scratch| {
        make(room, options, header, (body, boxes), scratch)
    })
}

/// Finish an image whose body is in a foreign format and whose pixels the caller decoded.
#[must_use]
pub fn transform_pixels(
    options: &Options,
    body: &[u8],
    pixels: &ForeignPixels<'_>,
    boxes: &[Bounds],
    scratch: &mut Scratch,
) -> Transformed {
    examine(options, body, scratch, |header, scratch| {
        let plans = plans(options, kept_size(options, header, boxes));
        let making = footprint::making(options, &plans, header, !boxes.is_empty());
        Room::default().enter(footprint::decoding(header, Demand::Exact) + making)?;
        let (raster, orientation) = pixels.raster(header, &mut scratch.buffers)?;
        let header = Header {
            orientation,
            size: raster.size,
            ..header.clone()
        };
        let decoded = Decoded {
            picture: Picture::Raster(raster),
            flattened: pixels.layout.has_alpha(),
            icc: header.icc.clone(),
        };
        let hash = options.phash.then(|| phash(&decoded.picture, orientation));
        let images = if options.encode == Encoding::Original {
            vec![kept_unread(&header)?]
        } else {
            finish(options, &header, decoded, (boxes, false), scratch)?
        };
        Ok(Output {
            images,
            phash: hash,
        })
    })
}

/// Read the header, check it against the limits, let `work` make the image, and gather the facts.
fn examine(
    options: &Options,
    body: &[u8],
    scratch: &mut Scratch,
    work: impl FnOnce(&Header<'_>, &mut Scratch) -> Result<Output, Rejection>,
) -> Transformed {
    let format = sniff(body);
    let header = contained(scratch, |_| {
        format.clone().and_then(|format| header::read(format, body))
    });
    let result = contained(scratch, |scratch| {
        let header = header.as_ref().map_err(Clone::clone)?;
        header::check(&options.limits, header)?;
        work(header, scratch)
    });
    let header = header.ok();
    let exif = header
        .as_ref()
        .filter(|_| options.exif && result.is_ok())
        .and_then(|header| contained(scratch, |_| Ok(exif::to_json(header.exif))).ok()?);
    Transformed {
        exif,
        original_size: header.map(|header| header.size),
        original_format: format.ok(),
        phash: result.as_ref().ok().and_then(|output| output.phash),
        result,
    }
}

/// Do `work`. A panic in it has met a body that no sound file resembles; it may have broken the scratch, which is replaced.
fn contained<T>(
    scratch: &mut Scratch,
    work: impl FnOnce(&mut Scratch) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    catch_unwind(AssertUnwindSafe(|| work(scratch))).unwrap_or_else(|panic| {
        *scratch = Scratch::default();
        if panic.is::<OutOfMemory>() {
            return Err(Rejection::OutOfMemory);
        }
        Err(Rejection::corrupt("decoder gave up"))
    })
}

fn make(
    room: &Room<'_>,
    options: &Options,
    header: &Header<'_>,
    (body, boxes): (&[u8], &[Bounds]),
    scratch: &mut Scratch,
) -> Result<Output, Rejection> {
    let original = options.encode == Encoding::Original;
    if original && !options.phash {
        return Ok(Output {
            images: vec![kept_unread(header)?],
            phash: None,
        });
    }
    if header.reader != Reader::Native {
        return Err(Rejection::Foreign(header.reader));
    }
    let plans = plans(options, kept_size(options, header, boxes));
    let keepable = options.skip_reencode && is_same_format(header.format, options.encode);
    let keepable = keepable && header.orientation.is_upright();
    let demand = if original {
        Demand::Hashed(HASHED)
    } else {
        demand(options, &plans, header, boxes)
    };
    let making = footprint::making(options, &plans, header, !boxes.is_empty());
    let (decoded, _held) = decode_in(room, header, body, (demand, making), scratch)?;
    let hash = options
        .phash
        .then(|| phash(&decoded.picture, header.orientation));
    let images = if original {
        recycle(decoded.picture, scratch);
        vec![kept_unread(header)?]
    } else {
        finish(options, header, decoded, (boxes, keepable), scratch)?
    };
    Ok(Output {
        images,
        phash: hash,
    })
}

/// Decode an image once there is room for it, and for what making its file takes besides.
fn decode_in<'a>(
    room: &Room<'a>,
    header: &Header<'_>,
    body: &[u8],
    (demand, making): (Demand, u64),
    scratch: &mut Scratch,
) -> Result<(Decoded, Option<Held<'a>>), Rejection> {
    if let Some(decoding) = footprint::reduced_jpeg(header, body, demand) {
        let held = room.enter(decoding + making)?;
        if let Some(decoded) = decode_reduced(header, body, demand, scratch) {
            return Ok((decoded, held));
        }
    }
    let held = room.enter(footprint::decoding(header, demand) + making)?;
    Ok((decode(header, body, demand, scratch)?, held))
}

/// Size at which an image is decoded for its perceptual hash alone.
const HASHED: Size = Size {
    width: 2 * SIDE as u32,
    height: 2 * SIDE as u32,
};

/// Keep the body as it is. Its structure was walked to the end, which finds truncation and costs no decoding.
fn kept_unread(header: &Header<'_>) -> Result<Image, Rejection> {
    if !header.complete {
        return Err(Rejection::truncated("image ends early"));
    }
    Ok(Image {
        file: None,
        size: header.size,
    })
}

fn is_same_format(format: Format, encoding: Encoding) -> bool {
    matches!(
        (format, encoding),
        (Format::Jpeg, Encoding::Jpeg)
            | (Format::Png, Encoding::Png)
            | (Format::Webp, Encoding::Webp)
    )
}

/// What suffices for all files of an image.
fn demand(options: &Options, plans: &[Plan], header: &Header<'_>, boxes: &[Bounds]) -> Demand {
    let larger = |a: Size, b: Size| Size::new(a.width.max(b.width), a.height.max(b.height));
    let antialiased = |plan: &Plan| {
        let resampling = plan
            .resampling
            .filter(|each| each.filter != Filter::Nearest)?;
        Some(header.orientation.size(resampling.whole))
    };
    let wanted: Option<Vec<Size>> = plans.iter().map(antialiased).collect();
    let luma = wanted.and_then(|sizes| sizes.into_iter().reduce(larger));
    let Some(luma) = luma.filter(|_| boxes.is_empty()) else {
        return Demand::Exact;
    };
    if options.phash {
        return Demand::Hashed(larger(luma, HASHED));
    }
    // JPEG keeps chroma at half of the size.
    let chroma = match options.encode {
        Encoding::Jpeg => Size::new(luma.width.div_ceil(2), luma.height.div_ceil(2)),
        _ => luma,
    };
    Demand::AtLeast { luma, chroma }
}

fn needs_conversion(picture: &Picture, icc: Option<&[u8]>, scratch: &mut Scratch) -> bool {
    let model = match picture {
        Picture::Raster(raster) => raster.model,
        Picture::Planes(_) => Model::Rgb,
    };
    model == Model::Cmyk || scratch.profiles.changes(icc, model)
}

/// Make the files of a decoded image, each size from what was decoded; `keepable` says whether a body may be kept that
/// needs no change.
fn finish(
    options: &Options,
    header: &Header<'_>,
    decoded: Decoded,
    (boxes, keepable): (&[Bounds], bool),
    scratch: &mut Scratch,
) -> Result<Vec<Image>, Rejection> {
    if !boxes.is_empty() {
        return finish_boxed(options, header, decoded, boxes, scratch);
    }
    let Decoded {
        picture,
        flattened,
        icc,
    } = decoded;
    let icc = icc.as_deref();
    let plans = plans(options, header.orientation.size(header.size));
    let keepable = keepable
        && !flattened
        && plans.iter().any(Plan::is_identity)
        && !needs_conversion(&picture, icc, scratch);
    let mut make = |plan: &Plan, picture: Cow<'_, Picture>| {
        if keepable && plan.is_identity() {
            give_back(picture, scratch);
            return kept_unread(header);
        }
        made(options, header, plan, (picture, icc), scratch)
    };
    let mut images = Vec::with_capacity(plans.len());
    if let Some((last, others)) = plans.split_last() {
        for plan in others {
            images.push(make(plan, Cow::Borrowed(&picture))?);
        }
        images.push(make(last, Cow::Owned(picture))?);
    }
    Ok(images)
}

/// Make one file of a decoded image, which is recycled if it is handed over.
fn made(
    options: &Options,
    header: &Header<'_>,
    plan: &Plan,
    (picture, icc): (Cow<'_, Picture>, Option<&[u8]>),
    scratch: &mut Scratch,
) -> Result<Image, Rejection> {
    let stored = header.size;
    let layout = halved_layout(options, header, plan, (&picture, icc), scratch);
    if let (Picture::Planes(planes), Some(resampling), Some(layout)) =
        (picture.as_ref(), &plan.resampling, layout)
    {
        let halved = halve(planes, stored, resampling, &layout, scratch)?;
        give_back(picture, scratch);
        return halved_file(options, halved, scratch);
    }
    let resampling = plan
        .resampling
        .map(|upright| header.orientation.stored(upright, stored));
    let raster = resized(picture, stored, resampling.as_ref(), scratch)?;
    let raster = to_srgb(raster, icc, &mut scratch.profiles, &mut scratch.buffers);
    let raster = upright(raster, header.orientation, scratch);
    let raster = padded(raster, plan.canvas, scratch);
    let file = encode(&raster, options.encode, options.quality, scratch)?;
    let size = raster.size;
    scratch.buffers.recycle(raster.pixels);
    Ok(Image {
        file: Some(file),
        size,
    })
}

/// How planes become those of a JPEG file, unless something on the way needs RGB.
fn halved_layout(
    options: &Options,
    header: &Header<'_>,
    plan: &Plan,
    (picture, icc): (&Picture, Option<&[u8]>),
    scratch: &mut Scratch,
) -> Option<Layout> {
    let resampling = plan.resampling?;
    let direct = options.encode == Encoding::Jpeg && header.orientation.is_upright();
    if !direct || needs_conversion(picture, icc, scratch) {
        return None;
    }
    Layout::new(resampling.size, plan.canvas)
}

fn halved_file(
    options: &Options,
    picture: Halved,
    scratch: &mut Scratch,
) -> Result<Image, Rejection> {
    let file = encode_planes(&picture, options.quality, scratch)?;
    let size = picture.size;
    for plane in picture.planes {
        scratch.buffers.recycle(plane);
    }
    Ok(Image {
        file: Some(file),
        size,
    })
}

/// The size of what is kept of an upright image, before it is resized.
fn kept_size(options: &Options, header: &Header<'_>, boxes: &[Bounds]) -> Size {
    let size = header.orientation.size(header.size);
    let kept = boxes.first().filter(|_| options.crop);
    kept.map_or(size, |&bounds| cropped(size, bounds))
}

/// Blur or crop before anything else is done to the upright image, at full size, so that no filter spreads what a box
/// shows, or what is outside of it.
fn finish_boxed(
    options: &Options,
    header: &Header<'_>,
    decoded: Decoded,
    boxes: &[Bounds],
    scratch: &mut Scratch,
) -> Result<Vec<Image>, Rejection> {
    let raster = resized(Cow::Owned(decoded.picture), header.size, None, scratch)?;
    let raster = to_srgb(
        raster,
        decoded.icc.as_deref(),
        &mut scratch.profiles,
        &mut scratch.buffers,
    );
    let mut raster = upright(raster, header.orientation, scratch);
    if options.crop {
        raster = crop(raster, boxes[0], &mut scratch.buffers);
    } else {
        blur(&mut raster, boxes);
    }
    let header = Header {
        orientation: Orientation::default(),
        size: raster.size,
        ..header.clone()
    };
    header::check(&options.limits, &header)?;
    let decoded = Decoded {
        picture: Picture::Raster(raster),
        flattened: decoded.flattened,
        icc: None,
    };
    finish(options, &header, decoded, (&[], false), scratch)
}

fn resized(
    picture: Cow<'_, Picture>,
    stored: Size,
    resampling: Option<&Resampling>,
    scratch: &mut Scratch,
) -> Result<Raster, Rejection> {
    if let Some(resampling) = resampling {
        let raster = resize(&picture, stored, resampling, scratch)?;
        give_back(picture, scratch);
        return Ok(raster);
    }
    match picture {
        Cow::Owned(Picture::Raster(raster)) => Ok(raster),
        Cow::Borrowed(Picture::Raster(raster)) => Ok(copied(raster, scratch)),
        _ => Err(Rejection::corrupt("planes without a plan")),
    }
}

fn copied(raster: &Raster, scratch: &mut Scratch) -> Raster {
    let mut pixels = scratch.buffers.take(raster.pixels.len());
    pixels.copy_from_slice(&raster.pixels);
    Raster { pixels, ..*raster }
}

fn upright(raster: Raster, orientation: Orientation, scratch: &mut Scratch) -> Raster {
    if orientation.is_upright() {
        return raster;
    }
    let mut pixels = scratch.buffers.take(raster.pixels.len());
    orientation.apply(&raster, &mut pixels);
    scratch.buffers.recycle(raster.pixels);
    Raster {
        size: orientation.size(raster.size),
        model: raster.model,
        pixels,
    }
}

fn padded(raster: Raster, canvas: Option<Canvas>, scratch: &mut Scratch) -> Raster {
    let Some(canvas) = canvas else { return raster };
    let channels = raster.model.channels();
    let stride = canvas.size.width as usize * channels;
    let mut pixels = scratch.buffers.take(stride * canvas.size.height as usize);
    pixels.fill(255);
    let row_bytes = raster.size.width as usize * channels;
    let start = canvas.top as usize * stride + canvas.left as usize * channels;
    for (row, target) in raster
        .pixels
        .chunks_exact(row_bytes)
        .zip(pixels[start..].chunks_mut(stride))
    {
        target[..row_bytes].copy_from_slice(row);
    }
    scratch.buffers.recycle(raster.pixels);
    Raster {
        size: canvas.size,
        model: raster.model,
        pixels,
    }
}

/// Recycle a picture that was handed over.
fn give_back(picture: Cow<'_, Picture>, scratch: &mut Scratch) {
    if let Cow::Owned(picture) = picture {
        recycle(picture, scratch);
    }
}

fn recycle(picture: Picture, scratch: &mut Scratch) {
    match picture {
        Picture::Raster(raster) => scratch.buffers.recycle(raster.pixels),
        Picture::Planes(planes) => {
            scratch.buffers.recycle(planes.luma.pixels);
            planes
                .chroma
                .into_iter()
                .for_each(|plane| scratch.buffers.recycle(plane.pixels));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{DigestKind, Limits, Mode};

    const OPTIONS: Options = Options {
        width: 16,
        height: 16,
        more_sizes: Vec::new(),
        mode: Mode::No,
        only_if_bigger: false,
        downscale: Filter::Area,
        upscale: Filter::Cubic,
        encode: Encoding::Png,
        quality: 1,
        skip_reencode: false,
        limits: Limits {
            min_side: 0,
            max_pixels: 1_000_000,
            max_aspect: 0.0,
        },
        digest: DigestKind::Md5,
        exif: true,
        phash: false,
        crop: false,
    };

    #[test]
    fn a_panic_ends_as_an_outcome_that_keeps_the_facts() {
        let gif = b"GIF89a\x05\0\x07\0\0\0\0,\0\0\0\0\x05\0\x07\0\0\x02\x02D\x01\0;";
        let mut scratch = Scratch::default();
        scratch.buffers.recycle(vec![1; 100]);
        let row = examine(&OPTIONS, gif, &mut scratch, |_, _| {
            panic!("as a decoder may")
        });
        assert_eq!(
            row.result.err(),
            Some(Rejection::corrupt("decoder gave up"))
        );
        assert_eq!(row.original_size, Some(Size::new(5, 7)));
        assert_eq!(row.original_format, Some(Format::Gif));
        let kept = scratch.buffers.take(1);
        assert_eq!(
            kept.capacity(),
            1,
            "what a panic has broken must not be used again"
        );
    }
}

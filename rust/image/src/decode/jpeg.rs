//! JPEG, reduced by the inverse DCT where the target allows, chroma left at its stored resolution.
//!
//! Sound files of the usual kinds are decoded by `turbo_fetch_jpeg`; what that declines, and every image that is wanted
//! as it is, by libjpeg-turbo, which also says what is wrong with a file.

use std::borrow::Cow;

use turbo_fetch_jpeg::{Component, Frame};

use super::{Decoded, Demand};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::{self, Header};
use crate::raster::{Model, Picture, Plane, Planes, Raster};
use crate::scratch::Scratch;
use crate::sniff::Format;
use crate::turbojpeg::{Colours, Failure, Jpeg, PixelFormat, plane_size, reduced};

/// By libjpeg-turbo, a reduced image keeps at least this many times the target's pixels per side.
const OVERSAMPLING: u32 = 2;

/// How many times the target's samples per side an image keeps at least that is reduced to any eighth, in quarters.
#[derive(Debug, Clone, Copy)]
pub struct Oversampling {
    pub luma: usize,
    pub chroma: usize,
}

impl Oversampling {
    /// Measured, in `docs/decisions/jpeg-decoder.md`.
    pub const CHOSEN: Self = Self { luma: 6, chroma: 8 };
}

/// Decode a sound JPEG at a reduced size; nothing for what [`decode`] has to look at.
pub fn decode_reduced(
    header: &Header<'_>,
    body: &[u8],
    demand: Demand,
    scratch: &mut Scratch,
) -> Option<Decoded> {
    let Demand::AtLeast { luma, chroma } = demand else {
        return None;
    };
    if header.format != Format::Jpeg || !header.complete {
        return None;
    }
    let wanted = (luma, chroma);
    let picture = read_reduced(header.size, body, wanted, Oversampling::CHOSEN, scratch)?;
    Some(Decoded {
        picture,
        flattened: false,
        icc: header.icc.clone(),
    })
}

/// Decode a sound file of a usual kind for sizes of luma and chroma; nothing for all others.
pub fn read_reduced(
    stored: Size,
    body: &[u8],
    wanted: (Size, Size),
    oversampling: Oversampling,
    scratch: &mut Scratch,
) -> Option<Picture> {
    let frame = Frame::read(body).ok()?;
    if (frame.width, frame.height) != (stored.width as usize, stored.height as usize) {
        return None;
    }
    let eighths = reduction(&frame, wanted, oversampling)?;
    let [luma, chroma, _] = eighths;
    let eighths = &eighths[..frame.components.len()];
    let mut planes: Vec<_> = frame
        .components
        .iter()
        .zip(eighths)
        .map(|(component, &eighths)| {
            let (width, height) = component.reduced(eighths);
            turbo_fetch_jpeg::Plane {
                width,
                height,
                pixels: scratch.buffers.take(width * height),
            }
        })
        .collect();
    let declined = scratch.jpeg.planes(body, &frame, eighths, &mut planes);
    let mut planes = planes.into_iter().map(|plane| Plane {
        size: Size::new(plane.width as u32, plane.height as u32),
        pixels: plane.pixels,
    });
    if declined.is_err() {
        planes.for_each(|plane| scratch.buffers.recycle(plane.pixels));
        return None;
    }
    let first = planes.next()?;
    let (Some(blue), Some(red)) = (planes.next(), planes.next()) else {
        return Some(Picture::Raster(Raster {
            size: first.size,
            model: Model::Grey,
            pixels: first.pixels,
        }));
    };
    let reduction = luma as f64 / 8.0;
    let finer = luma as f64 / chroma as f64;
    let (across, down) = frame.subsampling();
    Some(Picture::Planes(Planes {
        luma: first,
        chroma: [blue, red],
        width: f64::from(stored.width) * reduction,
        height: f64::from(stored.height) * reduction,
        subsampling: (across as f64 * finer, down as f64 * finer),
    }))
}

/// The fewest eighths of each component that leave enough for sizes of luma and chroma.
#[must_use]
pub fn reduction(
    frame: &Frame,
    (luma, chroma): (Size, Size),
    oversampling: Oversampling,
) -> Option<[usize; 3]> {
    let chroma = eighths(frame.components.last()?, chroma, oversampling.chroma);
    let luma = eighths(frame.components.first()?, luma, oversampling.luma);
    Some([luma, chroma, chroma])
}

/// The fewest eighths that leave enough of a component for an image of size `wanted`.
fn eighths(component: &Component, wanted: Size, quarters: usize) -> usize {
    let needed = |side: usize, wanted: u32| (2 * wanted as usize * quarters).div_ceil(side);
    let across = needed(component.width, wanted.width);
    let down = needed(component.height, wanted.height);
    across.max(down).clamp(1, 8)
}

/// Decode a JPEG by libjpeg-turbo.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    demand: Demand,
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
    // Cut between two scans, a file decodes without complaint, and coarsely.
    if !header.complete && !header::jpeg::read(body)?.has_all_scans {
        return Err(Rejection::truncated("JPEG ends before its last scan"));
    }
    let body = terminated(header, body);
    let jpeg = Jpeg::open(&body).map_err(|failure| unreadable(failure, header.complete))?;
    let info = *jpeg.info();
    if info.size != header.size {
        return Err(Rejection::corrupt(
            "JPEG image is not the size that its header states",
        ));
    }
    let denominator = if info.lossless {
        1
    } else {
        denominator(info.size, demand)
    };
    let planar = info.colours == Colours::YCbCr && demand != Demand::Exact;
    let (picture, result) = match info.subsampling {
        Some(subsampling) if planar && !info.lossless => {
            read_planes(jpeg, denominator, subsampling, scratch)
        }
        _ => read_raster(jpeg, denominator, scratch),
    };
    match result
        .err()
        .and_then(|failure| judge(failure, header.complete))
    {
        Some(rejection) => Err(rejection),
        None => Ok(Decoded {
            picture,
            flattened: false,
            icc: header.icc.clone(),
        }),
    }
}

/// More zeros than an encoder writes in a row at the end of a scan, which is padded with ones.
const HOLE: usize = 16;

/// Zeros that may belong to what stands before a hole: three end a scan header, one follows a 0xff of the data.
const OWN_ZEROS: usize = 3;

/// The body with an end-of-image marker, so that a file that lacks only that decodes without complaint and one that
/// lacks data is told apart from it.
///
/// Zeros at the end are what an unfinished copy leaves of the room it had reserved. They go, since they would decode,
/// as codes of one or two bits, into an image of stripes that nobody complains about.
fn terminated<'a>(header: &Header<'_>, body: &'a [u8]) -> Cow<'a, [u8]> {
    if header.complete {
        return Cow::Borrowed(body);
    }
    let filled = body
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    let data = if body.len() >= filled + HOLE {
        &body[..filled + OWN_ZEROS]
    } else {
        body
    };
    let mut longer = Vec::with_capacity(data.len() + 2);
    longer.extend_from_slice(data);
    longer.extend_from_slice(b"\xff\xd9");
    Cow::Owned(longer)
}

/// Largest reduction of 8, 4 or 2 that leaves enough pixels, else 1.
#[must_use]
pub fn denominator(source: Size, demand: Demand) -> u32 {
    match demand {
        Demand::Exact => 1,
        Demand::AtLeast { luma: target, .. } | Demand::Hashed(target) => {
            let enough = |side: u32, wanted: u32, by: u32| {
                u64::from(side) >= u64::from(wanted) * u64::from(OVERSAMPLING * by)
            };
            let fits = |by: u32| {
                enough(source.width, target.width, by) && enough(source.height, target.height, by)
            };
            [8, 4, 2].into_iter().find(|&by| fits(by)).unwrap_or(1)
        }
    }
}

fn read_planes(
    jpeg: Jpeg<'_>,
    denominator: u32,
    subsampling: (u32, u32),
    scratch: &mut Scratch,
) -> (Picture, Result<(), Failure>) {
    let info = *jpeg.info();
    let [mut luma, mut blue, mut red] = [0, 1, 2].map(|index| {
        let size = plane_size(&info, denominator, index);
        Plane {
            size,
            pixels: scratch
                .buffers
                .take(size.width as usize * size.height as usize),
        }
    });
    let targets = [
        &mut luma.pixels[..],
        &mut blue.pixels[..],
        &mut red.pixels[..],
    ];
    let result = jpeg.read_planes(denominator, targets);
    let picture = Picture::Planes(Planes {
        luma,
        chroma: [blue, red],
        width: f64::from(info.size.width) / f64::from(denominator),
        height: f64::from(info.size.height) / f64::from(denominator),
        subsampling: (subsampling.0.into(), subsampling.1.into()),
    });
    (picture, result)
}

fn read_raster(
    jpeg: Jpeg<'_>,
    denominator: u32,
    scratch: &mut Scratch,
) -> (Picture, Result<(), Failure>) {
    let info = *jpeg.info();
    let (model, format) = match info.colours {
        Colours::Grey => (Model::Grey, PixelFormat::Grey),
        Colours::Rgb | Colours::YCbCr => (Model::Rgb, PixelFormat::Rgb),
        Colours::Cmyk => (Model::Cmyk, PixelFormat::Cmyk),
    };
    let size = reduced(info.size, denominator);
    let mut pixels = scratch
        .buffers
        .take(size.width as usize * size.height as usize * model.channels());
    let result = jpeg.read(denominator, format, &mut pixels);
    if model == Model::Cmyk {
        // Adobe writes the amount of light, not of ink, and every reader takes that as the rule.
        for ink in &mut pixels {
            *ink = 255 - *ink;
        }
    }
    (
        Picture::Raster(Raster {
            size,
            model,
            pixels,
        }),
        result,
    )
}

/// Processes, precisions and layouts of the standard that the library does not decode.
const UNSUPPORTED: &[&str] = &[
    "Unsupported JPEG process",
    "Unsupported JPEG data precision",
    "Unsupported color conversion",
    "Could not determine colorspace",
    "not supported",
    "Sorry, ",
];

/// Complaints that leave the pixels whole.
const HARMLESS: &[&str] = &[
    "extraneous bytes before marker",
    "Inconsistent progression sequence",
    "unknown JFIF revision",
    "Unknown Adobe color transform code",
    "Invalid SOS parameters",
];

/// The one harmless complaint about a body without its end: padding before the marker that we put there.
const PADDED: &str = "extraneous bytes before marker 0xd9";

fn says(failure: &Failure, phrases: &[&str]) -> bool {
    phrases
        .iter()
        .any(|phrase| failure.message.contains(phrase))
}

/// A header that the library cannot read.
fn unreadable(failure: Failure, complete: bool) -> Rejection {
    if failure.is_out_of_memory() {
        Rejection::OutOfMemory
    } else if !complete {
        Rejection::truncated("JPEG ends in its header")
    } else if says(&failure, UNSUPPORTED) {
        Rejection::Unsupported("JPEG variant")
    } else {
        Rejection::Corrupt(failure.message.into())
    }
}

/// What a complaint of the library means: nothing for those that leave the pixels whole.
///
/// Only the first complaint about a file is told. In a body without its end a harmless one may hide that data is missing.
fn judge(failure: Failure, complete: bool) -> Option<Rejection> {
    if failure.is_out_of_memory() {
        return Some(Rejection::OutOfMemory);
    }
    let harmless = if complete { HARMLESS } else { &[PADDED] };
    if failure.is_warning && says(&failure, harmless) {
        return None;
    }
    if !failure.is_warning && says(&failure, UNSUPPORTED) {
        return Some(Rejection::Unsupported("JPEG variant"));
    }
    let cut_off = failure.message.contains("remature end");
    Some(if cut_off && !complete {
        Rejection::truncated("JPEG data ends before the image")
    } else {
        Rejection::Corrupt(failure.message.into())
    })
}

//! JPEG through libjpeg-turbo: reduced by the inverse DCT where the target allows, chroma left at its stored size.

use std::borrow::Cow;

use super::{Decoded, Demand};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::Header;
use crate::raster::{Model, Picture, Plane, Planes, Raster};
use crate::scratch::Scratch;
use crate::turbojpeg::{Colours, Failure, Jpeg, PixelFormat, plane_size, reduced};

/// A reduced image keeps at least this many times the target's pixels per side; measured, less costs quality.
const OVERSAMPLING: u32 = 2;

/// Decode a JPEG.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    demand: Demand,
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
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
    let planar = info.colours == Colours::YCbCr && matches!(demand, Demand::AtLeast(_));
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
        Demand::AtLeast(target) => {
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
    if !complete {
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

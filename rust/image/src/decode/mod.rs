//! From a body to pixels of eight bits, alpha laid on white.

use crate::error::Rejection;
use crate::geometry::Size;
use crate::header::Header;
use crate::raster::{Model, Picture};
use crate::scratch::Scratch;
use crate::sniff::Format;

mod bmp;
mod gif;
mod ico;
pub mod jpeg;
mod png;
mod webp;

/// How much of the image the caller will use, in stored orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Every pixel as it is.
    Exact,
    /// Enough to make the whole image this size with an antialiased filter.
    AtLeast {
        luma: Size,
        /// Size that chroma will have, where the codec keeps it apart.
        chroma: Size,
    },
    /// As `AtLeast`, and reduced by no other means than what perceptual hashes have always been taken of.
    Hashed(Size),
}

/// A decoded image and the colour space of its numbers.
#[derive(Debug)]
pub struct Decoded {
    pub picture: Picture,
    /// Whether the file has alpha, so that what was laid on white differs from it.
    pub flattened: bool,
    pub icc: Option<Vec<u8>>,
}

/// Decode `body`, the image that `header` was read from.
///
/// # Errors
/// `Truncated` when data ends before the image, `Corrupt` for other damage, `Unsupported` for variants not decoded.
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    demand: Demand,
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
    let decoded = match header.format {
        Format::Jpeg => jpeg::decode(header, body, demand, scratch),
        Format::Png => png::decode(header, body, scratch),
        Format::Webp => webp::decode(header, body, demand, scratch),
        Format::Gif => gif::decode(body, scratch),
        Format::Bmp => bmp::decode(body, scratch),
        Format::Ico => ico::decode(body, scratch),
        Format::Avif | Format::Tiff | Format::Jpeg2000 => Err(Rejection::Foreign(header.reader)),
    };
    decoded.map_err(|rejection| match rejection {
        // Whatever the decoder tripped over, the body does not reach its own end.
        Rejection::Corrupt(_) if !header.complete => {
            Rejection::truncated("data ends before the image")
        }
        other => other,
    })
}

/// Lay rows of colour and alpha on white: `colours` channels of `model`, then alpha.
pub(crate) fn flatten(model: Model, source: &[u8], target: &mut [u8]) {
    match model {
        Model::Grey => flatten_channels::<1, 2>(source, target),
        _ => flatten_channels::<3, 4>(source, target),
    }
}

fn flatten_channels<const COLOURS: usize, const CHANNELS: usize>(source: &[u8], target: &mut [u8]) {
    let (source, _) = source.as_chunks::<CHANNELS>();
    let (target, _) = target.as_chunks_mut::<COLOURS>();
    for (from, to) in source.iter().zip(target) {
        let alpha = u32::from(from[COLOURS]);
        for channel in 0..COLOURS {
            to[channel] = on_white(u32::from(from[channel]), alpha);
        }
    }
}

/// `value · alpha + 255 · (1 − alpha)`, rounded, for an alpha of 0 to 255.
pub(crate) fn on_white(value: u32, alpha: u32) -> u8 {
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

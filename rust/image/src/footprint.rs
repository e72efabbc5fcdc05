//! How much memory an image takes while it is made, by what its header says, so that it can wait for it.
//!
//! Upper bounds of what is allocated, within a factor of two for colour; the body is not counted.

use crate::decode::Demand;
use crate::decode::jpeg::{Oversampling, denominator, reduction};
use crate::encode::LOSSLESS;
use crate::geometry::{Plan, Size};
use crate::header::Header;
use crate::options::{Encoding, Options};
use crate::sniff::Format;

/// Bytes of a pixel in the house form.
const COLOURS: u64 = 3;

/// From an image to its files, once it is decoded.
#[must_use]
pub fn making(options: &Options, plans: &[Plan], header: &Header<'_>, is_boxed: bool) -> u64 {
    if options.encode == Encoding::Original {
        return 0;
    }
    // What is made of the whole image as it is, is made of a copy, unless it is made last.
    let (_, all_but_last) = plans.split_last().unwrap_or((&Plan::default(), &[]));
    let copied = all_but_last.iter().any(|plan| plan.resampling.is_none());
    let copy = u64::from(copied) * header.size.pixels() * COLOURS;
    let files = plans
        .iter()
        .map(|plan| making_one(options, plan, header, is_boxed));
    copy + files.sum::<u64>()
}

fn making_one(options: &Options, plan: &Plan, header: &Header<'_>, is_boxed: bool) -> u64 {
    let stored = header.size.pixels();
    let resampled = plan.resampling.map(|resampling| resampling.size.pixels());
    let whole = plan.canvas.map(|canvas| canvas.size.pixels());
    let size = resampled.unwrap_or(stored);
    // Boxes are of the whole image, upright and in its colours.
    let turned = if is_boxed { stored } else { size };
    let copies = [
        // A channel each, then all of them.
        (resampled.is_some(), 2 * size),
        (header.icc.is_some(), turned),
        (!header.orientation.is_upright(), turned),
        (whole.is_some(), whole.unwrap_or(0)),
        (is_boxed && options.crop, stored),
    ];
    let intermediate: u64 = copies
        .iter()
        .filter_map(|&(is_made, pixels)| is_made.then_some(pixels * COLOURS))
        .sum();
    intermediate + whole.unwrap_or(size) * encoder_bytes_per_pixel(options.encode, options.quality)
}

/// What an encoder holds besides the pixels, the file included.
#[must_use]
pub fn encoder_bytes_per_pixel(encoding: Encoding, quality: u8) -> u64 {
    match encoding {
        Encoding::Jpeg => 3,
        Encoding::Original => 0,
        // The compressed data, which has room for twice its length as it grows, and the file around it.
        Encoding::Png => 9,
        Encoding::Webp if quality >= LOSSLESS => 50,
        Encoding::Webp => 8,
    }
}

/// To decode an image by other means than [`reduced_jpeg`].
#[must_use]
pub fn decoding(header: &Header<'_>, demand: Demand) -> u64 {
    let reduction = match header.format {
        Format::Jpeg => denominator(header.size, demand),
        _ => 1,
    };
    let reduced = Size::new(
        header.size.width.div_ceil(reduction),
        header.size.height.div_ceil(reduction),
    );
    header.working_bytes + reduced.pixels() * COLOURS
}

/// To decode a JPEG by this project's own decoder at a reduced size; nothing for one that it declines by its header.
#[must_use]
pub fn reduced_jpeg(header: &Header<'_>, body: &[u8], demand: Demand) -> Option<u64> {
    let Demand::AtLeast { luma, chroma } = demand else {
        return None;
    };
    let frame = turbo_fetch_jpeg::Frame::read(body).ok()?;
    let eighths = reduction(&frame, (luma, chroma), Oversampling::CHOSEN)?;
    let planes = frame.components.iter().zip(eighths);
    let bytes = planes.map(|(component, eighths)| {
        let (width, height) = component.reduced(eighths);
        let stored = if frame.progressive {
            let blocks = component.padded_across * component.padded_down;
            blocks * (8 + 2 * (eighths * eighths + 1))
        } else {
            0
        };
        width * height + stored
    });
    let held = bytes.sum::<usize>() as u64;
    (header.format == Format::Jpeg && header.complete).then_some(held + body.len() as u64)
}

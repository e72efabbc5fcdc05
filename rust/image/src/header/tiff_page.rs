//! The first page of a TIFF file: what its tags say of the samples, and who reads such samples right.

use super::tiff::{self, Entry, Stream};
use super::{Header, Reader};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const SAMPLES: u16 = 277;
const PLANAR: u16 = 284;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const XMP: u16 = 700;
const ICC_PROFILE: u16 = 34_675;

/// More samples per pixel than anything here reads; lists of values are read up to this length.
const MAX_SAMPLES: u32 = 16;

/// Compressions that OpenCV and Pillow both build libtiff with, and that are no image format of their own.
const PLAIN: &[u32] = &[1, 5, 8, 32_773, 32_946];

/// How the samples of a page are laid out, as its tags state it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Samples {
    photometric: u32,
    compression: u32,
    /// Bits of each sample of a pixel.
    bits: Vec<u32>,
    /// Meaning of the samples beyond the colours.
    extra: Vec<u32>,
    /// Whether they are whole numbers without a sign.
    unsigned: bool,
    planar: bool,
    reversed: bool,
}

/// Read the first page of `body`.
///
/// # Errors
/// `Corrupt` when its directory does not state both sides, `Unsupported` for samples that nothing here reads right.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let sides_missing = || Rejection::corrupt("TIFF directory without sides");
    let stream = Stream::new(body).ok_or_else(sides_missing)?;
    let directory = stream.first_directory().ok_or_else(sides_missing)?;
    let page = Page { stream, directory };
    let length = |tag| page.integer(tag).ok_or_else(sides_missing);
    let size = Size::new(length(WIDTH)?, length(HEIGHT)?);
    let (xmp, icc) = (page.bytes(XMP), page.bytes(ICC_PROFILE));
    let mut header = Header {
        orientation: tiff::orientation(Some(body), xmp),
        exif: Some(body),
        icc: icc.map(<[u8]>::to_vec),
        // A tile is decoded whole, however little of it is image.
        held_pixels: size.pixels().max(page.tile().pixels()),
        ..Header::plain(Format::Tiff, size)
    };
    let is_alone = stream.next_directory(directory).is_none();
    // OpenCV refuses raw tiles wider than the image.
    let is_plain = is_alone && header.orientation.is_upright() && page.tile().pixels() == 0;
    header.reader = reader(&page.samples(), is_plain)?;
    if header.reader == Reader::Pillow && stream.is_big() && stream.is_big_endian() {
        return Err(Rejection::Unsupported("BigTIFF of this byte order"));
    }
    Ok(header)
}

/// The decoder that reads samples of this kind right.
fn reader(samples: &Samples, is_plain: bool) -> Result<Reader, Rejection> {
    let deep = samples.bits.contains(&16);
    if samples.bits.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(Rejection::Unsupported("TIFF with samples of unequal depth"));
    }
    if !samples.unsigned {
        return Err(Rejection::Unsupported(
            "TIFF with signed or fractional samples",
        ));
    }
    if !is_read_compression(samples) {
        return Err(Rejection::Unsupported("TIFF compression"));
    }
    let colours = match (samples.photometric, samples.bits.first()) {
        (0 | 3, Some(1 | 2 | 4 | 8)) | (1, Some(1 | 2 | 4 | 8 | 16)) => 1,
        (2, Some(8 | 16)) | (6 | 8, Some(8)) => 3,
        (5, Some(8 | 16)) => 4,
        _ => return Err(Rejection::Unsupported("TIFF colour space or depth")),
    };
    let beyond = samples.bits.len().checked_sub(colours);
    // Of planes, Pillow reads raw samples as if they had eight bits.
    let is_read = beyond.is_some_and(|beyond| are_read_beyond(samples, beyond));
    // Of a plane of alpha beside one of grey, Pillow reads nothing.
    let lacks_alpha = samples.photometric == 1 && samples.extra.iter().any(|&meaning| meaning > 0);
    if !is_read || samples.planar && (deep && samples.compression == 1 || lacks_alpha) {
        return Err(Rejection::Unsupported("TIFF sample layout"));
    }
    let opencv = is_plain
        && beyond == Some(0)
        && !samples.planar
        && !samples.reversed
        && PLAIN.contains(&samples.compression)
        && matches!((samples.photometric, samples.bits[0]), (1 | 2, 8 | 16));
    Ok(if opencv {
        Reader::OpenCv
    } else {
        Reader::Pillow
    })
}

/// Whether Pillow knows samples like these beyond the colours: those without meaning, and one of alpha, which a writer
/// of RGB may have forgotten to declare.
fn are_read_beyond(samples: &Samples, beyond: usize) -> bool {
    const CORELS_ALPHA: u32 = 999;
    let deep = samples.bits[0] == 16;
    let forgotten = beyond == 1 && samples.extra.is_empty() && samples.photometric == 2;
    let declared = beyond == samples.extra.len();
    let first = samples.extra.first().copied().unwrap_or(0);
    let others = samples.extra.iter().skip(1).all(|&meaning| meaning == 0);
    let fits = match (samples.photometric, samples.bits[0]) {
        (_, _) if beyond == 0 => true,
        _ if samples.reversed => false,
        (1, 8) | (2, 16) => beyond == 1 && first <= 2,
        (2, 8) => beyond <= 3 && matches!(first, 0..=2 | CORELS_ALPHA),
        (3, 8) => beyond == 1 && matches!(first, 0 | 2),
        (5, 8) => beyond <= 2 && first == 0,
        _ => false,
    };
    let reversed =
        samples.reversed && (samples.photometric > 3 || deep && samples.photometric != 1);
    (declared || forgotten) && others && fits && !reversed
}

fn is_read_compression(samples: &Samples) -> bool {
    match samples.compression {
        2..=4 => samples.bits == [1],
        // Pillow takes chroma for luma's resolution unless JPEG puts them together.
        1 | 5 | 8 | 32_773 | 32_946 | 34_925 | 50_000 => samples.photometric != 6,
        6 | 7 => true,
        _ => false,
    }
}

struct Page<'a> {
    stream: Stream<'a>,
    directory: usize,
}

impl<'a> Page<'a> {
    fn entry(&self, tag: u16) -> Option<Entry> {
        self.stream
            .entries(self.directory)
            .find(|entry| entry.tag == tag)
    }

    fn integer(&self, tag: u16) -> Option<u32> {
        self.stream.integer(self.entry(tag)?)
    }

    fn integers(&self, tag: u16) -> Vec<u32> {
        self.entry(tag).map_or_else(Vec::new, |entry| {
            self.stream.integers(entry, MAX_SAMPLES).collect()
        })
    }

    fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        let entry = self.entry(tag)?;
        self.stream.slice(entry.offset, entry.bytes()?)
    }

    fn tile(&self) -> Size {
        let side = |tag| self.integer(tag).unwrap_or(0);
        Size::new(side(TILE_WIDTH), side(TILE_HEIGHT))
    }

    fn samples(&self) -> Samples {
        let stated = |tag, otherwise| self.integer(tag).unwrap_or(otherwise);
        let compression = stated(COMPRESSION, 1);
        // A JPEG of the first kind is of this model whatever the tag says.
        let photometric = if compression == 6 {
            6
        } else {
            stated(PHOTOMETRIC, 0)
        };
        let count = stated(
            SAMPLES,
            if matches!(compression, 6 | 7) && matches!(photometric, 2 | 6) {
                3
            } else {
                1
            },
        );
        let mut bits = self.integers(BITS);
        if bits.len() <= 1 {
            bits = vec![bits.first().copied().unwrap_or(1); count.min(MAX_SAMPLES) as usize];
        }
        bits.truncate(count as usize);
        let formats = self.integers(SAMPLE_FORMAT);
        Samples {
            photometric,
            compression,
            bits,
            extra: self.integers(EXTRA_SAMPLES),
            unsigned: formats.iter().all(|&format| format == 1),
            planar: stated(PLANAR, 1) == 2,
            reversed: stated(FILL_ORDER, 1) == 2,
        }
    }
}

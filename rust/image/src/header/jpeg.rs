//! JPEG markers (ITU-T T.81, annex B), walked to the end of the first image.

use super::{Header, tiff, u16_be};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::sniff::Format;

/// What the markers of a JPEG say.
#[derive(Debug, Clone)]
pub struct Markers<'a> {
    pub size: Size,
    pub components: u8,
    /// Bits per sample.
    pub precision: u8,
    pub progressive: bool,
    /// What all coefficients take, which are kept where more than one scan brings them.
    pub coefficient_bytes: u64,
    /// Scans seen; a progressive image costs a pass over all its coefficients for each.
    pub scans: usize,
    /// Whether the end-of-image marker was reached.
    pub complete: bool,
    /// Whether scans began for all bits of all coefficients of all components.
    pub has_all_scans: bool,
    pub exif: Option<&'a [u8]>,
    pub xmp: Option<&'a [u8]>,
    pub icc: Option<Vec<u8>>,
}

impl<'a> Markers<'a> {
    /// The part that all formats share.
    #[must_use]
    pub fn header(self) -> Header<'a> {
        Header {
            orientation: tiff::orientation(self.exif, self.xmp),
            exif: self.exif,
            icc: self.icc,
            complete: self.complete,
            working_bytes: if self.progressive || self.scans > 1 {
                self.coefficient_bytes
            } else {
                0
            },
            ..Header::plain(Format::Jpeg, self.size)
        }
    }
}

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Read the markers of `body`.
///
/// # Errors
/// `Truncated` when the body ends before the frame header, `Corrupt` when a scan comes first, `Unsupported` for a
/// height that only follows the first scan.
pub fn read(body: &[u8]) -> Result<Markers<'_>, Rejection> {
    let mut found = Found::default();
    let mut position = 2;
    while let Some(marker) = next_marker(body, &mut position) {
        if marker == END_OF_IMAGE {
            found.complete = true;
            break;
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        let Some(length) = u16_be(body, position).map(usize::from) else {
            break;
        };
        let Some(segment) = body.get(position + 2..position + length.max(2)) else {
            break;
        };
        found.segment(marker, segment);
        position += length.max(2);
        if found.frame.is_none() && marker == START_OF_SCAN {
            return Err(Rejection::corrupt("JPEG scan without a frame header"));
        }
    }
    found.markers()
}

/// Skip to the byte after the next marker that is not part of entropy-coded data, and return its code.
fn next_marker(body: &[u8], position: &mut usize) -> Option<u8> {
    loop {
        *position += memchr::memchr(0xff, body.get(*position..)?)? + 1;
        while body.get(*position) == Some(&0xff) {
            *position += 1;
        }
        let code = *body.get(*position)?;
        *position += 1;
        if code != 0 && !(0xd0..=0xd7).contains(&code) {
            return Some(code);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    size: Size,
    components: u8,
    precision: u8,
    progressive: bool,
    coefficient_bytes: u64,
}

/// One component, by its number in the file, and which of its coefficients have a scan for their last bit.
#[derive(Debug)]
struct Progress {
    id: u8,
    finished: u64,
}

#[derive(Debug, Default)]
struct Found<'a> {
    frame: Option<Frame>,
    progress: Vec<Progress>,
    scans: usize,
    complete: bool,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
    icc: Vec<(u8, &'a [u8])>,
}

impl<'a> Found<'a> {
    fn segment(&mut self, marker: u8, segment: &'a [u8]) {
        match marker {
            START_OF_SCAN => self.scan(segment),
            // All frame headers; the gaps are DHT, JPG and DAC.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf if self.frame.is_none() => {
                self.frame = frame(marker, segment);
                let (components, _) = segment.get(6..).unwrap_or_default().as_chunks::<3>();
                let begun = components
                    .iter()
                    .map(|&[id, ..]| Progress { id, finished: 0 });
                self.progress = begun.collect();
            }
            0xe1 => {
                let exif = segment.strip_prefix(tiff::EXIF_PREFIX);
                self.exif = self.exif.or(exif.map(tiff::without_prefix));
                self.xmp = segment.strip_prefix(XMP).or(self.xmp);
            }
            0xe2 if self.scans == 0 => {
                if let Some([number, _, data @ ..]) = segment.strip_prefix(b"ICC_PROFILE\0") {
                    self.icc.push((*number, data));
                }
            }
            _ => {}
        }
    }

    /// Note which coefficients a scan finishes (ITU-T T.81, B.2.3 and G.1.1.1.1). A scan of a frame that is not
    /// progressive brings all of them, whatever it states.
    fn scan(&mut self, segment: &[u8]) {
        self.scans += 1;
        let count = usize::from(segment.first().copied().unwrap_or(0));
        let (Some(frame), Some(parts), Some(&[first, last, bits])) = (
            self.frame,
            segment.get(1..1 + 2 * count),
            segment
                .get(1 + 2 * count..)
                .and_then(|rest| rest.first_chunk()),
        ) else {
            return;
        };
        let band = match (frame.progressive, first, last, bits & 15) {
            (false, ..) => u64::MAX,
            (true, 0..=63, 0..=63, 0) if first <= last => {
                (u64::MAX << first) & (u64::MAX >> (63 - last))
            }
            _ => 0,
        };
        let ids = parts.as_chunks::<2>().0;
        for component in &mut self.progress {
            if ids.iter().any(|&[id, _]| id == component.id) {
                component.finished |= band;
            }
        }
    }

    fn markers(mut self) -> Result<Markers<'a>, Rejection> {
        let Some(frame) = self.frame else {
            return Err(if self.complete {
                Rejection::corrupt("JPEG without a frame header")
            } else {
                Rejection::truncated("JPEG ends in its header")
            });
        };
        if frame.size.height == 0 {
            return Err(Rejection::Unsupported(
                "JPEG with its height after the first scan",
            ));
        }
        self.icc.sort_by_key(|(number, _)| *number);
        let icc = self
            .icc
            .iter()
            .flat_map(|(_, data)| data.iter().copied())
            .collect::<Vec<u8>>();
        Ok(Markers {
            size: frame.size,
            components: frame.components,
            precision: frame.precision,
            progressive: frame.progressive,
            coefficient_bytes: frame.coefficient_bytes,
            scans: self.scans,
            complete: self.complete,
            has_all_scans: self.progress.iter().all(|each| each.finished == u64::MAX),
            exif: self.exif,
            xmp: self.xmp,
            icc: (!icc.is_empty()).then_some(icc),
        })
    }
}

fn frame(marker: u8, segment: &[u8]) -> Option<Frame> {
    let size = Size::new(u16_be(segment, 3)?.into(), u16_be(segment, 1)?.into());
    let (components, _) = segment.get(6..)?.as_chunks::<3>();
    let factors = components
        .iter()
        .map(|&[_, both, _]| (u64::from(both >> 4), u64::from(both & 15)));
    let across = factors.clone().map(|(across, _)| across).max().unwrap_or(1);
    let down = factors.clone().map(|(_, down)| down).max().unwrap_or(1);
    let samples = factors.map(|(own_across, own_down)| {
        size.pixels() * own_across * own_down / (across * down).max(1)
    });
    Some(Frame {
        coefficient_bytes: 2 * samples.sum::<u64>(),
        precision: *segment.first()?,
        size,
        components: *segment.get(5)?,
        progressive: matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce),
    })
}

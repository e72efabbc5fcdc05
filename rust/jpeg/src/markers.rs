//! Markers and their segments, one after the other with nothing between, and the header of a scan.

use crate::frame::Frame;
use crate::{Declined, Result};

pub const START_OF_SCAN: u8 = 0xda;
pub const END_OF_IMAGE: u8 = 0xd9;
pub const QUANTISATION: u8 = 0xdb;
pub const HUFFMAN: u8 = 0xc4;
pub const RESTART_INTERVAL: u8 = 0xdd;
pub const JFIF: u8 = 0xe0;
pub const ADOBE: u8 = 0xee;

/// Whether a marker begins a frame of Huffman-coded samples: baseline, extended sequential or progressive.
pub fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xc2)
}

/// Whether the segment of a marker may be passed over: a comment, or data of an application.
fn is_optional(marker: u8) -> bool {
    matches!(marker, 0xe0..=0xef | 0xfe)
}

/// The markers of a file.
#[derive(Debug)]
pub struct Markers<'a> {
    pub body: &'a [u8],
    /// Where the next marker begins.
    pub position: usize,
}

impl<'a> Markers<'a> {
    pub fn new(body: &'a [u8]) -> Result<Self> {
        if !body.starts_with(b"\xff\xd8") {
            return Err(Declined("no start of an image"));
        }
        Ok(Self { body, position: 2 })
    }

    /// The next marker and its segment, which is empty at the end of the image.
    pub fn next_segment(&mut self) -> Result<(u8, &'a [u8])> {
        let rest = self.body.get(self.position..).unwrap_or_default();
        let fill = rest.iter().take_while(|&&byte| byte == 0xff).count();
        let (Some(&marker), true) = (rest.get(fill), fill > 0) else {
            return Err(Declined("no marker where one is due"));
        };
        if marker == END_OF_IMAGE {
            return Ok((marker, &[]));
        }
        let known = matches!(
            marker,
            START_OF_SCAN | QUANTISATION | HUFFMAN | RESTART_INTERVAL
        );
        if !known && !is_frame(marker) && !is_optional(marker) {
            return Err(Declined("marker"));
        }
        let segment = &rest[fill + 1..];
        let length = segment
            .first_chunk()
            .map_or(0, |&bytes| u16::from_be_bytes(bytes).into());
        let content = segment.get(2..length).ok_or(Declined("segment's length"))?;
        self.position += fill + 1 + length;
        Ok((marker, content))
    }
}

/// One component of a scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanPart {
    /// Its index in the frame.
    pub component: usize,
    /// Numbers of its Huffman tables.
    pub dc: usize,
    pub ac: usize,
}

/// The header of a scan.
#[derive(Debug, Clone)]
pub struct Scan {
    pub parts: Vec<ScanPart>,
    /// First and last coefficient, in the order of the file.
    pub first: usize,
    pub last: usize,
    /// Bits left out by the scan before, 0 where there is none, and by this one.
    pub before: u32,
    pub shift: u32,
}

impl Scan {
    pub fn parse(segment: &[u8], frame: &Frame) -> Result<Self> {
        let Some((&count, rest)) = segment.split_first() else {
            return Err(Declined("scan header"));
        };
        let count = usize::from(count);
        if rest.len() != 2 * count + 3 || !(1..=frame.components.len()).contains(&count) {
            return Err(Declined("scan header"));
        }
        let (entries, end) = rest.split_at(2 * count);
        let mut parts: Vec<ScanPart> = Vec::with_capacity(count);
        for &[id, tables] in entries.as_chunks::<2>().0 {
            let named = frame.components.iter().position(|known| known.id == id);
            let component = named.ok_or(Declined("component of a scan"))?;
            let in_order = parts.last().is_none_or(|part| part.component < component);
            if !in_order || tables & 0xcc != 0 {
                return Err(Declined("components of a scan"));
            }
            parts.push(ScanPart {
                component,
                dc: usize::from(tables >> 4),
                ac: usize::from(tables & 3),
            });
        }
        Ok(Self {
            parts,
            first: end[0].into(),
            last: end[1].into(),
            before: (end[2] >> 4).into(),
            shift: (end[2] & 15).into(),
        })
    }

    /// How many MCUs the scan has across and down. One component alone has its own blocks for them.
    pub fn mcus(&self, frame: &Frame) -> (usize, usize) {
        match self.parts[..] {
            [part] => {
                let component = &frame.components[part.component];
                (component.blocks_across, component.blocks_down)
            }
            _ => (frame.mcus_across, frame.mcus_down),
        }
    }

    /// Blocks across and down that a part has in an MCU.
    pub fn blocks(&self, frame: &Frame, part: &ScanPart) -> (usize, usize) {
        if self.parts.len() == 1 {
            return (1, 1);
        }
        let component = &frame.components[part.component];
        (component.across, component.down)
    }

    /// The coefficients of the scan, as bits.
    pub fn band(&self) -> u64 {
        (u64::MAX << self.first) & (u64::MAX >> (63 - self.last))
    }
}

/// What the markers say about the meaning of the components.
#[derive(Debug, Default)]
pub struct Colours {
    jfif: bool,
    adobe: Option<u8>,
}

impl Colours {
    /// Note an application's segment.
    pub fn note(&mut self, marker: u8, segment: &[u8]) -> Result<()> {
        if marker == JFIF && segment.len() >= 14 && segment.starts_with(b"JFIF\0") {
            if segment[5] != 1 {
                return Err(Declined("revision of JFIF"));
            }
            self.jfif = true;
        }
        if marker == ADOBE && segment.len() >= 12 && segment.starts_with(b"Adobe") {
            if segment[11] > 1 {
                return Err(Declined("Adobe's colour transform"));
            }
            self.adobe = Some(segment[11]);
        }
        Ok(())
    }

    /// Whether libjpeg-turbo takes the components for grey, or for Y, Cb and Cr.
    pub fn are_known(&self, frame: &Frame) -> bool {
        let [first, second, third] = &frame.components[..] else {
            return true;
        };
        let is_rgb = [first.id, second.id, third.id] == *b"RGB";
        self.jfif || self.adobe.map_or(!is_rgb, |transform| transform == 1)
    }
}

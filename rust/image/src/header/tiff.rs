//! TIFF structure (TIFF 6.0), which is also that of EXIF: directories of tagged values.

use super::{Header, u16_be, u16_le, u32_be, u32_le};
use crate::error::Rejection;
use crate::geometry::Size;
use crate::orient::Orientation;
use crate::sniff::Format;

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const ORIENTATION: u16 = 274;
const EXTRA_SAMPLES: u16 = 338;
const ICC_PROFILE: u16 = 34_675;
/// Extra sample that is alpha, with colours multiplied by it.
pub const ASSOCIATED_ALPHA: u32 = 1;
/// Extra sample that is alpha, with colours as they are.
pub const UNASSOCIATED_ALPHA: u32 = 2;

/// A TIFF stream of known byte order.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

/// One tag of a directory; its values lie at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub tag: u16,
    /// Field type of TIFF 6.0 (1 BYTE, 2 ASCII, 3 SHORT, …).
    pub kind: u16,
    pub count: u32,
    pub offset: usize,
}

impl Entry {
    /// Bytes of all values, or nothing for an unknown type.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        let each = match self.kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 => 8,
            _ => return None,
        };
        (self.count as usize).checked_mul(each)
    }
}

impl<'a> Stream<'a> {
    /// Recognise the byte order; nothing when `bytes` is no TIFF stream.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..4)? {
            b"II*\0" => false,
            b"MM\0*" => true,
            _ => return None,
        };
        Some(Self { bytes, big_endian })
    }

    /// Whether the most significant byte comes first.
    #[must_use]
    pub fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// Offset of the first directory.
    #[must_use]
    pub fn first_directory(&self) -> Option<usize> {
        self.u32(4).map(|offset| offset as usize)
    }

    #[must_use]
    pub fn u16(&self, offset: usize) -> Option<u16> {
        if self.big_endian {
            u16_be(self.bytes, offset)
        } else {
            u16_le(self.bytes, offset)
        }
    }

    #[must_use]
    pub fn u32(&self, offset: usize) -> Option<u32> {
        if self.big_endian {
            u32_be(self.bytes, offset)
        } else {
            u32_le(self.bytes, offset)
        }
    }

    /// Bytes from `offset`, if that many are there.
    #[must_use]
    pub fn slice(&self, offset: usize, bytes: usize) -> Option<&'a [u8]> {
        self.bytes.get(offset..offset.checked_add(bytes)?)
    }

    /// Entries of the directory at `offset`, as many as are whole.
    pub fn entries(self, offset: usize) -> impl Iterator<Item = Entry> + use<'a> {
        let count = self.u16(offset).map_or(0, usize::from);
        (0..count).map_while(move |index| self.entry(offset + 2 + index * 12))
    }

    /// Offset of the directory after the one at `offset`; nothing at the end of the chain.
    #[must_use]
    pub fn next_directory(&self, offset: usize) -> Option<usize> {
        let count = usize::from(self.u16(offset)?);
        self.u32(offset + 2 + count * 12)
            .map(|next| next as usize)
            .filter(|&next| next != 0)
    }

    fn entry(self, at: usize) -> Option<Entry> {
        let inline = at + 8;
        let mut entry = Entry {
            tag: self.u16(at)?,
            kind: self.u16(at + 2)?,
            count: self.u32(at + 4)?,
            offset: inline,
        };
        let stored = self.u32(inline)?;
        if entry.bytes().is_some_and(|bytes| bytes > 4) {
            entry.offset = stored as usize;
        }
        Some(entry)
    }

    /// First value of an entry of type BYTE, SHORT, LONG or IFD.
    #[must_use]
    pub fn integer(&self, entry: Entry) -> Option<u32> {
        match entry.kind {
            1 => self.slice(entry.offset, 1).map(|byte| byte[0].into()),
            3 => self.u16(entry.offset).map(u32::from),
            // IFD, in use for offsets of directories (TIFF Technical Note 1).
            4 | 13 => self.u32(entry.offset),
            _ => None,
        }
    }
}

/// Orientation that an EXIF block states in its first directory; upright when it states none.
#[must_use]
pub fn orientation(exif: Option<&[u8]>) -> Orientation {
    let stated = || {
        let stream = Stream::new(exif?)?;
        let entry = stream
            .entries(stream.first_directory()?)
            .find(|entry| entry.tag == ORIENTATION)?;
        stream.integer(entry)
    };
    Orientation::from_exif(stated().map_or(1, |value| u16::try_from(value).unwrap_or(1)))
}

/// Meaning of the first channel beyond the colours of a TIFF file, if it states one.
#[must_use]
pub fn extra_sample(body: &[u8]) -> Option<u32> {
    let stream = Stream::new(body)?;
    let entry = stream
        .entries(stream.first_directory()?)
        .find(|entry| entry.tag == EXTRA_SAMPLES)?;
    stream.integer(entry)
}

/// Read the first directory of a TIFF file.
///
/// # Errors
/// `Corrupt` when the directory does not state both sides.
pub fn read(body: &[u8]) -> Result<Header<'_>, Rejection> {
    let sides_missing = || Rejection::corrupt("TIFF directory without sides");
    let stream = Stream::new(body).ok_or_else(sides_missing)?;
    let directory = stream.first_directory().ok_or_else(sides_missing)?;
    let find = |tag: u16| stream.entries(directory).find(|entry| entry.tag == tag);
    let side = |tag: u16| {
        find(tag)
            .and_then(|entry| stream.integer(entry))
            .ok_or_else(sides_missing)
    };
    let icc = find(ICC_PROFILE).and_then(|entry| stream.slice(entry.offset, entry.bytes()?));
    Ok(Header {
        format: Format::Tiff,
        size: Size::new(side(WIDTH)?, side(HEIGHT)?),
        orientation: orientation(Some(body)),
        exif: Some(body),
        icc: icc.map(<[u8]>::to_vec),
        complete: true,
    })
}

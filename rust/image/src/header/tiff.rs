//! TIFF structure (TIFF 6.0 and `BigTIFF`), which is also that of EXIF: directories of tagged values.

use super::{u16_be, u16_le, u32_be, u32_le, u64_be, xmp};
use crate::orient::Orientation;

const ORIENTATION: u16 = 274;

/// What stands before EXIF in JPEG, and by mistake in other formats.
pub const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// An EXIF block without the prefix that its format does not have; Pillow drops one as well.
#[must_use]
pub fn without_prefix(block: &[u8]) -> &[u8] {
    block.strip_prefix(EXIF_PREFIX).unwrap_or(block)
}

/// A TIFF stream of known byte order.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    /// `BigTIFF`: counts and offsets of eight bytes.
    big: bool,
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
            5 | 10 | 12 | 16..=18 => 8,
            _ => return None,
        };
        (self.count as usize).checked_mul(each)
    }
}

impl<'a> Stream<'a> {
    /// Recognise the byte order; nothing when `bytes` is no TIFF stream.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (big_endian, big) = match bytes.get(..4)? {
            b"II*\0" => (false, false),
            b"MM\0*" => (true, false),
            b"II+\0" => (false, true),
            b"MM\0+" => (true, true),
            _ => return None,
        };
        Some(Self {
            bytes,
            big_endian,
            big,
        })
    }

    /// Whether the most significant byte comes first.
    #[must_use]
    pub fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// Whether counts and offsets take eight bytes.
    #[must_use]
    pub fn is_big(&self) -> bool {
        self.big
    }

    /// Offset of the first directory.
    #[must_use]
    pub fn first_directory(&self) -> Option<usize> {
        self.place(if self.big { 8 } else { 4 })
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

    /// An offset or a count, of four bytes or of eight.
    fn place(self, at: usize) -> Option<usize> {
        if !self.big {
            return self.u32(at).map(|value| value as usize);
        }
        let value = u64_be(self.bytes, at)?;
        let value = if self.big_endian {
            value
        } else {
            value.swap_bytes()
        };
        usize::try_from(value).ok()
    }

    /// Bytes of an offset.
    fn place_bytes(self) -> usize {
        if self.big { 8 } else { 4 }
    }

    /// Where the entries of the directory at `offset` begin, and how many are stated.
    fn table(self, offset: usize) -> Option<(usize, usize)> {
        if self.big {
            Some((offset.checked_add(8)?, self.place(offset)?))
        } else {
            Some((offset.checked_add(2)?, self.u16(offset)?.into()))
        }
    }

    fn entry_bytes(self) -> usize {
        4 + 2 * self.place_bytes()
    }

    /// Entries of the directory at `offset`, as many as are whole.
    pub fn entries(self, offset: usize) -> impl Iterator<Item = Entry> + use<'a> {
        let (start, count) = self.table(offset).unwrap_or_default();
        (0..count).map_while(move |index| {
            self.entry(start.checked_add(index.checked_mul(self.entry_bytes())?)?)
        })
    }

    /// Offset of the directory after the one at `offset`; nothing at the end of the chain.
    #[must_use]
    pub fn next_directory(&self, offset: usize) -> Option<usize> {
        let (start, count) = self.table(offset)?;
        let end = start.checked_add(count.checked_mul(self.entry_bytes())?)?;
        self.place(end).filter(|&next| next != 0)
    }

    fn entry(self, at: usize) -> Option<Entry> {
        let inline = at + 4 + self.place_bytes();
        let mut entry = Entry {
            tag: self.u16(at)?,
            kind: self.u16(at + 2)?,
            count: u32::try_from(self.place(at + 4)?).unwrap_or(u32::MAX),
            offset: inline,
        };
        let stored = self.place(inline)?;
        if entry
            .bytes()
            .is_some_and(|bytes| bytes > self.place_bytes())
        {
            entry.offset = stored;
        }
        Some(entry)
    }

    /// First value of an entry of a type of whole numbers.
    #[must_use]
    pub fn integer(&self, entry: Entry) -> Option<u32> {
        self.integer_at(entry, 0)
    }

    /// All values of an entry of whole numbers, as many as are there and at most `limit`.
    pub fn integers(&self, entry: Entry, limit: u32) -> impl Iterator<Item = u32> + use<'a> {
        let stream = *self;
        (0..entry.count.min(limit)).map_while(move |index| stream.integer_at(entry, index))
    }

    fn integer_at(self, entry: Entry, index: u32) -> Option<u32> {
        let at = |each: usize| entry.offset.checked_add(index as usize * each);
        match entry.kind {
            1 | 6 => self.slice(at(1)?, 1).map(|byte| byte[0].into()),
            3 | 8 => self.u16(at(2)?).map(u32::from),
            // IFD, in use for offsets of directories (TIFF Technical Note 1).
            4 | 9 | 13 => self.u32(at(4)?),
            16..=18 => {
                let eight = Self { big: true, ..self };
                u32::try_from(eight.place(at(8)?)?).ok()
            }
            _ => None,
        }
    }
}

/// Orientation that an EXIF block states in its first directory, or else a packet of XMP; upright when none does.
#[must_use]
pub fn orientation(exif: Option<&[u8]>, packet: Option<&[u8]>) -> Orientation {
    let stated = exif
        .and_then(stated_orientation)
        .or_else(|| packet.and_then(xmp::orientation));
    Orientation::from_exif(stated.unwrap_or(1))
}

/// The orientation tag of an EXIF block, whatever its value.
#[must_use]
pub fn stated_orientation(exif: &[u8]) -> Option<u16> {
    let stream = Stream::new(exif)?;
    let entry = stream
        .entries(stream.first_directory()?)
        .find(|entry| entry.tag == ORIENTATION)?;
    // Bytes are no number there to anyone else (the type is SHORT, EXIF 3.0, 4.6.5).
    let is_number = !matches!(entry.kind, 1 | 6);
    let value = if is_number { stream.integer(entry)? } else { 1 };
    Some(u16::try_from(value).unwrap_or(1))
}

//! The largest frame that an AV1 bitstream announces (AV1 Bitstream & Decoding Process Specification, 5.3 and 5.5).

use crate::geometry::Size;

const SEQUENCE_HEADER: u8 = 1;

/// Largest frame of all sequence headers among the open bitstream units of `units`. Each unit looked at costs one of
/// `budget`, and a stream that exceeds it counts as endless.
pub fn largest_frame(units: &[u8], budget: &mut usize) -> Option<Size> {
    let mut rest = units;
    let mut largest: Option<Size> = None;
    while let Some((kind, unit, after)) = next_unit(rest) {
        if *budget == 0 {
            return Some(Size::new(u32::MAX, u32::MAX));
        }
        *budget -= 1;
        if kind == SEQUENCE_HEADER {
            let size = Bits { bytes: unit, at: 0 }.sequence_header();
            largest = largest
                .into_iter()
                .chain(size)
                .max_by_key(|size| size.pixels());
        }
        rest = after;
    }
    largest
}

/// Kind and contents of the first unit, and what follows it.
fn next_unit(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&head, mut rest) = bytes.split_first()?;
    if head & 0b100 != 0 {
        rest = rest.get(1..)?;
    }
    let mut length = rest.len();
    if head & 0b10 != 0 {
        (length, rest) = leb128(rest)?;
    }
    let length = length.min(rest.len());
    Some((head >> 3 & 0xf, &rest[..length], &rest[length..]))
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

/// Reads bits, the most significant of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0_u32;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        self.read(1).map(|bit| bit == 1)
    }

    /// Skip a number whose length its leading zeros tell.
    fn skip_uvlc(&mut self) -> Option<()> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        self.read(zeros.min(32)).map(|_| ())
    }

    fn sequence_header(&mut self) -> Option<Size> {
        self.read(4)?;
        if self.flag()? {
            self.read(5)?;
        } else {
            self.skip_operating_points()?;
        }
        let (width_bits, height_bits) = (self.read(4)? + 1, self.read(4)? + 1);
        Some(Size::new(
            self.read(width_bits)? + 1,
            self.read(height_bits)? + 1,
        ))
    }

    fn skip_operating_points(&mut self) -> Option<()> {
        let mut delay_bits = None;
        if self.flag()? {
            self.read(32)?;
            self.read(32)?;
            if self.flag()? {
                self.skip_uvlc()?;
            }
            if self.flag()? {
                delay_bits = Some(self.read(5)? + 1);
                self.read(32)?;
                self.read(10)?;
            }
        }
        let has_display_delay = self.flag()?;
        for _ in 0..=self.read(5)? {
            self.read(12)?;
            if self.read(5)? > 7 {
                self.flag()?;
            }
            if let Some(bits) = delay_bits
                && self.flag()?
            {
                self.read(bits)?;
                self.read(bits)?;
                self.flag()?;
            }
            if has_display_delay && self.flag()? {
                self.read(4)?;
            }
        }
        Some(())
    }
}

//! The largest frame that an AV1 bitstream announces (AV1 Bitstream & Decoding Process Specification, 5.3 and 5.5).

use crate::geometry::Size;

const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// Largest frame that the open bitstream units of `units` may hold: that of all sequence headers, or, where a frame
/// states its own size, what the length of such numbers allows. Each unit looked at costs one of `budget`, and a stream
/// that exceeds it counts as endless.
pub fn largest_frame(units: &[u8], budget: &mut usize) -> Option<Size> {
    let mut rest = units;
    let mut largest: Option<Size> = None;
    let mut sequence: Option<Sequence> = None;
    while let Some((kind, unit, after)) = next_unit(rest) {
        if *budget == 0 {
            return Some(Size::new(u32::MAX, u32::MAX));
        }
        *budget -= 1;
        let mut bits = Bits { bytes: unit, at: 0 };
        let size = match kind {
            SEQUENCE_HEADER => {
                sequence = bits.sequence();
                sequence.as_ref().map(|sequence| sequence.size)
            }
            FRAME_HEADER | FRAME => sequence
                .as_ref()
                .filter(|sequence| bits.overrides_size(sequence).unwrap_or(true))
                .map(|sequence| sequence.possible_size),
            _ => None,
        };
        largest = largest
            .into_iter()
            .chain(size)
            .max_by_key(|size| size.pixels());
        rest = after;
    }
    largest
}

/// What a sequence header says of the frames after it, as far as their sizes go.
struct Sequence {
    size: Size,
    /// The largest that a frame can state by itself.
    possible_size: Size,
    /// A single image, whose frame header states nothing.
    is_reduced: bool,
    /// Bits of the time of presentation, where frames state it.
    time_bits: u32,
    frame_id_bits: u32,
    /// Whether tools for screen contents are in use; none where each frame says so.
    screen_tools: Option<bool>,
    /// Whether each frame says that motion is in whole pixels.
    chooses_whole_motion: bool,
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

    fn sequence(&mut self) -> Option<Sequence> {
        self.read(4)?;
        let is_reduced = self.flag()?;
        let mut time_bits = 0;
        if is_reduced {
            self.read(5)?;
        } else {
            time_bits = self.operating_points()?;
        }
        let (width_bits, height_bits) = (self.read(4)? + 1, self.read(4)? + 1);
        let size = Size::new(self.read(width_bits)? + 1, self.read(height_bits)? + 1);
        let mut sequence = Sequence {
            size,
            possible_size: Size::new(1 << width_bits, 1 << height_bits),
            is_reduced,
            time_bits,
            frame_id_bits: 0,
            screen_tools: None,
            chooses_whole_motion: true,
        };
        if is_reduced {
            return Some(sequence);
        }
        if self.flag()? {
            sequence.frame_id_bits = self.read(4)? + self.read(3)? + 3;
        }
        // Superblocks, filters and edges within frames, and then four tools between them.
        self.read(3 + 4)?;
        if self.flag()? {
            self.read(2)?;
        }
        if !self.flag()? {
            sequence.screen_tools = Some(self.flag()?);
        }
        if sequence.screen_tools != Some(false) && !self.flag()? {
            sequence.chooses_whole_motion = false;
        }
        Some(sequence)
    }

    /// Skip the operating points, and return the bits of a time of presentation in frame headers.
    fn operating_points(&mut self) -> Option<u32> {
        let mut delay_bits = None;
        let mut time_bits = 0;
        if self.flag()? {
            self.read(32)?;
            self.read(32)?;
            let is_regular = self.flag()?;
            if is_regular {
                self.skip_uvlc()?;
            }
            if self.flag()? {
                delay_bits = Some(self.read(5)? + 1);
                self.read(32)?;
                self.read(5)?;
                time_bits = (self.read(5)? + 1) * u32::from(!is_regular);
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
        Some(time_bits)
    }

    /// Whether a frame states a size of its own (5.9.2, `frame_size_override_flag`).
    fn overrides_size(&mut self, sequence: &Sequence) -> Option<bool> {
        const KEY_FRAME: u32 = 0;
        const SWITCH_FRAME: u32 = 3;
        if sequence.is_reduced || self.flag()? {
            return Some(false);
        }
        let (kind, is_shown) = (self.read(2)?, self.flag()?);
        if is_shown {
            self.read(sequence.time_bits)?;
        } else {
            self.flag()?;
        }
        if kind == SWITCH_FRAME {
            return Some(true);
        }
        if !(kind == KEY_FRAME && is_shown) {
            self.flag()?;
        }
        self.flag()?;
        let uses_screen_tools = match sequence.screen_tools {
            Some(stated) => stated,
            None => self.flag()?,
        };
        if uses_screen_tools && sequence.chooses_whole_motion {
            self.flag()?;
        }
        self.read(sequence.frame_id_bits)?;
        self.flag()
    }
}

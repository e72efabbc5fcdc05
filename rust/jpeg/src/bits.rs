//! Entropy-coded data without its stuffing, and a window of 64 bits on it.

use crate::{Declined, Result};

/// Zeros after the data, so that a window near its end is read in one piece.
const MARGIN: usize = 16;

/// The data of one scan, all restart intervals in a row.
#[derive(Debug, Default)]
pub struct ScanData {
    pub bytes: Vec<u8>,
    /// Where each restart interval ends in `bytes`.
    pub ends: Vec<usize>,
}

impl ScanData {
    /// Take the scan of `intervals` restart intervals that begins at `at`; return where the marker after it is.
    pub fn fill(&mut self, body: &[u8], mut at: usize, intervals: usize) -> Result<usize> {
        self.bytes.clear();
        self.ends.clear();
        loop {
            let rest = body.get(at..).unwrap_or_default();
            let offset = memchr::memchr(0xff, rest).ok_or(Declined("scan without an end"))?;
            let &code = rest
                .get(offset + 1)
                .ok_or(Declined("scan without an end"))?;
            if code == 0 {
                self.bytes.extend_from_slice(&rest[..=offset]);
                at += offset + 2;
                continue;
            }
            self.bytes.extend_from_slice(&rest[..offset]);
            self.ends.push(self.bytes.len());
            at += offset;
            if !matches!(code, 0xd0..=0xd7) {
                break;
            }
            if usize::from(code & 7) != (self.ends.len() - 1) & 7 || self.ends.len() == intervals {
                return Err(Declined("restart marker out of order"));
            }
            at += 2;
        }
        if self.ends.len() != intervals {
            return Err(Declined("number of restart markers"));
        }
        self.bytes.resize(self.bytes.len() + MARGIN, 0);
        Ok(at)
    }

    /// Reverse the bits of every byte, for [`Reversed`].
    pub fn reverse(&mut self) {
        for byte in &mut self.bytes {
            *byte = byte.reverse_bits();
        }
    }
}

#[inline(always)]
fn eight_bytes(data: &[u8], position: usize) -> [u8; 8] {
    // Past the margin there is nothing, which is found when the interval is checked.
    data.get(position..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or_default()
}

/// Bits in the order of the file: the next is the highest of `window`.
pub type Bits<'a> = BitReader<'a, false>;
/// Bits of data whose bytes were reversed: the next is the lowest of `window`.
pub type Reversed<'a> = BitReader<'a, true>;

/// Data by a window of 64 bits, which is used from one end or the other.
#[derive(Debug, Clone, Copy)]
pub struct BitReader<'a, const LOWEST_FIRST: bool> {
    data: &'a [u8],
    position: usize,
    pub window: u64,
    /// Bits in the window; only the low six bits count.
    held: u32,
}

impl<'a, const LOWEST_FIRST: bool> BitReader<'a, LOWEST_FIRST> {
    pub fn new(data: &'a [u8], position: usize) -> Self {
        Self {
            data,
            position,
            window: 0,
            held: 0,
        }
    }

    /// Have at least 56 bits in the window.
    #[inline(always)]
    pub fn refill(&mut self) {
        let bytes = eight_bytes(self.data, self.position);
        self.window |= if LOWEST_FIRST {
            u64::from_le_bytes(bytes) << (self.held & 63)
        } else {
            u64::from_be_bytes(bytes) >> (self.held & 63)
        };
        self.position += ((!self.held & 63) >> 3) as usize;
        self.held = 56 + (self.held & 7);
    }

    /// Drop as many bits as the low six bits of `count` say.
    #[inline(always)]
    pub fn consume(&mut self, count: u32) {
        if LOWEST_FIRST {
            self.window >>= count & 63;
        } else {
            self.window <<= count & 63;
        }
        self.held = self.held.wrapping_sub(count);
    }

    /// The bits from byte `position` on.
    pub fn restarted(&self, position: usize) -> Self {
        Self::new(self.data, position)
    }

    fn used(&self) -> usize {
        (self.position * 8).saturating_sub((self.held & 63) as usize)
    }

    /// Whether all bits before byte `end` were used, apart from padding of less than a byte.
    pub fn is_at(&self, end: usize) -> bool {
        let (used, end) = (self.used(), end * 8);
        used <= end && end - used < 8
    }

    /// Whether bits after byte `end` were used.
    pub fn is_past(&self, end: usize) -> bool {
        self.used() > end * 8
    }
}

impl Bits<'_> {
    /// The next `count` bits, 1 to 63.
    #[inline(always)]
    pub fn peek(&self, count: u32) -> usize {
        (self.window >> (64 - count)) as usize
    }

    /// Take `count` bits, 1 to 32.
    #[inline(always)]
    pub fn take(&mut self, count: u32) -> u32 {
        let value = self.peek(count) as u32;
        self.consume(count);
        value
    }

    /// Return to where `count` fewer bits were used.
    #[cold]
    #[inline(never)]
    pub fn back(self, count: u32) -> Self {
        let used = self.used().saturating_sub(count as usize);
        let mut bits = Self::new(self.data, used / 8);
        bits.refill();
        bits.consume((used % 8) as u32);
        bits
    }
}

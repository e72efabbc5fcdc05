//! Huffman tables as lookups that give code, run and value at once (ITU-T T.81, annexes C and F.2.2).

use crate::bits::Bits;
use crate::{Declined, Result};

/// Bits that index the lookups.
pub const LOOKUP_BITS: u32 = 10;
const SLOTS: usize = 1 << LOOKUP_BITS;
/// Mark of an entry that does not say all.
pub const SLOW: u32 = 0x80;
/// Added to the index of a coefficient by an end of block, so that it is past all others.
pub const END: u32 = 128;

/// A code of the table's end, found by comparing.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    pub length: u32,
    pub run: u32,
    pub size: u32,
}

/// Canonical codes.
#[derive(Debug)]
pub struct Codes {
    counts: [u8; 16],
    values: [u8; 256],
    /// For each length from 1: its first code and the first that is too large for it, both at 16 bits.
    first: [u32; 17],
    limit: [u32; 17],
    /// For each length: where its values begin.
    index: [u32; 17],
    known: bool,
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            counts: [0; 16],
            values: [0; 256],
            first: [0; 17],
            limit: [0; 17],
            index: [0; 17],
            known: false,
        }
    }
}

impl Codes {
    /// Take a table; return whether it differs from the one before.
    fn define(&mut self, counts: &[u8; 16], values: &[u8]) -> Result<bool> {
        if self.known && self.counts == *counts && self.values[..values.len()] == *values {
            return Ok(false);
        }
        self.known = false;
        let longest = counts.iter().rposition(|&count| count > 0);
        let longest = longest.ok_or(Declined("empty Huffman table"))? + 1;
        let (mut code, mut index) = (0, 0);
        for length in 1..=16 {
            let count = u32::from(counts[length - 1]);
            let shift = 16 - length;
            self.first[length] = code << shift;
            self.index[length] = index;
            code += count;
            index += count;
            self.limit[length] = code << shift;
            // No code consists of ones alone.
            if length <= longest && code >= 1 << length {
                return Err(Declined("Huffman table with too many codes"));
            }
            code <<= 1;
        }
        self.counts = *counts;
        self.values[..values.len()].copy_from_slice(values);
        self.known = true;
        Ok(true)
    }

    /// The code at the top of `window`.
    #[cold]
    #[inline(never)]
    pub fn find(&self, window: u64) -> Option<Code> {
        let top = (window >> 48) as u32;
        let length = (1..=16).find(|&length| top < self.limit[length])?;
        let offset = top.wrapping_sub(self.first[length]) >> (16 - length);
        let symbol = self.values[(self.index[length] + offset) as usize & 255];
        Some(Code {
            length: length as u32,
            run: u32::from(symbol >> 4),
            size: u32::from(symbol & 15),
        })
    }

    /// Call `each` with the slots of a lookup that begin with a code, and the code, for all that fit.
    fn each(&self, mut each: impl FnMut(std::ops::Range<usize>, Code)) {
        let mut index = 0;
        for length in 1..=LOOKUP_BITS {
            for number in 0..u32::from(self.counts[length as usize - 1]) {
                let code = (self.first[length as usize] >> (16 - length)) + number;
                let start = (code as usize) << (LOOKUP_BITS - length);
                let symbol = self.values[index];
                let code = Code {
                    length,
                    run: u32::from(symbol >> 4),
                    size: u32::from(symbol & 15),
                };
                each(start..start + (1 << (LOOKUP_BITS - length)), code);
                index += 1;
            }
        }
    }
}

/// The value that `size` bits mean (ITU-T T.81, table F.1).
#[inline(always)]
pub fn extend(bits: u32, size: u32) -> i32 {
    let below = bits < 1 << (size - 1);
    bits as i32 - if below { (1 << size) - 1 } else { 0 }
}

/// Call `each` with the parts of `slots` that have the same `size` bits after a code of `length`, and their value.
fn each_value(
    slots: std::ops::Range<usize>,
    code: Code,
    mut each: impl FnMut(std::ops::Range<usize>, i32),
) {
    let same = slots.len() >> code.size;
    for bits in 0..1 << code.size {
        let start = slots.start + bits * same;
        let value = if code.size == 0 {
            0
        } else {
            extend(bits as u32, code.size)
        };
        each(start..start + same, value);
    }
}

/// A table of differences of DC coefficients.
///
/// Entries: bits used in 0 to 5, [`SLOW`], and from 16 the difference; in slow ones the length of the code, 0 where it is
/// not known, and from 16 the size of the difference.
pub struct Dc {
    codes: Codes,
    lookup: [u32; SLOTS],
    pub defined: bool,
}

impl Default for Dc {
    fn default() -> Self {
        Self {
            codes: Codes::default(),
            lookup: [SLOW; SLOTS],
            defined: false,
        }
    }
}

impl Dc {
    pub fn define(&mut self, counts: &[u8; 16], values: &[u8]) -> Result<()> {
        self.defined = false;
        if values.iter().any(|&size| size > 15) {
            return Err(Declined("size of a DC coefficient"));
        }
        if self.codes.define(counts, values)? {
            let lookup = &mut self.lookup;
            lookup.fill(SLOW);
            self.codes.each(|slots, code| {
                if code.length + code.size > LOOKUP_BITS {
                    lookup[slots].fill(code.size << 16 | SLOW | code.length);
                    return;
                }
                each_value(slots, code, |slots, value| {
                    lookup[slots].fill((value as u32) << 16 | (code.length + code.size));
                });
            });
        }
        self.defined = true;
        Ok(())
    }

    /// The next difference, or nothing when there is no such code. Needs 31 bits in the window.
    #[inline(always)]
    pub fn difference(&self, bits: &mut Bits) -> Option<i32> {
        let entry = self.lookup[bits.peek(LOOKUP_BITS)];
        if entry & SLOW == 0 {
            bits.consume(entry);
            return Some(entry as i32 >> 16);
        }
        let (length, size) = match (entry & 63, entry >> 16) {
            (0, _) => self
                .codes
                .find(bits.window)
                .map(|code| (code.length, code.size))?,
            known => known,
        };
        bits.consume(length);
        Some(if size == 0 {
            0
        } else {
            extend(bits.take(size), size)
        })
    }
}

/// A table of runs of zeros and sizes of AC coefficients; its lookups are made when a scan first needs them.
pub struct Ac {
    pub codes: Codes,
    /// For sequential scans: one or two symbols. Bits used in 0 to 5, [`SLOW`], bits of the first symbol from 8, what the
    /// first adds to the index from 16, what the second adds from 24 (0 where there is none), values from 32 and 48.
    /// In slow ones the length of the code from 8, 0 where it is not known, what it adds from 16, its size from 32.
    pub pairs: [u64; SLOTS],
    /// For first progressive scans: bits used in 0 to 5, [`SLOW`], what is added to the index from 8, and from 16 the value.
    /// In slow ones the length of the code, 0 where it is not known, and from 16 its size, or where nothing is added the
    /// size of an end-of-band run.
    pub firsts: [u32; SLOTS],
    /// For refinement, by reversed bits: bits used in 0 to 5, [`SLOW`], the run from 8, and in 16 and 17 whether a positive
    /// or a negative coefficient follows. In slow ones the length of the code of an end of band, 0 for all others.
    pub refinements: [u32; SLOTS],
    made: u8,
    pub defined: bool,
}

impl Default for Ac {
    fn default() -> Self {
        Self {
            codes: Codes::default(),
            pairs: [0; SLOTS],
            firsts: [0; SLOTS],
            refinements: [0; SLOTS],
            made: 0,
            defined: false,
        }
    }
}

impl Ac {
    pub fn define(&mut self, counts: &[u8; 16], values: &[u8]) -> Result<()> {
        self.defined = false;
        if self.codes.define(counts, values)? {
            self.made = 0;
        }
        self.defined = true;
        Ok(())
    }

    fn is_made(&mut self, lookup: u8) -> bool {
        let was = self.made & lookup != 0;
        self.made |= lookup;
        was
    }

    /// Make `pairs`.
    pub fn prepare_pairs(&mut self) {
        if self.is_made(1) {
            return;
        }
        let slow = u64::from(SLOW);
        let mut single = [slow; SLOTS];
        self.codes.each(|slots, code| {
            let length = u64::from(code.length);
            let run = u64::from(code.run);
            let whole = |bits: u64, advance: u64, value: u64| {
                bits | bits << 8 | advance << 16 | value << 32 | value << 48
            };
            match (code.run, code.size) {
                (15, 0) => single[slots].fill(whole(length, 16, 0)),
                (_, 0) => single[slots].fill(slow | length << 8),
                (_, size) if code.length + size > LOOKUP_BITS => {
                    single[slots]
                        .fill(slow | length << 8 | (run + 1) << 16 | u64::from(size) << 32);
                }
                (_, size) => each_value(slots, code, |slots, value| {
                    let value = u64::from(value as u16);
                    single[slots].fill(whole(length + u64::from(size), run + 1, value));
                }),
            }
        });
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let one = single[index];
            let used = (one & 63) as usize;
            let two = single[index << used & (SLOTS - 1)];
            *pair = joined(one, two);
        }
    }

    /// Make `firsts`.
    pub fn prepare_firsts(&mut self) {
        if self.is_made(2) {
            return;
        }
        let lookup = &mut self.firsts;
        lookup.fill(SLOW);
        self.codes.each(|slots, code| {
            let Code { length, run, size } = code;
            match (run, size) {
                (15, 0) => lookup[slots].fill(16 << 8 | length),
                (0, 0) => lookup[slots].fill(END << 8 | length),
                (_, 0) => lookup[slots].fill(run << 16 | SLOW | length),
                _ if length + size > LOOKUP_BITS => {
                    lookup[slots].fill(size << 16 | (run + 1) << 8 | SLOW | length);
                }
                _ => each_value(slots, code, |slots, value| {
                    lookup[slots].fill((value as u32) << 16 | (run + 1) << 8 | (length + size));
                }),
            }
        });
    }

    /// Make `refinements`.
    pub fn prepare_refinements(&mut self) {
        if self.is_made(4) {
            return;
        }
        let lookup = &mut self.refinements;
        lookup.fill(SLOW);
        self.codes.each(|slots, code| {
            let Code { length, run, size } = code;
            let lowest = (slots.start as u32).reverse_bits() >> (32 - LOOKUP_BITS);
            for index in (lowest as usize..SLOTS).step_by(1 << length) {
                let is_positive = index >> length & 1 != 0;
                lookup[index] = match (run, size) {
                    (15, 0) => run << 8 | length,
                    (_, 0) => SLOW | run << 8 | length,
                    (_, 1) if length < LOOKUP_BITS => {
                        let sign = if is_positive { 1 << 16 } else { 1 << 17 };
                        sign | run << 8 | (length + 1)
                    }
                    _ => SLOW,
                };
            }
        });
    }
}

/// The entry for the symbol of entry `one`, and that of `two` where its code and value fit as well.
fn joined(one: u64, two: u64) -> u64 {
    let slow = u64::from(SLOW);
    let (used, more) = (one & 63, two >> 8 & 63);
    if one & slow != 0 || two == slow || used + more > u64::from(LOOKUP_BITS) {
        return one;
    }
    let first = one & 0x0000_ffff_00ff_ff00 | (used + more);
    if two & slow == 0 {
        first | (two >> 16 & 0xff) << 24 | two & 0xffff_0000_0000_0000
    } else if two >> 16 == 0 {
        first | u64::from(END) << 24
    } else {
        one
    }
}

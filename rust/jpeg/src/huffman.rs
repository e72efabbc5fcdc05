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

impl Code {
    /// Bits of code and value.
    pub fn bits(self) -> u32 {
        self.length + self.size
    }
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

/// The value that `size` bits mean, 0 to 15, after `length` others at the top of `window`; without a branch, since no one
/// knows what comes.
#[inline(always)]
fn value_after(window: u64, length: u32, size: u32) -> i32 {
    let top = window << (length & 63);
    let bits = (top >> 1 >> (!size & 63)) as i32;
    // All ones where the first bit of the value is 0.
    let below = !(top as i64 >> 63) as i32;
    bits.wrapping_sub(below & (1_i32 << (size & 31)).wrapping_sub(1))
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
/// Entries: bits used by code and difference in 0 to 5, length of the code from 8, size of the difference from 16; 0 where
/// the code is not known.
pub struct Dc {
    codes: Codes,
    lookup: [u32; SLOTS],
    pub defined: bool,
}

impl Default for Dc {
    fn default() -> Self {
        Self {
            codes: Codes::default(),
            lookup: [0; SLOTS],
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
            lookup.fill(0);
            self.codes.each(|slots, code| {
                lookup[slots].fill(dc_entry(code));
            });
        }
        self.defined = true;
        Ok(())
    }

    /// The next difference, or nothing when there is no such code. Needs 31 bits in the window.
    #[inline(always)]
    pub fn difference(&self, bits: &mut Bits) -> Option<i32> {
        let mut entry = self.lookup[bits.peek(LOOKUP_BITS)];
        if entry == 0 {
            entry = dc_entry(self.codes.find(bits.window)?);
        }
        let value = value_after(bits.window, entry >> 8 & 31, entry >> 16);
        bits.consume(entry);
        Some(value)
    }
}

/// For DC, the symbol is the size: its upper half, which is a run elsewhere, is zero.
fn dc_entry(code: Code) -> u32 {
    code.size << 16 | code.length << 8 | (code.length + code.size)
}

/// A table of runs of zeros and sizes of AC coefficients; its lookups are made when a scan first needs them.
pub struct Ac {
    pub codes: Codes,
    /// For sequential scans; see [`Pair`].
    pub pairs: [Pair; SLOTS],
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
            pairs: [Pair(0); SLOTS],
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
        let mut single = [Pair::UNKNOWN; SLOTS];
        self.codes.each(|slots, code| match (code.run, code.size) {
            (15, 0) => single[slots].fill(Pair::whole(code.length, 16, 0)),
            (_, 0) => single[slots].fill(Pair::end(code.length)),
            (_, size) if code.length + size <= LOOKUP_BITS => {
                each_value(slots, code, |slots, value| {
                    single[slots].fill(Pair::whole(code.length + size, code.run + 1, value));
                });
            }
            (_, size) if code.length + size <= Pair::MOST_BITS => {
                single[slots].fill(Pair::long(code));
            }
            _ => {}
        });
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let one = single[index];
            *pair = one.joined(single[index << one.used() & (SLOTS - 1)]);
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

/// One or two symbols of AC coefficients.
///
/// Bits used in 0 to 5; what the first adds to the index of the coefficient from 6; [`Self::WHOLE`]; what both add from 16;
/// values from 32 and 48. Where the value is not in the table but in the data: the length of the code from 24, what is to be
/// added to a value below zero from 32, and 64 less the size of the value from 48. An end of block adds [`END`] more, and
/// what no lookup has [`Self::NONE`].
#[derive(Debug, Clone, Copy)]
pub struct Pair(u64);

impl Pair {
    /// Most bits of what is not left to others.
    pub const MOST_BITS: u32 = 18;
    const NONE: u32 = 192;
    const WHOLE: u64 = 1 << 11;
    const UNKNOWN: Self = Self((Self::NONE as u64) << 16 | Self::WHOLE);

    fn whole(bits: u32, advance: u32, value: i32) -> Self {
        let value = u64::from(value as u16);
        Self(Self::places(bits, advance, advance) | Self::WHOLE | value << 32)
    }

    fn end(bits: u32) -> Self {
        Self(Self::places(bits, 0, END) | Self::WHOLE)
    }

    fn long(code: Code) -> Self {
        let Code { length, run, size } = code;
        let places = Self::places(length + size, run + 1, run + 1);
        let below = u64::from((1_u16 << size).wrapping_neg().wrapping_add(1));
        Self(places | u64::from(length) << 24 | below << 32 | u64::from(64 - size) << 48)
    }

    fn places(bits: u32, first: u32, both: u32) -> u64 {
        u64::from(bits | first << 6 | both << 16)
    }

    /// The entry for this symbol and `next`, where code and value of both fit.
    fn joined(self, next: Self) -> Self {
        let whole = self.0 & next.0 & Self::WHOLE != 0;
        let [one, two] = [self, next].map(|pair| pair.0 as u32 >> 16 & 255);
        let bits = self.used() + next.used();
        if !whole || one >= END || two == Self::NONE || bits > LOOKUP_BITS {
            return self;
        }
        let values = self.0 & 0xffff_0000_0000 | next.0 >> 32 << 48;
        Self(Self::places(bits, one, one + two) | Self::WHOLE | values)
    }

    #[inline(always)]
    pub fn used(self) -> u32 {
        self.0 as u32 & 63
    }

    /// The used bits in the lowest six, and others above.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0 as u32
    }

    /// What the first symbol adds to the index of the coefficient, at most 31 times `UNIT`.
    #[inline(always)]
    pub fn first<const UNIT: usize>(self) -> usize {
        (self.0 as usize >> 6 & 31) * UNIT
    }

    /// What all symbols add.
    #[inline(always)]
    pub fn both<const UNIT: usize>(self) -> usize {
        (self.0 as usize >> 16 & 255) * UNIT
    }

    #[inline(always)]
    pub fn is_unknown(self) -> bool {
        self.both::<1>() == Self::NONE as usize
    }

    /// Value of the first symbol, which begins at the top of `window`.
    #[inline(always)]
    pub fn first_value(self, window: u64) -> i16 {
        let stored = (self.0 >> 32) as i16;
        let top = window << (self.0 >> 24 & 63);
        let bits = (top >> (self.0 >> 48 & 63)) as i16;
        let below = bits.wrapping_add(stored);
        let read = std::hint::select_unpredictable((top as i64) < 0, bits, below);
        std::hint::select_unpredictable(self.0 & Self::WHOLE != 0, stored, read)
    }

    /// Value of the second symbol, if there is one.
    #[inline(always)]
    pub fn second_value(self) -> i16 {
        (self.0 >> 48) as i16
    }
}

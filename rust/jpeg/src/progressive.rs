//! Progressive scans (ITU-T T.81, annex G). Of each block are kept a mask of the coefficients that are not zero, which
//! refinement counts, and the values of those in the corner.

use crate::bits::{Bits, Reversed};
use crate::decoder::{Decoder, Job, Row};
use crate::frame::{Component, Frame};
use crate::huffman::{Ac, LOOKUP_BITS, SLOW, extend};
use crate::inverse::GROUP;
use crate::markers::Scan;
use crate::processor::{Instructions, Work};
use crate::tables::Tables;
use crate::zigzag::Corner;
use crate::{Declined, Result};

/// Largest number of bits that a scan may leave out; encoders leave out three at most, and these fit the lookups' values.
const MAX_SHIFT: u32 = 5;

impl Scan {
    /// Whether the parameters are those of a progressive scan.
    pub(crate) fn is_progressive(&self) -> bool {
        let band = if self.first == 0 {
            self.last == 0
        } else {
            self.first <= self.last && self.last < 64 && self.parts.len() == 1
        };
        band && self.shift <= MAX_SHIFT && (self.before == 0 || self.before == self.shift + 1)
    }
}

/// The coefficients of one component.
#[derive(Debug, Default)]
pub struct Store {
    /// For each block which coefficients are not zero, by the order of the file.
    nonzero: Vec<u64>,
    /// For each row of blocks: a row of values for each place of the corner, and one for values outside of it.
    values: Vec<i16>,
    /// Blocks of a row, and values of a row of blocks.
    across: usize,
    row: usize,
}

impl Store {
    pub fn clear(&mut self, component: &Component, corner: Corner) {
        self.across = component.padded_across.next_multiple_of(GROUP);
        self.row = (corner.len() + 1) * self.across;
        self.nonzero.clear();
        self.nonzero.resize(self.across * component.padded_down, 0);
        self.values.clear();
        self.values.resize(self.row * component.padded_down, 0);
    }

    pub fn bytes(&self) -> usize {
        8 * self.nonzero.capacity() + 2 * self.values.capacity()
    }
}

/// Restart intervals: where each ends, and how many blocks are left of the one at hand.
struct Intervals<'a> {
    ends: &'a [usize],
    restart: usize,
    index: usize,
    left: usize,
}

impl<'a> Intervals<'a> {
    fn new(ends: &'a [usize], restart: usize) -> Self {
        let left = if restart == 0 { usize::MAX } else { restart };
        Self {
            ends,
            restart,
            index: 0,
            left,
        }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.ends[self.index]
    }

    /// Count one more block or MCU; return whether it is the first after a restart.
    #[inline(always)]
    fn advance(&mut self) -> bool {
        let restarts = self.left == 0;
        if restarts {
            self.index += 1;
            self.left = self.restart;
        }
        self.left -= 1;
        restarts
    }
}

/// A scan of the AC coefficients of one component.
struct Band<'a> {
    bytes: &'a [u8],
    intervals: Intervals<'a>,
    table: &'a Ac,
    store: &'a mut Store,
    /// Blocks across and down that are image.
    size: (usize, usize),
    scan: &'a Scan,
    corner: Corner,
    /// Where in a row of blocks the values of each coefficient begin, by the order of the file; those after are none.
    places: [u32; 256],
}

/// The first bits of coefficients.
struct First<'a>(Band<'a>);
/// One bit more of coefficients.
struct Refinement<'a>(Band<'a>);

impl Work for First<'_> {
    type Output = bool;

    /// False where the data is wrong.
    #[inline(always)]
    fn run<I: Instructions>(self) -> bool {
        let Self(mut band) = self;
        let (across, down) = band.size;
        let mut bits = Bits::new(band.bytes, 0);
        // Blocks to come in which the band is zero.
        let mut empty = 0;
        for y in 0..down {
            let nonzero = &mut band.store.nonzero[y * band.store.across..][..across];
            let row = &mut band.store.values[y * band.store.row..][..band.store.row];
            for (x, mask) in nonzero.iter_mut().enumerate() {
                let end = band.intervals.end();
                if band.intervals.advance() {
                    if empty > 0 || !bits.is_at(end) {
                        return false;
                    }
                    bits = bits.restarted(end);
                }
                if empty > 0 {
                    empty -= 1;
                    continue;
                }
                match first_block(&mut bits, band.table, band.scan, |index, value| {
                    row[band.places[index & 255] as usize + x] = value;
                    *mask |= u64::from(value != 0) << (index & 63);
                }) {
                    Some(run) => empty = run,
                    None => return false,
                }
            }
            if bits.is_past(band.intervals.end()) {
                return false;
            }
        }
        empty == 0 && bits.is_at(band.intervals.end())
    }
}

/// Decode the band of one block, calling `set` with each coefficient; return how many empty blocks follow, or nothing when
/// the data is wrong.
#[inline(always)]
fn first_block(
    bits: &mut Bits<'_>,
    table: &Ac,
    scan: &Scan,
    mut set: impl FnMut(usize, i16),
) -> Option<u32> {
    let mut next = scan.first as u32;
    let last = scan.last as u32;
    while next <= last {
        bits.refill();
        let entry = table.firsts[bits.peek(LOOKUP_BITS)];
        let (advance, value);
        if entry & SLOW == 0 {
            bits.consume(entry);
            advance = entry >> 8 & 255;
            value = entry as i32 >> 16;
        } else {
            let (length, run, size) = match (entry & 63, entry >> 8 & 255, entry >> 16) {
                (0, ..) => {
                    let code = table.codes.find(bits.window)?;
                    (code.length, code.run, code.size)
                }
                (length, 0, run) => (length, run, 0),
                (length, advance, size) => (length, advance - 1, size),
            };
            bits.consume(length);
            if size == 0 && run < 15 {
                let blocks = if run == 0 { 0 } else { bits.take(run) };
                return Some((1 << run) - 1 + blocks);
            }
            if size + scan.shift > 15 {
                return None;
            }
            advance = run + 1;
            value = if size == 0 {
                0
            } else {
                extend(bits.take(size), size)
            };
        }
        next += advance;
        set(next as usize - 1, (value << scan.shift) as i16);
    }
    // An end of block is far past all coefficients.
    (next == last + 1 || next >= crate::huffman::END).then_some(0)
}

impl Work for Refinement<'_> {
    type Output = bool;

    /// False where the data is wrong.
    #[inline(always)]
    fn run<I: Instructions>(self) -> bool {
        let Self(mut band) = self;
        let (across, down) = band.size;
        let mut bits = Reversed::new(band.bytes, 0);
        let mask = band.scan.band();
        // Blocks to come, this one included, in which no coefficient becomes other than zero.
        let mut empty = 0;
        let mut changes = Changes::new(&band);
        for y in 0..down {
            let nonzero = &mut band.store.nonzero[y * band.store.across..][..across];
            let row = &mut band.store.values[y * band.store.row..][..band.store.row];
            for (group, nonzero) in nonzero.chunks_mut(GROUP).enumerate() {
                for (lane, known) in nonzero.iter_mut().enumerate() {
                    let end = band.intervals.end();
                    if band.intervals.advance() {
                        if empty > 0 || !bits.is_at(end) {
                            return false;
                        }
                        bits = bits.restarted(end);
                    }
                    let Some(refined) =
                        refine::<I>(&mut bits, band.table, *known, mask, &mut empty)
                    else {
                        return false;
                    };
                    *known |= refined.positive | refined.negative;
                    changes.note(lane, &refined);
                }
                changes.apply(&band.places, &mut row[group * GROUP..]);
            }
            if bits.is_past(band.intervals.end()) {
                return false;
            }
        }
        empty == 0 && bits.is_at(band.intervals.end())
    }
}

/// Coefficients that may be refined together: their bits fit a lane.
const WORD: usize = u16::BITS as usize;

/// What a refinement does to the coefficients of a group of blocks, which is applied to all blocks at once: of one block
/// nobody knows how many change, of all there is one loop.
struct Changes {
    /// Coefficients that are used, and how far each changes.
    used: u64,
    unit: i16,
    /// Which of any block changes, and of each block by words: which change, and which of those turn negative.
    any: u64,
    changed: [[u16; GROUP]; 64 / WORD],
    negative: [[u16; GROUP]; 64 / WORD],
}

impl Changes {
    fn new(band: &Band<'_>) -> Self {
        Self {
            used: band.corner.mask & band.scan.band(),
            unit: 1 << band.scan.shift,
            any: 0,
            changed: [[0; GROUP]; 64 / WORD],
            negative: [[0; GROUP]; 64 / WORD],
        }
    }

    #[inline(always)]
    fn note(&mut self, lane: usize, refined: &Refined) {
        let changed = refined.grown | refined.positive | refined.negative;
        self.any |= changed;
        for word in 0..64 / WORD {
            self.changed[word][lane] = (changed >> (word * WORD)) as u16;
            self.negative[word][lane] = (refined.negative >> (word * WORD)) as u16;
        }
    }

    /// Change the values in `row`, which begins with the first block of the group.
    #[inline(always)]
    fn apply(&mut self, places: &[u32; 256], row: &mut [i16]) {
        let mut rest = self.any & self.used;
        while rest != 0 {
            let index = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let place = places[index] as usize;
            let Some(values) = row.get_mut(place..).and_then(<[i16]>::first_chunk_mut) else {
                continue;
            };
            let (word, bit) = (index / WORD, (index % WORD) as u32);
            let (changed, negative) = (&self.changed[word], &self.negative[word]);
            let values: &mut [i16; GROUP] = values;
            for lane in 0..GROUP {
                let value = values[lane];
                // All ones for a coefficient below zero, so that it moves away from zero.
                let sign = value >> 15 | ((negative[lane] >> bit & 1) as i16).wrapping_neg();
                let applies = ((changed[lane] >> bit & 1) as i16).wrapping_neg();
                values[lane] = value.wrapping_add((self.unit ^ sign).wrapping_sub(sign) & applies);
            }
        }
        *self = Self {
            any: 0,
            changed: [[0; GROUP]; 64 / WORD],
            negative: [[0; GROUP]; 64 / WORD],
            ..*self
        };
    }
}

/// What a refinement does to the coefficients of a block.
#[derive(Default)]
struct Refined {
    /// Those that grow by one unit.
    grown: u64,
    /// Those that become one unit, of either sign.
    positive: u64,
    negative: u64,
}

/// Decode the refinement of one block whose coefficients in `known` are not zero; nothing when the data is wrong.
#[inline(always)]
fn refine<I: Instructions>(
    bits: &mut Reversed<'_>,
    table: &Ac,
    known: u64,
    band: u64,
    empty: &mut u32,
) -> Option<Refined> {
    let mut refined = Refined::default();
    let mut ahead = band;
    while *empty == 0 && ahead != 0 {
        bits.refill();
        let entry = table.refinements[bits.window as usize % (1 << LOOKUP_BITS)];
        let (run, positive, negative);
        if entry & SLOW == 0 {
            bits.consume(entry);
            run = entry >> 8 & 15;
            (positive, negative) = (entry >> 16 & 1, entry >> 17 & 1);
        } else {
            let (length, size);
            (length, run, size) = match entry & 63 {
                0 => {
                    let code = table.codes.find(bits.window.reverse_bits())?;
                    (code.length, code.run, code.size)
                }
                length => (length, entry >> 8 & 15, 0),
            };
            bits.consume(length);
            match size {
                0 if run < 15 => {
                    *empty = 1 << run;
                    if run > 0 {
                        *empty += (bits.window.reverse_bits() >> (64 - run)) as u32;
                        bits.consume(run);
                    }
                    break;
                }
                0 => (positive, negative) = (0, 0),
                1 => {
                    positive = bits.window as u32 & 1;
                    negative = 1 - positive;
                    bits.consume(1);
                }
                _ => return None,
            }
        }
        // The coefficient after `run` zeros; those on the way that are not zero have a bit each.
        let target = I::deposit(1 << run, !known & ahead);
        if target == 0 {
            return None;
        }
        refined.grown |= correction::<I>(bits, known & ahead & (target - 1));
        refined.positive |= target & u64::from(positive).wrapping_neg();
        refined.negative |= target & u64::from(negative).wrapping_neg();
        ahead &= !(target ^ (target - 1));
    }
    if *empty > 0 {
        bits.refill();
        refined.grown |= correction::<I>(bits, known & ahead);
        *empty -= 1;
    }
    Some(refined)
}

/// A bit for each in `range`, in its place. A symbol leaves at least 32 bits of a refilled window.
#[inline(always)]
fn correction<I: Instructions>(bits: &mut Reversed<'_>, range: u64) -> u64 {
    let count = range.count_ones();
    if count > 32 {
        return long_correction::<I>(bits, range);
    }
    let grown = I::deposit(bits.window, range);
    bits.consume(count);
    grown
}

#[inline(always)]
fn long_correction<I: Instructions>(bits: &mut Reversed<'_>, range: u64) -> u64 {
    let mut rest = range;
    for _ in 0..32 {
        rest &= rest - 1;
    }
    let mut grown = I::deposit(bits.window & 0xffff_ffff, range ^ rest);
    bits.consume(32);
    bits.refill();
    grown |= I::deposit(bits.window, rest);
    bits.consume(rest.count_ones());
    grown
}

/// A scan of DC coefficients.
struct DcBand<'a> {
    bytes: &'a [u8],
    intervals: Intervals<'a>,
    tables: &'a Tables,
    stores: &'a mut [Store],
    frame: &'a Frame,
    scan: &'a Scan,
}

impl Work for DcBand<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<I: Instructions>(mut self) -> Result<()> {
        let (across, down) = self.scan.mcus(self.frame);
        let mut bits = Bits::new(self.bytes, 0);
        let mut predictions = [0_i32; 3];
        for y in 0..down {
            for x in 0..across {
                let end = self.intervals.end();
                if self.intervals.advance() {
                    if !bits.is_at(end) {
                        return Err(Declined("restart interval"));
                    }
                    bits = bits.restarted(end);
                    predictions = [0; 3];
                }
                for (part, prediction) in self.scan.parts.iter().zip(&mut predictions) {
                    let (wide, high) = self.scan.blocks(self.frame, part);
                    let store = &mut self.stores[part.component];
                    for line in y * high..(y + 1) * high {
                        let start = line * store.row + x * wide;
                        for value in &mut store.values[start..start + wide] {
                            bits.refill();
                            if self.scan.before > 0 {
                                *value |= (bits.take(1) << self.scan.shift) as i16;
                                continue;
                            }
                            let table = &self.tables.dc[part.dc];
                            let difference = table.difference(&mut bits).ok_or(Declined("code"))?;
                            *prediction = prediction.wrapping_add(difference);
                            let shifted = i64::from(*prediction) << self.scan.shift;
                            *value = i16::try_from(shifted).map_err(|_| Declined("large value"))?;
                        }
                    }
                }
            }
            if bits.is_past(self.intervals.end()) {
                return Err(Declined("data ends early"));
            }
        }
        if !bits.is_at(self.intervals.end()) {
            return Err(Declined("data left over"));
        }
        Ok(())
    }
}

impl Decoder {
    pub(crate) fn progressive_scan(&mut self, job: &Job<'_>, scan: &Scan) -> Result<()> {
        if scan.first == 0 {
            return self.dc_scan(job, scan);
        }
        let part = scan.parts[0];
        let component = &job.frame.components[part.component];
        let corner = job.components[part.component].corner;
        let across = self.stores[part.component].across;
        let places = std::array::from_fn(|index| {
            let place = if index < 64 {
                corner.place(index)
            } else {
                None
            };
            (place.unwrap_or(corner.len()) * across) as u32
        });
        let table = &mut self.tables.ac[part.ac];
        if scan.before == 0 {
            table.prepare_firsts();
        } else {
            table.prepare_refinements();
            self.data.reverse();
        }
        let band = Band {
            bytes: &self.data.bytes,
            intervals: Intervals::new(&self.data.ends, job.restart),
            table,
            store: &mut self.stores[part.component],
            size: (component.blocks_across, component.blocks_down),
            scan,
            corner,
            places,
        };
        let sound = if scan.before == 0 {
            job.processor.run(First(band))
        } else {
            job.processor.run(Refinement(band))
        };
        sound.then_some(()).ok_or(Declined("progressive scan"))
    }

    fn dc_scan(&mut self, job: &Job<'_>, scan: &Scan) -> Result<()> {
        let band = DcBand {
            bytes: &self.data.bytes,
            intervals: Intervals::new(&self.data.ends, job.restart),
            tables: &self.tables,
            stores: &mut self.stores,
            frame: job.frame,
            scan,
        };
        job.processor.run(band)
    }

    /// Transform all coefficients once the last scan has come.
    pub(crate) fn finish_progressive(&self, job: &mut Job<'_>) {
        for (index, component) in job.frame.components.iter().enumerate() {
            let store = &self.stores[index];
            let inverse = job.inverse(index, |_, place| place * store.across);
            for row in 0..component.padded_down {
                let finished = Row {
                    component: index,
                    source: &store.values[row * store.row..][..store.row],
                    count: component.padded_across,
                    column: 0,
                    line: row,
                };
                job.take(&inverse, &finished);
            }
        }
    }
}

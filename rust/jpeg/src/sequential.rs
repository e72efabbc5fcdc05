//! Sequential scans: some blocks of an MCU row at a time from codes to coefficients and on to the output.

use std::ops::Range;

use crate::bits::Bits;
use crate::decoder::{Decoder, Job, Row};
use crate::huffman::{Ac, Code, Dc, END, LOOKUP_BITS, Pair, extend};
use crate::inverse::{GROUP, Inverse};
use crate::markers::Scan;
use crate::processor::{Instructions, Work};
use crate::{Declined, Result};

/// Blocks side by side in a chunk.
const LANES: usize = 2 * GROUP;
/// Coefficients of a block: 64, as many as a lookup may go past them before it is found to be wrong, and one for none.
const PLACES: usize = 64 + 31 + 1;
/// Where the last coefficients of the blocks begin in a chunk, and where one for none is.
const LAST: usize = 63 * LANES;
const NOWHERE: usize = (PLACES - 1) * LANES;

/// Blocks side by side: each coefficient of all of them, in the order of the file.
pub type Chunk = [[i16; LANES]; PLACES];

/// Lookups between refills, which leave 56 bits.
const LOOKUPS: usize = 56 / Pair::MOST_BITS as usize;

struct Part<'a> {
    dc: &'a Dc,
    ac: &'a Ac,
    across: usize,
    down: usize,
    /// First of its chunks, of which it has one for each row of blocks in an MCU.
    chunk: usize,
}

/// Where a scan is.
struct Position<'a> {
    bits: Bits<'a>,
    predictions: [i32; 3],
    /// Restart intervals that are finished, and MCUs to go in this one.
    interval: usize,
    left: usize,
}

/// Some MCUs of a row, all in one restart interval.
struct Mcus<'p, 'a> {
    position: &'p mut Position<'a>,
    parts: &'p [Part<'a>],
    chunks: &'p mut [Chunk],
    range: Range<usize>,
}

impl Work for Mcus<'_, '_> {
    type Output = bool;

    /// False where the data is wrong.
    #[inline(always)]
    fn run<I: Instructions>(self) -> bool {
        let mut bits = self.position.bits;
        let mut sound = true;
        'mcus: for mcu in self.range {
            let predictions = &mut self.position.predictions;
            for (part, prediction) in self.parts.iter().zip(predictions) {
                for chunk in &mut self.chunks[part.chunk..part.chunk + part.down] {
                    for column in mcu * part.across..(mcu + 1) * part.across {
                        if !block(&mut bits, part, prediction, chunk, column % LANES) {
                            sound = false;
                            break 'mcus;
                        }
                    }
                }
            }
        }
        self.position.bits = bits;
        sound
    }
}

/// Decode one block to a column of `chunk`; false when there is no such code, or more coefficients than a block has.
#[inline(always)]
fn block(
    bits: &mut Bits<'_>,
    part: &Part<'_>,
    prediction: &mut i32,
    chunk: &mut Chunk,
    column: usize,
) -> bool {
    bits.refill();
    let Some(difference) = part.dc.difference(bits) else {
        return false;
    };
    *prediction = prediction.wrapping_add(difference);
    chunk[0][column] = *prediction as i16;
    if i32::from(*prediction as i16) != *prediction {
        return false;
    }
    // Places are those of the column in all lanes; this is the last coefficient's.
    let values = chunk.as_flattened_mut();
    let mut place = column;
    loop {
        bits.refill();
        for _ in 0..LOOKUPS {
            let pair = part.ac.pairs[bits.peek(LOOKUP_BITS)];
            let window = bits.window;
            bits.consume(pair.bits());
            let first = place + pair.first::<LANES>();
            let both = place + pair.both::<LANES>();
            if both < LAST {
                // The same place for both where the pair is one symbol, whose value remains.
                values[both] = pair.second_value();
                values[first] = pair.first_value(window);
                place = both;
                continue;
            }
            if pair.is_unknown() {
                match long_symbol(bits, part.ac) {
                    Symbol::End => return true,
                    Symbol::Wrong => return false,
                    Symbol::Coefficient { advance, value } => {
                        place += advance * LANES;
                        values[place] = value;
                    }
                }
                if place >= LAST {
                    return place < LAST + LANES;
                }
                break;
            }
            // An end of block alone has no coefficient.
            let index = std::hint::select_unpredictable(first > place, first, NOWHERE);
            values[index] = pair.first_value(window);
            return (first < LAST && both >= END as usize * LANES)
                || last_symbols(bits, values, (first, both), (pair, part.ac, window));
        }
    }
}

enum Symbol {
    End,
    Wrong,
    Coefficient { advance: usize, value: i16 },
}

/// A symbol that no lookup has.
#[inline(always)]
fn long_symbol(bits: &mut Bits<'_>, ac: &Ac) -> Symbol {
    bits.refill();
    let Some(Code { length, run, size }) = ac.codes.find(bits.window) else {
        return Symbol::Wrong;
    };
    bits.consume(length);
    let value = match (run, size) {
        (15, 0) => 0,
        (_, 0) => return Symbol::End,
        _ => extend(bits.take(size), size) as i16,
    };
    Symbol::Coefficient {
        advance: run as usize + 1,
        value,
    }
}

/// The symbols of `pair` reach or pass the last coefficient, and are not an end of block after others; return whether they
/// end the block as they may.
#[inline(always)]
fn last_symbols(
    bits: &mut Bits<'_>,
    values: &mut [i16],
    (first, both): (usize, usize),
    (pair, ac, window): (Pair, &Ac, u64),
) -> bool {
    let last = LAST..LAST + LANES;
    if last.contains(&first) {
        // The block is full; a second symbol belongs to the next.
        if both > first {
            *bits = bits.back(pair.used() - ac.codes.find(window).map_or(0, Code::bits));
        }
        return true;
    }
    let sound = first < LAST && last.contains(&both);
    if sound {
        values[both] = pair.second_value();
    }
    sound
}

impl Decoder {
    pub(crate) fn sequential_scan(&mut self, job: &mut Job<'_>, scan: &Scan) -> Result<()> {
        for part in &scan.parts {
            self.tables.ac[part.ac].prepare_pairs();
        }
        let mut parts = Vec::with_capacity(3);
        let mut inverses: Vec<Inverse> = Vec::with_capacity(3);
        let mut chunks = 0;
        for part in &scan.parts {
            let (across, down) = scan.blocks(job.frame, part);
            parts.push(Part {
                dc: &self.tables.dc[part.dc],
                ac: &self.tables.ac[part.ac],
                across,
                down,
                chunk: chunks,
            });
            inverses.push(job.inverse(part.component, |index, _| index * LANES));
            chunks += down;
        }
        if self.chunks.len() < chunks {
            self.chunks.resize(chunks, [[0; LANES]; PLACES]);
        }
        let chunks = &mut self.chunks[..chunks];
        let mut position = Position {
            bits: Bits::new(&self.data.bytes, 0),
            predictions: [0; 3],
            interval: 0,
            left: if job.restart == 0 {
                usize::MAX
            } else {
                job.restart
            },
        };
        let widest = parts.iter().map(|part| part.across).max().unwrap_or(1);
        let (across, down) = scan.mcus(job.frame);
        for row in 0..down {
            for start in (0..across).step_by(LANES / widest) {
                let end = across.min(start + LANES / widest);
                clear(chunks, &parts, scan, job);
                let ends = &self.data.ends;
                decode_mcus(&mut position, &parts, chunks, end - start, (ends, job))?;
                for ((part, inverse), named) in parts.iter().zip(&inverses).zip(&scan.parts) {
                    for line in 0..part.down {
                        let finished = Row {
                            component: named.component,
                            source: chunks[part.chunk + line].as_flattened(),
                            count: (end - start) * part.across,
                            column: start * part.across,
                            line: row * part.down + line,
                        };
                        job.take(inverse, &finished);
                    }
                }
            }
            if position.bits.is_past(self.data.ends[position.interval]) {
                return Err(Declined("data ends early"));
            }
        }
        if !position.bits.is_at(self.data.ends[position.interval]) {
            return Err(Declined("data left over"));
        }
        Ok(())
    }
}

/// Zero the coefficients that are used.
fn clear(chunks: &mut [Chunk], parts: &[Part<'_>], scan: &Scan, job: &Job<'_>) {
    for (part, named) in parts.iter().zip(&scan.parts) {
        for chunk in &mut chunks[part.chunk..part.chunk + part.down] {
            let mut used = job.components[named.component].corner.mask;
            while used != 0 {
                chunk[used.trailing_zeros() as usize] = [0; LANES];
                used &= used - 1;
            }
        }
    }
}

/// Decode `count` MCUs to the first columns of `chunks`, over restarts.
fn decode_mcus<'a>(
    position: &mut Position<'a>,
    parts: &[Part<'a>],
    chunks: &mut [Chunk],
    count: usize,
    (ends, job): (&[usize], &Job<'_>),
) -> Result<()> {
    let mut done = 0;
    while done < count {
        if position.left == 0 {
            let end = ends[position.interval];
            if !position.bits.is_at(end) {
                return Err(Declined("restart interval"));
            }
            position.bits = position.bits.restarted(end);
            position.predictions = [0; 3];
            position.interval += 1;
            position.left = job.restart;
        }
        let some = position.left.min(count - done);
        let range = done..done + some;
        let mcus = Mcus {
            position,
            parts,
            chunks,
            range,
        };
        if !job.processor.run(mcus) {
            return Err(Declined("code"));
        }
        done += some;
        position.left -= some;
    }
    Ok(())
}

//! The tables that a file has defined so far.

use crate::huffman::{Ac, Dc};
use crate::{Declined, Result};

/// Quantiser of each coefficient, in the order of the file.
pub type Quantisers = [i16; 64];

/// Larger ones come from wrecked files, and their products leave sixteen bits.
const MAX_QUANTISER: u16 = 255;

#[derive(Default)]
pub struct Tables {
    pub dc: [Box<Dc>; 4],
    pub ac: [Box<Ac>; 4],
    pub quantisers: [Option<Quantisers>; 4],
}

impl Tables {
    /// Have no table defined. Lookups of codes stay, for the next file with the same codes.
    pub fn forget(&mut self) {
        self.dc.iter_mut().for_each(|table| table.defined = false);
        self.ac.iter_mut().for_each(|table| table.defined = false);
        self.quantisers = [None; 4];
    }

    /// Take the quantisation tables of a segment.
    pub fn read_quantisers(&mut self, mut segment: &[u8]) -> Result<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            let bytes = match kind >> 4 {
                0 => 1,
                1 => 2,
                _ => return Err(Declined("kind of a quantisation table")),
            };
            let table = self.quantisers.get_mut(usize::from(kind & 15));
            let (Some(table), Some(entries)) = (table, rest.get(..64 * bytes)) else {
                return Err(Declined("quantisation table"));
            };
            let mut quantisers = [0; 64];
            for (quantiser, entry) in quantisers.iter_mut().zip(entries.chunks_exact(bytes)) {
                let value = entry
                    .iter()
                    .fold(0, |value, &byte| value << 8 | u16::from(byte));
                if value > MAX_QUANTISER {
                    return Err(Declined("large quantiser"));
                }
                *quantiser = value as i16;
            }
            *table = Some(quantisers);
            segment = &rest[64 * bytes..];
        }
        Ok(())
    }

    /// Take the Huffman tables of a segment.
    pub fn read_codes(&mut self, mut segment: &[u8]) -> Result<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            let Some((counts, rest)) = rest.split_first_chunk::<16>() else {
                return Err(Declined("Huffman table"));
            };
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (class, number) = (kind >> 4, usize::from(kind & 15));
            let Some(values) = rest.get(..count).filter(|_| count <= 256 && number < 4) else {
                return Err(Declined("Huffman table"));
            };
            match class {
                0 => self.dc[number].define(counts, values)?,
                1 => self.ac[number].define(counts, values)?,
                _ => return Err(Declined("class of a Huffman table")),
            }
            segment = &rest[count..];
        }
        Ok(())
    }
}

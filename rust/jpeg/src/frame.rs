//! The frame header: sides, components and how many blocks they have.

use crate::markers::{END_OF_IMAGE, Markers, START_OF_SCAN, is_frame};
use crate::{Declined, Result};

/// Longest side that libjpeg-turbo accepts.
const MAX_SIDE: usize = 65_500;

/// One component of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    pub(crate) id: u8,
    /// Sampling factors.
    pub(crate) across: usize,
    pub(crate) down: usize,
    /// Number of its quantisation table.
    pub(crate) table: usize,
    /// Samples that are image.
    pub width: usize,
    pub height: usize,
    /// Blocks that hold them.
    pub blocks_across: usize,
    pub blocks_down: usize,
    /// Blocks of whole MCUs, as a scan of several components has them.
    pub padded_across: usize,
    pub padded_down: usize,
}

impl Component {
    /// Sides of the plane at `eighths` of the size.
    #[must_use]
    pub fn reduced(&self, eighths: usize) -> (usize, usize) {
        (
            (self.width * eighths).div_ceil(8),
            (self.height * eighths).div_ceil(8),
        )
    }
}

/// What the frame header says; the components are one of grey, or Y, Cb and Cr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub progressive: bool,
    pub components: Vec<Component>,
    pub(crate) mcus_across: usize,
    pub(crate) mcus_down: usize,
}

/// Luma samples per chroma sample across and down, in the layouts that are decoded.
const SAMPLINGS: [(usize, usize); 6] = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)];

impl Frame {
    /// Read the frame header of `body`.
    ///
    /// # Errors
    /// When it is not of a kind that is decoded here.
    pub fn read(body: &[u8]) -> Result<Self> {
        let mut markers = Markers::new(body)?;
        loop {
            let (marker, segment) = markers.next_segment()?;
            if is_frame(marker) {
                return Self::parse(marker, segment);
            }
            if matches!(marker, START_OF_SCAN | END_OF_IMAGE) {
                return Err(Declined("no frame header"));
            }
        }
    }

    /// Luma samples per chroma sample, across and down.
    #[must_use]
    pub fn subsampling(&self) -> (usize, usize) {
        match &self.components[..] {
            [luma, _, _] => (luma.across, luma.down),
            _ => (1, 1),
        }
    }

    pub(crate) fn parse(marker: u8, segment: &[u8]) -> Result<Self> {
        let &[8, high, low, wide, narrow, count, ref entries @ ..] = segment else {
            return Err(Declined("precision"));
        };
        let height = usize::from(u16::from_be_bytes([high, low]));
        let width = usize::from(u16::from_be_bytes([wide, narrow]));
        if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return Err(Declined("size"));
        }
        let (entries, rest) = entries.as_chunks::<3>();
        if !rest.is_empty() || entries.len() != usize::from(count) || !matches!(count, 1 | 3) {
            return Err(Declined("number of components"));
        }
        let factors: Vec<_> = entries.iter().map(|&[_, both, _]| sampling(both)).collect();
        let largest = match factors[..] {
            [factor @ (1..=4, 1..=4)] => factor,
            [luma, (1, 1), (1, 1)] if SAMPLINGS.contains(&luma) => luma,
            _ => return Err(Declined("sampling")),
        };
        if let [[first, ..], [second, ..], [third, ..]] = entries
            && (first == second || second == third || first == third)
        {
            return Err(Declined("components of one name"));
        }
        let mut frame = Self {
            width,
            height,
            progressive: marker == 0xc2,
            components: Vec::with_capacity(entries.len()),
            mcus_across: width.div_ceil(8 * largest.0),
            mcus_down: height.div_ceil(8 * largest.1),
        };
        for (&[id, _, table], &factor) in entries.iter().zip(&factors) {
            let component = frame.component(id, factor, largest, table)?;
            frame.components.push(component);
        }
        Ok(frame)
    }

    fn component(
        &self,
        id: u8,
        (across, down): (usize, usize),
        largest: (usize, usize),
        table: u8,
    ) -> Result<Component> {
        if table > 3 {
            return Err(Declined("number of a quantisation table"));
        }
        let width = (self.width * across).div_ceil(largest.0);
        let height = (self.height * down).div_ceil(largest.1);
        Ok(Component {
            id,
            across,
            down,
            table: table.into(),
            width,
            height,
            blocks_across: width.div_ceil(8),
            blocks_down: height.div_ceil(8),
            padded_across: self.mcus_across * across,
            padded_down: self.mcus_down * down,
        })
    }
}

fn sampling(both: u8) -> (usize, usize) {
    (usize::from(both >> 4), usize::from(both & 15))
}

//! From the bytes of a file to planes: markers in order, each scan to its coefficients.

use crate::bits::ScanData;
use crate::frame::Frame;
use crate::inverse::{Inverse, Plane, Strip};
use crate::markers::{
    ADOBE, Colours, END_OF_IMAGE, HUFFMAN, JFIF, Markers, QUANTISATION, RESTART_INTERVAL,
    START_OF_SCAN, Scan, is_frame,
};
use crate::processor::Processor;
use crate::progressive::Store;
use crate::sequential::Chunk;
use crate::tables::{Quantisers, Tables};
use crate::zigzag::Corner;
use crate::{Declined, Result};

/// Largest number of scans; real images have about ten, and each costs a pass over the image.
const MAX_SCANS: usize = 100;

/// A buffer that is longer goes back to the system after the image that needed it.
const MAX_KEPT_BYTES: usize = 8 << 20;

/// Memory for decoding. Nothing that one image leaves in it changes another.
pub struct Decoder {
    pub(crate) processor: Processor,
    pub(crate) tables: Tables,
    pub(crate) data: ScanData,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) stores: Vec<Store>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::on(Processor::detect())
    }
}

/// Where decoded blocks go.
pub(crate) enum Output<'a> {
    Planes(&'a mut [Plane]),
    /// All blocks of whole MCUs, row by row, 64 coefficients each in rows of eight.
    Coefficients(&'a mut [Vec<i16>]),
}

/// A row of blocks of one component, as [`Strip`] has them.
pub(crate) struct Row<'a> {
    pub component: usize,
    pub source: &'a [i16],
    pub count: usize,
    pub column: usize,
    pub line: usize,
}

/// One component while its file is read.
pub(crate) struct Progress {
    pub corner: Corner,
    /// Its quantisers as they were when its first scan began.
    quantisers: Option<Quantisers>,
    /// How many low bits of each coefficient are still to come; nothing before the first.
    missing: [Option<u32>; 64],
}

/// One file.
pub(crate) struct Job<'a> {
    pub frame: &'a Frame,
    pub components: Vec<Progress>,
    /// MCUs between restart markers, 0 where there are none.
    pub restart: usize,
    pub output: Output<'a>,
    pub processor: Processor,
}

impl Decoder {
    /// A decoder that uses no instructions beyond those of every processor of its kind; it gives the same bytes.
    #[must_use]
    pub fn portable() -> Self {
        Self::on(Processor::Any)
    }

    fn on(processor: Processor) -> Self {
        Self {
            processor,
            tables: Tables::default(),
            data: ScanData::default(),
            chunks: Vec::new(),
            stores: Vec::new(),
        }
    }

    /// Decode `body`, whose header is `frame`, to a plane for each component, at as many eighths of its size as `eighths`
    /// says. The planes' buffers are used again, whatever they hold.
    ///
    /// # Errors
    /// When the file is not of a kind that is decoded here, or breaks a rule.
    ///
    /// # Panics
    /// When there are not as many planes and eighths as components, or eighths are not 1 to 8.
    pub fn planes(
        &mut self,
        body: &[u8],
        frame: &Frame,
        eighths: &[usize],
        planes: &mut [Plane],
    ) -> Result<()> {
        assert!(eighths.len() == frame.components.len() && planes.len() == eighths.len());
        assert!(eighths.iter().all(|eighths| (1..=8).contains(eighths)));
        for ((plane, component), &eighths) in planes.iter_mut().zip(&frame.components).zip(eighths)
        {
            (plane.width, plane.height) = component.reduced(eighths);
            plane.pixels.resize(plane.width * plane.height, 0);
        }
        self.decode(body, frame, eighths, Output::Planes(planes))
    }

    /// All coefficients of each component, block by block as whole MCUs have them, 64 of a block in rows of eight, of which
    /// the corner of `eighths` is filled.
    ///
    /// # Errors
    /// As [`Self::planes`].
    pub fn coefficients(
        &mut self,
        body: &[u8],
        frame: &Frame,
        eighths: &[usize],
    ) -> Result<Vec<Vec<i16>>> {
        let blocks = |index: usize| {
            let component = &frame.components[index];
            component.padded_across * component.padded_down
        };
        let mut coefficients: Vec<_> = (0..frame.components.len())
            .map(|index| vec![0; blocks(index) * 64])
            .collect();
        let output = Output::Coefficients(&mut coefficients);
        self.decode(body, frame, eighths, output)?;
        Ok(coefficients)
    }

    fn decode(
        &mut self,
        body: &[u8],
        frame: &Frame,
        eighths: &[usize],
        output: Output<'_>,
    ) -> Result<()> {
        self.tables.forget();
        let mut job = Job {
            frame,
            components: eighths.iter().map(|&side| Progress::new(side)).collect(),
            restart: 0,
            output,
            processor: self.processor,
        };
        let result = self.read(&mut job, body);
        self.release();
        result
    }

    /// Read all markers of `body`.
    fn read(&mut self, job: &mut Job<'_>, body: &[u8]) -> Result<()> {
        let mut markers = Markers::new(body)?;
        let mut colours = Colours::default();
        let (mut frames, mut scans) = (0, 0);
        loop {
            let (marker, segment) = markers.next_segment()?;
            match marker {
                QUANTISATION => self.tables.read_quantisers(segment)?,
                HUFFMAN => self.tables.read_codes(segment)?,
                RESTART_INTERVAL => job.restart = restart_interval(segment)?,
                JFIF | ADOBE => colours.note(marker, segment)?,
                START_OF_SCAN => {
                    scans += 1;
                    if frames == 0 || scans > MAX_SCANS || !colours.are_known(job.frame) {
                        return Err(Declined("scan"));
                    }
                    markers.position = self.read_scan(job, segment, body, markers.position)?;
                }
                END_OF_IMAGE => break,
                _ if is_frame(marker) => {
                    frames += 1;
                    if frames > 1 || Frame::parse(marker, segment)? != *job.frame {
                        return Err(Declined("frame header"));
                    }
                    self.begin(job);
                }
                _ => {}
            }
        }
        if !job.components.iter().all(Progress::is_complete) {
            return Err(Declined("image without all its scans"));
        }
        if job.frame.progressive {
            self.finish_progressive(job);
        }
        Ok(())
    }

    fn begin(&mut self, job: &Job<'_>) {
        if !job.frame.progressive {
            return;
        }
        self.stores
            .resize_with(job.frame.components.len(), Store::default);
        let components = job.frame.components.iter().zip(&job.components);
        for (store, (component, progress)) in self.stores.iter_mut().zip(components) {
            store.clear(component, progress.corner);
        }
    }

    /// Read one scan; return where the marker after it is.
    fn read_scan(
        &mut self,
        job: &mut Job<'_>,
        segment: &[u8],
        body: &[u8],
        start: usize,
    ) -> Result<usize> {
        let scan = Scan::parse(segment, job.frame)?;
        job.admit(&scan, &self.tables)?;
        let (across, down) = scan.mcus(job.frame);
        let intervals = match job.restart {
            0 => 1,
            restart => (across * down).div_ceil(restart),
        };
        let end = self.data.fill(body, start, intervals)?;
        if job.frame.progressive {
            self.progressive_scan(job, &scan)?;
        } else {
            self.sequential_scan(job, &scan)?;
        }
        Ok(end)
    }

    /// Give large buffers back, so that one huge image does not hold memory for the rest of a run.
    fn release(&mut self) {
        if self.data.bytes.capacity() + 8 * self.data.ends.capacity() > MAX_KEPT_BYTES {
            self.data = ScanData::default();
        }
        if self.stores.iter().map(Store::bytes).sum::<usize>() > MAX_KEPT_BYTES {
            self.stores.clear();
        }
    }
}

fn restart_interval(segment: &[u8]) -> Result<usize> {
    match segment {
        &[high, low] => Ok(usize::from(u16::from_be_bytes([high, low]))),
        _ => Err(Declined("restart interval")),
    }
}

impl Progress {
    fn new(side: usize) -> Self {
        Self {
            corner: Corner::new(side),
            quantisers: None,
            missing: [None; 64],
        }
    }

    /// Whether all bits of all coefficients came; libjpeg-turbo smooths images of which some did not.
    fn is_complete(&self) -> bool {
        self.missing == [Some(0); 64]
    }

    /// Note what `scan` brings, which must be what was missing.
    fn note(&mut self, scan: &Scan) -> Result<()> {
        if scan.first > 0 && self.missing[0].is_none() {
            return Err(Declined("AC coefficients before those of DC"));
        }
        let expected = (scan.before > 0).then_some(scan.before);
        for missing in &mut self.missing[scan.first..=scan.last] {
            if *missing != expected {
                return Err(Declined("order of scans"));
            }
            *missing = Some(scan.shift);
        }
        Ok(())
    }
}

impl Job<'_> {
    /// See that a scan is in its place, and that the tables it needs are there.
    fn admit(&mut self, scan: &Scan, tables: &Tables) -> Result<()> {
        let sound = if self.frame.progressive {
            scan.is_progressive()
        } else {
            (scan.first, scan.last, scan.before, scan.shift) == (0, 63, 0, 0)
        };
        if !sound {
            return Err(Declined("parameters of a scan"));
        }
        for part in &scan.parts {
            // A refinement of DC has bits alone.
            let first_of_dc = scan.first == 0 && scan.before == 0;
            let no_differences = first_of_dc && !tables.dc[part.dc].defined;
            let no_runs = scan.last > 0 && !tables.ac[part.ac].defined;
            if no_differences || no_runs {
                return Err(Declined("scan without a Huffman table"));
            }
            let progress = &mut self.components[part.component];
            progress.note(scan)?;
            if progress.quantisers.is_none() {
                let number = self.frame.components[part.component].table;
                progress.quantisers = tables.quantisers[number];
                if progress.quantisers.is_none() {
                    return Err(Declined("scan without a quantisation table"));
                }
            }
        }
        Ok(())
    }

    /// The transform of a component, from a source that has each coefficient where `offset` says.
    pub fn inverse(&self, component: usize, offset: impl Fn(usize, usize) -> usize) -> Inverse {
        let progress = &self.components[component];
        let quantisers = progress.quantisers.unwrap_or([0; 64]);
        Inverse::new(progress.corner, &quantisers, offset)
    }

    /// Take a finished row of blocks.
    pub fn take(&mut self, inverse: &Inverse, row: &Row<'_>) {
        match &mut self.output {
            Output::Planes(planes) => Strip {
                inverse,
                source: row.source,
                count: row.count,
                column: row.column,
                row: row.line,
                plane: &mut planes[row.component],
            }
            .transform(self.processor),
            Output::Coefficients(kept) => {
                let side = inverse.corner.side;
                let across = self.frame.components[row.component].padded_across;
                for block in 0..row.count {
                    let start = (row.line * across + row.column + block) * 64;
                    let target = &mut kept[row.component][start..start + 64];
                    for (place, offset) in inverse.offsets().iter().enumerate() {
                        target[place / side * 8 + place % side] = row.source[offset + block];
                    }
                }
            }
        }
    }
}

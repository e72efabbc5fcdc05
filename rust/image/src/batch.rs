//! Many images at once, on a pool of threads of its own, into one Arrow record batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{BinaryViewBuilder, Int32Builder, StringBuilder, UInt8Builder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_buffer::Buffer;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::blur::Bounds;
use crate::digest::hex_digests;
use crate::error::{Rejection, SUCCESS};
use crate::memory::{MAX_RUN_BYTES, Memory, Room};
use crate::options::Options;
use crate::scratch::with_scratch;
use crate::sniff::Format;
use crate::transform::{ForeignPixels, Transformed, transform_in, transform_pixels};

/// Columns of a result batch, as in `turbo_fetch.schema.TRANSFORMED`. Bodies that are kept as they came are not copied:
/// their `image` is null, though the outcome is success. New files lie in buffers of their own, since an array of one
/// buffer could not hold more than 2 GiB.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("outcome", DataType::UInt8, false),
        Field::new("detail", DataType::Utf8, true),
        Field::new("width", DataType::Int32, true),
        Field::new("height", DataType::Int32, true),
        Field::new("original_width", DataType::Int32, true),
        Field::new("original_height", DataType::Int32, true),
        Field::new("original_format", DataType::Utf8, true),
        Field::new("exif", DataType::Utf8, true),
        Field::new("digest", DataType::Utf8, true),
        Field::new("phash", DataType::Utf8, true),
        Field::new("image", DataType::BinaryView, true),
    ]))
});

/// New files that a run hands over, unless it is a single one. More, which takes images of hundreds of megapixels, are
/// thrown away and postponed.
const MAX_BATCH_BYTES: usize = 1 << 30;

/// Bodies whose digests one thread makes, side by side.
const HASHED_TOGETHER: usize = 32;

/// Options and threads; shared freely, since a run changes nothing in it.
#[derive(Debug)]
pub struct Transformer {
    options: Options,
    pool: ThreadPool,
    memory: Memory,
}

impl Transformer {
    /// Images that are made at once take `memory_bytes` at most together, unless it is a single one.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(
        options: Options,
        threads: usize,
        memory_bytes: u64,
    ) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("turbo-fetch-image-{index}"))
            .build()?;
        Ok(Self {
            options,
            pool,
            memory: Memory::new(memory_bytes),
        })
    }

    /// The memory that images of all runs share, from which those take theirs that the caller decodes.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Transform bodies to one record each, in the order given; at least one of them is not postponed.
    ///
    /// `boxes` are those of each image; empty when there are none in any.
    ///
    /// # Errors
    /// When Arrow refuses the columns, which do not depend on the bodies.
    pub fn run(&self, bodies: &[&[u8]], boxes: &[Vec<Bounds>]) -> Result<RecordBatch, ArrowError> {
        let items: Vec<_> = bodies.iter().zip(each_boxes(boxes)).collect();
        let rows = self.run_each(&items);
        let digests = self.digests(&rows, bodies);
        assemble(rows, digests)
    }

    /// Finish an image that the caller decoded, given its body and its pixels, to one record. It is done in the caller's
    /// thread, since those of the pool may all be waiting for the memory that it holds.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_pixels(
        &self,
        body: &[u8],
        pixels: &ForeignPixels<'_>,
        boxes: &[Bounds],
    ) -> Result<RecordBatch, ArrowError> {
        let row =
            with_scratch(|scratch| transform_pixels(&self.options, body, pixels, boxes, scratch));
        let digests = hex_digests(self.options.digest, &[body]);
        assemble(vec![row], digests)
    }

    fn run_each(&self, items: &[(&&[u8], &[Bounds])]) -> Vec<Transformed> {
        let made_bytes = AtomicUsize::new(0);
        let shared = Room::shared(&self.memory, &made_bytes);
        let each = |&(body, boxes): &(&&[u8], &[Bounds])| {
            if made_bytes.load(Ordering::Relaxed) > MAX_RUN_BYTES {
                return postponed();
            }
            let work = |room: &Room<'_>| {
                with_scratch(|scratch| transform_in(room, &self.options, (body, boxes), scratch))
            };
            let mut row = work(&shared);
            if row.result.as_ref().err() == Some(&Rejection::OutOfMemory) {
                let _all = self.memory.hold_all();
                row = work(&Room::default());
            }
            made_bytes.fetch_add(row.image_bytes(), Ordering::Relaxed);
            row
        };
        let rows: Vec<Transformed> = self
            .pool
            .install(|| items.par_iter().with_max_len(1).map(each).collect());
        within(rows, MAX_BATCH_BYTES)
    }

    /// The digests of the bodies, but for those that the caller is to bring again.
    fn digests(&self, rows: &[Transformed], bodies: &[&[u8]]) -> Vec<Option<String>> {
        let (places, final_bodies): (Vec<_>, Vec<_>) = rows
            .iter()
            .zip(bodies)
            .enumerate()
            .filter(|(_, (row, _))| !row.is_asked_for_again())
            .map(|(place, (_, body))| (place, *body))
            .unzip();
        let found: Vec<_> = self.pool.install(|| {
            final_bodies
                .par_chunks(HASHED_TOGETHER)
                .flat_map_iter(|bodies| hex_digests(self.options.digest, bodies))
                .collect()
        });
        let mut digests = vec![None; rows.len()];
        for (place, digest) in places.into_iter().zip(found) {
            digests[place] = digest;
        }
        digests
    }
}

/// The rows with those postponed whose files would bring all together over `max_bytes`; the first file always stays.
fn within(mut rows: Vec<Transformed>, max_bytes: usize) -> Vec<Transformed> {
    let mut bytes = 0;
    for row in &mut rows {
        let more = row.image_bytes();
        if bytes > 0 && bytes + more > max_bytes {
            *row = postponed();
        } else {
            bytes += more;
        }
    }
    rows
}

/// The boxes of each image, none where no list is given.
fn each_boxes(boxes: &[Vec<Bounds>]) -> impl Iterator<Item = &[Bounds]> {
    boxes
        .iter()
        .map(Vec::as_slice)
        .chain(std::iter::repeat(&[][..]))
}

/// An image that the caller is to bring again.
fn postponed() -> Transformed {
    Transformed {
        result: Err(Rejection::Postponed),
        original_size: None,
        original_format: None,
        exif: None,
        phash: None,
    }
}

fn assemble(
    rows: Vec<Transformed>,
    digests: Vec<Option<String>>,
) -> Result<RecordBatch, ArrowError> {
    let mut outcome = UInt8Builder::with_capacity(rows.len());
    let mut detail = StringBuilder::new();
    let mut sides: [Int32Builder; 4] = Default::default();
    let mut format = StringBuilder::new();
    let mut exif = StringBuilder::new();
    let mut phash = StringBuilder::new();
    let mut image = BinaryViewBuilder::with_capacity(rows.len());
    for row in rows {
        let failure = row.result.as_ref().err();
        outcome.append_value(failure.map_or(SUCCESS, Rejection::number));
        detail.append_option(failure.map(ToString::to_string));
        let size = row.result.as_ref().ok().map(|output| output.size);
        for (builder, side) in sides.iter_mut().zip([
            size.map(|size| size.width),
            size.map(|size| size.height),
            row.original_size.map(|size| size.width),
            row.original_size.map(|size| size.height),
        ]) {
            builder.append_option(side.map(|pixels| i32::try_from(pixels).unwrap_or(i32::MAX)));
        }
        format.append_option(row.original_format.map(Format::name));
        exif.append_option(row.exif.as_deref());
        phash.append_option(row.phash.map(|hash| format!("{hash:016x}")));
        match row.result.ok().and_then(|output| output.image) {
            Some(file) => {
                let length = file.len() as u32;
                let block = image.append_block(Buffer::from_vec(file));
                image.try_append_view(block, 0, length)?;
            }
            None => image.append_null(),
        }
    }
    let [
        mut width,
        mut height,
        mut original_width,
        mut original_height,
    ] = sides;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(outcome.finish()),
        Arc::new(detail.finish()),
        Arc::new(width.finish()),
        Arc::new(height.finish()),
        Arc::new(original_width.finish()),
        Arc::new(original_height.finish()),
        Arc::new(format.finish()),
        Arc::new(exif.finish()),
        Arc::new(StringArray::from(digests)),
        Arc::new(phash.finish()),
        Arc::new(image.finish()),
    ];
    RecordBatch::try_new(SCHEMA.clone(), columns)
}

#[cfg(test)]
mod tests {
    use arrow_array::BinaryViewArray;

    use super::*;
    use crate::geometry::Size;
    use crate::transform::Output;

    fn row(bytes: usize) -> Transformed {
        Transformed {
            result: Ok(Output {
                image: Some(vec![7; bytes]),
                size: Size::new(1, 1),
                phash: None,
            }),
            ..postponed()
        }
    }

    fn lengths(rows: &[Transformed]) -> Vec<usize> {
        rows.iter().map(Transformed::image_bytes).collect()
    }

    #[test]
    fn files_beyond_the_limit_are_postponed_and_one_always_stays() {
        let kept = within([3, 4, 4, 3].map(row).into(), 10);
        assert_eq!(lengths(&kept), [3, 4, 0, 3]);
        assert_eq!(kept[2].result.as_ref().err(), Some(&Rejection::Postponed));
        assert_eq!(lengths(&within([11, 1].map(row).into(), 10)), [11, 0]);
    }

    #[test]
    fn files_of_any_length_come_out_as_they_went_in() {
        let batch = assemble([0, 1, 12, 13, 100_000].map(row).into(), vec![None; 5]).unwrap();
        let images = batch.column_by_name("image").unwrap().clone();
        let images = images.as_any().downcast_ref::<BinaryViewArray>().unwrap();
        let found: Vec<_> = images.iter().map(|file| file.unwrap().to_vec()).collect();
        assert_eq!(found, [0, 1, 12, 13, 100_000].map(|bytes| vec![7; bytes]));
    }
}

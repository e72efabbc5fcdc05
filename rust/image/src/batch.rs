//! Many images at once, on a pool of threads of its own, into one Arrow record batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::builder::{BinaryViewBuilder, Int32Builder, StringBuilder, UInt8Builder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_buffer::Buffer;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::blur::Bounds;
use crate::digest::hex_digests;
use crate::error::{Rejection, SUCCESS};
use crate::geometry::Size;
use crate::memory::{MAX_RUN_BYTES, Memory, Room};
use crate::options::Options;
use crate::scratch::with_scratch;
use crate::sniff::Format;
use crate::transform::{ForeignPixels, Image, Transformed, transform_in, transform_pixels};

/// Columns of a result batch, as `transformed_schema` in `turbo_fetch.arrow.schemas` has them: with `more` sizes, each
/// has columns of its own after those of the main one. Bodies that are kept as they came are not copied: their `image` is
/// null, though the outcome is success. New files lie in buffers of their own, since an array of one buffer could not hold
/// more than 2 GiB.
#[must_use]
pub fn schema(more: &[Size]) -> Schema {
    let mut fields = vec![
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
    ];
    for size in more {
        fields.push(Field::new(format!("width_{size}"), DataType::Int32, true));
        fields.push(Field::new(format!("height_{size}"), DataType::Int32, true));
        fields.push(Field::new(
            format!("image_{size}"),
            DataType::BinaryView,
            true,
        ));
    }
    Schema::new(fields)
}

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
        assemble(&self.options.more_sizes, rows, digests)
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
        assemble(&self.options.more_sizes, vec![row], digests)
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

/// The columns of one size of the images.
#[derive(Default)]
struct Columns {
    width: Int32Builder,
    height: Int32Builder,
    file: BinaryViewBuilder,
}

impl Columns {
    /// Append an image, whose bytes are handed over; nothing for a row that has none.
    fn append(&mut self, image: Option<Image>) -> Result<(), ArrowError> {
        self.width
            .append_option(image.as_ref().map(|image| pixels(image.size.width)));
        self.height
            .append_option(image.as_ref().map(|image| pixels(image.size.height)));
        let Some(file) = image.and_then(|image| image.file) else {
            self.file.append_null();
            return Ok(());
        };
        let length = file.len() as u32;
        let block = self.file.append_block(Buffer::from_vec(file));
        self.file.try_append_view(block, 0, length)
    }

    fn finish(&mut self) -> [ArrayRef; 3] {
        [
            Arc::new(self.width.finish()),
            Arc::new(self.height.finish()),
            Arc::new(self.file.finish()),
        ]
    }
}

fn pixels(side: u32) -> i32 {
    i32::try_from(side).unwrap_or(i32::MAX)
}

fn assemble(
    more: &[Size],
    rows: Vec<Transformed>,
    digests: Vec<Option<String>>,
) -> Result<RecordBatch, ArrowError> {
    let mut outcome = UInt8Builder::with_capacity(rows.len());
    let mut detail = StringBuilder::new();
    let mut original_width = Int32Builder::new();
    let mut original_height = Int32Builder::new();
    let mut format = StringBuilder::new();
    let mut exif = StringBuilder::new();
    let mut phash = StringBuilder::new();
    let mut main = Columns::default();
    let mut further: Vec<Columns> = more.iter().map(|_| Columns::default()).collect();
    for row in rows {
        let failure = row.result.as_ref().err();
        outcome.append_value(failure.map_or(SUCCESS, Rejection::number));
        detail.append_option(failure.map(ToString::to_string));
        original_width.append_option(row.original_size.map(|size| pixels(size.width)));
        original_height.append_option(row.original_size.map(|size| pixels(size.height)));
        format.append_option(row.original_format.map(Format::name));
        exif.append_option(row.exif.as_deref());
        phash.append_option(row.phash.map(|hash| format!("{hash:016x}")));
        let mut images = row
            .result
            .map_or_else(|_| Vec::new(), |output| output.images)
            .into_iter();
        for columns in [&mut main].into_iter().chain(&mut further) {
            columns.append(images.next())?;
        }
    }
    let [width, height, image] = main.finish();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(outcome.finish()),
        Arc::new(detail.finish()),
        width,
        height,
        Arc::new(original_width.finish()),
        Arc::new(original_height.finish()),
        Arc::new(format.finish()),
        Arc::new(exif.finish()),
        Arc::new(StringArray::from(digests)),
        Arc::new(phash.finish()),
        image,
    ];
    columns.extend(further.iter_mut().flat_map(Columns::finish));
    RecordBatch::try_new(Arc::new(schema(more)), columns)
}

#[cfg(test)]
mod tests {
    use arrow_array::BinaryViewArray;

    use super::*;
    use crate::transform::Output;

    fn row(bytes: usize) -> Transformed {
        Transformed {
            result: Ok(Output {
                images: vec![Image {
                    file: Some(vec![7; bytes]),
                    size: Size::new(1, 1),
                }],
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
        let rows = [0, 1, 12, 13, 100_000].map(row).into();
        let batch = assemble(&[], rows, vec![None; 5]).unwrap();
        let images = batch.column_by_name("image").unwrap().clone();
        let images = images.as_any().downcast_ref::<BinaryViewArray>().unwrap();
        let found: Vec<_> = images.iter().map(|file| file.unwrap().to_vec()).collect();
        assert_eq!(found, [0, 1, 12, 13, 100_000].map(|bytes| vec![7; bytes]));
    }
}

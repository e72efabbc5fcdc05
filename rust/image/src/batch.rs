//! Many pictures at once, on a pool of threads of its own, into one Arrow record batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{BinaryBuilder, Int32Builder, StringBuilder, UInt8Builder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::blur::Bounds;
use crate::error::{Rejection, SUCCESS};
use crate::options::Options;
use crate::scratch::with_scratch;
use crate::sniff::Format;
use crate::transform::{ForeignPixels, Transformed, transform, transform_pixels};

/// Columns of a result batch, as in `turbo_fetch.schema.TRANSFORMED`. Bodies that are kept as they came are not copied:
/// their `image` is null, though the outcome is success.
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
        Field::new("image", DataType::Binary, true),
    ]))
});

/// Options and threads; shared freely, since a run changes nothing in it.
#[derive(Debug)]
pub struct Transformer {
    options: Options,
    pool: ThreadPool,
}

impl Transformer {
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(options: Options, threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("turbo-fetch-image-{index}"))
            .build()?;
        Ok(Self { options, pool })
    }

    /// Transform bodies to one record each, in the order given.
    ///
    /// `boxes` are those to blur in each picture; empty when there are none in any.
    ///
    /// # Errors
    /// When the images of the batch exceed what one Arrow array holds, 2 GiB.
    pub fn run(&self, bodies: &[&[u8]], boxes: &[Vec<Bounds>]) -> Result<RecordBatch, ArrowError> {
        let items: Vec<_> = bodies.iter().zip(each_boxes(boxes)).collect();
        self.run_each(&items, |(body, boxes)| {
            with_scratch(|scratch| transform(&self.options, body, boxes, scratch))
        })
    }

    /// Finish pictures that the caller decoded, given their bodies and their pixels, to one record each.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_pixels(
        &self,
        pictures: &[(&[u8], ForeignPixels<'_>)],
        boxes: &[Vec<Bounds>],
    ) -> Result<RecordBatch, ArrowError> {
        let items: Vec<_> = pictures.iter().zip(each_boxes(boxes)).collect();
        self.run_each(&items, |((body, pixels), boxes)| {
            with_scratch(|scratch| transform_pixels(&self.options, body, pixels, boxes, scratch))
        })
    }

    fn run_each<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Transformed + Sync,
    ) -> Result<RecordBatch, ArrowError> {
        let guarded =
            |item: &T| catch_unwind(AssertUnwindSafe(|| work(item))).unwrap_or_else(|_| crashed());
        let rows: Vec<Transformed> = self
            .pool
            .install(|| items.par_iter().with_max_len(1).map(guarded).collect());
        assemble(&rows)
    }
}

/// The boxes of each picture, none where no list is given.
fn each_boxes(boxes: &[Vec<Bounds>]) -> impl Iterator<Item = &[Bounds]> {
    boxes
        .iter()
        .map(Vec::as_slice)
        .chain(std::iter::repeat(&[][..]))
}

/// A decoder that panics has met a body that no sound file resembles.
fn crashed() -> Transformed {
    Transformed {
        result: Err(Rejection::corrupt("decoder gave up")),
        original_size: None,
        original_format: None,
        exif: None,
        digest: None,
        phash: None,
    }
}

fn assemble(rows: &[Transformed]) -> Result<RecordBatch, ArrowError> {
    let image_bytes = rows
        .iter()
        .filter_map(|row| row.result.as_ref().ok()?.image.as_ref())
        .map(Vec::len)
        .sum();
    let mut outcome = UInt8Builder::with_capacity(rows.len());
    let mut detail = StringBuilder::new();
    let mut sides: [Int32Builder; 4] = Default::default();
    let mut format = StringBuilder::new();
    let mut exif = StringBuilder::new();
    let mut digest = StringBuilder::new();
    let mut phash = StringBuilder::new();
    let mut image = BinaryBuilder::with_capacity(rows.len(), image_bytes);
    for row in rows {
        let output = row.result.as_ref().ok();
        outcome.append_value(row.result.as_ref().err().map_or(SUCCESS, Rejection::number));
        detail.append_option(row.result.as_ref().err().map(ToString::to_string));
        let size = output.map(|output| output.size);
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
        digest.append_option(row.digest.as_deref());
        phash.append_option(row.phash.map(|hash| format!("{hash:016x}")));
        image.append_option(output.and_then(|output| output.image.as_ref()));
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
        Arc::new(digest.finish()),
        Arc::new(phash.finish()),
        Arc::new(image.finish()),
    ];
    RecordBatch::try_new(SCHEMA.clone(), columns)
}

//! Batches of images: bytes in, one Arrow record batch out, the GIL released in between.

use crate::memory::{Memory, slices};
use crate::seam::{detached, guarded};
use arrow_array::RecordBatch;
use arrow_pyarrow::PyArrowType;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use turbo_fetch_image::batch::Transformer as ImageTransformer;
use turbo_fetch_image::blur::Bounds;
use turbo_fetch_image::digest;
use turbo_fetch_image::geometry::Size;
use turbo_fetch_image::options::{Limits, Options, UnknownChoice};
use turbo_fetch_image::transform::ForeignPixels;

/// Options and a pool of threads; immutable, and safe to use from several Python threads at once.
#[pyclass(frozen, module = "turbo_fetch._native")]
struct Transformer(ImageTransformer);

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err asks for"
)]
fn unknown(error: UnknownChoice) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymethods]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments are converted from Python objects and owned by the call"
)]
impl Transformer {
    #[new]
    #[pyo3(signature = (*, width, height, more_sizes, mode, only_if_bigger, downscale, upscale, encode, quality, skip_reencode,
        min_side, max_pixels, max_aspect, digest, exif, phash, crop, threads, memory_bytes))]
    #[expect(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "keyword arguments, one per option of the spec"
    )]
    fn new(
        width: u32,
        height: u32,
        more_sizes: Vec<(u32, u32)>,
        mode: &str,
        only_if_bigger: bool,
        downscale: &str,
        upscale: &str,
        encode: &str,
        quality: u8,
        skip_reencode: bool,
        min_side: u32,
        max_pixels: u64,
        max_aspect: f64,
        digest: &str,
        exif: bool,
        phash: bool,
        crop: bool,
        threads: usize,
        memory_bytes: u64,
    ) -> PyResult<Self> {
        let options = Options {
            width,
            height,
            more_sizes: more_sizes
                .into_iter()
                .map(|(width, height)| Size::new(width, height))
                .collect(),
            mode: mode.parse().map_err(unknown)?,
            only_if_bigger,
            downscale: downscale.parse().map_err(unknown)?,
            upscale: upscale.parse().map_err(unknown)?,
            encode: encode.parse().map_err(unknown)?,
            quality,
            skip_reencode,
            limits: Limits {
                min_side,
                max_pixels,
                max_aspect,
            },
            digest: digest.parse().map_err(unknown)?,
            exif,
            phash,
            crop,
        };
        let transformer = guarded(|| ImageTransformer::new(options, threads, memory_bytes))?
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self(transformer))
    }

    /// Transform bodies to one record each, in the order given; at least one of them is not postponed.
    #[pyo3(signature = (bodies, boxes=Vec::new()))]
    fn run(
        &self,
        py: Python<'_>,
        bodies: Vec<Memory>,
        boxes: Vec<Vec<Bounds>>,
    ) -> PyResult<PyArrowType<RecordBatch>> {
        detached(py, || self.0.run(&slices(&bodies), &boxes))?
            .map(PyArrowType)
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// Finish an image that the caller decoded: its body, its samples, and their (width, height, layout, bits).
    #[pyo3(signature = (body, samples, shape, boxes=Vec::new()))]
    fn run_pixels(
        &self,
        py: Python<'_>,
        body: Memory,
        samples: Memory,
        shape: (u32, u32, &str, u8),
        boxes: Vec<Bounds>,
    ) -> PyResult<PyArrowType<RecordBatch>> {
        let (width, height, layout, bits) = shape;
        let layout = layout
            .parse()
            .map_err(|_| PyValueError::new_err(format!("no layout is named {layout:?}")))?;
        detached(py, || {
            let pixels = ForeignPixels {
                samples: samples.as_ref(),
                size: Size::new(width, height),
                layout,
                bits,
            };
            self.0.run_pixels(body.as_ref(), &pixels, &boxes)
        })?
        .map(PyArrowType)
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// Wait until images that are made at once leave so many bytes to one that the caller decodes.
    fn take_memory(&self, py: Python<'_>, count: u64) -> PyResult<()> {
        detached(py, || self.0.memory().take(count))
    }

    /// Give back what was taken.
    fn give_back_memory(&self, count: u64) -> PyResult<()> {
        guarded(|| self.0.memory().give_back(count))
    }
}

/// Hash each body; `kind` is md5, sha256 or sha512.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments from Python are owned"
)]
fn digests(py: Python<'_>, kind: &str, bodies: Vec<Memory>) -> PyResult<Vec<Option<String>>> {
    let kind = kind.parse().map_err(unknown)?;
    detached(py, || digest::hex_digests(kind, &slices(&bodies)))
}

/// Add the classes and functions of this file to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(digests, module)?)?;
    module.add_class::<Transformer>()
}

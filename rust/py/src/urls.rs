//! Bindings of the `urls` crate: Arrow in, Arrow out, the GIL released.

#![expect(
    clippy::needless_pass_by_value,
    reason = "arguments from Python are owned"
)]

use arrow_array::{Array, RecordBatch, make_array};
use arrow_data::ArrayData;
use arrow_pyarrow::PyArrowType;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::seam::{detached, guarded};
use turbo_fetch_urls::csv::{CsvReader as Csv, Quoting};
use turbo_fetch_urls::json::JsonArray as Json;
use turbo_fetch_urls::{address, location, parse, spread};

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("MALFORMED_MARK", address::MALFORMED_MARK)?;
    module.add_function(wrap_pyfunction!(parse_urls, module)?)?;
    module.add_function(wrap_pyfunction!(resolve_location, module)?)?;
    module.add_function(wrap_pyfunction!(spread_order, module)?)?;
    module.add_class::<CsvReader>()?;
    module.add_class::<JsonArray>()
}

#[pyfunction]
fn parse_urls(py: Python<'_>, urls: PyArrowType<ArrayData>) -> PyResult<PyArrowType<RecordBatch>> {
    let parsed = detached(py, || parse::parse_urls(&make_array(urls.0)))?;
    parsed.map(PyArrowType).map_err(value_error)
}

#[pyfunction]
fn resolve_location(base: &str, location: &[u8]) -> PyResult<Option<String>> {
    guarded(|| location::resolve(base, location))
}

#[pyfunction]
#[pyo3(name = "spread")]
fn spread_order(
    py: Python<'_>,
    domains: PyArrowType<ArrayData>,
    seed: u64,
) -> PyResult<PyArrowType<ArrayData>> {
    let order = detached(py, || spread::spread(&make_array(domains.0), seed))?;
    order
        .map(|order| PyArrowType(order.into_data()))
        .map_err(value_error)
}

#[pyclass(module = "turbo_fetch._native")]
struct CsvReader(Csv);

#[pymethods]
impl CsvReader {
    #[new]
    fn new(delimiter: char, quoting: &str) -> PyResult<Self> {
        let delimiter = u8::try_from(delimiter).map_err(value_error)?;
        let quoting = match quoting {
            "auto" => Quoting::Auto,
            "standard" => Quoting::Standard,
            "none" => Quoting::None,
            _ => return Err(value_error(format!("quoting is {quoting:?}"))),
        };
        Ok(Self(Csv::new(delimiter, quoting)))
    }

    #[pyo3(signature = (block, *, is_last))]
    fn feed(&mut self, block: &[u8], is_last: bool) -> PyResult<()> {
        guarded(|| self.0.feed(block, is_last))
    }

    fn header(&mut self) -> PyResult<Option<Vec<String>>> {
        guarded(|| self.0.header())?.map_err(value_error)
    }

    fn take_notes(&mut self) -> PyResult<Vec<(&'static str, u64, u64)>> {
        let notes = guarded(|| self.0.take_notes())?.into_iter();
        Ok(notes
            .map(|note| (note.oddity.name(), note.rows, note.first_line))
            .collect())
    }

    fn read(
        &mut self,
        py: Python<'_>,
        columns: Vec<usize>,
        max_rows: usize,
    ) -> PyResult<PyArrowType<RecordBatch>> {
        let batch = detached(py, || self.0.read(&columns, max_rows))?;
        batch.map(PyArrowType).map_err(value_error)
    }
}

#[pyclass(module = "turbo_fetch._native")]
struct JsonArray(Json);

#[pymethods]
impl JsonArray {
    #[new]
    fn new() -> Self {
        Self(Json::default())
    }

    fn feed(&mut self, py: Python<'_>, block: &[u8]) -> PyResult<Vec<u8>> {
        detached(py, || self.0.feed(block))?.map_err(value_error)
    }

    fn finish(&self) -> PyResult<()> {
        guarded(|| self.0.finish())?.map_err(value_error)
    }
}

fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

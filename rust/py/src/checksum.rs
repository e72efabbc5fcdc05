//! Bindings of checksums that file formats need.

use pyo3::prelude::*;

use crate::seam::detached;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(crc32c, module)?)
}

#[pyfunction]
fn crc32c(py: Python<'_>, content: &[u8]) -> PyResult<u32> {
    detached(py, || turbo_fetch_image::crc32c::crc32c(content))
}

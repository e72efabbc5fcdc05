//! Placeholder registered until the logic crate has its first function.

use pyo3::prelude::*;

#[expect(clippy::unnecessary_wraps, reason = "same signature as the modules that add classes")]
pub fn register(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}

//! The seam between Python and the logic crates. This file only registers.

use pyo3::prelude::*;

mod batch;
mod files;
mod memory;
mod seam;
mod urls;

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add(
        "__profile__",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    )?;
    batch::register(module)?;
    files::register(module)?;
    urls::register(module)?;
    Ok(())
}

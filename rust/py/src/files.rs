//! Writing to files, and looking at many of them, the GIL released.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use turbo_fetch_files as files;

use crate::memory::{Memory, slices};
use crate::seam::detached;

/// The CRC-32C of the pieces, as of one message; `checksum` is that of what comes before.
#[pyfunction]
#[pyo3(signature = (pieces, checksum=0))]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments from Python are owned"
)]
fn crc32c(py: Python<'_>, pieces: Vec<Memory>, checksum: u32) -> PyResult<u32> {
    let pieces = slices(&pieces);
    detached(py, || files::crc32c(&pieces, checksum))
}

/// Write all pieces at a place in the file.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments from Python are owned"
)]
fn write_at(py: Python<'_>, descriptor: RawFd, pieces: Vec<Memory>, offset: u64) -> PyResult<()> {
    let pieces = slices(&pieces);
    detached(py, || {
        files::write_at(borrowed(descriptor), &pieces, offset)
    })?
    .map_err(|error| os_error(&error))
}

/// A file that is written from start to end and hashed on the way; the descriptor is the caller's to close.
#[pyclass(frozen, module = "turbo_fetch._native")]
struct HashedFile {
    descriptor: RawFd,
    hashed: Mutex<files::HashedFile>,
}

#[pymethods]
impl HashedFile {
    #[new]
    fn new(descriptor: RawFd) -> Self {
        Self {
            descriptor,
            hashed: Mutex::default(),
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments from Python are owned"
    )]
    fn append(&self, py: Python<'_>, pieces: Vec<Memory>) -> PyResult<()> {
        let pieces = slices(&pieces);
        detached(py, || {
            let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
            hashed.append(borrowed(self.descriptor), &pieces)
        })?
        .map_err(|error| os_error(&error))
    }

    fn hexdigest(&self) -> String {
        let hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        hashed.hex_digest()
    }
}

/// What is in a place, and which lines of its manifest that bears out.
#[pyclass(frozen, module = "turbo_fetch._native")]
#[derive(Default)]
struct Listing(Mutex<files::Listing>);

#[pymethods]
impl Listing {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments from Python are owned"
    )]
    fn add(&self, prefix: &str, entries: Vec<(PyBackedBytes, Option<u64>)>) {
        let mut listing = self.locked();
        for (name, bytes) in &entries {
            listing.add(prefix, name, *bytes);
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments from Python are owned"
    )]
    fn add_folder(&self, py: Python<'_>, folder: PathBuf, prefix: &str) -> PyResult<()> {
        detached(py, || self.locked().add_folder(&folder, prefix))?
            .map_err(|error| os_error(&error))
    }

    /// What is no name or no size is not there.
    fn has(&self, name: &Bound<'_, PyAny>, size: &Bound<'_, PyAny>) -> bool {
        let name = name.extract::<PyBackedStr>();
        name.is_ok_and(|name| self.locked().has(&name, size.extract().ok()))
    }

    fn has_record(&self, shard: &Bound<'_, PyAny>) -> bool {
        let shard = shard.extract();
        shard.is_ok_and(|shard| self.locked().has_record(shard))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments from Python are owned"
    )]
    fn shards_beside(&self, known: Vec<u64>) -> Vec<String> {
        self.locked().shards_beside(&known)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments from Python are owned"
    )]
    fn check(&self, py: Python<'_>, manifest: PathBuf) -> PyResult<Vec<Option<u64>>> {
        detached(py, || self.locked().check(&manifest))?.map_err(|error| os_error(&error))
    }
}

impl Listing {
    fn locked(&self) -> MutexGuard<'_, files::Listing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(unsafe_code, reason = "Python's descriptors are plain numbers")]
fn borrowed<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    // SAFETY: used for the length of a call, in which the caller keeps it open. One that is closed all the same, or is none
    // at all, is an error that the system reports; -1 alone is not a value that may be borrowed.
    unsafe { BorrowedFd::borrow_raw(descriptor.max(0)) }
}

/// An `OSError` with its number, by which Python tells the kinds apart; `PyO3`'s own has none.
fn os_error(error: &io::Error) -> PyErr {
    let text = error.to_string();
    let plain = text
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned();
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, plain)),
        None => PyOSError::new_err(plain),
    }
}

/// Add the classes and functions of this file to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(crc32c, module)?)?;
    module.add_function(wrap_pyfunction!(write_at, module)?)?;
    module.add_class::<HashedFile>()?;
    module.add_class::<Listing>()
}

//! Memory of Python's objects, as it lies: `bytes`, `bytearray`, and views of them and of mapped files.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

/// The memory of an object, which stays where it is meanwhile. Whoever hands it over leaves it unchanged until the call
/// ends.
pub struct Memory(PyUntypedBuffer);

impl<'py> FromPyObject<'_, 'py> for Memory {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(&object)?;
        if buffer.is_c_contiguous() {
            Ok(Self(buffer))
        } else {
            Err(PyBufferError::new_err("the memory is not contiguous"))
        }
    }
}

impl AsRef<[u8]> for Memory {
    #[expect(unsafe_code, reason = "the buffer protocol hands out a pointer")]
    fn as_ref(&self) -> &[u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous, its object keeps it in place until it is released, which is when `self` is
        // dropped, and the contract of this type is that nobody changes it before.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast(), self.0.len_bytes()) }
    }
}

/// The bytes of each.
pub fn slices(memory: &[Memory]) -> Vec<&[u8]> {
    memory.iter().map(AsRef::as_ref).collect()
}

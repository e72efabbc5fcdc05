//! What a thread keeps from one picture to the next: codec state, resampling tables, buffers, colour transforms.

use std::cell::RefCell;

use fast_image_resize::Resizer;

use crate::colour::Profiles;
use crate::raster::Buffers;
use crate::turbojpeg::{Compressor, Decompressor, Failure};

/// Reusable state of one thread. Nothing in it changes a result.
#[derive(Debug, Default)]
pub struct Scratch {
    pub buffers: Buffers,
    pub resizer: Resizer,
    pub profiles: Profiles,
    decompressor: Option<Decompressor>,
    compressor: Option<Compressor>,
}

impl Scratch {
    /// The thread's JPEG decompressor.
    ///
    /// # Errors
    /// When memory is out.
    pub fn decompressor(&mut self) -> Result<&mut Decompressor, Failure> {
        if self.decompressor.is_none() {
            self.decompressor = Some(Decompressor::new()?);
        }
        self.decompressor.as_mut().ok_or_else(out_of_memory)
    }

    /// The thread's JPEG compressor.
    ///
    /// # Errors
    /// When memory is out.
    pub fn compressor(&mut self) -> Result<&mut Compressor, Failure> {
        if self.compressor.is_none() {
            self.compressor = Some(Compressor::new()?);
        }
        self.compressor.as_mut().ok_or_else(out_of_memory)
    }
}

fn out_of_memory() -> Failure {
    Failure {
        is_warning: false,
        message: "out of memory".to_owned(),
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lend the thread's scratch to `work`. A panic in `work` drops the scratch, whose state it may have broken.
pub fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take();
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}

//! What a thread keeps from one image to the next: resampling tables, buffers, colour transforms. Codecs of libraries keep
//! nothing.

use std::cell::RefCell;

use turbo_fetch_jpeg::Decoder;

use crate::colour::Profiles;
use crate::convolution::Convolution;
use crate::raster::Buffers;

/// Reusable memory of one thread. Nothing in it changes a result.
#[derive(Debug, Default)]
pub struct Scratch {
    pub buffers: Buffers,
    /// Room for the file that is encoded.
    pub file: Vec<u8>,
    pub jpeg: Decoder,
    pub convolution: Convolution,
    pub profiles: Profiles,
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

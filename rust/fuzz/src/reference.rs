//! What libjpeg-turbo makes of a JPEG file, and JPEG files of every layout that it writes.
#![expect(
    unsafe_code,
    reason = "the library is C; each call states why its pointers are good"
)]

use std::ffi::{c_int, c_long, c_uchar};

// Links the library, whose other interface these calls use.
use turbojpeg_sys as _;

unsafe extern "C" {
    fn reference_coefficients(
        body: *const c_uchar,
        length: usize,
        target: *mut i16,
        room: c_long,
        warnings: *mut c_int,
    ) -> c_long;
    fn reference_planes(
        body: *const c_uchar,
        length: usize,
        target: *mut c_uchar,
        room: c_long,
    ) -> c_long;
    fn reference_encode(
        layout: *const Layout,
        pixels: *const c_uchar,
        target: *mut c_uchar,
        room: c_long,
    ) -> c_long;
}

/// Most scans of a file.
const MAX_SCANS: usize = 100;

/// How a file is written.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Layout {
    pub width: c_int,
    pub height: c_int,
    pub components: c_int,
    /// Luma samples per chroma sample.
    pub across: c_int,
    pub down: c_int,
    pub quality: c_int,
    pub restart: c_int,
    pub optimise: c_int,
    scans: c_int,
    script: [[c_int; 5]; MAX_SCANS],
}

impl Layout {
    /// A small image in one scan of all its components.
    pub fn new(width: c_int, height: c_int, components: c_int) -> Self {
        Self {
            width,
            height,
            components,
            across: 1,
            down: 1,
            quality: 75,
            restart: 0,
            optimise: 0,
            scans: 0,
            script: [[0; 5]; MAX_SCANS],
        }
    }

    /// Scans in order: a component or -1 for all, then Ss, Se, Ah and Al.
    pub fn set_script(&mut self, scans: &[[c_int; 5]]) {
        let count = scans.len().min(MAX_SCANS);
        self.scans = count as c_int;
        self.script[..count].copy_from_slice(&scans[..count]);
    }

    /// Encode interleaved pixels.
    ///
    /// # Panics
    /// When there are fewer pixels than the layout says.
    pub fn encode(&self, pixels: &[u8]) -> Option<Vec<u8>> {
        let samples = self.width as usize * self.height as usize * self.components as usize;
        assert!(pixels.len() >= samples, "fewer pixels than the layout says");
        let mut file = vec![0; samples * 8 + (64 << 10)];
        // SAFETY: the source has as many samples as the layout says, the target the length that is passed.
        let written = unsafe {
            reference_encode(
                self,
                pixels.as_ptr(),
                file.as_mut_ptr(),
                file.len() as c_long,
            )
        };
        file.truncate(usize::try_from(written).ok()?);
        Some(file)
    }
}

/// Coefficients of all components as far as they are image, and how many warnings there were; nothing after an error.
pub fn coefficients(body: &[u8], count: usize) -> Option<(Vec<i16>, i32)> {
    let mut found = vec![0; count];
    let mut warnings = 0;
    // SAFETY: both slices are passed with their lengths.
    let written = unsafe {
        reference_coefficients(
            body.as_ptr(),
            body.len(),
            found.as_mut_ptr(),
            count as c_long,
            &raw mut warnings,
        )
    };
    (usize::try_from(written).ok()? == count).then_some((found, warnings))
}

/// Planes of whole MCUs at full size, one after the other; nothing after an error.
pub fn planes(body: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut found = vec![0; bytes];
    // SAFETY: both slices are passed with their lengths.
    let written = unsafe {
        reference_planes(
            body.as_ptr(),
            body.len(),
            found.as_mut_ptr(),
            bytes as c_long,
        )
    };
    (usize::try_from(written).ok()? == bytes).then_some(found)
}

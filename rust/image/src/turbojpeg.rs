//! Safe use of libjpeg-turbo's TurboJPEG 3 interface: a handle of the library's for each image, and never for a second.
//!
//! After a fatal error a handle is in the middle of the file that caused it, where it takes the next file for the rest of
//! the first. Even a sound file leaves its tables behind, by which a file that lacks its own would be decoded. Making a
//! handle costs a thousandth of decoding a small image.
#![expect(
    unsafe_code,
    reason = "the library is C; each call states why its pointers are good"
)]

use std::ffi::{CStr, c_int};
use std::ptr;

use turbojpeg_sys as raw;

use crate::geometry::Size;

/// A failed call, or one that warned and went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The pixels were written, as far as they could be had.
    pub is_warning: bool,
    /// The library's first message.
    pub message: String,
}

impl Failure {
    /// Whether the library, or room for its file, wanted memory that there is not.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        const SAYINGS: [&str; 3] = [
            NO_MEMORY,
            "Insufficient memory",
            "Memory allocation failure",
        ];
        SAYINGS.iter().any(|text| self.message.contains(text))
    }

    fn out_of_memory() -> Self {
        Self {
            is_warning: false,
            message: NO_MEMORY.to_owned(),
        }
    }
}

const NO_MEMORY: &str = "out of memory";

/// Layout of interleaved pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    Grey,
    Rgb,
    Cmyk,
}

impl PixelFormat {
    fn code(self) -> c_int {
        match self {
            Self::Grey => raw::TJPF_TJPF_GRAY,
            Self::Rgb => raw::TJPF_TJPF_RGB,
            Self::Cmyk => raw::TJPF_TJPF_CMYK,
        }
    }

    fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// Colours as stored in the JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    Grey,
    Rgb,
    YCbCr,
    /// CMYK or YCCK.
    Cmyk,
}

/// What the header says, as the library understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    pub size: Size,
    pub colours: Colours,
    /// Luma pixels per chroma pixel across and down; nothing for layouts that cannot be had as planes.
    pub subsampling: Option<(u32, u32)>,
    pub lossless: bool,
    subsampling_code: c_int,
}

#[derive(Debug)]
struct Handle(raw::tjhandle);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle came from tj3Init and is destroyed once.
        unsafe { raw::tj3Destroy(self.0) }
    }
}

impl Handle {
    fn new(kind: raw::TJINIT) -> Result<Self, Failure> {
        // SAFETY: tj3Init takes no pointers; null is checked.
        let handle = unsafe { raw::tj3Init(kind as c_int) };
        if handle.is_null() {
            return Err(Failure::out_of_memory());
        }
        Ok(Self(handle))
    }

    fn set(&mut self, parameter: raw::TJPARAM, value: c_int) -> Result<(), Failure> {
        // SAFETY: the handle is live.
        let code = unsafe { raw::tj3Set(self.0, parameter as c_int, value) };
        self.check(code)
    }

    fn get(&self, parameter: raw::TJPARAM) -> c_int {
        // SAFETY: the handle is live.
        unsafe { raw::tj3Get(self.0, parameter as c_int) }
    }

    fn check(&self, code: c_int) -> Result<(), Failure> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the handle is live; the string is the handle's own and is copied before the next call.
        let (message, kind) = unsafe {
            (
                CStr::from_ptr(raw::tj3GetErrorStr(self.0)),
                raw::tj3GetErrorCode(self.0),
            )
        };
        let is_warning = kind == raw::TJERR_TJERR_WARNING as c_int;
        Err(Failure {
            is_warning,
            message: message.to_string_lossy().into_owned(),
        })
    }
}

/// One JPEG file whose header was read.
#[derive(Debug)]
pub struct Jpeg<'a> {
    handle: Handle,
    body: &'a [u8],
    info: Info,
}

/// Largest number of progressive scans; real images have about ten, and each costs a pass over the image.
const MAX_SCANS: c_int = 100;

impl<'a> Jpeg<'a> {
    /// Read the header of `body`.
    ///
    /// # Errors
    /// When the header is broken or a variant that the library cannot read, or memory is out.
    pub fn open(body: &'a [u8]) -> Result<Self, Failure> {
        let mut handle = Handle::new(raw::TJINIT_TJINIT_DECOMPRESS)?;
        handle.set(raw::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS)?;
        handle.set(raw::TJPARAM_TJPARAM_SAVEMARKERS, 0)?;
        // SAFETY: pointer and length are of one live slice.
        let code =
            unsafe { raw::tj3DecompressHeader(handle.0, body.as_ptr(), body.len() as raw::size_t) };
        let result = handle.check(code);
        let colours = handle.get(raw::TJPARAM_TJPARAM_COLORSPACE);
        let (width, height) = (
            handle.get(raw::TJPARAM_TJPARAM_JPEGWIDTH),
            handle.get(raw::TJPARAM_TJPARAM_JPEGHEIGHT),
        );
        // A fatal error after a warning is reported as a warning, but leaves the properties as they are in a new handle.
        if width < 1 || height < 1 || colours < 0 {
            return Err(Failure {
                is_warning: false,
                message: result
                    .err()
                    .map_or("JPEG without a scan".to_owned(), |failure| failure.message),
            });
        }
        let subsampling_code = handle.get(raw::TJPARAM_TJPARAM_SUBSAMP);
        let info = Info {
            size: Size::new(width.unsigned_abs(), height.unsigned_abs()),
            colours: match colours {
                code if code == raw::TJCS_TJCS_GRAY as c_int => Colours::Grey,
                code if code == raw::TJCS_TJCS_RGB as c_int => Colours::Rgb,
                code if code == raw::TJCS_TJCS_YCbCr as c_int => Colours::YCbCr,
                _ => Colours::Cmyk,
            },
            subsampling: subsampling(subsampling_code),
            lossless: handle.get(raw::TJPARAM_TJPARAM_LOSSLESS) != 0,
            subsampling_code,
        };
        Ok(Self { handle, body, info })
    }

    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    fn scale(&mut self, denominator: u32) -> Result<(), Failure> {
        let factor = raw::tjscalingfactor {
            num: 1,
            denom: denominator as c_int,
        };
        // SAFETY: the handle is live; the factor is passed by value.
        let code = unsafe { raw::tj3SetScalingFactor(self.handle.0, factor) };
        self.handle.check(code)
    }

    /// Decode to interleaved rows in `pixels`, at 1/`denominator` of the sides rounded up. All of them are written unless
    /// the failure is more than a warning.
    ///
    /// # Errors
    /// Failures and warnings of the library.
    ///
    /// # Panics
    /// When `pixels` is shorter than the image.
    pub fn read(
        mut self,
        denominator: u32,
        format: PixelFormat,
        pixels: &mut [u8],
    ) -> Result<(), Failure> {
        let size = reduced(self.info.size, denominator);
        let pitch = size.width as usize * format.channels();
        assert!(
            pixels.len() >= pitch * size.height as usize,
            "pixel buffer shorter than the image"
        );
        self.scale(denominator)?;
        // SAFETY: the source is one live slice; the library writes `height` rows of `pitch` bytes, which fit. The header
        // is read again from the same bytes by a handle that has read nothing else, so that its sides are those of `info`.
        let code = unsafe {
            raw::tj3Decompress8(
                self.handle.0,
                self.body.as_ptr(),
                self.body.len() as raw::size_t,
                pixels.as_mut_ptr(),
                pitch as c_int,
                format.code(),
            )
        };
        self.handle.check(code)
    }

    /// Decode to the planes Y, Cb and Cr without bringing chroma to the size of luma, as [`Self::read`] does to pixels.
    ///
    /// # Errors
    /// Failures and warnings of the library.
    ///
    /// # Panics
    /// When a plane is shorter than `plane_size` says.
    pub fn read_planes(mut self, denominator: u32, planes: [&mut [u8]; 3]) -> Result<(), Failure> {
        for (index, plane) in planes.iter().enumerate() {
            let size = plane_size(&self.info, denominator, index);
            assert!(
                plane.len() >= size.width as usize * size.height as usize,
                "plane buffer shorter than the plane"
            );
        }
        self.scale(denominator)?;
        let mut pointers = planes.map(<[u8]>::as_mut_ptr);
        // SAFETY: the source is one live slice; with null strides the library writes each plane at the size that
        // tj3YUVPlaneWidth and tj3YUVPlaneHeight state, which was checked above.
        let code = unsafe {
            raw::tj3DecompressToYUVPlanes8(
                self.handle.0,
                self.body.as_ptr(),
                self.body.len() as raw::size_t,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.handle.check(code)
    }
}

/// Sides at 1/`denominator`, rounded up as the library does.
#[must_use]
pub fn reduced(size: Size, denominator: u32) -> Size {
    Size::new(
        size.width.div_ceil(denominator),
        size.height.div_ceil(denominator),
    )
}

/// Size of plane `index` (0 luma, 1 and 2 chroma) of an image decoded at 1/`denominator`.
#[must_use]
pub fn plane_size(info: &Info, denominator: u32, index: usize) -> Size {
    let size = reduced(info.size, denominator);
    // SAFETY: no pointers.
    let (width, height) = unsafe {
        let (component, code) = (index as c_int, info.subsampling_code);
        (
            raw::tj3YUVPlaneWidth(component, size.width as c_int, code),
            raw::tj3YUVPlaneHeight(component, size.height as c_int, code),
        )
    };
    Size::new(width.unsigned_abs(), height.unsigned_abs())
}

fn subsampling(code: c_int) -> Option<(u32, u32)> {
    match code {
        code if code == raw::TJSAMP_TJSAMP_444 as c_int => Some((1, 1)),
        code if code == raw::TJSAMP_TJSAMP_422 as c_int => Some((2, 1)),
        code if code == raw::TJSAMP_TJSAMP_420 as c_int => Some((2, 2)),
        code if code == raw::TJSAMP_TJSAMP_440 as c_int => Some((1, 2)),
        code if code == raw::TJSAMP_TJSAMP_411 as c_int => Some((4, 1)),
        code if code == raw::TJSAMP_TJSAMP_441 as c_int => Some((1, 4)),
        _ => None,
    }
}

/// Longest side that the library encodes.
const MAX_SIDE: u32 = 65_500;
/// The library multiplies padded sides as signed integers of 32 bits.
const MAX_PIXELS: u64 = 2_100_000_000;

/// Encode interleaved rows as a baseline JPEG file, colour as 4:2:0, at `quality` 1 to 100, to the front of `output`, which
/// is grown to the largest size that the library may need; return how many bytes were written.
///
/// # Errors
/// Sides over 65,500 pixels, or more than 2.1 gigapixels.
///
/// # Panics
/// When `pixels` is shorter than the image.
pub fn write(
    size: Size,
    format: PixelFormat,
    quality: u8,
    pixels: &[u8],
    output: &mut Vec<u8>,
) -> Result<usize, Failure> {
    let pitch = size.width as usize * format.channels();
    assert!(
        pixels.len() >= pitch * size.height as usize,
        "pixel buffer shorter than the image"
    );
    let subsampling = if format == PixelFormat::Grey {
        raw::TJSAMP_TJSAMP_GRAY
    } else {
        raw::TJSAMP_TJSAMP_420
    };
    let handle = writer(size, subsampling, quality, output)?;
    let mut target = output.as_mut_ptr();
    let mut written = output.len() as raw::size_t;
    // SAFETY: the source holds `height` rows of `pitch` bytes; NOREALLOC keeps the library inside the target, whose
    // length it is told.
    let code = unsafe {
        raw::tj3Compress8(
            handle.0,
            pixels.as_ptr(),
            size.width as c_int,
            pitch as c_int,
            size.height as c_int,
            format.code(),
            &raw mut target,
            &raw mut written,
        )
    };
    handle.check(code)?;
    Ok(written as usize)
}

/// Encode the planes Y, Cb and Cr of 4:2:0, whose luma is as wide and high as whole chroma samples are, as [`write`] does
/// pixels.
///
/// # Errors
/// As [`write`].
///
/// # Panics
/// When a plane is shorter than the image.
pub fn write_planes(
    size: Size,
    quality: u8,
    planes: [&[u8]; 3],
    output: &mut Vec<u8>,
) -> Result<usize, Failure> {
    let halves = size.width.div_ceil(2) as usize * size.height.div_ceil(2) as usize;
    assert!(
        planes[0].len() >= 4 * halves && planes[1..].iter().all(|plane| plane.len() >= halves),
        "plane buffer shorter than the image"
    );
    let handle = writer(size, raw::TJSAMP_TJSAMP_420, quality, output)?;
    let mut target = output.as_mut_ptr();
    let mut written = output.len() as raw::size_t;
    let sources = planes.map(<[u8]>::as_ptr);
    // SAFETY: with null strides the library reads planes of the sizes that were checked above; the target is as in `write`.
    let code = unsafe {
        raw::tj3CompressFromYUVPlanes8(
            handle.0,
            sources.as_ptr(),
            size.width as c_int,
            ptr::null(),
            size.height as c_int,
            &raw mut target,
            &raw mut written,
        )
    };
    handle.check(code)?;
    Ok(written as usize)
}

/// A handle for one image, and room for its file in `output`.
fn writer(
    size: Size,
    subsampling: raw::TJSAMP,
    quality: u8,
    output: &mut Vec<u8>,
) -> Result<Handle, Failure> {
    let area = u64::from(size.width) * u64::from(size.height);
    // From there on the library's own arithmetic on sizes overflows.
    if size.width.max(size.height) > MAX_SIDE || area > MAX_PIXELS {
        return Err(Failure {
            is_warning: false,
            message: "image too large".to_owned(),
        });
    }
    let mut handle = Handle::new(raw::TJINIT_TJINIT_COMPRESS)?;
    handle.set(raw::TJPARAM_TJPARAM_NOREALLOC, 1)?;
    handle.set(raw::TJPARAM_TJPARAM_SUBSAMP, subsampling as c_int)?;
    handle.set(raw::TJPARAM_TJPARAM_QUALITY, quality.into())?;
    // SAFETY: no pointers.
    let bound = unsafe {
        let (width, height) = (size.width as c_int, size.height as c_int);
        raw::tj3JPEGBufSize(width, height, subsampling as c_int)
    } as usize;
    if output.len() < bound {
        let missing = bound - output.len();
        output
            .try_reserve_exact(missing)
            .map_err(|_| Failure::out_of_memory())?;
        output.resize(bound, 0);
    }
    Ok(handle)
}

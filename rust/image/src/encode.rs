//! From pixels to the bytes of a file.
#![expect(
    unsafe_code,
    reason = "libwebp is C; each call states why its pointers are good"
)]

use libwebp_sys as raw;

use crate::error::Rejection;
use crate::footprint::encoder_bytes_per_pixel;
use crate::memory::can_be_had;
use crate::options::Encoding;
use crate::planar::Halved;
use crate::raster::{MAX_KEPT_BYTES, Model, Raster};
use crate::scratch::Scratch;
use crate::turbojpeg::{self, PixelFormat};

/// Encode a grey or RGB image; `quality` is as `ImageSpec.quality` says for the format.
///
/// # Errors
/// `Unsupported` when a side is longer than the format allows, or the file longer than an Arrow array does.
pub fn encode(
    raster: &Raster,
    encoding: Encoding,
    quality: u8,
    scratch: &mut Scratch,
) -> Result<Vec<u8>, Rejection> {
    let file = match encoding {
        Encoding::Png => png(raster, quality),
        Encoding::Webp => webp(raster, quality),
        Encoding::Jpeg | Encoding::Original => jpeg(raster, quality, scratch),
    }?;
    checked(file)
}

fn checked(file: Vec<u8>) -> Result<Vec<u8>, Rejection> {
    if file.len() > MAX_FILE_BYTES {
        return Err(Rejection::Unsupported("image whose file is over 2 GiB"));
    }
    Ok(file)
}

/// Longest file that an Arrow array can refer to.
const MAX_FILE_BYTES: usize = i32::MAX as usize;

/// Encode planes as a JPEG file.
///
/// # Errors
/// As [`encode`].
pub fn encode_planes(
    picture: &Halved,
    quality: u8,
    scratch: &mut Scratch,
) -> Result<Vec<u8>, Rejection> {
    let planes = picture.planes.each_ref().map(Vec::as_slice);
    checked(jpeg_file(scratch, |room| {
        turbojpeg::write_planes(picture.size, quality, planes, room)
    })?)
}

/// What `write` puts to the front of the thread's room for a file, whose rest is of files before and is not cleared.
fn jpeg_file(
    scratch: &mut Scratch,
    write: impl FnOnce(&mut Vec<u8>) -> Result<usize, turbojpeg::Failure>,
) -> Result<Vec<u8>, Rejection> {
    let room = &mut scratch.file;
    let written = write(room).map_err(|failure| {
        if failure.is_out_of_memory() {
            return Rejection::OutOfMemory;
        }
        Rejection::Unsupported("side too long for jpg")
    })?;
    let file = room[..written].to_vec();
    if room.len() > MAX_KEPT_BYTES {
        *room = Vec::new();
    }
    Ok(file)
}

fn jpeg(raster: &Raster, quality: u8, scratch: &mut Scratch) -> Result<Vec<u8>, Rejection> {
    let format = if raster.model == Model::Grey {
        PixelFormat::Grey
    } else {
        PixelFormat::Rgb
    };
    jpeg_file(scratch, |room| {
        turbojpeg::write(raster.size, format, quality, &raster.pixels, room)
    })
}

fn png(raster: &Raster, level: u8) -> Result<Vec<u8>, Rejection> {
    let failed = |_| Rejection::Unsupported("image too large for png");
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, raster.size.width, raster.size.height);
    encoder.set_color(if raster.model == Model::Grey {
        png::ColorType::Grayscale
    } else {
        png::ColorType::Rgb
    });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_deflate_compression(match level {
        0 => png::DeflateCompression::NoCompression,
        level => png::DeflateCompression::Level(level),
    });
    encoder.set_filter(if level == 0 {
        png::Filter::NoFilter
    } else {
        png::Filter::Adaptive
    });
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&raster.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    file.shrink_to_fit();
    Ok(file)
}

/// Quality from which WebP is lossless.
pub const LOSSLESS: u8 = 100;

/// Longest side of a WebP image (RFC 9649, 2.5).
const MAX_WEBP_SIDE: u32 = 16_383;

fn webp(raster: &Raster, quality: u8) -> Result<Vec<u8>, Rejection> {
    if raster.size.width.max(raster.size.height) > MAX_WEBP_SIDE {
        return Err(Rejection::Unsupported("side too long for webp"));
    }
    let expanded: Vec<u8>;
    let pixels = if raster.model == Model::Grey {
        expanded = raster.pixels.iter().flat_map(|&level| [level; 3]).collect();
        &expanded
    } else {
        &raster.pixels
    };
    let (width, height) = (raster.size.width as i32, raster.size.height as i32);
    assert!(
        pixels.len() >= raster.size.width as usize * raster.size.height as usize * 3,
        "pixel buffer too short"
    );
    let mut output = std::ptr::null_mut();
    // SAFETY: the source holds `height` rows of `width` pixels of three bytes; the library sets `output` to memory of
    // the length it returns, or to null with length zero, and WebPFree takes either.
    let file = unsafe {
        let (source, stride) = (pixels.as_ptr(), width * 3);
        let length = if quality >= LOSSLESS {
            raw::WebPEncodeLosslessRGB(source, width, height, stride, &raw mut output)
        } else {
            raw::WebPEncodeRGB(
                source,
                width,
                height,
                stride,
                quality.into(),
                &raw mut output,
            )
        };
        let file = if length == 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts(output, length).to_vec()
        };
        raw::WebPFree(output.cast());
        file
    };
    if file.is_empty() {
        if !can_be_had(encoder_bytes_per_pixel(Encoding::Webp, quality) * raster.size.pixels()) {
            return Err(Rejection::OutOfMemory);
        }
        Err(Rejection::Unsupported("image too large for webp"))
    } else {
        Ok(file)
    }
}

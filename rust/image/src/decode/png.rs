//! PNG through the `png` crate; the default image of an animation, 16 bits scaled to 8.

use std::io::{Cursor, ErrorKind};

use png::{BitDepth, ColorType, DecodingError, Transformations};

use super::{Decoded, flatten};
use crate::error::Rejection;
use crate::header::Header;
use crate::raster::{Model, Picture, Raster};
use crate::scratch::Scratch;

/// Decode a PNG.
///
/// # Errors
/// See [`super::decode`].
pub fn decode(
    header: &Header<'_>,
    body: &[u8],
    scratch: &mut Scratch,
) -> Result<Decoded, Rejection> {
    let mut decoder = png::Decoder::new(Cursor::new(body));
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(|error| judge(&error))?;
    if reader.info().color_type == ColorType::Indexed
        && !reader.info().palette.as_deref().is_some_and(is_palette)
    {
        return Err(Rejection::corrupt("PNG palette is broken"));
    }
    let (color, depth) = reader.output_color_type();
    let (model, alpha) = match color {
        ColorType::Grayscale => (Model::Grey, false),
        ColorType::GrayscaleAlpha => (Model::Grey, true),
        ColorType::Rgba => (Model::Rgb, true),
        ColorType::Rgb | ColorType::Indexed => (Model::Rgb, false),
    };
    let bytes = reader
        .output_buffer_size()
        .ok_or(Rejection::TooManyPixels)?;
    let mut samples = scratch.buffers.take(bytes);
    reader
        .next_frame(&mut samples)
        .map_err(|error| judge(&error))?;
    if depth == BitDepth::Sixteen {
        narrow(&mut samples);
    }
    let pixels = if alpha {
        let pixel_count = header.size.width as usize * header.size.height as usize;
        let mut pixels = scratch.buffers.take(pixel_count * model.channels());
        flatten(model, &samples, &mut pixels);
        scratch.buffers.recycle(samples);
        pixels
    } else {
        samples
    };
    let icc = reader
        .info()
        .icc_profile
        .as_ref()
        .map(|profile| profile.to_vec());
    Ok(Decoded {
        picture: Picture::Raster(Raster {
            size: header.size,
            model,
            pixels,
        }),
        flattened: alpha,
        icc,
    })
}

/// Whether a palette has 1 to 256 whole colours (ISO/IEC 15948, 11.2.2); libpng refuses others, and the decoder panics.
fn is_palette(bytes: &[u8]) -> bool {
    const COLOUR_BYTES: usize = 3;
    let whole = bytes.len().is_multiple_of(COLOUR_BYTES);
    whole && (1..=256).contains(&(bytes.len() / COLOUR_BYTES))
}

/// Scale big-endian samples of 16 bits to 8 in place, rounding to the nearest.
fn narrow(samples: &mut Vec<u8>) {
    let count = samples.len() / 2;
    for index in 0..count {
        let sample = u32::from(samples[index * 2]) << 8 | u32::from(samples[index * 2 + 1]);
        samples[index] = ((sample + 128) / 257) as u8;
    }
    samples.truncate(count);
    samples.shrink_to_fit();
}

fn judge(error: &DecodingError) -> Rejection {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Rejection::truncated("PNG data ends before the image")
        }
        DecodingError::LimitsExceeded => {
            Rejection::corrupt("PNG metadata inflates beyond all measure")
        }
        other => Rejection::Corrupt(named(&other.to_string()).into()),
    }
}

/// What the decoder says, with chunks by their names: it shows them as `ChunkType { type: IHDR, critical: true … }`.
fn named(text: &str) -> String {
    const OPENING: &str = "ChunkType { type: ";
    let mut named = String::new();
    let mut rest = text;
    while let Some((before, shown)) = rest.split_once(OPENING) {
        let (chunk, after) = shown.split_once('}').unwrap_or((shown, ""));
        named.push_str(before);
        named.push_str(chunk.split(',').next().unwrap_or(chunk).trim());
        rest = after;
    }
    named + rest
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn chunks_are_named_as_people_do() {
        let shown = "Chunk ChunkType { type: PLTE, critical: true, private: false } is invalid after IDAT chunk.";
        assert_eq!(named(shown), "Chunk PLTE is invalid after IDAT chunk.");
        assert_eq!(
            named("IDAT or fdAT chunk is missing."),
            "IDAT or fdAT chunk is missing."
        );
        assert_eq!(named("ChunkType { type: IHDR"), "IHDR");
    }
}

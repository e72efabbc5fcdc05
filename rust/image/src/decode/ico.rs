//! Windows icons: a PNG, or a bitmap under a mask.

use super::bmp;
use super::{Decoded, png};
use crate::error::Rejection;
use crate::header::ico::{self, Icon, mask_row_bytes};
use crate::header::{self, bmp::Bitmap, bmp::Coding};
use crate::raster::{Model, Picture, Raster};
use crate::scratch::Scratch;

/// Decode an icon.
///
/// # Errors
/// See [`super::decode`]; also `Unsupported` for an image of alpha that is nowhere seen.
pub fn decode(body: &[u8], scratch: &mut Scratch) -> Result<Decoded, Rejection> {
    let picture = match ico::read(body)? {
        Icon::Png { file, .. } => {
            let header = header::png::read(file)?;
            let decoded = png::decode(&header, file, scratch)?;
            return Ok(Decoded {
                icc: None,
                ..decoded
            });
        }
        Icon::Bitmap {
            bitmap,
            mask: Some(mask),
        } => masked(&bitmap, mask, scratch)?,
        Icon::Bitmap { bitmap, mask: None } => with_alpha(*bitmap, scratch)?,
    };
    Ok(Decoded {
        picture: Picture::Raster(picture),
        flattened: true,
        icc: None,
    })
}

/// The bitmap, white where the mask says that it is transparent.
fn masked(bitmap: &Bitmap<'_>, mask: &[u8], scratch: &mut Scratch) -> Result<Raster, Rejection> {
    let mut raster = bmp::read(bitmap, Model::Rgb, scratch)?;
    let width = bitmap.size.width as usize;
    let rows = raster.pixels.chunks_exact_mut(width * 3);
    // The mask is stored bottom row first.
    for (row, bits) in rows.zip(mask.rchunks_exact(mask_row_bytes(bitmap.size))) {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            if bits[x / 8] >> (7 - x % 8) & 1 == 1 {
                pixel.fill(255);
            }
        }
    }
    Ok(raster)
}

/// The bitmap with its fourth byte as alpha, which no mask of the bitmap itself declares.
fn with_alpha(mut bitmap: Bitmap<'_>, scratch: &mut Scratch) -> Result<Raster, Rejection> {
    const ALPHA: u32 = 0xff00_0000;
    let bytes = bitmap.size.pixels() as usize * 4;
    let is_plain = bitmap.bits == 32;
    let Some(pixels) = bitmap.data.get(..bytes).filter(|_| is_plain) else {
        return Err(Rejection::truncated("icon ends before its image"));
    };
    if pixels.iter().skip(3).step_by(4).all(|&alpha| alpha == 0) {
        return Err(Rejection::Unsupported(
            "icon whose alpha is zero throughout",
        ));
    }
    if let Coding::Masks(masks) = &mut bitmap.coding {
        masks[3] = ALPHA;
    }
    bmp::read(&bitmap, Model::Rgb, scratch)
}

//! Colour profiles to sRGB, on images of final size.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};

use crate::raster::{Buffers, Model, Raster};

/// Transforms of the profiles seen last, since making one costs more than using it and most images share a few.
#[derive(Default)]
pub struct Profiles {
    recent: VecDeque<Known>,
}

struct Known {
    icc: Vec<u8>,
    model: Model,
    conversion: Conversion,
}

#[derive(Clone)]
enum Conversion {
    /// The numbers are sRGB already, as far as eight bits can tell, or the profile is broken or of another model.
    None,
    Transform(Arc<Transform8BitExecutor>),
}

impl fmt::Debug for Profiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Profiles")
            .field("recent", &self.recent.len())
            .finish()
    }
}

const MAX_KNOWN: usize = 8;
/// Longer profiles, which no image shares with others, are not kept.
const MAX_KNOWN_BYTES: usize = 4 << 20;

impl Profiles {
    fn conversion(&mut self, icc: &[u8], model: Model) -> Conversion {
        let position = self
            .recent
            .iter()
            .position(|known| known.model == model && known.icc == icc);
        if let Some(known) = position.and_then(|index| self.recent.remove(index)) {
            self.recent.push_front(known);
            return self.recent[0].conversion.clone();
        }
        let conversion = convert(icc, model).map_or(Conversion::None, Conversion::Transform);
        if icc.len() > MAX_KNOWN_BYTES {
            return conversion;
        }
        self.recent.truncate(MAX_KNOWN - 1);
        self.recent.push_front(Known {
            icc: icc.to_vec(),
            model,
            conversion: conversion.clone(),
        });
        conversion
    }

    /// Whether the numbers of an image with this profile change on the way to sRGB.
    pub fn changes(&mut self, icc: Option<&[u8]>, model: Model) -> bool {
        icc.is_some_and(|icc| matches!(self.conversion(icc, model), Conversion::Transform(_)))
    }
}

/// Convert an image to sRGB, or to the grey of the same curve; CMYK becomes RGB with or without a profile.
///
/// A profile that is broken or made for another colour model is ignored.
#[must_use]
pub fn to_srgb(
    raster: Raster,
    icc: Option<&[u8]>,
    profiles: &mut Profiles,
    buffers: &mut Buffers,
) -> Raster {
    let conversion = icc.map_or(Conversion::None, |icc| {
        profiles.conversion(icc, raster.model)
    });
    match (conversion, raster.model) {
        (Conversion::None, Model::Grey | Model::Rgb) => raster,
        (Conversion::None, Model::Cmyk) => inks_to_rgb(raster, buffers),
        (Conversion::Transform(transform), _) => apply(raster, transform.as_ref(), buffers),
    }
}

fn apply(raster: Raster, transform: &Transform8BitExecutor, buffers: &mut Buffers) -> Raster {
    let pixel_count = raster.size.width as usize * raster.size.height as usize;
    let mut pixels = buffers.take(pixel_count * 3);
    if transform.transform(&raster.pixels, &mut pixels).is_err() {
        buffers.recycle(pixels);
        return if raster.model == Model::Cmyk {
            inks_to_rgb(raster, buffers)
        } else {
            raster
        };
    }
    buffers.recycle(raster.pixels);
    if raster.model == Model::Grey {
        for index in 0..pixel_count {
            pixels[index] = pixels[index * 3];
        }
        pixels.truncate(pixel_count);
        return Raster {
            size: raster.size,
            model: Model::Grey,
            pixels,
        };
    }
    Raster {
        size: raster.size,
        model: Model::Rgb,
        pixels,
    }
}

/// Light left over by ideal inks: `(255 − ink)(255 − black) / 255`.
fn inks_to_rgb(raster: Raster, buffers: &mut Buffers) -> Raster {
    let pixel_count = raster.size.width as usize * raster.size.height as usize;
    let mut pixels = buffers.take(pixel_count * 3);
    for (inks, pixel) in raster
        .pixels
        .as_chunks::<4>()
        .0
        .iter()
        .zip(pixels.as_chunks_mut::<3>().0)
    {
        let light = 255 - u32::from(inks[3]);
        for channel in 0..3 {
            pixel[channel] = (((255 - u32::from(inks[channel])) * light + 127) / 255) as u8;
        }
    }
    buffers.recycle(raster.pixels);
    Raster {
        size: raster.size,
        model: Model::Rgb,
        pixels,
    }
}

/// The transform from a profile to sRGB, if the profile is sound, fits the model, and is not sRGB itself.
fn convert(icc: &[u8], model: Model) -> Option<Arc<Transform8BitExecutor>> {
    let profile = ColorProfile::new_from_slice(icc).ok()?;
    let (space, layout) = match model {
        Model::Grey => (DataColorSpace::Gray, Layout::Gray),
        Model::Rgb => (DataColorSpace::Rgb, Layout::Rgb),
        Model::Cmyk => (DataColorSpace::Cmyk, Layout::Rgba),
    };
    if profile.color_space != space {
        return None;
    }
    let options = TransformOptions::default();
    let transform = profile
        .create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, options)
        .ok()?;
    (!is_identity(transform.as_ref(), model)).then_some(transform)
}

/// Whether a transform moves no colour of a coarse grid by more than rounding does.
fn is_identity(transform: &Transform8BitExecutor, model: Model) -> bool {
    const ROUNDING: u8 = 2;
    const LEVELS: [u8; 9] = [0, 32, 64, 96, 128, 160, 192, 224, 255];
    let grid: Vec<u8> = match model {
        Model::Cmyk => return false,
        Model::Grey => LEVELS.to_vec(),
        Model::Rgb => {
            let pairs = LEVELS
                .iter()
                .flat_map(|&red| LEVELS.map(|green| (red, green)));
            pairs
                .flat_map(|(red, green)| LEVELS.map(|blue| [red, green, blue]))
                .flatten()
                .collect()
        }
    };
    let expanded: Vec<u8> = if model == Model::Grey {
        grid.iter().flat_map(|&level| [level; 3]).collect()
    } else {
        grid.clone()
    };
    let mut converted = vec![0; expanded.len()];
    transform.transform(&grid, &mut converted).is_ok()
        && expanded
            .iter()
            .zip(&converted)
            .all(|(before, after)| before.abs_diff(*after) <= ROUNDING)
}

//! The JPEG decoder beside libjpeg-turbo: what it does not decline has the same coefficients and no complaint there.

use turbo_fetch_image::turbojpeg::{Jpeg, PixelFormat};
use turbo_fetch_jpeg::{Component, Declined, Decoder, Frame, Plane};

use crate::random::Random;
use crate::reference;

/// Larger images are left out while fuzzing, since each is decoded some ten times.
const MAX_PIXELS: usize = 4_000_000;

/// How two decoders compare on one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Left to libjpeg-turbo, for this reason.
    Declined(&'static str),
    Same,
    Differs(&'static str),
}

/// Both kinds of decoder, kept from file to file.
#[derive(Debug)]
pub struct Decoders {
    wide: Decoder,
    portable: Decoder,
    pub max_pixels: usize,
}

impl Default for Decoders {
    fn default() -> Self {
        Self {
            wide: Decoder::default(),
            portable: Decoder::portable(),
            max_pixels: MAX_PIXELS,
        }
    }
}

impl Decoders {
    /// Decode `body` with all decoders, reduced as `random` has it.
    pub fn compare(&mut self, body: &[u8], random: &mut Random) -> Comparison {
        match self.difference(body, random) {
            Ok(None) => Comparison::Same,
            Ok(Some(difference)) => Comparison::Differs(difference),
            Err(declined) => Comparison::Declined(declined.0),
        }
    }

    /// What is wrong with how a file that an encoder made is decoded, if anything: it must not be declined, and at full size
    /// its pixels are within a level of libjpeg-turbo's.
    pub fn compare_sound(&mut self, body: &[u8], random: &mut Random) -> Option<&'static str> {
        match self.compare(body, random) {
            Comparison::Declined(_) => return Some("declines-a-sound-file"),
            Comparison::Differs(difference) => return Some(difference),
            Comparison::Same => {}
        }
        let near = self
            .largest_difference(body)
            .is_some_and(|levels| levels <= 1);
        (!near).then_some("distant-pixels")
    }

    fn difference(
        &mut self,
        body: &[u8],
        random: &mut Random,
    ) -> Result<Option<&'static str>, Declined> {
        let frame = Frame::read(body)?;
        if frame.width * frame.height > self.max_pixels {
            return Err(Declined("too large for the comparison"));
        }
        let count = frame.components.len();
        let whole = self.wide.coefficients(body, &frame, &vec![8; count])?;
        let eighths: Vec<usize> = (0..count).map(|_| 1 + random.below(8)).collect();
        let corner = self.portable.coefficients(body, &frame, &eighths)?;
        Ok(differing_coefficients(&frame, body, &whole)
            .or_else(|| differing_corner(&whole, &corner, &eighths))
            .or_else(|| complaint(body))
            .or_else(|| self.differing_planes(&frame, body, &eighths)))
    }

    /// Whether instructions of this processor give other pixels, or buffers show what they held.
    fn differing_planes(
        &mut self,
        frame: &Frame,
        body: &[u8],
        eighths: &[usize],
    ) -> Option<&'static str> {
        let mut wide = vec![Plane::default(); eighths.len()];
        let mut portable = wide.clone();
        for plane in &mut portable {
            plane.pixels.resize(frame.width * frame.height * 2, 0xa5);
        }
        let both = [
            self.wide.planes(body, frame, eighths, &mut wide),
            self.portable.planes(body, frame, eighths, &mut portable),
        ];
        let same = both == [Ok(()); 2] && wide == portable;
        (!same).then_some("processor-changes-pixels")
    }

    /// Largest difference of a pixel at full size from libjpeg-turbo's.
    fn largest_difference(&mut self, body: &[u8]) -> Option<u8> {
        let frame = Frame::read(body).ok()?;
        let count = frame.components.len();
        let mut planes = vec![Plane::default(); count];
        self.wide
            .planes(body, &frame, &vec![8; count], &mut planes)
            .ok()?;
        let bytes = frame
            .components
            .iter()
            .map(|component| component.padded_across * component.padded_down * 64);
        let expected = reference::planes(body, bytes.sum())?;
        let (mut start, mut largest) = (0, 0);
        for (plane, component) in planes.iter().zip(&frame.components) {
            let pitch = component.padded_across * 8;
            let rows = expected[start..].chunks_exact(pitch);
            for (row, expected) in plane.pixels.chunks_exact(plane.width).zip(rows) {
                let differences = row.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
                largest = largest.max(differences.max().unwrap_or(0));
            }
            start += pitch * component.padded_down * 8;
        }
        Some(largest)
    }
}

fn differing_coefficients(frame: &Frame, body: &[u8], whole: &[Vec<i16>]) -> Option<&'static str> {
    let count = |component: &Component| component.blocks_across * component.blocks_down * 64;
    let expected = reference::coefficients(body, frame.components.iter().map(count).sum());
    let Some((expected, 0)) = expected else {
        return Some("libjpeg-complains");
    };
    let mut expected = &expected[..];
    for (component, found) in frame.components.iter().zip(whole) {
        for row in found
            .chunks_exact(component.padded_across * 64)
            .take(component.blocks_down)
        {
            let (head, rest) = expected.split_at(component.blocks_across * 64);
            if row[..head.len()] != *head {
                return Some("other-coefficients");
            }
            expected = rest;
        }
    }
    None
}

/// Whether a reduced decoding has other coefficients in its corner, or any outside of it.
fn differing_corner(
    whole: &[Vec<i16>],
    corner: &[Vec<i16>],
    eighths: &[usize],
) -> Option<&'static str> {
    let same = whole
        .iter()
        .zip(corner)
        .zip(eighths)
        .all(|((whole, corner), &side)| {
            let mut places = whole.iter().zip(corner).enumerate();
            places.all(|(index, (&value, &found))| {
                let inside = index % 64 / 8 < side && index % 8 < side;
                found == if inside { value } else { 0 }
            })
        });
    (!same).then_some("other-corner")
}

/// Whether the interface that the product uses has anything to say.
fn complaint(body: &[u8]) -> Option<&'static str> {
    let Ok(jpeg) = Jpeg::open(body) else {
        return Some("turbojpeg-refuses");
    };
    let size = jpeg.info().size;
    let mut pixels = vec![0; size.width as usize * size.height as usize * 3];
    jpeg.read(1, PixelFormat::Rgb, &mut pixels)
        .is_err()
        .then_some("turbojpeg-complains")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::generate::generated;
    use crate::mutate;

    const GENERATED: u64 = 3_000;
    const MUTATED: usize = 10_000;

    #[test]
    fn files_of_every_layout_have_libjpegs_coefficients_and_pixels() {
        let mut decoders = Decoders::default();
        for seed in 0..GENERATED {
            let mut random = Random::new(seed);
            let file = generated(&mut random).expect("a layout that can be written");
            assert_eq!(decoders.compare_sound(&file, &mut random), None, "{seed}");
        }
    }

    #[test]
    fn damaged_files_are_declined_unless_libjpeg_has_no_complaint() {
        let mut decoders = Decoders::default();
        let mut random = Random::new(7);
        let sound: Vec<_> = (0..200).filter_map(|_| generated(&mut random)).collect();
        let mut counts = BTreeMap::new();
        for _ in 0..MUTATED {
            let (seed, other) = (random.pick(&sound), random.pick(&sound));
            let file = mutate::damaged(seed, other, &mut random);
            let comparison = decoders.compare(&file, &mut random);
            assert!(
                !matches!(comparison, Comparison::Differs(_)),
                "{comparison:?}"
            );
            *counts.entry(format!("{comparison:?}")).or_insert(0) += 1;
        }
        println!("{counts:#?}");
        assert!(
            counts["Same"] > MUTATED / 100,
            "too few were decoded to show anything"
        );
    }
}

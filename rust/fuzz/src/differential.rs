//! The JPEG decoder beside libjpeg-turbo: what it does not decline has the same coefficients and no complaint there.

use turbo_fetch_image::turbojpeg::{Jpeg, PixelFormat};
use turbo_fetch_jpeg::{Component, Declined, Decoder, Frame, Plane};

use crate::random::Random;
use crate::reference;

/// Larger pictures are left out, since each is decoded some ten times.
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
}

impl Default for Decoders {
    fn default() -> Self {
        Self {
            wide: Decoder::default(),
            portable: Decoder::portable(),
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

    fn difference(
        &mut self,
        body: &[u8],
        random: &mut Random,
    ) -> Result<Option<&'static str>, Declined> {
        let frame = Frame::read(body)?;
        if frame.width * frame.height > MAX_PIXELS {
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

    /// Largest difference of a pixel at full size from libjpeg-turbo's; for files whose coefficients an encoder made.
    pub fn largest_difference(&mut self, body: &[u8]) -> Option<u8> {
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
    use crate::mutate;
    use crate::reference::Layout;

    const GENERATED: u64 = 3_000;
    const MUTATED: usize = 10_000;

    /// A picture of gradients, edges and noise.
    fn pixels(layout: &Layout, random: &mut Random) -> Vec<u8> {
        let (noise, slope) = (1 + random.below(90), 1 + random.below(7));
        let (width, channels) = (layout.width as usize, layout.components as usize);
        (0..width * layout.height as usize * channels)
            .map(|index| {
                let (x, y) = (index / channels % width, index / channels / width);
                let edge = if (x / 11 + y / 7) % 3 == 0 { 120 } else { 0 };
                (x * slope + y + edge + index % channels * 50 + random.below(noise)) as u8
            })
            .collect()
    }

    fn layout(random: &mut Random) -> Layout {
        let components = if random.one_in(5) { 1 } else { 3 };
        let (width, height) = (1 + random.below(150), 1 + random.below(120));
        let mut layout = Layout::new(width as i32, height as i32, components);
        if components == 3 {
            (layout.across, layout.down) =
                *random.pick(&[(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]);
        }
        layout.quality = 1 + random.below(100) as i32;
        layout.optimise = random.below(2) as i32;
        if random.one_in(2) {
            layout.restart = *random.pick(&[1, 2, 3, 7, 20, 1000]);
        }
        match random.below(4) {
            0 => {}
            1 => {
                let scans: Vec<_> = (0..components).map(|index| [index, 0, 63, 0, 0]).collect();
                layout.set_script(&scans);
            }
            _ => layout.set_script(&script(components, random)),
        }
        layout
    }

    /// Progressive scans in any order that the standard allows.
    fn script(components: i32, random: &mut Random) -> Vec<[i32; 5]> {
        // For each band what is left to send of it, DC of all components first.
        let mut bands = vec![(-1, 0, 0, random.below(4) as i32)];
        for component in 0..components {
            let mut first = 1;
            while first < 64 {
                let last = if random.one_in(2) {
                    63
                } else {
                    first + random.below(64 - first as usize) as i32
                };
                bands.push((component, first, last, random.below(4) as i32));
                first = last + 1;
            }
        }
        let mut scans = vec![];
        let mut sent: Vec<Option<i32>> = vec![None; bands.len()];
        while sent.iter().any(|&low| low != Some(0)) {
            let index = if scans.is_empty() {
                0
            } else {
                random.below(bands.len())
            };
            let (component, first, last, low) = bands[index];
            match sent[index] {
                None => {
                    scans.push([component, first, last, 0, low]);
                    sent[index] = Some(low);
                }
                Some(0) => {}
                Some(low) => {
                    scans.push([component, first, last, low, low - 1]);
                    sent[index] = Some(low - 1);
                }
            }
        }
        scans
    }

    fn generated(seed: u64) -> (Layout, Vec<u8>) {
        let mut random = Random::new(seed);
        let layout = layout(&mut random);
        let pixels = pixels(&layout, &mut random);
        let file = layout
            .encode(&pixels)
            .expect("a layout that can be written");
        (layout, file)
    }

    #[test]
    fn files_of_every_layout_have_libjpegs_coefficients_and_pixels() {
        let mut decoders = Decoders::default();
        for seed in 0..GENERATED {
            let (layout, file) = generated(seed);
            let comparison = decoders.compare(&file, &mut Random::new(seed));
            assert_eq!(comparison, Comparison::Same, "{seed}: {layout:?}");
            let difference = decoders.largest_difference(&file);
            assert!(
                difference.is_some_and(|levels| levels <= 1),
                "{seed}: {difference:?}"
            );
        }
    }

    #[test]
    fn damaged_files_are_declined_unless_libjpeg_has_no_complaint() {
        let mut decoders = Decoders::default();
        let mut random = Random::new(7);
        let sound: Vec<_> = (0..200).map(|seed| generated(seed).1).collect();
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

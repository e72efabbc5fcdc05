//! JPEG files of every layout that libjpeg-turbo writes.

use crate::random::Random;
use crate::reference::Layout;

/// An image of gradients, edges and noise.
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

/// A file of any layout, or nothing where the library does not write it.
pub fn generated(random: &mut Random) -> Option<Vec<u8>> {
    let layout = layout(random);
    layout.encode(&pixels(&layout, random))
}

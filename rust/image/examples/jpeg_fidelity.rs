//! How far a reduced decoding is from a full one, after both became 256 pixels by Lanczos, and what each costs.
//!
//! `cargo run --release -p turbo-fetch-image --example jpeg_fidelity -- <folder of JPEG files>`

mod usual;

use std::fs;
use std::time::Instant;

use turbo_fetch_image::decode::jpeg::{Oversampling, read_reduced};
use turbo_fetch_image::decode::{Demand, decode};
use turbo_fetch_image::geometry::{Resampling, Size, plan};
use turbo_fetch_image::header::{self, Header};
use turbo_fetch_image::options::{Mode, Options};
use turbo_fetch_image::raster::{Picture, Raster};
use turbo_fetch_image::resize::resize;
use turbo_fetch_image::scratch::Scratch;
use turbo_fetch_image::sniff::sniff;

type Failure = Box<dyn std::error::Error>;

/// Luma and chroma, in quarters of the target; chroma's target is half of the image's.
const RULES: [(usize, usize); 9] = [
    (5, 5),
    (6, 6),
    (6, 8),
    (6, 12),
    (7, 7),
    (7, 10),
    (8, 8),
    (8, 12),
    (8, 16),
];

fn main() -> Result<(), Failure> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: jpeg_fidelity <folder> [side]")?;
    let side = std::env::args()
        .nth(2)
        .map_or(Ok(256), |side| side.parse())?;
    let mut bodies = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            bodies.push(fs::read(&path)?);
        }
    }
    let mut scratch = Scratch::default();
    println!("luma chroma   mean dB    5 %   ms to decode");
    let library = |file: &File<'_>, scratch: &mut Scratch| {
        let demand = Demand::Hashed(file.resampling.whole);
        Some(
            decode(&file.header, file.body, demand, scratch)
                .ok()?
                .picture,
        )
    };
    report("libjpeg-turbo", &bodies, side, &mut scratch, library)?;
    for (luma, chroma) in RULES {
        let name = format!("{:5.2} {:5.2}  ", luma as f64 / 4.0, chroma as f64 / 4.0);
        report(&name, &bodies, side, &mut scratch, |file, scratch| {
            let whole = file.resampling.whole;
            let half = Size::new(whole.width.div_ceil(2), whole.height.div_ceil(2));
            let rule = Oversampling { luma, chroma };
            read_reduced(file.header.size, file.body, (whole, half), rule, scratch)
        })?;
    }
    Ok(())
}

struct File<'a> {
    body: &'a [u8],
    header: Header<'a>,
    resampling: Resampling,
}

fn report(
    name: &str,
    bodies: &[Vec<u8>],
    side: u32,
    scratch: &mut Scratch,
    mut read: impl FnMut(&File<'_>, &mut Scratch) -> Option<Picture>,
) -> Result<(), Failure> {
    let mut decibels = Vec::new();
    let mut spent_ms = 0.0;
    for body in bodies {
        let header = header::read(sniff(body)?, body)?;
        let Some(resampling) = plan(&options(side), header.size).resampling else {
            continue;
        };
        let file = File {
            body,
            header,
            resampling,
        };
        let began = Instant::now();
        let picture = read(&file, scratch).ok_or("a file that is not decoded")?;
        spent_ms += began.elapsed().as_secs_f64() * 1e3;
        let whole = decode(&file.header, body, Demand::Exact, scratch)?.picture;
        let [reduced, whole] = [picture, whole]
            .map(|picture| resize(&picture, file.header.size, &file.resampling, scratch));
        decibels.push(similarity(&reduced?, &whole?));
    }
    decibels.sort_by(f64::total_cmp);
    let count = decibels.len() as f64;
    let mean = decibels.iter().sum::<f64>() / count;
    let low = decibels[decibels.len() / 20];
    println!("{name:14} {mean:6.2} {low:6.2} {:6.3}", spent_ms / count);
    Ok(())
}

/// Peak signal-to-noise ratio over all channels.
fn similarity(left: &Raster, right: &Raster) -> f64 {
    let squares = left.pixels.iter().zip(&right.pixels);
    let sum: f64 = squares
        .map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2))
        .sum();
    let mean = (sum / left.pixels.len() as f64).max(1e-4);
    10.0 * (255.0_f64.powi(2) / mean).log10()
}

fn options(side: u32) -> Options {
    Options {
        mode: Mode::KeepRatioLargest,
        ..usual::options(side)
    }
}

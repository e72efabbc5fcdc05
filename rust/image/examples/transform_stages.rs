//! What processor time each stage of the usual transform takes: a JPEG to a smaller one, its planes straight to the encoder.
//!
//! `cargo run --release -p turbo-fetch-image --example transform_stages -- <folder of JPEG files> [side]`

mod usual;

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use turbo_fetch_image::decode::jpeg::{Oversampling, read_reduced};
use turbo_fetch_image::digest::hex_digests;
use turbo_fetch_image::encode::encode_planes;
use turbo_fetch_image::exif;
use turbo_fetch_image::geometry::{Size, plan};
use turbo_fetch_image::header;
use turbo_fetch_image::planar::{Layout, halve};
use turbo_fetch_image::raster::Picture;
use turbo_fetch_image::scratch::Scratch;
use turbo_fetch_image::sniff::sniff;
use turbo_fetch_image::transform::transform;

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 7;
const STAGES: [&str; 6] = [
    "header, EXIF",
    "SHA-256",
    "decode",
    "resample",
    "encode",
    "whole transform",
];

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: transform_stages <folder> [side]")?;
    let side = arguments.next().map_or(Ok(256), |side| side.parse())?;
    let mut scratch = Scratch::default();
    let mut sums = [0.0; STAGES.len()];
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jpg") {
            continue;
        }
        let body = fs::read(&path)?;
        // Other work on the machine only adds, so the least of some rounds counts.
        let mut least = [f64::INFINITY; STAGES.len()];
        for _ in 0..ROUNDS {
            let spent = stages(&body, side, &mut scratch)?;
            for (least, spent) in least.iter_mut().zip(spent) {
                *least = least.min(spent);
            }
        }
        for (sum, least) in sums.iter_mut().zip(least) {
            *sum += least;
        }
        count += 1;
    }
    println!("{count} images to {side} pixels, ms each");
    for (name, sum) in STAGES.iter().zip(sums) {
        println!("{name:16} {:7.3}", sum / f64::from(count));
    }
    Ok(())
}

fn stages(body: &[u8], side: u32, scratch: &mut Scratch) -> Result<[f64; STAGES.len()], Failure> {
    let options = usual::options(side);
    let mut spent = [0.0; STAGES.len()];
    let mut began_ms = now_ms();
    let mut stage = 0;
    let mut next = || {
        spent[stage] = now_ms() - began_ms;
        stage += 1;
        began_ms = now_ms();
    };
    let header = header::read(sniff(body)?, body)?;
    std::hint::black_box(exif::to_json(header.exif));
    next();
    std::hint::black_box(hex_digests(options.digest, &[body]));
    next();
    let plan = plan(&options, header.size);
    let resampling = plan.resampling.ok_or("an image of the target's size")?;
    let whole = resampling.whole;
    let half = Size::new(whole.width.div_ceil(2), whole.height.div_ceil(2));
    let rule = Oversampling::CHOSEN;
    let picture = read_reduced(header.size, body, (whole, half), rule, scratch);
    let Some(Picture::Planes(planes)) = picture else {
        return Err("a file that is not decoded to planes".into());
    };
    next();
    let layout = Layout::new(resampling.size, plan.canvas).ok_or("a small image")?;
    let halved = halve(&planes, header.size, &resampling, &layout, scratch)?;
    for plane in [planes.luma].into_iter().chain(planes.chroma) {
        scratch.buffers.recycle(plane.pixels);
    }
    next();
    std::hint::black_box(encode_planes(&halved, options.quality, scratch)?);
    for plane in halved.planes {
        scratch.buffers.recycle(plane);
    }
    next();
    std::hint::black_box(transform(&options, body, &[], scratch)).result?;
    next();
    Ok(spent)
}

fn now_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

//! The bare limit: bodies in memory through decode, resize, encode and hash, nothing else.
//!
//! `cargo run --release -p turbo-fetch-image --example bare_limit -- <folder of pictures> [threads]`

mod usual;

use std::fs;
use std::path::Path;
use std::time::Instant;

use turbo_fetch_image::batch::Transformer;

const BATCH: usize = 64;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: bare_limit <folder> [threads]")?;
    let threads = std::env::args()
        .nth(2)
        .map_or(Ok(1), |threads| threads.parse())?;
    let mut bodies = Vec::new();
    collect(Path::new(&folder), &mut bodies)?;
    let slices: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let transformer = Transformer::new(usual::options(256), threads, u64::MAX)?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for batch in slices.chunks(BATCH) {
            transformer.run(batch, &[])?;
        }
        best = best.min(began.elapsed().as_secs_f64());
    }
    let each_ms = best * 1e3 / slices.len() as f64;
    println!(
        "{} images, {threads} threads: {each_ms:.3} ms each, {:.0} a second",
        slices.len(),
        1e3 / each_ms
    );
    Ok(())
}

fn collect(folder: &Path, bodies: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, bodies)?;
        } else if path.extension().is_some_and(|extension| extension == "jpg") {
            bodies.push(fs::read(&path)?);
        }
    }
    Ok(())
}

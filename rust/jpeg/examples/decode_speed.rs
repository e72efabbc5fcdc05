//! Processor time to decode the JPEG files of a folder to planes, at each eighth of their size.
//!
//! `cargo run --release -p turbo-fetch-jpeg --example decode_speed -- <folder>`

use std::fs;

use turbo_fetch_jpeg::{Decoder, Frame, Plane};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: decode_speed <folder>")?;
    let mut lots = [("baseline", Vec::new()), ("progressive", Vec::new())];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            let body = fs::read(path)?;
            let progressive = Frame::read(&body)?.progressive;
            lots[usize::from(progressive)].1.push(body);
        }
    }
    let decoders = [("wide", Decoder::default()), ("any", Decoder::portable())];
    for (kind, mut decoder) in decoders {
        for (lot, bodies) in &lots {
            for eighths in [1, 2, 3, 4, 5, 8] {
                let mut best = f64::INFINITY;
                for _ in 0..ROUNDS {
                    let began = processor_ns()?;
                    for body in bodies {
                        decode(&mut decoder, body, eighths)?;
                    }
                    best = best.min((processor_ns()? - began) as f64 / 1e6);
                }
                let each = best / bodies.len() as f64;
                println!("{kind:5} {lot:12} {eighths}/8 {each:7.3} ms");
            }
        }
    }
    Ok(())
}

fn decode(decoder: &mut Decoder, body: &[u8], eighths: usize) -> Result<(), Failure> {
    let frame = Frame::read(body)?;
    let count = frame.components.len();
    let mut planes = vec![Plane::default(); count];
    decoder.planes(body, &frame, &vec![eighths; count], &mut planes)?;
    Ok(())
}

/// Nanoseconds that this thread has run, which other load on the machine does not lengthen.
fn processor_ns() -> Result<u64, Failure> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")?;
    let field = statistics.split_whitespace().next().ok_or("Linux")?;
    Ok(field.parse()?)
}

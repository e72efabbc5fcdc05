//! JPEG files of a folder, and the processor time that a decoder needs for them.

use std::fs;
use std::path::Path;

const ROUNDS: usize = 7;

/// Bodies of a folder's files in two lots, baseline and progressive.
pub struct Corpus {
    pub baseline: Vec<Vec<u8>>,
    pub progressive: Vec<Vec<u8>>,
}

impl Corpus {
    /// Read the folder named by the first argument, with its subfolders.
    pub fn from_arguments() -> Self {
        let folder = std::env::args()
            .nth(1)
            .expect("usage: <program> <folder of JPEG files>");
        let mut corpus = Self {
            baseline: Vec::new(),
            progressive: Vec::new(),
        };
        corpus.collect(Path::new(&folder));
        corpus
    }

    fn collect(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("readable folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.collect(&path);
            } else if path.extension().is_some_and(|extension| extension == "jpg") {
                let body = fs::read(&path).expect("readable file");
                let progressive = body
                    .windows(2)
                    .find(|pair| matches!(pair, [0xff, 0xc0..=0xc2]))
                    == Some(&[0xff, 0xc2]);
                if progressive {
                    &mut self.progressive
                } else {
                    &mut self.baseline
                }
                .push(body);
            }
        }
    }

    /// Print processor milliseconds per image of the best of several rounds, for each lot.
    pub fn measure(&self, name: &str, mut decode: impl FnMut(&[u8]) -> usize) {
        for (lot, bodies) in [
            ("baseline", &self.baseline),
            ("progressive", &self.progressive),
        ] {
            let mut best = f64::INFINITY;
            for _ in 0..ROUNDS {
                let began = processor_ns();
                let bytes: usize = bodies.iter().map(|body| decode(body)).sum();
                assert!(bytes > 0, "nothing decoded");
                best = best.min((processor_ns() - began) as f64 / 1e6);
            }
            println!("{name:32} {lot:12} {:7.3} ms", best / bodies.len() as f64);
        }
    }
}

/// Nanoseconds that this thread has run, which other load on the machine does not lengthen.
fn processor_ns() -> u64 {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    statistics
        .split_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .expect("a number")
}

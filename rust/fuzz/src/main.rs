//! `turbo-fetch-fuzz SEEDS FOUND SECONDS SEED`: damage the files of the folder SEEDS in all ways for SECONDS, and see that
//! no input panics, hangs, takes memory beyond measure, or changes what becomes of the sound ones beside it.
//!
//! What fails is written to FOUND, whose files are tried first, and ends the program with code 1. JPEG files are decoded by
//! libjpeg-turbo as well, and what both make of them is compared.
//!
//! `turbo-fetch-fuzz compare FOLDER` compares the files of a folder and those below it, undamaged, and counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use differential::{Comparison, Decoders};
use images::Images;
use random::Random;
use watch::Watch;

mod differential;
mod generate;
mod images;
mod mutate;
mod random;
mod reference;
mod texts;
mod watch;

type Failure = Box<dyn std::error::Error>;

/// Inputs of which one is a sound JPEG file.
const GENERATED_EVERY: usize = 16;
/// Inputs of which one is a list.
const LISTS_EVERY: usize = 8;
const REPLAYS: usize = 20;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder] = &arguments[..]
        && mode == "compare"
    {
        return compare(Path::new(folder));
    }
    let [seeds, found, seconds, seed] = &arguments[..] else {
        return Err("usage: turbo-fetch-fuzz SEEDS FOUND SECONDS SEED, or compare FOLDER".into());
    };
    watch::count_panics();
    let (lists, pictures): (Vec<_>, Vec<_>) = files(Path::new(seeds))?
        .into_iter()
        .partition(|(path, _)| path.extension().is_some_and(|kind| kind == "txt"));
    let mut campaign = Campaign {
        images: Images::new(bodies(pictures)),
        decoders: Decoders::default(),
        lists: bodies(lists),
        random: Random::new(seed.parse()?),
        watch: Watch::new(found.into()),
        found: found.into(),
        tried: 0,
        failed: 0,
    };
    for (_, input) in files(Path::new(found)).unwrap_or_default() {
        for _ in 0..REPLAYS {
            campaign.take(&input, false);
            campaign.take(&input, true);
        }
    }
    campaign.run(Duration::from_secs(seconds.parse()?));
    campaign.report()
}

/// Compare decoders on the JPEG files below `folder`, and print how often they came to what.
fn compare(folder: &Path) -> Result<(), Failure> {
    let mut decoders = Decoders::default();
    decoders.max_pixels = 100_000_000;
    let mut counts = BTreeMap::new();
    let mut differing = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for (path, body) in files(&folder)? {
            if !body.starts_with(b"\xff\xd8") {
                continue;
            }
            let comparison = decoders.compare(&body, &mut Random::new(body.len() as u64));
            if let Comparison::Differs(_) = comparison {
                println!("{comparison:?}: {}", path.display());
                differing += 1;
            }
            *counts.entry(format!("{comparison:?}")).or_insert(0) += 1;
        }
        let entries = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
        folders.extend(entries.filter(|path| path.is_dir() && !path.is_symlink()));
    }
    for (comparison, count) in counts {
        println!("{count:6} {comparison}");
    }
    if differing > 0 {
        return Err(format!("{differing} files differ").into());
    }
    Ok(())
}

/// Files of a folder by name, with their contents.
fn files(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>, Failure>>()?;
    paths.sort();
    let read = |path: PathBuf| Ok((path.clone(), fs::read(path)?));
    paths
        .into_iter()
        .filter(|path| path.is_file())
        .map(read)
        .collect()
}

fn bodies(files: Vec<(PathBuf, Vec<u8>)>) -> Vec<Vec<u8>> {
    files.into_iter().map(|(_, body)| body).collect()
}

struct Campaign {
    images: Images,
    decoders: Decoders,
    lists: Vec<Vec<u8>>,
    random: Random,
    watch: Watch,
    found: PathBuf,
    tried: usize,
    failed: usize,
}

impl Campaign {
    fn run(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            if self.random.one_in(GENERATED_EVERY)
                && let Some(file) = generate::generated(&mut self.random)
            {
                let problem = self.decoders.compare_sound(&file, &mut self.random);
                self.note(problem, &file);
            }
            let is_list = self.random.one_in(LISTS_EVERY);
            let seeds = if is_list {
                &self.lists
            } else {
                &self.images.sound
            };
            let (seed, other) = (self.random.pick(seeds), self.random.pick(seeds));
            let input = mutate::damaged(seed, other, &mut self.random);
            self.take(&input, is_list);
        }
    }

    fn take(&mut self, input: &[u8], is_list: bool) {
        self.watch.begin(input);
        let (panics, began_s) = (watch::panics(), watch::cpu_s());
        let problem = if is_list {
            texts::take(input, &mut self.random)
        } else {
            let problem = self.images.take(input, &mut self.random);
            match self.decoders.compare(input, &mut self.random) {
                Comparison::Differs(difference) => problem.or(Some(difference)),
                Comparison::Same | Comparison::Declined(_) => problem,
            }
        };
        let took_s = watch::cpu_s().zip(began_s).map(|(now, then)| now - then);
        self.watch.begin(b"");
        self.tried += 1;
        let problems = [
            problem,
            (watch::panics() > panics).then_some("panic"),
            took_s
                .filter(|&took_s| took_s > watch::MAX_CPU_S)
                .map(|_| "slow"),
            watch::peak_memory_kb()
                .filter(|&peak| peak > watch::MAX_MEMORY_KB)
                .map(|_| "memory"),
        ];
        for problem in problems {
            self.note(problem, input);
        }
    }

    fn note(&mut self, problem: Option<&str>, input: &[u8]) {
        if let Some(problem) = problem {
            self.failed += 1;
            println!("{problem}: {}", watch::keep(&self.found, problem, input));
        }
    }

    fn report(&self) -> Result<(), Failure> {
        println!(
            "{} inputs tried, {} sound images checked beside them, {} panics, {} failures, {} MB at most",
            self.tried,
            self.images.checked,
            watch::panics(),
            self.failed,
            watch::peak_memory_kb().unwrap_or(0) / 1024,
        );
        if self.failed > 0 {
            return Err(format!("what failed is in {}", self.found.display()).into());
        }
        Ok(())
    }
}

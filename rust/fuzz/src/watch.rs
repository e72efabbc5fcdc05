//! Panics, hangs and memory of the input at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// An input that is still running after this is a hang.
const HANG_S: u64 = 60;
/// Processor time of one input, of images of a megapixel at most.
pub const MAX_CPU_S: f64 = 5.0;
/// Memory of the whole process.
pub const MAX_MEMORY_KB: u64 = 768 << 10;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Count panics, and let them be printed.
pub fn count_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        print(panic);
    }));
}

pub fn panics() -> usize {
    PANICS.load(Ordering::Relaxed)
}

/// The input at hand, watched by a thread that keeps it and ends the process when it does not come to an end.
pub struct Watch {
    current: Arc<Mutex<(Instant, Vec<u8>)>>,
}

impl Watch {
    pub fn new(found: PathBuf) -> Self {
        let current = Arc::new(Mutex::new((Instant::now(), Vec::new())));
        let watched = Arc::clone(&current);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                let current = watched.lock().unwrap_or_else(PoisonError::into_inner);
                if !current.1.is_empty() && current.0.elapsed() > Duration::from_secs(HANG_S) {
                    eprintln!("hang: {}", keep(&found, "hang", &current.1));
                    std::process::exit(1);
                }
            }
        });
        Self { current }
    }

    /// Take note of the next input; an empty one is none.
    pub fn begin(&self, input: &[u8]) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.0 = Instant::now();
        current.1.clear();
        current.1.extend_from_slice(input);
    }
}

/// Write an input down under a name that follows from its bytes; return its path.
pub fn keep(found: &Path, kind: &str, input: &[u8]) -> String {
    let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = found.join(format!("{kind}-{sum:016x}"));
    let written = fs::create_dir_all(found).and_then(|()| fs::write(&path, input));
    match written {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("could not be written to {}: {error}", path.display()),
    }
}

/// Seconds that this thread has been on a processor, where the system tells.
pub fn cpu_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

/// Most memory that the process ever had, in kB, where the system tells.
pub fn peak_memory_kb() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

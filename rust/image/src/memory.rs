//! Memory that images take while they are made: who would go beyond the limit waits until others are done.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Rejection;

/// Counts what images take that are made at once, in whatever threads.
#[derive(Debug)]
pub struct Memory {
    limit_bytes: u64,
    queue: Mutex<()>,
    used_bytes: Mutex<u64>,
    changed: Condvar,
}

impl Memory {
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            queue: Mutex::new(()),
            used_bytes: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// Wait, in the order of asking, until there is room for so many bytes, or no other image. Who holds some must not
    /// ask for more, nor wait for a thread that may ask.
    #[must_use]
    pub fn hold(&self, bytes: u64) -> Held<'_> {
        self.take(bytes);
        Held {
            memory: self,
            bytes,
        }
    }

    /// Wait until there is no other image, and let none begin.
    #[must_use]
    pub fn hold_all(&self) -> Held<'_> {
        self.hold(u64::MAX)
    }

    /// As [`Self::hold`], for who cannot keep a [`Held`]: [`Self::give_back`] ends it.
    pub fn take(&self, bytes: u64) {
        let _turn = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self
            .changed
            .wait_while(self.used(), |used| {
                *used > 0 && used.saturating_add(bytes) > self.limit_bytes
            })
            .unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_add(bytes);
    }

    /// End what [`Self::take`] began.
    pub fn give_back(&self, bytes: u64) {
        *self.used() -= bytes;
        self.changed.notify_all();
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is held for an image.
#[derive(Debug)]
pub struct Held<'a> {
    memory: &'a Memory,
    bytes: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

/// Once the new files of a run hold more than this, the images that were not begun yet are postponed, so that small
/// bodies that become large files cannot fill the memory.
pub const MAX_RUN_BYTES: usize = 64 << 20;

/// Where an image is made: beside others of its run and of other runs, or by itself.
#[derive(Debug, Default)]
pub struct Room<'a>(Option<(&'a Memory, &'a AtomicUsize)>);

impl<'a> Room<'a> {
    /// Room beside the images of other threads, in a run whose files have `made_bytes` so far.
    #[must_use]
    pub fn shared(memory: &'a Memory, made_bytes: &'a AtomicUsize) -> Self {
        Self(Some((memory, made_bytes)))
    }

    /// Wait for `bytes`, which are held until the answer is dropped.
    ///
    /// # Errors
    /// `Postponed` when the run has made enough files, `OutOfMemory` when there is too little memory for all that is held.
    pub fn enter(&self, bytes: u64) -> Result<Option<Held<'a>>, Rejection> {
        let Some((memory, made_bytes)) = self.0 else {
            return can_be_had(bytes)
                .then_some(None)
                .ok_or(Rejection::OutOfMemory);
        };
        let held = memory.hold(bytes);
        if made_bytes.load(Ordering::Relaxed) > MAX_RUN_BYTES {
            return Err(Rejection::Postponed);
        }
        // Others have some of theirs already, and are counted twice: who is refused for that is made alone.
        let held_bytes = *memory.used();
        can_be_had(held_bytes)
            .then_some(Some(held))
            .ok_or(Rejection::OutOfMemory)
    }
}

/// Whether there are so many bytes. Codecs of libraries do not ask: many end the process where there are none.
#[must_use]
pub fn can_be_had(bytes: u64) -> bool {
    let mut room = Vec::<u8>::new();
    let had = room.try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX));
    black_box(&mut room);
    had.is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    #[test]
    fn what_is_held_stays_within_the_limit_and_the_largest_is_alone() {
        let memory = Memory::new(100);
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..60 {
                let (memory, now, most) = (&memory, &now, &most);
                scope.spawn(move || {
                    let bytes = [10, 60, 250][number % 3];
                    let held = memory.hold(bytes);
                    let sum = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                    assert!(sum <= 100 || sum == 250, "{sum}");
                    most.fetch_max(sum, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(bytes, Ordering::SeqCst);
                    drop(held);
                });
            }
        });
        assert_eq!(*memory.used(), 0);
        assert_eq!(most.into_inner(), 250);
    }

    #[test]
    fn who_holds_all_is_alone() {
        let memory = Memory::new(100);
        let all = memory.hold_all();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(memory.hold(1)));
            assert!(!waiting.is_finished());
            drop(all);
        });
        assert_eq!(*memory.used(), 0);
    }

    #[test]
    fn memory_that_no_machine_has_is_refused() {
        assert_eq!(
            Room::default().enter(1 << 62).err(),
            Some(Rejection::OutOfMemory)
        );
        assert!(Room::default().enter(1 << 20).is_ok());
    }

    #[test]
    fn a_run_with_files_enough_postpones_the_rest() {
        let memory = Memory::new(100);
        let made = AtomicUsize::new(MAX_RUN_BYTES + 1);
        let room = Room::shared(&memory, &made);
        assert_eq!(room.enter(1).err(), Some(Rejection::Postponed));
        assert_eq!(*memory.used(), 0);
    }
}

//! Which message is in which lane: the longest begin, and the next takes the place of one that ends.

use std::array::from_fn;
use std::cmp::Reverse;

use sha2::block_api::compress256;

use super::wide::{Detected, LANES, States};

pub const BLOCK: usize = 64;
pub type Block = [u8; BLOCK];

/// With fewer messages left, one after the other takes less time: all lanes cost as much as one.
const LEAST_LANES: usize = 6;

/// The blocks of a message: whole ones where they lie, and the last, which hold its end, the padding and its length.
struct Blocks<'a> {
    whole: &'a [Block],
    last: [Block; 2],
    /// Blocks of `last` that are still to come, at its end.
    last_left: usize,
}

impl<'a> Blocks<'a> {
    fn of(message: &'a [u8]) -> Self {
        let (whole, rest) = message.as_chunks::<BLOCK>();
        let mut last = [[0; BLOCK]; 2];
        let last_left = if rest.len() < BLOCK - 8 { 1 } else { 2 };
        let padded = last[2 - last_left..].as_flattened_mut();
        padded[..rest.len()].copy_from_slice(rest);
        padded[rest.len()] = 0x80;
        let length_at = padded.len() - 8;
        padded[length_at..].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
        Self {
            whole,
            last,
            last_left,
        }
    }

    /// Those that follow one another in memory; none at the end.
    fn next(&self) -> &[Block] {
        if self.whole.is_empty() {
            &self.last[2 - self.last_left..]
        } else {
            self.whole
        }
    }

    /// Take note that the first `count` of `next` are done.
    fn advance(&mut self, count: usize) {
        if self.whole.is_empty() {
            self.last_left -= count;
        } else {
            self.whole = &self.whole[count..];
        }
    }
}

/// See [`super::sha256_each`].
pub fn sha256_each(detected: Detected, messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut digests = vec![[0; 32]; messages.len()];
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_by_key(|&place| Reverse(messages[place].len()));
    let mut waiting = order
        .into_iter()
        .map(|place| (place, Blocks::of(messages[place])));
    let mut lanes: [Option<(usize, Blocks)>; LANES] = from_fn(|_| waiting.next());
    let mut states = States::new();
    loop {
        let taken = lanes.iter().flatten();
        if taken.clone().count() < LEAST_LANES {
            break;
        }
        let count = taken
            .map(|(_, blocks)| blocks.next().len())
            .min()
            .unwrap_or(0);
        let spare = lanes
            .iter()
            .flatten()
            .next()
            .map_or(&[][..], |(_, blocks)| blocks.next());
        let next = from_fn(|lane| {
            // An empty lane does the work of another in vain.
            let blocks = lanes[lane]
                .as_ref()
                .map_or(spare, |(_, blocks)| blocks.next());
            &blocks[..count]
        });
        states.compress(detected, &next);
        for (lane, taken) in lanes.iter_mut().enumerate() {
            let Some((place, blocks)) = taken else {
                continue;
            };
            blocks.advance(count);
            if blocks.next().is_empty() {
                digests[*place] = digest(states.of(lane));
                states.reset(lane);
                *taken = waiting.next();
            }
        }
    }
    let left = lanes
        .into_iter()
        .enumerate()
        .filter_map(|(lane, taken)| Some((lane, taken?)));
    for (lane, (place, mut blocks)) in left {
        let mut state = states.of(lane);
        while !blocks.next().is_empty() {
            compress256(&mut state, blocks.next());
            blocks.advance(blocks.next().len());
        }
        digests[place] = digest(state);
    }
    digests
}

fn digest(state: [u32; 8]) -> [u8; 32] {
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

//! The `spread` order: every domain's rows evenly over a window, so that no host is hit in bursts.
//!
//! A domain with k of n rows has its i-th row placed at (i + φ) · n / k. Domains with equally many rows take
//! turns: their phases φ in 0..1 are evenly spaced too, in an order that domain and seed decide. Rows sorted by place are evenly spaced but may still touch; a pass forward
//! and one backward then part equal neighbours. Both are linear, and together they leave runs only
//! where one domain has more than half of the rows, in which case its runs are as short as can be.

use std::collections::HashMap;
use std::collections::VecDeque;

use arrow_array::cast::AsArray;
use arrow_array::{Array, UInt32Array};
use arrow_schema::{ArrowError, DataType};

/// Return the order in which to take the rows of a window, given their domains (`Utf8`, nulls allowed).
///
/// The result is a permutation of `0..n`: a pure function of the domains and the seed. Rows of the same
/// domain keep their order; null counts as a domain.
///
/// # Errors
/// [`ArrowError::InvalidArgumentError`] if the column is not `Utf8` or has over 2^32 rows.
pub fn spread(domains: &dyn Array, seed: u64) -> Result<UInt32Array, ArrowError> {
    if *domains.data_type() != DataType::Utf8 || u32::try_from(domains.len()).is_err() {
        let found = format!("{} rows of type {}", domains.len(), domains.data_type());
        return Err(ArrowError::InvalidArgumentError(format!(
            "{found}; expected at most 2^32 domains as strings"
        )));
    }
    let groups = Groups::of(domains.as_string::<i32>().iter(), seed);
    Ok(UInt32Array::from(groups.order()))
}

/// The rows of a window by domain; domains are numbered by first appearance.
struct Groups {
    group_of_row: Vec<u32>,
    sizes: Vec<u32>,
    phases: Vec<u32>,
}

impl Groups {
    fn of<'a>(domains: impl Iterator<Item = Option<&'a str>>, seed: u64) -> Self {
        let mut numbers = HashMap::new();
        let (mut group_of_row, mut sizes, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        for domain in domains {
            let group = *numbers.entry(domain).or_insert_with(|| {
                sizes.push(0);
                hashes.push(hash(domain.unwrap_or_default().as_bytes(), seed));
                sizes.len() - 1
            });
            sizes[group] += 1;
            group_of_row.push(group as u32);
        }
        let phases = phases(&sizes, &hashes);
        Self {
            group_of_row,
            sizes,
            phases,
        }
    }

    fn order(&self) -> Vec<u32> {
        let rows = self.by_place();
        match self.dominant() {
            Some(group) => self.between(&rows, group),
            None => self.parted(&rows),
        }
    }

    /// The group with so many rows that some of them must be neighbours.
    fn dominant(&self) -> Option<u32> {
        let largest = (0..self.sizes.len()).max_by_key(|&group| self.sizes[group])?;
        let size = self.sizes[largest] as usize;
        (size > self.group_of_row.len() - size + 1).then_some(largest as u32)
    }

    fn by_place(&self) -> Vec<u32> {
        let mut seen = vec![0_u64; self.sizes.len()];
        let mut places = Vec::with_capacity(self.group_of_row.len());
        for (row, &group) in self.group_of_row.iter().enumerate() {
            let group = group as usize;
            let turn = (seen[group] << 32) | u64::from(self.phases[group]);
            seen[group] += 1;
            // 96 bits hold any turn times 2^32; dividing by the size scales every group to 0..2^64.
            let place = (u128::from(turn) << 32) / u128::from(self.sizes[group]);
            places.push((place as u64, row as u32));
        }
        places.sort_unstable();
        places.into_iter().map(|(_, row)| row).collect()
    }

    /// Fill the gaps around all other rows with those of the dominant group, evenly.
    fn between(&self, rows: &[u32], dominant: u32) -> Vec<u32> {
        let (many, others): (Vec<u32>, Vec<u32>) = rows
            .iter()
            .partition(|&&row| self.group_of_row[row as usize] == dominant);
        let gaps = others.len() + 1;
        let mut order = Vec::with_capacity(rows.len());
        for gap in 0..gaps {
            let (start, end) = (gap * many.len() / gaps, (gap + 1) * many.len() / gaps);
            order.extend_from_slice(&many[start..end]);
            order.extend(others.get(gap));
        }
        order
    }

    /// Part equal neighbours, given that no group is dominant.
    fn parted(&self, rows: &[u32]) -> Vec<u32> {
        let (forward, left) = self.delay(rows.iter().copied(), VecDeque::new());
        if left.is_empty() {
            return forward;
        }
        // What is left is of one group and belongs at the end: from there, free gaps suffice to take it.
        let left = left.into_iter().rev().collect();
        let (mut order, _) = self.delay(forward.into_iter().rev(), left);
        order.reverse();
        order
    }

    /// Emit rows in order, holding back each that equals its predecessor until another came between.
    ///
    /// All rows held at one time are of one group, because while any is held, every second row emitted is
    /// one of them. Rows of a group keep their order. Returns the rows emitted and those still held.
    fn delay(
        &self,
        rows: impl Iterator<Item = u32>,
        mut held: VecDeque<u32>,
    ) -> (Vec<u32>, VecDeque<u32>) {
        let mut order = Vec::with_capacity(self.group_of_row.len());
        let mut last = None;
        let group = |row: u32| Some(self.group_of_row[row as usize]);
        for row in rows {
            if let Some(&first) = held.front()
                && group(first) != last
            {
                held.pop_front();
                order.push(first);
                last = group(first);
            }
            if group(row) == last {
                held.push_back(row);
            } else {
                order.push(row);
                last = group(row);
            }
        }
        while let Some(&first) = held.front()
            && group(first) != last
        {
            held.pop_front();
            order.push(first);
            last = group(first);
        }
        (order, held)
    }
}

/// The phases of groups as fractions of 2^32: evenly spaced over all groups of one size, by their hashes.
fn phases(sizes: &[u32], hashes: &[u64]) -> Vec<u32> {
    let mut groups: Vec<_> = (0..sizes.len()).collect();
    groups.sort_unstable_by_key(|&group| (sizes[group], hashes[group], group));
    let mut phases = vec![0; sizes.len()];
    for equals in groups.chunk_by(|&a, &b| sizes[a] == sizes[b]) {
        for (rank, &group) in (0_u64..).zip(equals) {
            let jitter = hashes[group] >> 32;
            phases[group] = (((rank << 32) | jitter) / equals.len() as u64) as u32;
        }
    }
    phases
}

/// A hash of the domain and the seed: FNV-1a, finished by splitmix64, fixed for all platforms.
fn hash(domain: &[u8], seed: u64) -> u64 {
    let hash = domain
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    mix(hash ^ mix(seed))
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int32Array, StringArray};

    fn order_of(domains: &[&str], seed: u64) -> Vec<u32> {
        spread(&StringArray::from(domains.to_vec()), seed)
            .unwrap()
            .values()
            .to_vec()
    }

    fn longest_run(domains: &[&str], order: &[u32]) -> usize {
        let in_order: Vec<_> = order.iter().map(|&row| domains[row as usize]).collect();
        in_order
            .chunk_by(|a, b| a == b)
            .map(<[_]>::len)
            .max()
            .unwrap_or(0)
    }

    /// Windows of every small mix of three domains, whatever their shares and seed.
    #[test]
    fn runs_are_never_longer_than_necessary() {
        for (a, b, c) in
            (0..12).flat_map(|a| (0..12).flat_map(move |b| (0..4).map(move |c| (a, b, c))))
        {
            let domains = [vec!["a"; a], vec!["b"; b], vec!["c"; c]].concat();
            let most = a.max(b).max(c);
            let necessary = most.div_ceil(domains.len() - most + 1);
            for seed in 0..8 {
                let order = order_of(&domains, seed);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert!(
                    sorted.iter().copied().eq(0..domains.len() as u32),
                    "{a} {b} {c} {seed}"
                );
                assert_eq!(
                    longest_run(&domains, &order),
                    necessary.min(most),
                    "{a} {b} {c} {seed}"
                );
            }
        }
    }

    #[test]
    fn rows_of_a_domain_keep_their_order() {
        for rare in 0..20 {
            let domains = [vec!["a"; 20], vec!["b"; rare], vec!["c"; 7]].concat();
            let order = order_of(&domains, 3);
            let rows: Vec<_> = order
                .iter()
                .filter(|&&row| domains[row as usize] == "a")
                .collect();
            assert!(rows.is_sorted(), "{rare}: {order:?}");
        }
    }

    #[test]
    fn every_stretch_of_a_window_has_its_share_of_each_domain() {
        let domains: Vec<_> = (0..10_000)
            .map(|row| ["a", "b", "c", "d"][(row / 2500) % 4])
            .collect();
        for stretch in order_of(&domains, 0).chunks(100) {
            for domain in ["a", "b", "c", "d"] {
                let rows = stretch
                    .iter()
                    .filter(|&&row| domains[row as usize] == domain)
                    .count();
                assert!((24..=26).contains(&rows), "{domain}: {rows} of 100");
            }
        }
    }

    #[test]
    fn the_order_is_fixed_for_all_platforms_and_releases() {
        let domains = ["a", "a", "b", "c", "a", "b", "d"];
        assert_ne!(order_of(&domains, 0), order_of(&domains, 1));
        assert_eq!(hash(b"example.com", 0) >> 32, 495_625_289);
        assert_eq!(order_of(&domains, 0), [6, 0, 2, 1, 3, 5, 4]);
    }

    #[test]
    fn other_types_are_an_error() {
        assert!(spread(&Int32Array::from(vec![1]), 0).is_err());
    }
}

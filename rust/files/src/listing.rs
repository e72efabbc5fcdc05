//! What is in a place, compact, and which lines of its manifest that bears out.
//!
//! A place may hold millions of files, and its manifest half a million lines; both are gone through by all cores.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, DirEntry, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use crate::hex;

/// Files and lines that are handled together: enough for all cores, and little memory.
const AT_ONCE: usize = 8192;
const STATS_SUFFIX: &str = "_stats.json";
/// What a sealed line ends with, around the 64 digits of its hash.
const SEAL: (&str, &str) = (",\"sha256\":\"", "\"}\n");
const SEAL_BYTES: usize = SEAL.0.len() + 64 + SEAL.1.len();

/// The names and sizes of a place as 8 bytes each, and the commit record of each shard by its number.
#[derive(Debug, Default)]
pub struct Listing {
    state: RandomState,
    hashes: Vec<u64>,
    sorted: usize,
    /// How many digits the name of a shard has.
    shards: HashMap<u64, usize>,
}

#[derive(Deserialize)]
struct Record<'a> {
    shard: u64,
    #[serde(borrow)]
    files: Vec<Recorded<'a>>,
    #[serde(rename = "rows")]
    _rows: IgnoredAny,
    #[serde(rename = "outcomes")]
    _outcomes: IgnoredAny,
    #[serde(rename = "failing_hosts")]
    _failing_hosts: IgnoredAny,
}

#[derive(Deserialize)]
struct Recorded<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    bytes: u64,
}

impl Listing {
    /// Note a file of so many bytes, or a folder.
    pub fn add(&mut self, prefix: &str, name: &[u8], bytes: Option<u64>) {
        if let Some((shard, digits)) = shard_of_stats(name)
            && prefix.is_empty()
            && bytes.is_some_and(|bytes| bytes > 0)
        {
            self.shards.insert(shard, digits);
        }
        let hash = self.hash(&[prefix.as_bytes(), name], bytes);
        self.hashes.push(hash);
    }

    /// Note all that is directly in a folder, each name with `prefix` before it; nothing if there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn add_folder(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        let mut entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        loop {
            let some: Vec<DirEntry> = entries.by_ref().take(AT_ONCE).collect::<io::Result<_>>()?;
            if some.is_empty() {
                return Ok(());
            }
            let sizes: Vec<_> = some.par_iter().map(size).collect::<io::Result<_>>()?;
            for (entry, size) in some.iter().zip(sizes) {
                if let Some(bytes) = size {
                    self.add(prefix, entry.file_name().as_bytes(), bytes);
                }
            }
        }
    }

    /// Whether a file of so many bytes is there, or a folder of this name, which is not looked into.
    pub fn has(&mut self, name: &str, bytes: Option<u64>) -> bool {
        self.sort();
        self.finds(name, bytes)
    }

    /// Whether the commit record of a shard is there.
    #[must_use]
    pub fn has_record(&self, shard: u64) -> bool {
        self.shards.contains_key(&shard)
    }

    /// The names of the shards whose commit records are there, in order, but for those given.
    #[must_use]
    pub fn shards_beside(&self, known: &[u64]) -> Vec<String> {
        let mut others = self.shards.clone();
        for shard in known {
            others.remove(shard);
        }
        let mut others: Vec<_> = others.into_iter().collect();
        others.sort_unstable();
        let name = |(shard, digits): (u64, usize)| format!("{shard:0digits$}");
        others.into_iter().map(name).collect()
    }

    /// The shard of each line of a manifest; `None` for a line that may not be the record of a shard that is there
    /// whole, or is not written as lines are written now.
    ///
    /// # Errors
    /// When the manifest cannot be read.
    pub fn check(&mut self, manifest: &Path) -> io::Result<Vec<Option<u64>>> {
        self.sort();
        let mut file = BufReader::with_capacity(1 << 20, File::open(manifest)?);
        let mut found = Vec::new();
        loop {
            let mut lines = Vec::new();
            while lines.len() < AT_ONCE {
                let mut line = Vec::new();
                if file.read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                lines.push(line);
            }
            if lines.is_empty() {
                return Ok(found);
            }
            found.par_extend(lines.par_iter().map(|line| self.backed(line)));
        }
    }

    fn backed(&self, line: &[u8]) -> Option<u64> {
        let line = std::str::from_utf8(line).ok()?;
        // Parsers differ in what they take for an escaped character.
        if !is_sealed(line) || line.contains("\\u") {
            return None;
        }
        let record: Record<'_> = serde_json::from_str(line).ok()?;
        let is_there = |file: &Recorded<'_>| self.finds(&file.name, Some(file.bytes));
        (self.has_record(record.shard) && record.files.iter().all(is_there)).then_some(record.shard)
    }

    fn finds(&self, name: &str, bytes: Option<u64>) -> bool {
        [bytes, None].into_iter().any(|bytes| {
            let hash = self.hash(&[name.as_bytes()], bytes);
            self.hashes.binary_search(&hash).is_ok()
        })
    }

    fn sort(&mut self) {
        if self.sorted < self.hashes.len() {
            self.hashes.par_sort_unstable();
            self.sorted = self.hashes.len();
        }
    }

    fn hash(&self, name: &[&[u8]], bytes: Option<u64>) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = self.state.build_hasher();
        for part in name {
            hasher.write(part);
        }
        bytes.hash(&mut hasher);
        hasher.finish()
    }
}

/// The size of a file, `None` in the place of one for a folder; nothing if it is gone by now.
#[expect(clippy::option_option, reason = "a folder is no file that is gone")]
fn size(entry: &DirEntry) -> io::Result<Option<Option<u64>>> {
    let found = match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::metadata(entry.path()),
        Ok(kind) if kind.is_dir() => return Ok(Some(None)),
        _ => entry.metadata(),
    };
    match found {
        Ok(found) => Ok(Some((!found.is_dir()).then_some(found.len()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn shard_of_stats(name: &[u8]) -> Option<(u64, usize)> {
    let digits = std::str::from_utf8(name).ok()?.strip_suffix(STATS_SUFFIX)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_number)?, digits.len()))
}

/// Whether a line ends with the hash of what is before.
fn is_sealed(line: &str) -> bool {
    let Some(start) = line.len().checked_sub(SEAL_BYTES) else {
        return false;
    };
    let (Some(content), Some(seal)) = (line.get(..start), line.get(start..)) else {
        return false;
    };
    let digest = seal
        .strip_prefix(SEAL.0)
        .and_then(|rest| rest.strip_suffix(SEAL.1));
    digest.is_some_and(|digest| {
        let found: [u8; 32] = Sha256::digest(content.as_bytes()).into();
        digest == hex(&found)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};

    use super::*;

    fn line(shard: u64, name: &str, bytes: u64) -> String {
        let content = format!(
            "{{\"shard\":{shard},\"rows\":1,\"outcomes\":{{}},\"failing_hosts\":{{}},\"files\":[{{\"name\":\"{name}\",\"bytes\":{bytes}}}]"
        );
        let digest: [u8; 32] = Sha256::digest(content.as_bytes()).into();
        format!("{content}{}{}{}", SEAL.0, hex(&digest), SEAL.1)
    }

    fn folder(sizes: &BTreeMap<u64, u64>) -> TempDir {
        let folder = tempdir().unwrap();
        for (shard, bytes) in sizes {
            let file = File::create(folder.path().join(format!("{shard:05}.tar"))).unwrap();
            file.set_len(*bytes).unwrap();
            fs::write(folder.path().join(format!("{shard:05}_stats.json")), "{}").unwrap();
        }
        folder
    }

    fn listed(folder: &Path) -> Listing {
        let mut listing = Listing::default();
        listing.add_folder(folder, "").unwrap();
        listing
    }

    fn checked(listing: &mut Listing, lines: &[u8]) -> Vec<Option<u64>> {
        let manifest = tempdir().unwrap();
        let path = manifest.path().join("manifest");
        fs::write(&path, lines).unwrap();
        listing.check(&path).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn a_line_counts_if_its_file_has_that_size(
            sizes in prop::collection::btree_map(0u64..100_000, 0u64..9, 0..20),
            claimed in prop::collection::vec((0u64..100_000, 0u64..9), 0..20),
        ) {
            let folder = folder(&sizes);
            let mut listing = listed(folder.path());
            let claimed: Vec<_> = sizes.clone().into_iter().chain(claimed).collect();
            let lines: String = claimed.iter().map(|(shard, bytes)| line(*shard, &format!("{shard:05}.tar"), *bytes)).collect();
            let expected: Vec<_> = claimed.iter().map(|(shard, bytes)| (sizes.get(shard) == Some(bytes)).then_some(*shard)).collect();
            prop_assert_eq!(checked(&mut listing, lines.as_bytes()), expected);
            let names: Vec<_> = sizes.keys().map(|shard| format!("{shard:05}")).collect();
            prop_assert_eq!(listing.shards_beside(&[]), names);
            prop_assert!(listing.shards_beside(&sizes.into_keys().collect::<Vec<_>>()).is_empty());
        }

        #[test]
        fn a_line_with_another_byte_does_not_count(place in 0usize..200, byte in any::<u8>()) {
            let folder = folder(&BTreeMap::from([(7, 3)]));
            let mut changed = line(7, "00007.tar", 3).into_bytes();
            let place = place % changed.len();
            prop_assume!(changed[place] != byte);
            changed[place] = byte;
            let found = checked(&mut listed(folder.path()), &changed);
            prop_assert!(found.iter().all(Option::is_none));
        }
    }

    #[test]
    fn folders_links_and_what_is_linked_are_seen_for_what_they_are() {
        let folder = folder(&BTreeMap::from([(1, 5)]));
        fs::create_dir(folder.path().join("00002")).unwrap();
        symlink("00001.tar", folder.path().join("to-file")).unwrap();
        symlink("00002", folder.path().join("to-folder")).unwrap();
        symlink("nowhere", folder.path().join("to-nothing")).unwrap();
        let mut listing = listed(folder.path());
        assert!(listing.has("to-file", Some(5)) && !listing.has("to-file", Some(6)));
        assert!(listing.has("to-folder", Some(99)) && listing.has("00002", None));
        assert!(!listing.has("to-nothing", Some(0)) && !listing.has("00001.tar", None));
        listing.add_folder(folder.path(), "again/").unwrap();
        assert!(listing.has("again/00001.tar", Some(5)));
        listing
            .add_folder(&folder.path().join("nowhere"), "")
            .unwrap();
    }

    #[test]
    fn an_empty_commit_record_is_none() {
        let mut listing = Listing::default();
        listing.add("", b"00001_stats.json", Some(0));
        listing.add("", b"2_stats.json", Some(9));
        listing.add("", b"+3_stats.json", Some(9));
        listing.add("elsewhere/", b"4_stats.json", Some(9));
        assert_eq!(listing.shards_beside(&[]), ["2"]);
    }

    #[test]
    fn a_line_without_its_end_or_seal_does_not_count() {
        let folder = folder(&BTreeMap::from([(7, 3)]));
        let whole = line(7, "00007.tar", 3);
        let unsealed = format!("{}}}\n", &whole[..whole.len() - SEAL_BYTES]);
        let cut = whole.trim_end();
        for lines in [unsealed.as_str(), cut, "\n", "{}\n"] {
            assert_eq!(
                checked(&mut listed(folder.path()), lines.as_bytes()),
                [None]
            );
        }
    }
}

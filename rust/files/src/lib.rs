//! Pieces of memory on their way into a file, in order, and without being joined first.
//!
//! They are written about `CALL_BYTES` at a time. More at once makes Linux take huge pages for its cache, and on a virtual
//! machine those are the ones that it has never used: the host has to find memory for them first, which took five times
//! as long as the copy. What is hashed on the way is still in the processor's cache when it is written.

mod listing;

use std::fmt::Write;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, pwritev, writev};
use sha2::{Digest, Sha256};

pub use listing::Listing;

const CALL_BYTES: usize = 256 << 10;

/// That one system call takes on Linux and macOS.
const MOST_PIECES: usize = 1024;

/// The CRC-32C of `checksum`'s bytes and the pieces, as of one message.
#[must_use]
pub fn crc32c(pieces: &[&[u8]], checksum: u32) -> u32 {
    pieces
        .iter()
        .fold(checksum, |sum, piece| crc32c::crc32c_append(sum, piece))
}

/// Write all pieces from byte `offset` on.
///
/// # Errors
/// When the system does not take them all.
pub fn write_at(file: BorrowedFd<'_>, pieces: &[&[u8]], mut offset: u64) -> io::Result<()> {
    for block in Blocks(pieces.to_vec()) {
        write_all(&block, |slices| {
            let written = pwritev(file, slices, offset)?;
            offset += written as u64;
            Ok(written)
        })?;
    }
    Ok(())
}

/// A file that is written from start to end and hashed as a whole.
#[derive(Debug, Default)]
pub struct HashedFile(Sha256);

impl HashedFile {
    /// Write all pieces where the file ends so far.
    ///
    /// # Errors
    /// When the system does not take them all; the hash then is of no use.
    pub fn append(&mut self, file: BorrowedFd<'_>, pieces: &[&[u8]]) -> io::Result<()> {
        for block in Blocks(pieces.to_vec()) {
            for piece in &block {
                self.0.update(piece);
            }
            write_all(&block, |slices| writev(file, slices))?;
        }
        Ok(())
    }

    /// The SHA-256 of all that was written, in lower-case hex.
    #[must_use]
    pub fn hex_digest(&self) -> String {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        hex(&digest)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Pieces, cut into blocks of what one system call takes.
struct Blocks<'a>(Vec<&'a [u8]>);

impl<'a> Iterator for Blocks<'a> {
    type Item = Vec<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut room = CALL_BYTES;
        let mut whole = 0;
        while room > 0 && whole < self.0.len().min(MOST_PIECES) {
            let length = self.0[whole].len();
            if length > room {
                break;
            }
            room -= length;
            whole += 1;
        }
        let mut block: Vec<_> = self.0.drain(..whole).collect();
        if room > 0
            && whole < MOST_PIECES
            && let Some(first) = self.0.first_mut()
        {
            let (begin, rest) = first.split_at(room);
            block.push(begin);
            *first = rest;
        }
        (!block.is_empty()).then_some(block)
    }
}

fn write_all(
    pieces: &[&[u8]],
    mut write: impl FnMut(&[IoSlice<'_>]) -> Result<usize, Errno>,
) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = slices.as_mut_slice();
    // Empty ones at the front, of which nothing could be written.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read};
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use sha2::{Digest, Sha256};
    use tempfile::NamedTempFile;

    use super::*;

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![0usize..40, 0usize..3 * CALL_BYTES];
        prop::collection::vec((any::<u8>(), length), 0..12).prop_map(|pieces| {
            let grown = |(seed, length): (u8, usize)| {
                (0..length)
                    .map(|place| seed.wrapping_add((place * 7 % 251) as u8))
                    .collect()
            };
            pieces.into_iter().map(grown).collect()
        })
    }

    fn views(pieces: &[Vec<u8>]) -> Vec<&[u8]> {
        pieces.iter().map(Vec::as_slice).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_is_written_is_the_pieces_one_after_the_other(pieces in pieces(), offset in 0u64..70) {
            let file = NamedTempFile::new().unwrap();
            write_at(file.as_file().as_fd(), &views(&pieces), offset).unwrap();
            let mut expected = vec![0; offset as usize];
            expected.extend(pieces.concat());
            let found = read(file.path()).unwrap();
            // Nothing written leaves nothing, not even the zeros before it.
            prop_assert_eq!(found, if pieces.concat().is_empty() { vec![] } else { expected });
        }

        #[test]
        fn a_hashed_file_holds_the_pieces_and_knows_their_hash(pieces in pieces()) {
            let file = NamedTempFile::new().unwrap();
            let mut hashed = HashedFile::default();
            for part in views(&pieces).chunks(3) {
                hashed.append(file.as_file().as_fd(), part).unwrap();
            }
            let found = read(file.path()).unwrap();
            prop_assert_eq!(&found, &pieces.concat());
            let expected = hex(&Sha256::digest(&found));
            prop_assert_eq!(hashed.hex_digest(), expected);
        }

        #[test]
        fn blocks_are_as_large_as_a_call_takes(pieces in pieces()) {
            let blocks: Vec<_> = Blocks(views(&pieces)).collect();
            prop_assert_eq!(blocks.concat().concat(), pieces.concat());
            for block in &blocks {
                prop_assert!(block.len() <= MOST_PIECES && block.concat().len() <= CALL_BYTES);
            }
        }
    }

    #[test]
    fn more_pieces_than_a_call_takes_are_several_calls() {
        let file = NamedTempFile::new().unwrap();
        let pieces = vec![b"ab".as_slice(); 3 * MOST_PIECES + 1];
        write_at(file.as_file().as_fd(), &pieces, 0).unwrap();
        assert_eq!(read(file.path()).unwrap(), pieces.concat());
    }

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(&[b"1234".as_slice(), b"", b"56789"], 0), 0xe306_9283);
        assert_eq!(
            crc32c(&[b"56789".as_slice()], crc32c(&[b"1234".as_slice()], 0)),
            0xe306_9283
        );
    }

    #[test]
    fn a_file_that_takes_nothing_is_an_error() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = HashedFile::default()
            .append(full.as_fd(), &[b"x"])
            .unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NOSPC.raw_os_error())
        );
    }
}

//! Hashes of the original bytes, by the processor's own instructions where it has them.

use md5::Md5;
use sha2::{Digest, Sha512};

use crate::options::DigestKind;
use crate::sha256::sha256_each;

/// The digest of each body in lower-case hex, or nothing when none is wanted. Several take less time together.
#[must_use]
pub fn hex_digests(kind: DigestKind, bodies: &[&[u8]]) -> Vec<Option<String>> {
    match kind {
        DigestKind::None => vec![None; bodies.len()],
        DigestKind::Md5 => each(bodies, |body| hex(&Md5::digest(body))),
        DigestKind::Sha256 => sha256_each(bodies)
            .iter()
            .map(|digest| Some(hex(digest)))
            .collect(),
        DigestKind::Sha512 => each(bodies, |body| hex(&Sha512::digest(body))),
    }
}

fn each(bodies: &[&[u8]], digest: impl Fn(&[u8]) -> String) -> Vec<Option<String>> {
    bodies.iter().map(|body| Some(digest(body))).collect()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

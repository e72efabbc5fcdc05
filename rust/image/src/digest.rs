//! Hashes of the original bytes, by the processor's own instructions where it has them.

use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use crate::options::DigestKind;

/// Return the digest of `body` in lower-case hex, or nothing when none is wanted.
#[must_use]
pub fn hex_digest(kind: DigestKind, body: &[u8]) -> Option<String> {
    match kind {
        DigestKind::None => None,
        DigestKind::Md5 => Some(hex(&Md5::digest(body))),
        DigestKind::Sha256 => Some(hex(&Sha256::digest(body))),
        DigestKind::Sha512 => Some(hex(&Sha512::digest(body))),
    }
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

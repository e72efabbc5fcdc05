//! Damage: to bytes of any kind, and to the segments and chunks that images are made of.

use crate::random::Random;

/// Bytes from the start in which most damage is done, since that is where the structure is.
const HEAD_BYTES: usize = 700;
/// Numbers at which arithmetic tends to break.
const NUMBERS: [u32; 14] = [
    0,
    1,
    2,
    7,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];

/// Return `body` damaged one to four times; `other` is what it may be spliced with.
pub fn damaged(body: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut damaged = body.to_vec();
    for _ in 0..=random.below(4) {
        let is_jpeg = damaged.starts_with(b"\xff\xd8");
        if is_jpeg && !random.one_in(3) {
            damage_jpeg(&mut damaged, random);
        } else {
            damage_bytes(&mut damaged, other, random);
        }
    }
    if damaged.starts_with(b"\x89PNG") && !random.one_in(8) {
        restore_checksums(&mut damaged);
    }
    damaged
}

fn place(length: usize, random: &mut Random) -> usize {
    let end = if random.one_in(3) {
        length
    } else {
        length.min(HEAD_BYTES)
    };
    random.below(end)
}

fn damage_bytes(body: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = place(body.len(), random);
    let end = (at + 1 + random.below(64)).min(body.len());
    match random.below(11) {
        0 | 1 if at < body.len() => body[at] = random.byte(),
        2 if at < body.len() => body[at] ^= 1 << random.below(8),
        3 if at < end => body[at..end].fill_with(|| random.byte()),
        4 if at < end => body[at..end].fill(0),
        5 if at < end => drop(body.drain(at..end)),
        6 => body.truncate(random.below(body.len() + 1)),
        7 if at < end => {
            let again = body[at..end].to_vec();
            body.splice(at..at, again);
        }
        8 => {
            let from = random.below(other.len());
            body.truncate(at);
            body.extend_from_slice(&other[from..]);
        }
        _ => write_number(body, at, random),
    }
}

fn write_number(body: &mut [u8], at: usize, random: &mut Random) {
    let number = *random.pick(&NUMBERS);
    let bytes = if random.one_in(2) {
        number.to_be_bytes()
    } else {
        number.to_le_bytes()
    };
    let length = *random.pick(&[1, 2, 3, 4]);
    let bytes = if random.one_in(2) {
        &bytes[..length]
    } else {
        &bytes[4 - length..]
    };
    for (target, byte) in body.iter_mut().skip(at).zip(bytes) {
        *target = *byte;
    }
}

/// Segments that have broken decoders, or that none expects where they are put.
const SEGMENTS: [&[u8]; 17] = [
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\x0b",
    b"\xff\x01",
    b"\xff\xd3",
    b"\xff\xff\xff",
    b"\0\0\0\0",
    b"\xff\xc4\0\x04\0\xff",
    b"\xff\xc4\0\x02",
    b"\xff\xdb\0\x02",
    b"\xff\xdb\0\x03\x1f",
    b"\xff\xdd\0\x04\0\x01",
    b"\xff\xdc\0\x04\0\x05",
    b"\xff\xcc\0\x04\x01\x01",
    b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x03",
    b"\xff\xe0\0\x10JFIF\0\x09\x09\0\0\x01\0\x01\0\0",
    b"\xff\xe2\0\x10ICC_PROFILE\0\x01\xff",
];

/// Where the segments before the first scan are, that of the scan included.
fn segments(body: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = body.get(at..at + 4) {
        let end = at + 2 + (usize::from(high) << 8 | usize::from(low));
        if end > body.len() {
            break;
        }
        found.push((at, end));
        at = end;
        if marker == 0xda {
            break;
        }
    }
    found
}

fn damage_jpeg(body: &mut Vec<u8>, random: &mut Random) {
    let found = segments(body);
    if found.is_empty() {
        return;
    }
    let (at, end) = *random.pick(&found);
    match random.below(8) {
        0 | 1 => {
            body.splice(at..at, random.pick(&SEGMENTS).iter().copied());
        }
        2 => drop(body.splice(0..0, *b"\xff\xd8")),
        3 => drop(body.drain(at..end)),
        4 => {
            let marker = *random.pick(&[0xc4, 0xdb]);
            for (at, end) in found.into_iter().rev() {
                if body[at + 1] == marker {
                    body.drain(at..end);
                }
            }
        }
        5 => {
            let again = body[at..end].to_vec();
            let (elsewhere, _) = *random.pick(&found);
            body.splice(elsewhere..elsewhere, again);
        }
        6 => body[at + 1] = random.byte() | 0xc0,
        _ => {
            let inside = at + 2 + random.below(end - at - 2);
            body[inside] = random.byte();
        }
    }
}

/// Make the checksums of PNG chunks right again, since a decoder looks no further than a wrong one.
fn restore_checksums(body: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = body.get(at..at + 4) {
        let length = length
            .iter()
            .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        let end = at + 8 + length;
        if end + 4 > body.len() {
            return;
        }
        let checksum = crc32(&body[at + 4..end]).to_be_bytes();
        body[end..end + 4].copy_from_slice(&checksum);
        at = end + 4;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

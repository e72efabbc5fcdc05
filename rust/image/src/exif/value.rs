//! Values of a tag as text: fractions in lowest terms, lists in brackets, known numbers by name.

use super::tags::Style;
use crate::header::tiff::{Entry, Stream};

const ASCII: u16 = 2;
/// From this many values on, exifread keeps none.
const TOO_MANY: u32 = 1_000;
/// From more than this many values, only the first are shown.
const MANY: u32 = 50;
const SHOWN_OF_MANY: usize = 20;

/// Return the printed form of the values of `entry`. Values that lie outside the stream count as zero.
#[must_use]
pub fn print(stream: Stream<'_>, entry: Entry, style: Style) -> String {
    if entry.kind == ASCII {
        return ascii(stream, entry);
    }
    let count = if entry.count < TOO_MANY {
        entry.count as usize
    } else {
        0
    };
    match style {
        Style::Text => text(stream, entry, count),
        Style::Labels(labels) => (0..count)
            .map(|index| label(stream, entry, index, labels))
            .collect(),
        Style::Plain | Style::Directory(..) if count == 1 => number(stream, entry, 0),
        Style::Plain | Style::Directory(..) => list(stream, entry, count),
    }
}

/// Longest string that is kept whole; no tag of an image says more.
const MAX_ASCII_BYTES: usize = 256 << 10;

/// Up to the first null, as UTF-8.
fn ascii(stream: Stream<'_>, entry: Entry) -> String {
    let bytes = stream
        .slice(entry.offset, entry.count as usize)
        .unwrap_or_default();
    let bytes = &bytes[..bytes.len().min(MAX_ASCII_BYTES)];
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn list(stream: Stream<'_>, entry: Entry, count: usize) -> String {
    let many = entry.count > MANY && count > SHOWN_OF_MANY;
    let shown = if many { SHOWN_OF_MANY } else { count };
    let numbers: Vec<String> = (0..shown)
        .map(|index| number(stream, entry, index))
        .collect();
    format!(
        "[{}{}]",
        numbers.join(", "),
        if many { ", ... " } else { "" }
    )
}

fn label(stream: Stream<'_>, entry: Entry, index: usize, labels: &[(u32, &str)]) -> String {
    let text = number(stream, entry, index);
    let value: Option<u32> = text.parse().ok();
    let known = labels.iter().find(|(number, _)| Some(*number) == value);
    known.map_or(text, |(_, label)| (*label).to_owned())
}

/// Printable characters of Latin-1; without any, the numbers one after another, and nothing for zeros.
fn text(stream: Stream<'_>, entry: Entry, count: usize) -> String {
    let bytes = stream.slice(entry.offset, count).unwrap_or_default();
    let printable: String = bytes
        .iter()
        .filter(|&&byte| byte >= 32)
        .map(|&byte| char::from(byte))
        .collect();
    if !printable.is_empty() {
        return printable.trim_matches([' ', '\0']).to_owned();
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return String::new();
    }
    bytes.iter().map(ToString::to_string).collect()
}

fn number(stream: Stream<'_>, entry: Entry, index: usize) -> String {
    let at = |bytes: usize| entry.offset.saturating_add(index * bytes);
    let byte = || stream.slice(at(1), 1).map_or(0, |slice| slice[0]);
    let short = || stream.u16(at(2)).unwrap_or(0);
    let long = |offset: usize| stream.u32(offset).unwrap_or(0);
    match entry.kind {
        3 => short().to_string(),
        4 | 13 => long(at(4)).to_string(),
        5 => fraction(long(at(8)).into(), long(at(8).saturating_add(4)).into()),
        6 => byte().cast_signed().to_string(),
        8 => short().cast_signed().to_string(),
        9 => long(at(4)).cast_signed().to_string(),
        10 => {
            let (over, under) = (
                long(at(8)).cast_signed(),
                long(at(8).saturating_add(4)).cast_signed(),
            );
            fraction(over.into(), under.into())
        }
        11 => format!("({:?},)", f32::from_bits(long(at(4)))),
        12 => format!("({:?},)", double(stream, at(8))),
        _ => byte().to_string(),
    }
}

fn double(stream: Stream<'_>, offset: usize) -> f64 {
    let (first, second) = (
        stream.u32(offset).unwrap_or(0),
        stream.u32(offset.saturating_add(4)).unwrap_or(0),
    );
    let (high, low) = if stream.is_big_endian() {
        (first, second)
    } else {
        (second, first)
    };
    f64::from_bits((u64::from(high) << 32) | u64::from(low))
}

/// In lowest terms, the sign in front; a denominator of zero stays.
fn fraction(over: i64, under: i64) -> String {
    if under == 0 {
        return format!("{over}/0");
    }
    let divisor = greatest_common_divisor(over.unsigned_abs(), under.unsigned_abs())
        .max(1)
        .cast_signed();
    let (over, under) = (over / divisor * under.signum(), under.abs() / divisor);
    if under == 1 {
        over.to_string()
    } else {
        format!("{over}/{under}")
    }
}

fn greatest_common_divisor(left: u64, right: u64) -> u64 {
    if right == 0 {
        left
    } else {
        greatest_common_divisor(right, left % right)
    }
}

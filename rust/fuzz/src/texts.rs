//! Damaged lists: URLs, CSV and JSON arrays, with sound ones beside them.

use arrow_array::{Array, ArrayRef, StringArray};
use std::sync::Arc;
use turbo_fetch_urls::csv::{CsvReader, Quoting};
use turbo_fetch_urls::json::JsonArray;
use turbo_fetch_urls::parse::parse_urls;

use crate::random::Random;

const SOUND_URL: &str = "https://bücher.example.co.uk/a%20b/ü?q=1#part";

/// Read `text` as URLs, as CSV and as a JSON array; return what is wrong, if anything.
pub fn take(text: &[u8], random: &mut Random) -> Option<&'static str> {
    urls(text)
        .or_else(|| csv(text, random))
        .or_else(|| json(text, random))
}

/// A URL is what it is without the lines around it.
fn urls(text: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(text);
    let mut lines: Vec<&str> = text.lines().collect();
    let middle = lines.len() / 2;
    lines.insert(middle, SOUND_URL);
    let parsed = |lines: Vec<&str>| parse_urls(&(Arc::new(StringArray::from(lines)) as ArrayRef));
    let (Ok(all), Ok(alone)) = (parsed(lines.clone()), parsed(vec![SOUND_URL])) else {
        return Some("urls-refused");
    };
    if all.num_rows() != lines.len() || all.slice(middle, 1) != alone {
        return Some("damages-urls");
    }
    None
}

/// Rows do not depend on where the blocks of the file end.
fn csv(text: &[u8], random: &mut Random) -> Option<&'static str> {
    let delimiter = *random.pick(b",\t;|");
    let quoting = *random.pick(&[Quoting::Auto, Quoting::Standard, Quoting::None]);
    let whole = rows(text, (delimiter, quoting), text.len());
    let pieces = rows(text, (delimiter, quoting), 1 + random.below(40));
    (whole != pieces).then_some("rows-depend-on-blocks")
}

fn rows(
    text: &[u8],
    (delimiter, quoting): (u8, Quoting),
    piece_bytes: usize,
) -> Vec<Vec<Option<String>>> {
    let mut reader = CsvReader::new(delimiter, quoting);
    let mut columns = None;
    let mut rows = Vec::new();
    let pieces = text.len().div_ceil(piece_bytes.max(1)).max(1);
    for piece in 0..pieces {
        let start = piece * piece_bytes;
        let end = (start + piece_bytes).min(text.len());
        reader.feed(&text[start..end], piece + 1 == pieces);
        if columns.is_none() {
            columns = reader
                .header()
                .ok()
                .flatten()
                .map(|names| (0..names.len()).collect::<Vec<_>>());
        }
        let Some(columns) = &columns else { continue };
        while let Ok(batch) = reader.read(columns, 7)
            && batch.num_rows() > 0
        {
            rows.extend((0..batch.num_rows()).map(|row| {
                let column = |column: &ArrayRef| {
                    let strings = column.as_any().downcast_ref::<StringArray>()?;
                    strings.is_valid(row).then(|| strings.value(row).to_owned())
                };
                batch.columns().iter().map(column).collect()
            }));
        }
    }
    rows
}

/// Elements do not depend on where the blocks of the file end.
fn json(text: &[u8], random: &mut Random) -> Option<&'static str> {
    let whole = lines(text, text.len());
    let pieces = lines(text, 1 + random.below(40));
    (whole != pieces).then_some("elements-depend-on-blocks")
}

fn lines(text: &[u8], piece_bytes: usize) -> Option<Vec<u8>> {
    let mut array = JsonArray::default();
    let mut lines = Vec::new();
    for piece in text.chunks(piece_bytes.max(1)) {
        lines.extend(array.feed(piece).ok()?);
    }
    array.finish().ok()?;
    Some(lines)
}

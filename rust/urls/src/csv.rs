//! CSV and TSV as people write them: a streaming reader that loses no row and fails on none.
//!
//! The grammar is RFC 4180 (quoted fields, doubled quotes, line breaks within quotes), with LF, CRLF or CR
//! at line ends, read leniently:
//!
//! - too few fields: the missing ones are null; too many: the row is malformed unless those are empty;
//! - text after a closing quote, or a quote within an unquoted field, is data;
//! - a quote that is not closed within [`MAX_RECORD_BYTES`] or before the end of the list makes its line
//!   malformed, and reading goes on with the next line;
//! - bytes that are not UTF-8 become U+FFFD; empty lines are no rows.
//!
//! A malformed row holds its whole text, marked by [`MALFORMED_MARK`], in the first column, and nulls.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use memchr::{memchr, memchr2, memchr3};

use crate::address::MALFORMED_MARK;

/// Longest record, in bytes, in which a closing quote is looked for.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Longest line, in bytes; a longer one shows that the file is no table of text.
pub const MAX_LINE_BYTES: usize = 64 << 20;

const MAX_BATCH_BYTES: usize = 16 << 20;
const MALFORMED_SHOWN_BYTES: usize = 2000;

/// A field of a record: where its text is in the buffer, without quotes.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    has_doubled_quotes: bool,
}

/// How far a record goes.
enum Scan {
    /// The record ends before this place in the buffer; its fields are in `fields`.
    Record(usize),
    /// The buffer ends within the record.
    Partial,
    /// A quote of the record is never closed.
    Unclosed,
}

/// A streaming reader: bytes are fed in any pieces, records come out as batches of strings.
pub struct CsvReader {
    delimiter: u8,
    buffer: Vec<u8>,
    at: usize,
    is_complete: bool,
    width: usize,
    fields: Vec<Span>,
}

impl CsvReader {
    /// Make a reader of records whose fields are separated by `delimiter`, an ASCII character.
    #[must_use]
    pub fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            buffer: Vec::new(),
            at: 0,
            is_complete: false,
            width: 0,
            fields: Vec::new(),
        }
    }

    /// Take the next bytes of the list; `is_last` says that no more follow.
    pub fn feed(&mut self, block: &[u8], is_last: bool) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(block);
        self.is_complete |= is_last;
    }

    /// Read the first record: the names of the columns, which say how many fields a row has.
    ///
    /// Returns None if more bytes are needed, and no names for a list without any record.
    pub fn header(&mut self) -> Option<Vec<String>> {
        while self.at < self.buffer.len() {
            let is_blank = self.is_blank(self.at);
            let Scan::Record(end) = self.scan(self.at) else {
                return self.is_complete.then(Vec::new);
            };
            self.at = end;
            if !is_blank {
                self.width = self.fields.len();
                return Some(self.fields.iter().map(|&field| self.text(field)).collect());
            }
        }
        self.is_complete.then(Vec::new)
    }

    /// Read up to `max_rows` of the complete records fed so far, as columns of strings.
    ///
    /// `columns` are indices into the header; the columns of the batch are named by their indices. An
    /// empty batch means that more bytes are needed or, after the last ones, that the list has ended.
    ///
    /// # Errors
    /// [`ArrowError::CsvError`] for a line over [`MAX_LINE_BYTES`].
    pub fn read(&mut self, columns: &[usize], max_rows: usize) -> Result<RecordBatch, ArrowError> {
        let mut builders: Vec<_> = columns.iter().map(|_| StringBuilder::new()).collect();
        let (mut rows, start) = (0, self.at);
        while rows < max_rows && self.at < self.buffer.len() && self.at - start < MAX_BATCH_BYTES {
            match self.scan(self.at) {
                Scan::Partial if self.buffer.len() - self.at > MAX_LINE_BYTES => {
                    let limit = format!("a line is longer than {MAX_LINE_BYTES} bytes");
                    return Err(ArrowError::CsvError(limit));
                }
                Scan::Partial => break,
                Scan::Unclosed => self.push_unclosed(&mut builders),
                Scan::Record(end) => {
                    let record_start = std::mem::replace(&mut self.at, end);
                    if self.is_blank(record_start) {
                        continue;
                    }
                    self.push_record(columns, record_start, &mut builders);
                }
            }
            rows += 1;
        }
        batch(columns, builders, rows)
    }

    fn push_record(&self, columns: &[usize], start: usize, builders: &mut [StringBuilder]) {
        let surplus = self.fields.get(self.width..).unwrap_or_default();
        if surplus.iter().any(|field| field.end > field.start) {
            return push_malformed(&self.buffer[start..self.at], builders);
        }
        for (builder, &column) in builders.iter_mut().zip(columns) {
            match self.fields.get(column) {
                None => builder.append_null(),
                Some(&field) if field.has_doubled_quotes => builder.append_value(self.text(field)),
                Some(field) => match str::from_utf8(&self.buffer[field.start..field.end]) {
                    Ok(text) => builder.append_value(text),
                    Err(_) => builder.append_value(self.text(*field)),
                },
            }
        }
    }

    fn push_unclosed(&mut self, builders: &mut [StringBuilder]) {
        let rest = &self.buffer[self.at..];
        let line = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        push_malformed(&rest[..line], builders);
        self.at += line;
        self.skip_line_end();
    }

    fn skip_line_end(&mut self) {
        if self.buffer[self.at..].starts_with(b"\r\n") {
            self.at += 2;
        } else if self.at < self.buffer.len() {
            self.at += 1;
        }
    }

    /// Whether the record that starts at `start` is an empty line.
    fn is_blank(&self, start: usize) -> bool {
        matches!(self.buffer[start], b'\n' | b'\r')
    }

    fn text(&self, field: Span) -> String {
        let text = String::from_utf8_lossy(&self.buffer[field.start..field.end]);
        if field.has_doubled_quotes {
            text.replace("\"\"", "\"")
        } else {
            text.into_owned()
        }
    }

    /// Find the fields of the record that starts at `start`.
    fn scan(&mut self, start: usize) -> Scan {
        self.fields.clear();
        let mut at = start;
        loop {
            let is_quoted = self.buffer.get(at) == Some(&b'"');
            let field = if is_quoted {
                self.quoted(at)
            } else {
                Some(self.unquoted(at, at))
            };
            let Some(field) = field else {
                let rest = &self.buffer[start..];
                let is_too_long =
                    rest.len() > MAX_RECORD_BYTES && memchr2(b'\n', b'\r', rest).is_some();
                return if self.is_complete || is_too_long {
                    Scan::Unclosed
                } else {
                    Scan::Partial
                };
            };
            at = field.end + usize::from(is_quoted && self.buffer.get(field.end) == Some(&b'"'));
            self.fields.push(field);
            match self.buffer.get(at) {
                Some(&byte) if byte == self.delimiter => at += 1,
                Some(b'\n') => return Scan::Record(at + 1),
                // A CR at the end of the buffer may be half of a CRLF.
                Some(b'\r') => match self.buffer.get(at + 1) {
                    Some(b'\n') => return Scan::Record(at + 2),
                    None if !self.is_complete => return Scan::Partial,
                    _ => return Scan::Record(at + 1),
                },
                _ if self.is_complete => return Scan::Record(at),
                _ => return Scan::Partial,
            }
        }
    }

    fn unquoted(&self, start: usize, from: usize) -> Span {
        let rest = &self.buffer[from..];
        let length = memchr3(self.delimiter, b'\n', b'\r', rest).unwrap_or(rest.len());
        Span {
            start,
            end: from + length,
            has_doubled_quotes: false,
        }
    }

    /// The quoted field that starts at `start`, or None if the buffer ends before its closing quote.
    fn quoted(&self, start: usize) -> Option<Span> {
        let (mut at, mut has_doubled_quotes) = (start + 1, false);
        loop {
            at += memchr(b'"', &self.buffer[at..])?;
            match self.buffer.get(at + 1) {
                Some(b'"') => (at, has_doubled_quotes) = (at + 2, true),
                None if !self.is_complete => return None,
                Some(&byte) if byte != self.delimiter && byte != b'\n' && byte != b'\r' => {
                    // The quotes did not enclose the field, so they are data as they stand.
                    return Some(self.unquoted(start, at));
                }
                _ => {
                    return Some(Span {
                        start: start + 1,
                        end: at,
                        has_doubled_quotes,
                    });
                }
            }
        }
    }
}

fn push_malformed(text: &[u8], builders: &mut [StringBuilder]) {
    let shown = &text.trim_ascii_end()[..text.trim_ascii_end().len().min(MALFORMED_SHOWN_BYTES)];
    let marked = format!("{MALFORMED_MARK}{}", String::from_utf8_lossy(shown));
    if let Some((first, others)) = builders.split_first_mut() {
        first.append_value(marked);
        others.iter_mut().for_each(StringBuilder::append_null);
    }
}

fn batch(
    columns: &[usize],
    builders: Vec<StringBuilder>,
    rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let fields: Vec<_> = columns
        .iter()
        .map(|column| Field::new(column.to_string(), DataType::Utf8, true))
        .collect();
    let arrays = builders
        .into_iter()
        .map(|mut builder| Arc::new(builder.finish()) as _)
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Array;
    use arrow_array::cast::AsArray;

    type Row = Vec<Option<String>>;

    fn rows_of(batch: &RecordBatch) -> Vec<Row> {
        let cell = |column: usize, row: usize| {
            let strings = batch.column(column).as_string::<i32>();
            strings.is_valid(row).then(|| strings.value(row).to_owned())
        };
        (0..batch.num_rows())
            .map(|row| {
                (0..batch.num_columns())
                    .map(|column| cell(column, row))
                    .collect()
            })
            .collect()
    }

    /// Read a whole list, fed in pieces of `piece_bytes`.
    fn read_all(list: &[u8], piece_bytes: usize) -> (Vec<String>, Vec<Row>) {
        let mut reader = CsvReader::new(b',');
        let (mut header, mut rows) = (None, Vec::new());
        let pieces = list.len().div_ceil(piece_bytes).max(1);
        for piece in 0..pieces {
            let end = ((piece + 1) * piece_bytes).min(list.len());
            reader.feed(&list[piece * piece_bytes..end], piece + 1 == pieces);
            header = header.or_else(|| reader.header());
            let Some(names) = &header else { continue };
            let columns: Vec<_> = (0..names.len()).collect();
            loop {
                let batch = reader.read(&columns, 3).unwrap();
                if batch.num_rows() == 0 {
                    break;
                }
                rows.extend(rows_of(&batch));
            }
        }
        (header.unwrap(), rows)
    }

    fn check(list: &str, expected: &[&[Option<&str>]]) {
        for piece_bytes in [1, 2, 3, 7, 1000] {
            let (_, rows) = read_all(list.as_bytes(), piece_bytes);
            let found: Vec<Vec<_>> = rows
                .iter()
                .map(|row| row.iter().map(Option::as_deref).collect())
                .collect();
            assert_eq!(found, expected, "{list:?} in pieces of {piece_bytes}");
        }
    }

    #[test]
    fn reads_the_grammar_of_rfc_4180() {
        check("a,b\n1,2\n", &[&[Some("1"), Some("2")]]);
        check(
            "a,b\r\n1,2\r\n3,4",
            &[&[Some("1"), Some("2")], &[Some("3"), Some("4")]],
        );
        check("a,b\r1,2\r", &[&[Some("1"), Some("2")]]);
        check(
            "a,b\n\"x,\"\"y\"\"\",\"1\r\n2\"\n",
            &[&[Some("x,\"y\""), Some("1\r\n2")]],
        );
        check("a,b\n,\n", &[&[Some(""), Some("")]]);
        check("a\n\"\"\n\n\r\nx\n", &[&[Some("")], &[Some("x")]]);
        check("\n\na\n1", &[&[Some("1")]]);
    }

    #[test]
    fn loses_no_ragged_row() {
        check(
            "a,b\n1\n1,2,,\n",
            &[&[Some("1"), None], &[Some("1"), Some("2")]],
        );
        check(
            "a,b\nu,v,w\nx,y",
            &[&[Some("\u{1f}u,v,w"), None], &[Some("x"), Some("y")]],
        );
    }

    #[test]
    fn takes_stray_quotes_as_data() {
        check("a,b\n1\" x,\"y\"z\n", &[&[Some("1\" x"), Some("\"y\"z")]]);
        check(
            "a,b\n\"1,2\n3,4\n",
            &[&[Some("\u{1f}\"1,2"), None], &[Some("3"), Some("4")]],
        );
    }

    #[test]
    fn goes_on_after_a_quote_that_is_not_closed_for_megabytes() {
        let list = format!("a,b\n\"1,2\n{}", "3,4\n".repeat(2_000_000));
        let (_, rows) = read_all(list.as_bytes(), 1 << 20);
        assert_eq!(rows.len(), 2_000_001);
    }

    #[test]
    fn replaces_what_is_not_utf_8() {
        let (header, rows) = read_all(b"a\xff\nb\xff\n", 100);
        assert_eq!(header, ["a\u{fffd}"]);
        assert_eq!(rows, [[Some("b\u{fffd}".to_owned())]]);
    }

    #[test]
    fn an_empty_list_has_no_columns() {
        assert_eq!(read_all(b"", 1), (vec![], vec![]));
        assert_eq!(read_all(b"\n\n", 1), (vec![], vec![]));
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut reader = CsvReader::new(b',');
        reader.feed(b"a\n", false);
        reader.header();
        reader.feed(&vec![b'x'; MAX_LINE_BYTES + 1], false);
        assert!(matches!(reader.read(&[0], 1), Err(ArrowError::CsvError(_))));
    }
}

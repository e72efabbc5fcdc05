//! CSV and TSV as people write them: a streaming reader that loses no row and fails on none.
//!
//! The grammar is RFC 4180 (quoted fields, doubled quotes, line breaks within quotes), with LF, CRLF or CR
//! at line ends, read leniently:
//!
//! - too few fields: the missing ones are null; too many: the row is malformed unless those are empty;
//! - text after a closing quote, or a quote within an unquoted field, is data;
//! - a field that begins with a quote, and that no quote closes before a delimiter or a line end, is data up
//!   to the next delimiter, and so is one that is closed on a later line if its lines are rows themselves
//!   ([`Quoting::Auto`]): a stray quote changes nothing but its own row;
//! - bytes that are not UTF-8 become U+FFFD; empty lines are no rows.
//!
//! A malformed row holds its whole text, marked by [`MALFORMED_MARK`], in the first column, and nulls. What
//! was not as it should be is counted ([`CsvReader::take_notes`]).

mod fields;
mod notes;
mod plausible;

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use memchr::memchr;

use crate::address::MALFORMED_MARK;
use fields::{Quoted, Span, has_line_break, lines, plain, quoted};
use notes::Notes;
pub use notes::{Note, Oddity};
use plausible::Shape;

/// Longest record, in bytes, in which a closing quote is looked for on a later line.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Longest line, in bytes; a longer one shows that the file is no table of text.
pub const MAX_LINE_BYTES: usize = 64 << 20;

const MAX_BATCH_BYTES: usize = 16 << 20;
const MALFORMED_SHOWN_BYTES: usize = 2000;

/// What quotes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// A quoted field may span lines, unless these look like rows.
    Auto,
    /// A quoted field may span lines, whatever they look like.
    Standard,
    /// Quotes are data.
    None,
}

/// How far a record goes.
enum Scan {
    /// The record ends before this place in the buffer; its fields are in `fields`.
    Record(usize),
    /// The buffer ends within the record.
    Partial,
}

/// A streaming reader: bytes are fed in any pieces, records come out as batches of strings.
pub struct CsvReader {
    shape: Shape,
    quoting: Quoting,
    buffer: Vec<u8>,
    at: usize,
    is_complete: bool,
    /// How many bytes of a record must be there before it is worth another look.
    wanted_bytes: usize,
    /// No quoted field that begins before this place in the buffer spans lines.
    spans_from: usize,
    fields: Vec<Span>,
    /// Where the last field of the record that spans lines ends.
    span_end: Option<usize>,
    /// Whether a field of the record begins with a quote that is data.
    has_stray_quote: bool,
    /// Whether quotes of earlier records were needed, and whether some were data.
    evidence: (bool, bool),
    line: u64,
    notes: Notes,
}

impl CsvReader {
    /// Make a reader of records whose fields are separated by `delimiter`, an ASCII character.
    #[must_use]
    pub fn new(delimiter: u8, quoting: Quoting) -> Self {
        let shape = Shape {
            delimiter,
            width: 0,
            url: 0,
        };
        Self {
            shape,
            quoting,
            buffer: Vec::new(),
            at: 0,
            is_complete: false,
            wanted_bytes: 0,
            spans_from: 0,
            fields: Vec::new(),
            span_end: None,
            has_stray_quote: false,
            evidence: (false, false),
            line: 1,
            notes: Notes::default(),
        }
    }

    /// Take the next bytes of the list; `is_last` says that no more follow.
    pub fn feed(&mut self, block: &[u8], is_last: bool) {
        self.buffer.drain(..self.at);
        self.spans_from = self.spans_from.saturating_sub(self.at);
        self.at = 0;
        self.buffer.extend_from_slice(block);
        self.is_complete |= is_last;
    }

    /// Read the first record: the names of the columns, which say how many fields a row has.
    ///
    /// A line `sep=;` before it, as Excel writes it, names the delimiter. Returns None if more bytes are
    /// needed, and no names for a list without any record.
    ///
    /// # Errors
    /// [`ArrowError::CsvError`] for a line over [`MAX_LINE_BYTES`].
    pub fn header(&mut self) -> Result<Option<Vec<String>>, ArrowError> {
        while self.at < self.buffer.len() {
            let Scan::Record(end) = self.scan() else {
                return self.check_length().map(|()| None);
            };
            let start = std::mem::replace(&mut self.at, end);
            self.count_lines(start);
            if let Some(delimiter) = named_delimiter(&self.buffer[start..end]) {
                self.shape.delimiter = delimiter;
            } else if !self.is_blank(start) {
                self.shape.width = self.fields.len();
                let names = self.fields.iter().map(|field| field.text(&self.buffer));
                return Ok(Some(names.collect()));
            }
        }
        Ok(self.is_complete.then(Vec::new))
    }

    /// Read up to `max_rows` of the complete records fed so far, as columns of strings.
    ///
    /// `columns` are indices into the header, the URL's first; the columns of the batch are named by their
    /// indices. An empty batch means that more bytes are needed or, after the last ones, that the list has
    /// ended.
    ///
    /// # Errors
    /// [`ArrowError::CsvError`] for a line over [`MAX_LINE_BYTES`].
    pub fn read(&mut self, columns: &[usize], max_rows: usize) -> Result<RecordBatch, ArrowError> {
        self.shape.url = columns.first().copied().unwrap_or_default();
        let mut builders: Vec<_> = columns.iter().map(|_| StringBuilder::new()).collect();
        let (mut rows, start) = (0, self.at);
        while rows < max_rows && self.at < self.buffer.len() && self.at - start < MAX_BATCH_BYTES {
            let Scan::Record(end) = self.scan() else {
                self.check_length()?;
                break;
            };
            let record_start = std::mem::replace(&mut self.at, end);
            if !self.is_blank(record_start) {
                self.push_record(columns, record_start, &mut builders);
                rows += 1;
            }
            self.count_lines(record_start);
        }
        batch(columns, builders, rows)
    }

    /// Return what was odd about the rows read since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.notes.take()
    }

    fn push_record(&mut self, columns: &[usize], start: usize, builders: &mut [StringBuilder]) {
        if self.has_stray_quote {
            self.notes.add(Oddity::Quotes, self.line);
        }
        if !self.fits() {
            self.notes.add(Oddity::Surplus, self.line);
            return push_malformed(&self.buffer[start..self.at], builders);
        }
        if self.fields.len() < self.shape.width {
            self.notes.add(Oddity::Short, self.line);
        }
        let mut is_undecodable = false;
        for (builder, &column) in builders.iter_mut().zip(columns) {
            let Some(&field) = self.fields.get(column) else {
                builder.append_null();
                continue;
            };
            match str::from_utf8(&self.buffer[field.start..field.end]) {
                Ok(text) if !field.has_doubled_quotes => builder.append_value(text),
                decoded => {
                    is_undecodable |= decoded.is_err();
                    builder.append_value(field.text(&self.buffer));
                }
            }
        }
        if is_undecodable {
            self.notes.add(Oddity::Undecodable, self.line);
        }
    }

    /// Whether the fields of the record are no more than a row has, but for empty ones.
    fn fits(&self) -> bool {
        let surplus = self.fields.get(self.shape.width..).unwrap_or_default();
        surplus.iter().all(|field| field.end == field.start)
    }

    /// Whether the fields of the record are as many as a row has, or, in the header, any number.
    fn is_whole(&self) -> bool {
        self.shape.width == 0 || (self.fields.len() >= self.shape.width && self.fits())
    }

    /// Whether the record that starts at `start` is an empty line.
    fn is_blank(&self, start: usize) -> bool {
        matches!(self.buffer[start], b'\n' | b'\r')
    }

    /// Count the lines of the record that was read, from `start` to here.
    fn count_lines(&mut self, start: usize) {
        let breaks_within = |field: &Span| lines(&self.buffer[field.start..field.end]).count() - 1;
        let within = match self.span_end {
            None => 0,
            Some(_) => self.fields.iter().map(breaks_within).sum(),
        };
        self.line += within as u64 + u64::from(self.at > start);
    }

    fn check_length(&self) -> Result<(), ArrowError> {
        if self.buffer.len() - self.at <= MAX_LINE_BYTES {
            return Ok(());
        }
        let limit = format!("line {} is longer than {MAX_LINE_BYTES} bytes", self.line);
        Err(ArrowError::CsvError(limit))
    }

    /// Find the fields of the next record.
    fn scan(&mut self) -> Scan {
        let available = self.buffer.len() - self.at;
        if available < self.wanted_bytes && !self.is_complete {
            return Scan::Partial;
        }
        let scan = self.record();
        // Looked at anew only when twice as much of it is there, a record costs time in proportion to its length.
        self.wanted_bytes = match scan {
            Scan::Partial => (2 * available).min(MAX_LINE_BYTES + 1),
            Scan::Record(_) => 0,
        };
        scan
    }

    fn record(&mut self) -> Scan {
        let has_quotes = self.quoting != Quoting::None;
        let Scan::Record(mut end) = self.fields_from(self.at, has_quotes) else {
            return Scan::Partial;
        };
        if let Some(span_end) = self.span_end
            && self.are_rows(end)
        {
            self.spans_from = span_end;
            // Now no field of the first line spans lines.
            let Scan::Record(line_end) = self.fields_from(self.at, has_quotes) else {
                return Scan::Partial;
            };
            end = line_end;
        }
        if self.has_stray_quote && self.span_end.is_none() && !self.is_whole() {
            let quoted = std::mem::take(&mut self.fields);
            self.fields_from(self.at, false);
            if !self.is_whole() {
                self.fields = quoted;
            }
            self.has_stray_quote = true;
        }
        self.weigh();
        Scan::Record(end)
    }

    /// Whether the record, from here to `end`, is made of rows that are lines.
    fn are_rows(&self, end: usize) -> bool {
        if self.quoting != Quoting::Auto || self.shape.width == 0 {
            return false;
        }
        let text = self.buffer[self.at..end].trim_ascii_end();
        match self.evidence {
            _ if !self.is_whole() => plausible::has_row(text, self.shape),
            (are_needed, are_data) => {
                plausible::are_rows(text, self.shape, are_needed && !are_data)
            }
        }
    }

    /// Take note of what the quotes of the record say about those of the list.
    fn weigh(&mut self) {
        let delimiter = self.shape.delimiter;
        let is_needed = |field: &Span| {
            let text = &self.buffer[field.start..field.end];
            field.has_doubled_quotes || (field.is_quoted && memchr(delimiter, text).is_some())
        };
        self.evidence.0 |= self.fields.iter().any(is_needed) && self.is_whole();
        self.evidence.1 |= self.has_stray_quote;
    }

    /// Find the fields of the record that starts at `start`, and where it ends.
    fn fields_from(&mut self, start: usize, has_quotes: bool) -> Scan {
        self.fields.clear();
        self.span_end = None;
        self.has_stray_quote = false;
        let mut at = start;
        loop {
            let is_quote = has_quotes && self.buffer.get(at) == Some(&b'"');
            let field = if is_quote {
                match self.field_of_quote(at) {
                    Some(field) => field,
                    None => return Scan::Partial,
                }
            } else {
                plain(&self.buffer, at, at, self.shape.delimiter)
            };
            at = field.outer_end();
            self.fields.push(field);
            match self.buffer.get(at) {
                Some(&byte) if byte == self.shape.delimiter => at += 1,
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

    /// The field that begins with a quote at `start`, or None if the buffer ends before that is known.
    fn field_of_quote(&mut self, start: usize) -> Option<Span> {
        let delimiter = self.shape.delimiter;
        // Where the quotes that follow enclose nothing, text is searched for its end from here.
        let mut from = start;
        let searched = match quoted(&self.buffer, start, delimiter, self.is_complete) {
            Quoted::Closed(field) => {
                if !has_line_break(&self.buffer[field.start..field.end]) {
                    return Some(field);
                }
                if start >= self.spans_from && field.end - start <= MAX_RECORD_BYTES {
                    self.span_end = Some(field.end);
                    return Some(field);
                }
                field.end
            }
            Quoted::Broken(quote) => {
                if !has_line_break(&self.buffer[start..quote]) {
                    from = quote;
                }
                quote
            }
            Quoted::Open => {
                let rest = &self.buffer[start..];
                let may_close = start >= self.spans_from && rest.len() <= MAX_RECORD_BYTES;
                if !self.is_complete && (may_close || !has_line_break(rest)) {
                    return None;
                }
                self.buffer.len()
            }
        };
        self.spans_from = self.spans_from.max(searched);
        self.has_stray_quote = true;
        Some(plain(&self.buffer, start, from, delimiter))
    }
}

/// The delimiter that a line `sep=;` names.
fn named_delimiter(line: &[u8]) -> Option<u8> {
    match line.trim_ascii_end() {
        [b's', b'e', b'p', b'=', delimiter] => Some(*delimiter),
        // A tab is trimmed.
        b"sep=" if line.get(4) == Some(&b'\t') => Some(b'\t'),
        _ => None,
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
mod tests;

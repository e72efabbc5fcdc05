//! Fields in a buffer: by the grammar of RFC 4180, or as plain text.

use memchr::{memchr, memchr2, memchr3};

/// A field of a record: where its text is in the buffer, without the quotes around it.
#[derive(Clone, Copy)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    pub is_quoted: bool,
    pub has_doubled_quotes: bool,
}

impl Span {
    /// Where the field ends with its closing quote, if it has one.
    pub fn outer_end(self) -> usize {
        self.end + usize::from(self.is_quoted)
    }

    /// The text, doubled quotes made one.
    pub fn text(self, buffer: &[u8]) -> String {
        let text = String::from_utf8_lossy(&buffer[self.start..self.end]);
        if self.has_doubled_quotes {
            text.replace("\"\"", "\"")
        } else {
            text.into_owned()
        }
    }
}

/// How a field that begins with a quote goes on.
pub enum Quoted {
    /// The field, closed before a delimiter, a line end or the end of the list.
    Closed(Span),
    /// The first quote that is not doubled, at this place, closes nothing.
    Broken(usize),
    /// Neither is in the buffer yet.
    Open,
}

/// Find the end of the field whose opening quote is at `start`.
///
/// Within quotes, quotes come in runs of even length, so that the first odd run decides. A field that
/// begins with a quote ends every search from before it, for it has such a run: the searches of a whole
/// list look at each byte once.
pub fn quoted(buffer: &[u8], start: usize, delimiter: u8, is_complete: bool) -> Quoted {
    let (mut at, mut has_doubled_quotes) = (start + 1, false);
    while let Some(distance) = memchr(b'"', &buffer[at..]) {
        let first = at + distance;
        let is_quote = |&&byte: &&u8| byte == b'"';
        let run = buffer[first..].iter().take_while(is_quote).count();
        at = first + run;
        if at == buffer.len() && !is_complete {
            return Quoted::Open;
        }
        has_doubled_quotes |= run > 1;
        if run % 2 == 1 {
            return match buffer.get(at) {
                Some(&byte) if byte != delimiter && byte != b'\n' && byte != b'\r' => {
                    Quoted::Broken(at - 1)
                }
                _ => Quoted::Closed(Span {
                    start: start + 1,
                    end: at - 1,
                    is_quoted: true,
                    has_doubled_quotes,
                }),
            };
        }
    }
    Quoted::Open
}

/// The field that starts at `start`, taken as it stands to the first delimiter or line end after `from`.
pub fn plain(buffer: &[u8], start: usize, from: usize, delimiter: u8) -> Span {
    let rest = &buffer[from..];
    let length = memchr3(delimiter, b'\n', b'\r', rest).unwrap_or(rest.len());
    Span {
        start,
        end: from + length,
        is_quoted: false,
        has_doubled_quotes: false,
    }
}

/// Whether there is a line break in the text.
pub fn has_line_break(text: &[u8]) -> bool {
    memchr2(b'\n', b'\r', text).is_some()
}

/// The lines of a text, without their ends, of which a CRLF is one.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let skipped = if text[end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = Some(&text[end + skipped..]);
        Some(&text[..end])
    })
}

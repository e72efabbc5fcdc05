//! Whether a quoted field over several lines is one, or rows between two quotes that have nothing to do with
//! each other: `"Mind the gap,URL`, fifty rows, and `a screen of 12",URL`.

use memchr::{memchr, memchr_iter, memrchr};

use super::fields::lines;

/// The columns of a list, as far as they help to tell its rows apart.
#[derive(Clone, Copy)]
pub struct Shape {
    pub delimiter: u8,
    /// How many fields a row has.
    pub width: usize,
    /// The column of the URL.
    pub url: usize,
}

/// Whether the lines of a text are rows of their own, each with its own URL.
///
/// Of a row whose quoted field spans lines, read line by line, at most one line has its URL at its place, in
/// a line with as many fields as a row: unless a text quotes lines of the same shape. With
/// `is_quoting_proven`, two such lines are taken for that.
pub fn are_rows(text: &[u8], shape: Shape, is_quoting_proven: bool) -> bool {
    let (mut rows, mut all) = (0, 0);
    let (mut is_first, mut is_last) = (false, false);
    for line in lines(text).filter(|line| !line.trim_ascii().is_empty()) {
        is_last = is_row(line, shape);
        is_first |= is_last && all == 0;
        rows += usize::from(is_last);
        all += 1;
    }
    let is_block = is_first && is_last && rows >= 2 && 3 * rows >= 2 * all;
    let is_long_block = rows >= 8 && 10 * rows >= 9 * all;
    if is_quoting_proven && shape.delimiter != b'\t' {
        is_block && rows > 2
    } else {
        is_block || is_long_block
    }
}

/// Whether some line of the text has the form of a row with a URL.
pub fn has_row(text: &[u8], shape: Shape) -> bool {
    lines(text).any(|line| is_row(line, shape))
}

fn is_row(line: &[u8], shape: Shape) -> bool {
    let mut field_start = 0;
    let mut fields = 0;
    let mut url: &[u8] = b"";
    for end in memchr_iter(shape.delimiter, line).chain([line.len()]) {
        if fields == shape.url {
            url = &line[field_start..end];
        }
        fields += 1;
        field_start = end + 1;
    }
    fields == shape.width && is_address(url.trim_ascii())
}

/// Whether a text has the form of what columns of URLs, of paths, domains or hashes hold, and no sentence does.
/// A stray quote before or after it makes no difference.
fn is_address(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    let text = text.strip_suffix(b"\"").unwrap_or(text);
    let is_one_word =
        |text: &[u8]| !text.iter().any(u8::is_ascii_whitespace) && memchr(b'"', text).is_none();
    if text.is_empty() || !is_one_word(text) {
        return false;
    }
    let has_scheme = || {
        let letters = text
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        letters > 1 && text[letters..].starts_with(b"://")
    };
    let is_path = text.len() > 1 && text[0] == b'/';
    let is_hash = || text.len() >= 32 && text.iter().all(u8::is_ascii_hexdigit);
    has_scheme() || is_path || is_hash() || starts_with_domain(text)
}

fn starts_with_domain(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| b"/:?#".contains(byte));
    let host = &text[..end.unwrap_or(text.len())];
    let Some(dot) = memrchr(b'.', host) else {
        return false;
    };
    let (labels, top) = (&host[..dot], &host[dot + 1..]);
    let is_label_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    !labels.is_empty()
        && labels.iter().all(is_label_byte)
        && top.len() >= 2
        && top.iter().all(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTION_URL: Shape = Shape {
        delimiter: b',',
        width: 2,
        url: 1,
    };
    const URL_CAPTION: Shape = Shape {
        delimiter: b',',
        width: 2,
        url: 0,
    };

    #[test]
    fn rows_between_two_stray_quotes_are_rows() {
        let line = "a cat,http://a.example/1\n";
        for rows in 0..60 {
            let text = format!(
                "\"Mind the gap,http://a.example/0\n{}a 12\",http://a.example/2",
                line.repeat(rows)
            );
            assert!(are_rows(text.as_bytes(), CAPTION_URL, false), "{rows}");
            assert_eq!(
                are_rows(text.as_bytes(), CAPTION_URL, true),
                rows > 0,
                "{rows}"
            );
        }
        let ragged = format!(
            "\"Mind the gap\n{}a 12\",http://a.example/2",
            line.repeat(20)
        );
        assert!(are_rows(ragged.as_bytes(), CAPTION_URL, false));
    }

    #[test]
    fn lines_of_a_text_are_no_rows() {
        for text in [
            "\"one\ntwo\nthree\",http://a.example/",
            "\"one, more\ntwo, more\nthree\",http://a.example/",
            "\"one, etc.\ntwo, and so on\",http://a.example/",
            "\"see http://b.example/,\nor not\",http://a.example/",
            "\"name,url\nx,http://b.example/\ny,http://c.example/\",http://a.example/",
        ] {
            assert!(!are_rows(text.as_bytes(), CAPTION_URL, false), "{text}");
        }
        for text in [
            "http://a.example/,\"one\ntwo\"",
            "http://a.example/,\"see:\nhttp://b.example/\nhttp://c.example/\"",
            "http://a.example/,\"see:\nhttp://b.example/,\nhttp://c.example/,\n\"",
        ] {
            assert!(!are_rows(text.as_bytes(), URL_CAPTION, false), "{text}");
        }
    }

    #[test]
    fn addresses_are_told_from_words() {
        for text in [
            "http://a.example/x y",
            "word",
            "etc.",
            "e.g",
            "3.14",
            "",
            "x\"y.example",
            "a,b",
        ] {
            assert!(!is_address(text.as_bytes()), "{text}");
        }
        for text in [
            "HTTPS://a.example",
            "s3://bucket/key",
            "//a.example/x",
            "/x.jpg",
            "a.example/x.jpg",
            "example.com",
            "\"http://a.example/",
        ] {
            assert!(is_address(text.as_bytes()), "{text}");
        }
    }
}

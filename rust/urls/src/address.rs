//! One URL: from the text of a list to an address that can be requested.
//!
//! Parsing follows the WHATWG URL Standard, as browsers do, by the `url` crate: hosts are lower-cased
//! and IDNA-encoded, odd notations of IPv4 (`0x7f.1`) become dotted decimals, default ports go, and
//! spaces and non-ASCII characters of paths and queries are percent-encoded.

use thiserror::Error;
use url::{Host, ParseError, Url};

/// Longest URL accepted, in bytes. Servers refuse far shorter ones; a longer "URL" is a broken list.
pub const MAX_URL_BYTES: usize = 65_536;

/// What a reader puts into the text of a row that is not well-formed in its list.
///
/// No URL may hold a control character, so such a row can never be requested.
pub const MALFORMED_MARK: char = '\u{1f}';

const SHOWN_SCHEME_CHARS: usize = 24;

/// Why the text of a row is no address that may be requested.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    #[error("no URL in this row")]
    Missing,
    #[error("the row is not well-formed in the list")]
    Malformed,
    #[error("not valid UTF-8")]
    Encoding,
    #[error("{0} bytes long; at most {MAX_URL_BYTES} are accepted")]
    TooLong(usize),
    #[error("holds the control character U+{:04X}", u32::from(*.0))]
    Control(char),
    #[error("no scheme; expected http:// or https://")]
    NoScheme,
    #[error("scheme {0:?}; expected http or https")]
    Scheme(String),
    #[error("holds a user name or password, which lists must not")]
    Credentials,
    #[error("{0}")]
    Syntax(ParseError),
}

/// A URL that may be requested: http or https, without credentials and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    url: Url,
}

impl Address {
    /// Parse the text of a row; white space and byte order marks around it are ignored.
    ///
    /// # Errors
    /// The first of [`AddressError`] that applies. Credentials are refused rather than stripped: a list
    /// is shared, a secret in it is a leak, and `http://known.example@other.example` deceives readers.
    pub fn parse(text: &[u8]) -> Result<Self, AddressError> {
        let text = check_text(text)?;
        check_scheme(text)?;
        let mut url = Url::parse(text).map_err(AddressError::Syntax)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        if url.fragment().is_some() {
            url.set_fragment(None);
        }
        Ok(Self { url })
    }

    /// The whole URL in ASCII, normalised.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The host as it stands in the URL: lower case, IDNA-encoded, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The registrable domain by the public suffix list, private section included: the unit that one
    /// owner answers for. An IP address, a public suffix or a single label is its own domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        match self.url.host() {
            Some(Host::Domain(name)) => {
                psl::domain_str(name).unwrap_or_else(|| name.trim_end_matches('.'))
            }
            _ => self.host(),
        }
    }
}

fn check_text(text: &[u8]) -> Result<&str, AddressError> {
    if text.len() > MAX_URL_BYTES {
        return Err(if text.contains(&(MALFORMED_MARK as u8)) {
            AddressError::Malformed
        } else {
            AddressError::TooLong(text.len())
        });
    }
    let text = str::from_utf8(text).map_err(|_| AddressError::Encoding)?;
    let text =
        text.trim_matches(|c: char| (c.is_whitespace() && c != MALFORMED_MARK) || c == '\u{feff}');
    if text.is_empty() {
        return Err(AddressError::Missing);
    }
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        check_characters(text)?;
    }
    Ok(text)
}

fn check_characters(text: &str) -> Result<(), AddressError> {
    if text.contains(MALFORMED_MARK) {
        return Err(AddressError::Malformed);
    }
    // Readers put U+FFFD where a list is not valid UTF-8: the true address is unknown.
    if text.contains('\u{fffd}') {
        return Err(AddressError::Encoding);
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(AddressError::Control(control)),
        None => Ok(()),
    }
}

fn check_scheme(text: &str) -> Result<(), AddressError> {
    let Some((scheme, _)) = text.split_once(':') else {
        return Err(AddressError::NoScheme);
    };
    if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") {
        return Ok(());
    }
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if is_scheme {
        let shown = scheme.chars().take(SHOWN_SCHEME_CHARS).collect::<String>();
        Err(AddressError::Scheme(shown.to_ascii_lowercase()))
    } else {
        Err(AddressError::NoScheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(text: &str) -> String {
        Address::parse(text.as_bytes()).unwrap().as_str().to_owned()
    }

    fn error(text: &[u8]) -> AddressError {
        Address::parse(text).unwrap_err()
    }

    #[test]
    fn normalises_as_browsers_do() {
        for (text, expected) in [
            ("HTTP://Example.COM:80", "http://example.com/"),
            ("https://example.com:443/a#part", "https://example.com/a"),
            ("https://example.com:444/", "https://example.com:444/"),
            (
                " \u{feff}http://a.example/b c\t\r\n",
                "http://a.example/b%20c",
            ),
            ("http://a.example/é?q=ü", "http://a.example/%C3%A9?q=%C3%BC"),
            ("http://bücher.example/", "http://xn--bcher-kva.example/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://2130706433/", "http://127.0.0.1/"),
            ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
            ("http:\\\\a.example\\b", "http://a.example/b"),
            ("http://a.example/x/../y/./z", "http://a.example/y/z"),
            (
                "http://a.example/%7Euser/a,b'c\"d",
                "http://a.example/%7Euser/a,b'c%22d",
            ),
            ("http://@a.example/", "http://a.example/"),
        ] {
            assert_eq!(normalised(text), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_may_not_be_requested() {
        for (text, expected) in [
            (&b""[..], AddressError::Missing),
            (b" \t\n", AddressError::Missing),
            (b"www.example.com/a.jpg", AddressError::NoScheme),
            (b"//example.com/a.jpg", AddressError::NoScheme),
            (b"ftp://example.com/", AddressError::Scheme("ftp".into())),
            (b"FILE:///etc/passwd", AddressError::Scheme("file".into())),
            (
                b"data:image/png;base64,AAAA",
                AddressError::Scheme("data".into()),
            ),
            (b"http://user:secret@a.example/", AddressError::Credentials),
            (
                b"http://known.example@other.example/",
                AddressError::Credentials,
            ),
            (b"http://a.example/\0", AddressError::Control('\0')),
            (b"http://a.example/\nb", AddressError::Control('\n')),
            (b"http://a.example/\x7fb", AddressError::Control('\x7f')),
            (
                "http://a.example/\u{85}b".as_bytes(),
                AddressError::Control('\u{85}'),
            ),
            (b"http://a.example/\xff", AddressError::Encoding),
            (
                "http://a.example/\u{fffd}".as_bytes(),
                AddressError::Encoding,
            ),
            (b"http://a.example/b\x1fc.jpg", AddressError::Malformed),
            (b"\x1fhttp://a.example/b", AddressError::Malformed),
            (b"http://", AddressError::Syntax(ParseError::EmptyHost)),
            (
                b"http://a b.example/",
                AddressError::Syntax(ParseError::IdnaError),
            ),
            (
                b"http://a.example:99999/",
                AddressError::Syntax(ParseError::InvalidPort),
            ),
            (
                b"http://1.2.3.456/",
                AddressError::Syntax(ParseError::InvalidIpv4Address),
            ),
        ] {
            assert_eq!(error(text), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn refuses_more_than_the_longest_url() {
        let longest = format!("http://a.example/{}", "x".repeat(MAX_URL_BYTES - 17));
        assert!(Address::parse(longest.as_bytes()).is_ok());
        assert_eq!(
            error(format!("{longest}y").as_bytes()),
            AddressError::TooLong(MAX_URL_BYTES + 1)
        );
    }

    #[test]
    fn finds_the_registrable_domain() {
        for (text, expected) in [
            ("http://a.b.example.co.uk/", "example.co.uk"),
            ("http://user.github.io/", "user.github.io"),
            ("http://github.io/", "github.io"),
            ("http://cdn.example.com./", "example.com"),
            ("http://localhost:8080/", "localhost"),
            ("http://127.0.0.1:8080/", "127.0.0.1"),
            ("http://[::1]:8080/", "[::1]"),
            ("http://www.xn--bcher-kva.example/", "xn--bcher-kva.example"),
            ("http://host.intranet/", "host.intranet"),
        ] {
            assert_eq!(
                Address::parse(text.as_bytes()).unwrap().domain(),
                expected,
                "{text}"
            );
        }
    }
}

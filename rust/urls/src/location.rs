//! Where a redirect leads: the bytes of a Location header, resolved as browsers do.

use std::fmt::Write;

use url::Url;

use crate::address::MAX_URL_BYTES;

/// Resolve a Location header against the address that answered with it, by the WHATWG URL Standard.
///
/// Bytes beyond ASCII are percent-encoded one by one, as Chromium does, whatever encoding they are in; what
/// is percent-encoded already stays as it is. The fragment is dropped, for it is never sent. `None` if this
/// is no URL, or longer than any that a list may hold.
#[must_use]
pub fn resolve(base: &str, location: &[u8]) -> Option<String> {
    if location.len() > MAX_URL_BYTES {
        return None;
    }
    let behind = behind_slashes(location);
    let mut text = String::from(if behind.is_some() { "//" } else { "" });
    for &byte in behind.unwrap_or(location) {
        if byte.is_ascii() {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").ok()?;
        }
    }
    let mut url = Url::parse(base).ok()?.join(&text).ok()?;
    url.set_fragment(None);
    Some(url.into())
}

/// What follows the slashes at the beginning, if there are more than two: as many as there may be, they lead to a host,
/// but the crate takes two of them. Tabs and line ends among them do not count.
fn behind_slashes(location: &[u8]) -> Option<&[u8]> {
    let is_slash = |byte: &&u8| matches!(byte, b'/' | b'\\');
    let text = location.trim_ascii_start();
    let length = text
        .iter()
        .take_while(|byte| is_slash(byte) || matches!(byte, b'\t' | b'\n' | b'\r'))
        .count();
    let count = text[..length].iter().filter(is_slash).count();
    (count > 2).then(|| &text[length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "http://a.example/b/c.jpg?d=e";

    #[test]
    fn what_is_encoded_stays_as_it_is() {
        for path in [
            "/%27%2F%26%41%zz|",
            "/a+b%20c;d=e",
            "/x?%27&%2F=%2f",
            "/?",
            "/x?",
        ] {
            let expected = format!("http://a.example{path}");
            assert_eq!(resolve(BASE, path.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn references_are_resolved_as_browsers_do() {
        let cases: [(&[u8], &str); 23] = [
            (b"/synspr\xf8ve.jpg", "http://a.example/synspr%F8ve.jpg"),
            (b"/caf\xc3\xa9.jpg", "http://a.example/caf%C3%A9.jpg"),
            (b"x.jpg", "http://a.example/b/x.jpg"),
            (b"../x.jpg", "http://a.example/x.jpg"),
            (b"?f=g", "http://a.example/b/c.jpg?f=g"),
            (b"", "http://a.example/b/c.jpg?d=e"),
            (b"#top", "http://a.example/b/c.jpg?d=e"),
            (b"//b.example/x", "http://b.example/x"),
            (b"\\\\b.example\\x", "http://b.example/x"),
            (b"///b.example/x", "http://b.example/x"),
            (b"////b.example/x", "http://b.example/x"),
            (b" /\t//b.example//x", "http://b.example//x"),
            (b"\\/\\b.example/x", "http://b.example/x"),
            (b"/\tx", "http://a.example/x"),
            (b"http:///b.example/x", "http://b.example/x"),
            (b"https:/x", "https://x/"),
            (b"http:x.jpg", "http://a.example/b/x.jpg"),
            (b" \t/x y\t.jpg \r", "http://a.example/x%20y.jpg"),
            (b"/x\"<>`{}.jpg", "http://a.example/x%22%3C%3E%60%7B%7D.jpg"),
            (b"http://B.Example:80/x#y", "http://b.example/x"),
            (
                b"http://b\xc3\xbccher.example/",
                "http://xn--bcher-kva.example/",
            ),
            (b"http://0x7f.1/", "http://127.0.0.1/"),
            (b"http://u:p@b.example/", "http://u:p@b.example/"),
        ];
        for (location, expected) in cases {
            assert_eq!(resolve(BASE, location).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_url_leads_nowhere() {
        let long = vec![b'x'; MAX_URL_BYTES + 1];
        for location in [
            &b"http://[::1"[..],
            b"http://a b/",
            b"http://a.example:99999/",
            b"http://",
            &long,
        ] {
            assert_eq!(resolve(BASE, location), None);
        }
    }
}

//! A JSON object of strings, in the form of Python's `json.dumps`: ASCII, a space after comma and colon.

use std::fmt::Write;

/// Write the pairs in order.
#[must_use]
pub fn object(pairs: &[(String, String)]) -> String {
    let mut text = String::from("{");
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        string(&mut text, key);
        text.push_str(": ");
        string(&mut text, value);
    }
    text.push('}');
    text
}

fn string(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(character),
            other => escape(text, other),
        }
    }
    text.push('"');
}

fn escape(text: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\\u{unit:04x}");
    }
}

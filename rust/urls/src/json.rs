//! A JSON array to JSON Lines, as a stream: each element on a line of its own, whatever the layout.

use thiserror::Error;

/// Why the text is no array.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum JsonArrayError {
    #[error("it does not start with '['")]
    NoArray,
    #[error("there is text after the array's ']'")]
    Surplus,
    #[error("it ends before the array's ']'")]
    Truncated,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Between,
    Element,
    String,
    Escape,
    After,
}

/// A streaming cutter: bytes are fed in any pieces, lines come out.
///
/// Only strings and brackets are understood; whether an element is valid is for its parser to say.
pub struct JsonArray {
    state: State,
    depth: usize,
}

impl Default for JsonArray {
    fn default() -> Self {
        Self {
            state: State::Before,
            depth: 0,
        }
    }
}

impl JsonArray {
    /// Take the next bytes of the array; return the lines they make, the last one maybe incomplete.
    ///
    /// # Errors
    /// [`JsonArrayError::NoArray`] and [`JsonArrayError::Surplus`].
    pub fn feed(&mut self, block: &[u8]) -> Result<Vec<u8>, JsonArrayError> {
        let mut lines = Vec::with_capacity(block.len());
        for &byte in block {
            self.step(byte, &mut lines)?;
        }
        Ok(lines)
    }

    /// Say that no more bytes follow.
    ///
    /// # Errors
    /// [`JsonArrayError::NoArray`] and [`JsonArrayError::Truncated`].
    pub fn finish(&self) -> Result<(), JsonArrayError> {
        match self.state {
            State::After => Ok(()),
            State::Before => Err(JsonArrayError::NoArray),
            _ => Err(JsonArrayError::Truncated),
        }
    }

    fn step(&mut self, byte: u8, lines: &mut Vec<u8>) -> Result<(), JsonArrayError> {
        let is_outside = matches!(self.state, State::Before | State::Between | State::After);
        if is_outside && byte.is_ascii_whitespace() {
            return Ok(());
        }
        match self.state {
            State::Before if byte == b'[' => self.state = State::Between,
            State::Before => return Err(JsonArrayError::NoArray),
            State::After => return Err(JsonArrayError::Surplus),
            State::Between | State::Element => self.step_element(byte, lines),
            State::String | State::Escape => {
                self.state = match (self.state, byte) {
                    (State::String, b'"') => State::Element,
                    (State::String, b'\\') => State::Escape,
                    _ => State::String,
                };
                lines.push(on_one_line(byte));
            }
        }
        Ok(())
    }

    fn step_element(&mut self, byte: u8, lines: &mut Vec<u8>) {
        self.state = State::Element;
        match (self.depth, byte) {
            (0, b',') => {
                self.state = State::Between;
                return lines.push(b'\n');
            }
            (0, b']') => {
                self.state = State::After;
                return lines.push(b'\n');
            }
            (_, b'[' | b'{') => self.depth += 1,
            (_, b']' | b'}') => self.depth = self.depth.saturating_sub(1),
            (_, b'"') => self.state = State::String,
            _ => {}
        }
        lines.push(on_one_line(byte));
    }
}

/// Raw line breaks within an element are layout, or, within a string, an error best taken as a space.
fn on_one_line(byte: u8) -> u8 {
    if byte == b'\n' || byte == b'\r' {
        b' '
    } else {
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str, piece_bytes: usize) -> Result<String, JsonArrayError> {
        let mut array = JsonArray::default();
        let mut lines = Vec::new();
        for piece in text.as_bytes().chunks(piece_bytes) {
            lines.extend(array.feed(piece)?);
        }
        array.finish()?;
        Ok(String::from_utf8(lines).unwrap())
    }

    #[test]
    fn cuts_elements_whatever_the_layout() {
        for (text, expected) in [
            (
                r#"[{"a": 1}, {"a": [2, {}]}]"#,
                "{\"a\": 1}\n{\"a\": [2, {}]}\n",
            ),
            ("\n[\r\n {\n\"a\":\n1}\n,\n2 ]\n", "{ \"a\": 1} \n2 \n"),
            (r#"["[{,\"]}", "\\"]"#, "\"[{,\\\"]}\"\n\"\\\\\"\n"),
            ("[]", "\n"),
        ] {
            for piece_bytes in [1, 2, 100] {
                assert_eq!(
                    lines_of(text, piece_bytes).as_deref(),
                    Ok(expected),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(lines_of("{}", 9), Err(JsonArrayError::NoArray));
        assert_eq!(lines_of(" ", 9), Err(JsonArrayError::NoArray));
        assert_eq!(lines_of("[1] 2", 9), Err(JsonArrayError::Surplus));
        assert_eq!(lines_of(r#"[{"a": "]"#, 9), Err(JsonArrayError::Truncated));
    }
}

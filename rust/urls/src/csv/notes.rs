//! What was odd about the rows of a list: counted, with an example.

/// A way in which a row is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A field begins with a quote that was taken as text.
    Quotes,
    /// There are fewer fields than columns; the missing ones are null.
    Short,
    /// There are more fields than columns; the row is malformed.
    Surplus,
    /// A field is not UTF-8; U+FFFD stands for what is not.
    Undecodable,
}

impl Oddity {
    const ALL: [Self; 4] = [Self::Quotes, Self::Short, Self::Surplus, Self::Undecodable];

    /// Its name, in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quotes => "quotes",
            Self::Short => "short",
            Self::Surplus => "surplus",
            Self::Undecodable => "undecodable",
        }
    }
}

/// How many rows are odd in one way, and the line of the first, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub oddity: Oddity,
    pub rows: u64,
    pub first_line: u64,
}

#[derive(Default)]
pub struct Notes([(u64, u64); Oddity::ALL.len()]);

impl Notes {
    /// Count a row.
    pub fn add(&mut self, oddity: Oddity, line: u64) {
        let (rows, first_line) = &mut self.0[oddity as usize];
        if *rows == 0 {
            *first_line = line;
        }
        *rows += 1;
    }

    /// Return what was counted, and begin anew.
    pub fn take(&mut self) -> Vec<Note> {
        let counted = std::mem::take(&mut self.0);
        let notes = Oddity::ALL.into_iter().zip(counted);
        notes
            .filter(|(_, (rows, _))| *rows > 0)
            .map(|(oddity, (rows, first_line))| Note {
                oddity,
                rows,
                first_line,
            })
            .collect()
    }
}

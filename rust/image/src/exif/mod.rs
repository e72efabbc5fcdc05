//! EXIF tags as the JSON object that img2dataset records: names and printed values of exifread.

use crate::header::tiff::{Entry, Stream};

mod json;
mod tags;
mod value;

use tags::{IMAGE, Style, Tag};

const EXIF_OFFSET: u16 = 0x8769;
/// Private data of makers, packets of XMP and comments of unknown coding; exifread's quick mode leaves them out too.
const LEFT_OUT: [u16; 3] = [0x02bc, 0x927c, 0x9286];
/// Many tags may share the bytes of one long string, so the total is bounded by itself.
const MAX_TEXT_BYTES: usize = 256 << 10;
const MAX_TAGS: usize = 2_000;
/// Entries looked at, since directories may overlap and an entry may be a directory again.
const MAX_ENTRIES: usize = 20_000;
const MAX_DIRECTORIES: usize = 16;

/// Return the tags of an EXIF block, a TIFF stream, as a JSON object: empty without a block, nothing when it is broken.
#[must_use]
pub fn to_json(exif: Option<&[u8]>) -> Option<String> {
    let Some(exif) = exif else {
        return Some("{}".to_owned());
    };
    let stream = Stream::new(exif)?;
    let mut printed = Printed {
        stream,
        tags: Vec::new(),
        text_bytes: 0,
        entries: 0,
    };
    let mut exif_directory = None;
    for (index, directory) in directories(stream).into_iter().enumerate() {
        let name = match index {
            0 => "Image".to_owned(),
            1 => "Thumbnail".to_owned(),
            other => format!("IFD {other}"),
        };
        printed.directory(directory, &name, IMAGE);
        if index == 0 {
            let pointer = stream
                .entries(directory)
                .find(|entry| entry.tag == EXIF_OFFSET);
            exif_directory = pointer.and_then(|entry| stream.integer(entry));
        }
    }
    if let Some(offset) = exif_directory {
        printed.directory(offset as usize, "EXIF", IMAGE);
    }
    Some(json::object(&printed.tags))
}

/// The chain of main directories, each once.
fn directories(stream: Stream<'_>) -> Vec<usize> {
    let mut chain = Vec::new();
    let mut next = stream.first_directory().filter(|&offset| offset != 0);
    while let Some(offset) =
        next.filter(|offset| !chain.contains(offset) && chain.len() < MAX_DIRECTORIES)
    {
        chain.push(offset);
        next = stream.next_directory(offset);
    }
    chain
}

struct Printed<'a> {
    stream: Stream<'a>,
    tags: Vec<(String, String)>,
    text_bytes: usize,
    entries: usize,
}

impl Printed<'_> {
    fn directory(&mut self, offset: usize, name: &str, table: &'static [Tag]) {
        for entry in self.stream.entries(offset) {
            self.entries += 1;
            let full = self.tags.len() >= MAX_TAGS || self.text_bytes >= MAX_TEXT_BYTES;
            if full || self.entries > MAX_ENTRIES {
                return;
            }
            if !LEFT_OUT.contains(&entry.tag) && entry.bytes().is_some() {
                self.tag(entry, name, table);
            }
        }
    }

    fn tag(&mut self, entry: Entry, directory: &str, table: &'static [Tag]) {
        let known = tags::find(table, entry.tag);
        let style = known.map_or(Style::Plain, |tag| tag.2);
        if let Style::Directory(name, inner) = style
            && let Some(offset) = self.stream.integer(entry)
        {
            self.directory(offset as usize, name, inner);
        }
        let key = match known {
            Some((_, name, _)) => format!("{directory} {name}"),
            None => format!("{directory} Tag 0x{:04X}", entry.tag),
        };
        let text = value::print(self.stream, entry, style).trim().to_owned();
        self.text_bytes += text.len();
        match self.tags.iter_mut().find(|(known, _)| *known == key) {
            Some((_, earlier)) => *earlier = text,
            None => self.tags.push((key, text)),
        }
    }
}

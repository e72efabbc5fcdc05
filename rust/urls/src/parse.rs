//! Many URLs: a column of text to columns of addresses.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{ByteArrayType, GenericStringType};
use arrow_array::{Array, GenericBinaryArray, OffsetSizeTrait, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema};

use crate::address::{Address, AddressError};

/// Parse a column of URLs (`Utf8`, `LargeUtf8` or `Utf8View`).
///
/// Returns one row per URL with the string columns `normalised`, `host`, `domain` and `error`; either
/// `error` is null or the other three are. The text need not be valid UTF-8.
///
/// # Errors
/// [`ArrowError::InvalidArgumentError`] if the column is not of a string type, and
/// [`ArrowError::OffsetOverflowError`] if a column would exceed 2 GiB: pass fewer rows.
pub fn parse_urls(urls: &dyn Array) -> Result<RecordBatch, ArrowError> {
    match urls.data_type() {
        DataType::Utf8 => parse_strings::<i32>(urls),
        DataType::LargeUtf8 => parse_strings::<i64>(urls),
        DataType::Utf8View => {
            let texts = urls.as_string_view().clone().to_binary_view();
            parse_rows(texts.len(), texts.iter())
        }
        other => Err(ArrowError::InvalidArgumentError(format!(
            "URLs are of type {other}; expected a string type"
        ))),
    }
}

fn parse_strings<O: OffsetSizeTrait>(urls: &dyn Array) -> Result<RecordBatch, ArrowError>
where
    GenericStringType<O>: ByteArrayType<Offset = O, Native = str>,
{
    // As bytes, because what other programs pass as strings is not always valid UTF-8.
    let texts = GenericBinaryArray::<O>::from(urls.as_string::<O>().clone());
    parse_rows(texts.len(), texts.iter())
}

fn parse_rows<'a>(
    rows: usize,
    texts: impl Iterator<Item = Option<&'a [u8]>>,
) -> Result<RecordBatch, ArrowError> {
    let mut columns = Columns::with_capacity(rows);
    for text in texts {
        match text.ok_or(AddressError::Missing).and_then(Address::parse) {
            Ok(address) => columns.push_address(&address)?,
            Err(error) => columns.push_error(&error),
        }
    }
    columns.finish()
}

struct Columns {
    normalised: StringBuilder,
    host: StringBuilder,
    domain: StringBuilder,
    error: StringBuilder,
}

impl Columns {
    fn with_capacity(rows: usize) -> Self {
        Self {
            normalised: StringBuilder::with_capacity(rows, rows * 96),
            host: StringBuilder::with_capacity(rows, rows * 24),
            domain: StringBuilder::with_capacity(rows, rows * 16),
            error: StringBuilder::with_capacity(rows, 0),
        }
    }

    fn push_address(&mut self, address: &Address) -> Result<(), ArrowError> {
        let end = self.normalised.values_slice().len() + address.as_str().len();
        if i32::try_from(end).is_err() {
            return Err(ArrowError::OffsetOverflowError(end));
        }
        self.normalised.append_value(address.as_str());
        self.host.append_value(address.host());
        self.domain.append_value(address.domain());
        self.error.append_null();
        Ok(())
    }

    fn push_error(&mut self, error: &AddressError) {
        self.normalised.append_null();
        self.host.append_null();
        self.domain.append_null();
        self.error.append_value(error.to_string());
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let names = ["normalised", "host", "domain", "error"];
        let fields: Vec<_> = names
            .map(|name| Field::new(name, DataType::Utf8, true))
            .into();
        RecordBatch::try_new(
            Arc::new(Schema::new(fields)),
            vec![
                Arc::new(self.normalised.finish()),
                Arc::new(self.host.finish()),
                Arc::new(self.domain.finish()),
                Arc::new(self.error.finish()),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int32Array, LargeStringArray, StringArray, StringViewArray};

    #[test]
    fn every_string_type_gives_the_same_rows() {
        let texts = [Some("http://www.example.com/a"), None, Some("nonsense")];
        let columns: [ArrayRef; 3] = [
            Arc::new(StringArray::from_iter(texts)),
            Arc::new(LargeStringArray::from_iter(texts)),
            Arc::new(StringViewArray::from_iter(texts)),
        ];
        for column in columns {
            let parsed = parse_urls(&column).unwrap();
            let at = |name: &str, row: usize| {
                let strings = parsed[name].as_string::<i32>();
                strings.is_valid(row).then(|| strings.value(row).to_owned())
            };
            assert_eq!(
                at("normalised", 0).as_deref(),
                Some("http://www.example.com/a")
            );
            assert_eq!(at("host", 0).as_deref(), Some("www.example.com"));
            assert_eq!(at("domain", 0).as_deref(), Some("example.com"));
            assert_eq!(at("error", 0), None);
            assert_eq!(at("error", 1).as_deref(), Some("no URL in this row"));
            assert_eq!(at("normalised", 1), None);
            assert!(at("error", 2).is_some());
        }
    }

    #[test]
    fn a_slice_is_read_from_its_offset() {
        let urls = StringArray::from(vec!["bad", "http://a.example/", "bad"]);
        let parsed = parse_urls(&urls.slice(1, 1)).unwrap();
        assert_eq!(parsed["host"].as_string::<i32>().value(0), "a.example");
    }

    #[test]
    fn other_types_are_an_error() {
        assert!(parse_urls(&Int32Array::from(vec![1])).is_err());
    }
}

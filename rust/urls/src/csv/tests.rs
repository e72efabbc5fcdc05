//! Lists as bytes, fed in pieces of any length.

use super::*;
use arrow_array::Array;
use arrow_array::cast::AsArray;

type Row = Vec<Option<String>>;

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let cell = |column: usize, row: usize| {
        let strings = batch.column(column).as_string::<i32>();
        strings.is_valid(row).then(|| strings.value(row).to_owned())
    };
    (0..batch.num_rows())
        .map(|row| {
            (0..batch.num_columns())
                .map(|column| cell(column, row))
                .collect()
        })
        .collect()
}

/// Read a whole list, fed in pieces of `piece_bytes`.
fn read_all(list: &[u8], piece_bytes: usize) -> (Vec<String>, Vec<Row>) {
    let (header, rows, _) = read_noted(list, piece_bytes, Quoting::Auto);
    (header, rows)
}

fn read_noted(
    list: &[u8],
    piece_bytes: usize,
    quoting: Quoting,
) -> (Vec<String>, Vec<Row>, Vec<Note>) {
    let mut reader = CsvReader::new(b',', quoting);
    let (mut header, mut rows) = (None, Vec::new());
    let pieces = list.len().div_ceil(piece_bytes).max(1);
    for piece in 0..pieces {
        let end = ((piece + 1) * piece_bytes).min(list.len());
        reader.feed(&list[piece * piece_bytes..end], piece + 1 == pieces);
        header = header.or_else(|| reader.header().unwrap());
        let Some(names) = &header else { continue };
        let columns: Vec<_> = (0..names.len()).collect();
        loop {
            let batch = reader.read(&columns, 3).unwrap();
            if batch.num_rows() == 0 {
                break;
            }
            rows.extend(rows_of(&batch));
        }
    }
    (header.unwrap(), rows, reader.take_notes())
}

fn check(list: &str, expected: &[&[Option<&str>]]) {
    for piece_bytes in [1, 2, 3, 7, 1000] {
        let (_, rows) = read_all(list.as_bytes(), piece_bytes);
        let found: Vec<Vec<_>> = rows
            .iter()
            .map(|row| row.iter().map(Option::as_deref).collect())
            .collect();
        assert_eq!(found, expected, "{list:?} in pieces of {piece_bytes}");
    }
}

#[test]
fn reads_the_grammar_of_rfc_4180() {
    check("a,b\n1,2\n", &[&[Some("1"), Some("2")]]);
    check(
        "a,b\r\n1,2\r\n3,4",
        &[&[Some("1"), Some("2")], &[Some("3"), Some("4")]],
    );
    check("a,b\r1,2\r", &[&[Some("1"), Some("2")]]);
    check(
        "a,b\n\"x,\"\"y\"\"\",\"1\r\n2\"\n",
        &[&[Some("x,\"y\""), Some("1\r\n2")]],
    );
    check("a,b\n,\n", &[&[Some(""), Some("")]]);
    check("a\n\"\"\n\n\r\nx\n", &[&[Some("")], &[Some("x")]]);
    check("\n\na\n1", &[&[Some("1")]]);
}

#[test]
fn loses_no_ragged_row() {
    check(
        "a,b\n1\n1,2,,\n",
        &[&[Some("1"), None], &[Some("1"), Some("2")]],
    );
    check(
        "a,b\nu,v,w\nx,y",
        &[&[Some("\u{1f}u,v,w"), None], &[Some("x"), Some("y")]],
    );
}

#[test]
fn takes_stray_quotes_as_data() {
    check("a,b\n1\" x,\"y\"z\n", &[&[Some("1\" x"), Some("\"y\"z")]]);
    check("a,b\n\"x, y\"z,1\n", &[&[Some("\"x, y\"z"), Some("1")]]);
    check("a,b\n\"x,\"y\n", &[&[Some("\"x"), Some("\"y")]]);
    check(
        "a,b\n\"1,2\n3,4\n",
        &[&[Some("\"1"), Some("2")], &[Some("3"), Some("4")]],
    );
    check(
        "a,b\n\"1,2\n3 4\" 5,6\n\"7\n8\",9\n",
        &[
            &[Some("\"1"), Some("2")],
            &[Some("3 4\" 5"), Some("6")],
            &[Some("7\n8"), Some("9")],
        ],
    );
}

#[test]
fn a_stray_quote_swallows_no_rows() {
    let list = "url,b\n//a/1,\"x\n//a/2,y\n//a/3,z\"\n//a/4,\"v\n, w\"\n";
    check(
        list,
        &[
            &[Some("//a/1"), Some("\"x")],
            &[Some("//a/2"), Some("y")],
            &[Some("//a/3"), Some("z\"")],
            &[Some("//a/4"), Some("v\n, w")],
        ],
    );
    let (_, standard, _) = read_noted(list.as_bytes(), 5, Quoting::Standard);
    assert_eq!(standard[0][1].as_deref(), Some("x\n//a/2,y\n//a/3,z"));
    let (_, none, notes) = read_noted(list.as_bytes(), 5, Quoting::None);
    assert_eq!(none.len(), 5);
    assert_eq!(notes, []);
}

#[test]
fn counts_what_is_odd_with_the_line_of_the_first() {
    let list = b"a,b\n1,\"2\n3\"\n\n\"x,y\n1\n1,2,3\n1,2,4\n\xff,1\n";
    for piece_bytes in [1, 1000] {
        let (_, rows, notes) = read_noted(list, piece_bytes, Quoting::Auto);
        assert_eq!(rows.len(), 6);
        let note = |oddity, rows, first_line| Note {
            oddity,
            rows,
            first_line,
        };
        assert_eq!(
            notes,
            [
                note(Oddity::Quotes, 1, 5),
                note(Oddity::Short, 1, 6),
                note(Oddity::Surplus, 2, 7),
                note(Oddity::Undecodable, 1, 9),
            ]
        );
    }
}

#[test]
fn a_line_of_excel_names_the_delimiter() {
    check("sep=;\r\na;b\r\n1;2,3\r\n", &[&[Some("1"), Some("2,3")]]);
    check("sep=\t\na\tb\n1\t2\n", &[&[Some("1"), Some("2")]]);
    check("a\nsep=;\n", &[&[Some("sep=;")]]);
}

#[test]
fn goes_on_after_a_quote_that_is_not_closed_for_megabytes() {
    let list = format!("a,b\n\"1,2\n{}", "3,4\n".repeat(2_000_000));
    let (_, rows) = read_all(list.as_bytes(), 1 << 20);
    assert_eq!(rows.len(), 2_000_001);
}

#[test]
fn replaces_what_is_not_utf_8() {
    let (header, rows) = read_all(b"a\xff\nb\xff\n", 100);
    assert_eq!(header, ["a\u{fffd}"]);
    assert_eq!(rows, [[Some("b\u{fffd}".to_owned())]]);
}

#[test]
fn an_empty_list_has_no_columns() {
    assert_eq!(read_all(b"", 1), (vec![], vec![]));
    assert_eq!(read_all(b"\n\n", 1), (vec![], vec![]));
}

#[test]
fn a_line_without_end_is_an_error() {
    let mut reader = CsvReader::new(b',', Quoting::Auto);
    reader.feed(b"a\n", false);
    reader.header().unwrap();
    reader.feed(&vec![b'x'; MAX_LINE_BYTES + 1], false);
    assert!(matches!(reader.read(&[0], 1), Err(ArrowError::CsvError(_))));
}

//! Readers of headers and the whole transform, on bytes that no encoder wrote.

use proptest::prelude::*;
use turbo_fetch_image::exif;
use turbo_fetch_image::header;
use turbo_fetch_image::sniff::{Format, sniff};

const SIGNATURES: &[(&[u8], Format)] = &[
    (b"\xff\xd8\xff", Format::Jpeg),
    (b"\x89PNG\r\n\x1a\n", Format::Png),
    (b"RIFF\x10\0\0\0WEBP", Format::Webp),
    (b"GIF89a", Format::Gif),
    (b"II*\0", Format::Tiff),
    (b"MM\0*", Format::Tiff),
    (b"\0\0\0\x18ftypavif", Format::Avif),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Format::Jpeg2000),
    (b"\xff\x4f\xff\x51", Format::Jpeg2000),
    (b"\0\0\x01\0\x01\0", Format::Ico),
    (b"II+\0", Format::Tiff),
    (b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", Format::Bmp),
];

#[test]
fn a_signature_decides() {
    for (signature, format) in SIGNATURES {
        let padded = [signature, &[0_u8; 32][..]].concat();
        assert_eq!(sniff(&padded), Ok(*format));
    }
}

proptest! {
    #[test]
    fn no_bytes_break_the_readers(start in 0..SIGNATURES.len(), tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let body = [SIGNATURES[start].0, &tail].concat();
        if let Ok(format) = sniff(&body)
            && let Ok(header) = header::read(format, &body)
        {
            prop_assert!(header.size.width > 0 && header.size.height > 0);
        }
    }

    #[test]
    fn no_bytes_break_the_exif_reader(big in any::<bool>(), tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let start: &[u8] = if big { b"MM\0*\0\0\0\x08" } else { b"II*\0\x08\0\0\0" };
        let json = exif::to_json(Some(&[start, &tail].concat())).unwrap_or_default();
        let is_object = json.is_ascii() && json.starts_with('{') && json.ends_with('}');
        prop_assert!(is_object, "not an ASCII object: {}", json);
    }
}

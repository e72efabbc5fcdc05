//! What a body is, by its content; names and content types on the web are not to be trusted.

use crate::error::Rejection;

/// An image format that can be decoded, here or by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
    Webp,
    Gif,
    Avif,
    Tiff,
    Bmp,
    Jpeg2000,
    Ico,
}

impl Format {
    /// Name in lower case, as recorded in `original_format`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Avif => "avif",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::Jpeg2000 => "jpeg2000",
            Self::Ico => "ico",
        }
    }
}

/// Return the format of `body`, or why it is none.
///
/// # Errors
/// `NotAnImage` names what the body is instead where that can be told, `Unsupported` names the image format.
pub fn sniff(body: &[u8]) -> Result<Format, Rejection> {
    if let Some(format) = decodable(body) {
        return Ok(format);
    }
    if let Some(name) = unsupported(body) {
        return Err(Rejection::Unsupported(name));
    }
    Err(Rejection::NotAnImage(other_content(body)))
}

fn decodable(body: &[u8]) -> Option<Format> {
    const SIGNATURES: &[(&[u8], Format)] = &[
        (b"\xff\xd8\xff", Format::Jpeg),
        (b"\x89PNG\r\n\x1a\n", Format::Png),
        (b"GIF87a", Format::Gif),
        (b"GIF89a", Format::Gif),
        (b"II*\0", Format::Tiff),
        (b"MM\0*", Format::Tiff),
        (b"II+\0", Format::Tiff),
        (b"MM\0+", Format::Tiff),
        (b"\0\0\0\x0cjP  \r\n\x87\n", Format::Jpeg2000),
        (b"\xff\x4f\xff\x51", Format::Jpeg2000),
    ];
    if let Some((_, format)) = SIGNATURES
        .iter()
        .find(|(signature, _)| body.starts_with(signature))
    {
        return Some(*format);
    }
    if body.starts_with(b"RIFF") && body.get(8..12) == Some(b"WEBP") {
        return Some(Format::Webp);
    }
    // The size of the information header tells a bitmap from text that begins with BM.
    if body.starts_with(b"BM")
        && matches!(
            body.get(14..18),
            Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
        )
    {
        return Some(Format::Bmp);
    }
    if icon_kind(body) == Some(1) {
        return Some(Format::Ico);
    }
    has_brand(body, &[b"avif", b"avis"]).then_some(Format::Avif)
}

/// What an icon file holds, 1 for icons and 2 for cursors. That it counts some tells it from other files of zeros.
fn icon_kind(body: &[u8]) -> Option<u8> {
    match body {
        [0, 0, kind @ 1..=2, 0, low, high, ..] if (*low, *high) != (0, 0) => Some(*kind),
        _ => None,
    }
}

fn unsupported(body: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(&[u8], &str)] = &[
        (b"8BPS", "Photoshop document"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"qoif", "QOI"),
        (b"farbfeld", "farbfeld"),
        (b"DDS ", "DirectDraw surface"),
        (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"\x8aMNG\r\n\x1a\n", "MNG"),
        (b"gimp xcf", "GIMP image"),
        (b"AT&TFORM", "DjVu"),
    ];
    if let Some((_, name)) = SIGNATURES
        .iter()
        .find(|(signature, _)| body.starts_with(signature))
    {
        return Some(name);
    }
    if let [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] = body {
        return Some("portable anymap");
    }
    if icon_kind(body) == Some(2) {
        return Some("Windows cursor");
    }
    let heif: &[&[u8; 4]] = &[
        b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1",
    ];
    has_brand(body, heif).then_some("HEIC")
}

/// Whether an ISO base media file names one of `brands` as its major brand or among the first compatible ones.
fn has_brand(body: &[u8], brands: &[&[u8; 4]]) -> bool {
    const COMPATIBLE_SEEN: usize = 16;
    if body.get(4..8) != Some(b"ftyp") {
        return false;
    }
    let stated = u32::from_be_bytes([body[0], body[1], body[2], body[3]]) as usize;
    let end = stated.min(body.len()).min(16 + 4 * COMPATIBLE_SEEN);
    let listed = body.get(8..end).unwrap_or_default();
    let (words, _) = listed.as_chunks::<4>();
    // The second word is a version, which matches no brand.
    words.iter().any(|word| brands.contains(&word))
}

fn other_content(body: &[u8]) -> &'static str {
    const SIGNATURES: &[(&[u8], &str)] = &[
        (b"%PDF", "PDF document"),
        (b"PK\x03\x04", "ZIP archive"),
        (b"\x1f\x8b", "gzip data"),
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
        (b"FLV\x01", "Flash video"),
        (b"OggS", "Ogg media"),
        (b"ID3", "MP3 audio"),
        (b"Rar!", "RAR archive"),
        (b"%!PS", "PostScript"),
        (b"7z\xbc\xaf\x27\x1c", "7-zip archive"),
        (b"version https://git-lfs", "Git LFS pointer"),
    ];
    if body.is_empty() {
        return "empty body";
    }
    if let Some((_, name)) = SIGNATURES
        .iter()
        .find(|(signature, _)| body.starts_with(signature))
    {
        return name;
    }
    if body.get(4..8) == Some(b"ftyp") {
        return "MP4 or QuickTime video";
    }
    markup(body).unwrap_or_else(|| {
        if is_text(body) {
            "text"
        } else {
            "unknown content"
        }
    })
}

/// Name of the markup or data language that a body begins with.
fn markup(body: &[u8]) -> Option<&'static str> {
    const HEAD_BYTES: usize = 1024;
    let body = body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(body)
        .trim_ascii_start();
    let head = body[..body.len().min(HEAD_BYTES)].to_ascii_lowercase();
    let holds = |needle: &[u8]| memchr::memmem::find(&head, needle).is_some();
    match head.first()? {
        b'<' if holds(b"<svg") => Some("SVG"),
        b'<' if holds(b"<!doctype html")
            || holds(b"<html")
            || holds(b"<head")
            || holds(b"<body") =>
        {
            Some("HTML")
        }
        b'<' if head.starts_with(b"<?xml") => Some("XML"),
        b'<' => Some("HTML"),
        b'{' | b'[' if is_text(body) => Some("JSON"),
        _ => None,
    }
}

fn is_text(body: &[u8]) -> bool {
    const HEAD_BYTES: usize = 512;
    let head = &body[..body.len().min(HEAD_BYTES)];
    head.iter()
        .all(|&byte| byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r'))
        && !head.contains(&0x7f)
        && std::str::from_utf8(head).is_ok_and(|text| !text.is_empty())
}

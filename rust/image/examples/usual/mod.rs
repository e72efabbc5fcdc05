//! What the measurements transform with, beside each other: the defaults of a spec.

use turbo_fetch_image::options::{DigestKind, Encoding, Filter, Limits, Mode, Options};

/// The defaults for images of `side` pixels.
#[must_use]
pub fn options(side: u32) -> Options {
    Options {
        width: side,
        height: side,
        more_sizes: Vec::new(),
        mode: Mode::Border,
        only_if_bigger: false,
        downscale: Filter::Lanczos,
        upscale: Filter::Lanczos,
        encode: Encoding::Jpeg,
        quality: 95,
        skip_reencode: false,
        limits: Limits {
            min_side: 0,
            max_pixels: 100_000_000,
            max_aspect: 0.0,
        },
        digest: DigestKind::Sha256,
        exif: true,
        phash: false,
        crop: false,
    }
}

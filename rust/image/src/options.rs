//! What is wanted of every image of a batch: the native form of the spec's `[fetch.image]`.

use thiserror::Error;

use crate::geometry::Size;

/// How the image is fitted to the box; see `ImageSpec.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    No,
    Border,
    KeepRatio,
    KeepRatioLargest,
    CenterCrop,
    Stretch,
}

/// Resampling filter; all but `Nearest` are antialiased when making smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Nearest,
    Linear,
    Cubic,
    Area,
    Lanczos,
}

/// Format of the images written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Jpeg,
    Png,
    Webp,
    Original,
}

/// Hash over the original bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestKind {
    None,
    Md5,
    Sha256,
    Sha512,
}

/// Limits on the original, checked in the header; zero means none for `min_side` and `max_aspect`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub min_side: u32,
    pub max_pixels: u64,
    pub max_aspect: f64,
}

/// All options of a transform. Sides are in pixels.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the spec, each of them named"
)]
pub struct Options {
    pub width: u32,
    pub height: u32,
    /// Sizes of further files that are made of each image, beside the one of `width` and `height`.
    pub more_sizes: Vec<Size>,
    pub mode: Mode,
    pub only_if_bigger: bool,
    pub downscale: Filter,
    pub upscale: Filter,
    pub encode: Encoding,
    pub quality: u8,
    pub skip_reencode: bool,
    pub limits: Limits,
    pub digest: DigestKind,
    pub exif: bool,
    /// Whether the perceptual hash is wanted.
    pub phash: bool,
    /// Whether the first box of an image is what is kept of it; otherwise all are blurred.
    pub crop: bool,
}

/// A choice that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{option} is {value:?}, expected one of {expected}")]
pub struct UnknownChoice {
    option: &'static str,
    value: String,
    expected: String,
}

macro_rules! choices {
    ($type:ident, $option:literal, { $($name:literal => $variant:ident),+ $(,)? }) => {
        impl std::str::FromStr for $type {
            type Err = UnknownChoice;

            fn from_str(value: &str) -> Result<Self, UnknownChoice> {
                match value {
                    $($name => Ok(Self::$variant),)+
                    other => Err(UnknownChoice {
                        option: $option,
                        value: other.to_owned(),
                        expected: [$($name),+].join(", "),
                    }),
                }
            }
        }
    };
}

choices!(Mode, "mode", {
    "no" => No,
    "border" => Border,
    "keep_ratio" => KeepRatio,
    "keep_ratio_largest" => KeepRatioLargest,
    "center_crop" => CenterCrop,
    "stretch" => Stretch,
});
choices!(Filter, "filter", {
    "nearest" => Nearest,
    "linear" => Linear,
    "cubic" => Cubic,
    "area" => Area,
    "lanczos" => Lanczos,
});
choices!(Encoding, "encode", {
    "jpg" => Jpeg,
    "png" => Png,
    "webp" => Webp,
    "original" => Original,
});
choices!(DigestKind, "digest", {
    "none" => None,
    "md5" => Md5,
    "sha256" => Sha256,
    "sha512" => Sha512,
});

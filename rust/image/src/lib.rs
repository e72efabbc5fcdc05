//! Images from the web into images for training: many bodies in, one Arrow record batch out.

pub mod area;
pub mod batch;
pub mod blur;
pub mod colour;
pub mod decode;
pub mod digest;
pub mod encode;
pub mod error;
pub mod exif;
pub mod foreign;
pub mod geometry;
pub mod header;
pub mod lanczos;
pub mod options;
pub mod orient;
pub mod phash;
pub mod planar;
pub mod raster;
pub mod resize;
pub mod scratch;
pub mod sniff;
pub mod transform;
pub mod turbojpeg;
pub mod ycc;

//! zune-jpeg: to RGB, and to the stored colours without conversion.

mod corpus;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

fn main() {
    let corpus = corpus::Corpus::from_arguments();
    for (name, colours) in [("rgb", ColorSpace::RGB), ("ycc", ColorSpace::YCbCr)] {
        let options = DecoderOptions::new_fast().jpeg_set_out_colorspace(colours);
        corpus.measure(&format!("zune-jpeg {name}"), |body| {
            let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(body), options);
            decoder.decode().expect("a sound file").len()
        });
    }
}

//! libjpeg-turbo through TurboJPEG: to RGB, to RGB at half size, to planes at half size.

mod corpus;

use turbojpeg::{Decompressor, Image, PixelFormat, ScalingFactor, YuvImage};

fn main() {
    let corpus = corpus::Corpus::from_arguments();
    let mut decompressor = Decompressor::new().expect("memory");
    let mut buffer = vec![0; 64 << 20];
    for (name, factor) in [
        ("rgb", ScalingFactor::ONE),
        ("rgb at 1/2", ScalingFactor::ONE_HALF),
    ] {
        decompressor
            .set_scaling_factor(factor)
            .expect("a supported factor");
        corpus.measure(&format!("libjpeg-turbo {name}"), |body| {
            let header = decompressor
                .read_header(body)
                .expect("a header")
                .scaled(factor);
            let (width, height) = (header.width, header.height);
            let pixels = &mut buffer[..width * height * 3];
            let image = Image {
                pixels,
                width,
                pitch: width * 3,
                height,
                format: PixelFormat::RGB,
            };
            decompressor.decompress(body, image).expect("a sound file");
            width * height
        });
        corpus.measure(&format!("libjpeg-turbo planes, {name}"), |body| {
            let header = decompressor
                .read_header(body)
                .expect("a header")
                .scaled(factor);
            let (width, height, subsamp) = (header.width, header.height, header.subsamp);
            let image = YuvImage {
                pixels: &mut buffer[..],
                width,
                align: 1,
                height,
                subsamp,
            };
            decompressor
                .decompress_to_yuv(body, image)
                .expect("a sound file");
            width * height
        });
    }
}

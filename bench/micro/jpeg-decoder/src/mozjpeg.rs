//! mozjpeg: to RGB, and to RGB at half size.

mod corpus;

fn main() {
    let corpus = corpus::Corpus::from_arguments();
    for (name, eighths) in [("rgb", 8), ("rgb at 1/2", 4)] {
        corpus.measure(&format!("mozjpeg {name}"), |body| {
            let mut decompress = mozjpeg::Decompress::new_mem(body).expect("a header");
            decompress.scale(eighths);
            let mut started = decompress.rgb().expect("a sound file");
            let pixels: Vec<u8> = started.read_scanlines().expect("a sound file");
            started.finish().expect("a sound file");
            pixels.len()
        });
    }
}

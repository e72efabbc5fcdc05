//! Compiles the calls of libjpeg's interface, against the headers of the library that the product links.

fn main() {
    println!("cargo:rerun-if-changed=src/reference.c");
    let folders = std::env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    cc::Build::new()
        .file("src/reference.c")
        .includes(folders.split(','))
        .compile("reference");
}

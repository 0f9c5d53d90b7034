//! What containers run in tests: modules of our own, and programs of others.

use crate::image::Image;
use crate::node::target;

/// A module or native program that `integration/guests/build.sh` has built.
///
/// # Panics
///
/// Where it is not built: a test that needs it must not pass without.
pub fn guest(name: &str) -> Vec<u8> {
    read("guests", name, "make guests")
}

/// A file of one of the packages that `integration/guests/fetch.sh` has fetched, by the package's folder and the path in it.
///
/// # Panics
///
/// Where it is not fetched.
pub fn program(path: &str) -> Vec<u8> {
    read("programs", path, "integration/guests/fetch.sh")
}

/// An image for Linux that holds a guest and nothing else, which is its entrypoint: `/NAME.wasm`.
pub fn guest_image(name: &str) -> Image {
    let path = format!("/{name}.wasm");
    Image::linux()
        .program(&path, guest(&path[1..]))
        .entrypoint([&path])
}

fn read(folder: &str, name: &str, made_by: &str) -> Vec<u8> {
    let path = target().join(folder).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run {made_by}", path.display()))
}

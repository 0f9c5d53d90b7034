//! podwasm
#![allow(dead_code)]
mod annotation;
mod containerd;
mod decide;
mod entrypoint;
mod facts;
mod image;
mod layers;
mod module;
mod store;
fn main() {}

//! podwasm
#![allow(dead_code)]
mod containerd;
mod layers;
fn main() {}

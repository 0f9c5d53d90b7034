//! A node by hand.
fn main() {}

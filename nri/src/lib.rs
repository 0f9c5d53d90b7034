//! The Node Resource Interface for Rust.

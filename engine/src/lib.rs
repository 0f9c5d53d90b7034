//! The parts of the engine that need no WebAssembly runtime.
//!
//! The binary (`main.rs`, behind the feature `wasmedge`) runs a module as the first process of a
//! container. What can be decided without a runtime is here, so that it is tested wherever Rust
//! is: how a run ends, how it is put into words, what the guest sees of its environment and of the
//! file system.

pub mod artifact;
pub mod compiling;
pub mod environment;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod header;
pub mod line;
pub mod outcome;
pub mod preopens;
pub mod proposal;
pub mod resolver;
pub mod segments;
pub mod services;
pub mod settings;
pub mod source;

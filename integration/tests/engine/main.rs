//! The engine's bundle in empty root folders. Needs root, the bundle (`engine/bundle/build.sh`) and the guests
//! (`integration/guests/build.sh`), but no container runtime:
//!
//! ```text
//! cargo test -p podwasm-integration --test engine -- --ignored
//! ```

mod compiled;
mod compiler;
mod container;
mod ends;
mod files;
mod hostile;
mod plugins;
mod preopens;
mod process;
mod proposals;
mod settings;
mod signals;
mod sockets;

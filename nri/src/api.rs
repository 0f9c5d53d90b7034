//! The protocol's messages: what travels, as plain structs.
//!
//! They are generated from `proto/nri.proto` under the names that NRI gives them, in Rust's spelling
//! (`LinuxCPU` becomes [`LinuxCpu`]). Everything a plugin has to build has chainable methods besides,
//! grouped by message in this module's files; fields stay public for what these do not cover.
//!
//! Fields whose absence means something are `Option`s of a small wrapper ([`OptionalInt64`] and its
//! like), which converts from the value it wraps.

mod adjustment;
mod container;
mod eviction;
mod generated;
mod hooks;
mod mount;
mod optional;
mod rdt;
mod removal;
mod resources;
mod seccomp;
mod update;

pub use generated::*;
pub use removal::{is_removal, removal};

/// What a plugin's `create_container` asks for. Short for [`ContainerAdjustment`].
pub type Adjustment = ContainerAdjustment;

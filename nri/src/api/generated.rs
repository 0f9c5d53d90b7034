//! The generated code, kept apart because it does not follow this crate's lints.
#![allow(clippy::all, clippy::pedantic, missing_docs)]

include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));

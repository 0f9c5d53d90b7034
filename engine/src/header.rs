//! What a file is, by its first bytes.
//!
//! WasmEdge says "magic header not detected" of all that it cannot load. Whoever built the image is
//! better served by what it was that they put there.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use thiserror::Error;

const MAGIC: &[u8] = b"\0asm";
/// Version 1 and layer 0, as the core specification (5.5.16) and the component model's `Binary.md` have it.
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];
const COMPONENT_LAYER: &[u8] = &[1, 0];

/// Why a file is not a module that the engine can run.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAModule {
    /// A component of the component model.
    #[error("it is a WebAssembly component, and only core modules are supported (build for wasm32-wasip1)")]
    Component,
    /// A native executable or library.
    #[error("it is a native ELF file, not a WebAssembly module")]
    Elf,
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// Something else.
    #[error("it is not a WebAssembly module")]
    Other,
    /// A script.
    #[error("it is a script, not a WebAssembly module")]
    Script,
    /// The module's text format.
    #[error("it is WebAssembly text; the binary format is needed (wat2wasm makes it)")]
    Text,
    /// A file that ends within its header.
    #[error("it is cut short within its header")]
    Truncated,
    /// A version that does not exist yet.
    #[error("it has version {0} of the WebAssembly format, and only version 1 is known")]
    Version(u32),
}

/// Says whether these are the bytes of a core module, as far as its header goes.
pub fn check_header(bytes: &[u8]) -> Result<(), NotAModule> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(name_other(bytes));
    };
    let Some(version) = rest.first_chunk::<4>() else {
        return Err(NotAModule::Truncated);
    };
    if version == CORE_MODULE {
        Ok(())
    } else if &version[2..] == COMPONENT_LAYER {
        Err(NotAModule::Component)
    } else {
        Err(NotAModule::Version(u32::from_le_bytes(*version)))
    }
}

fn name_other(bytes: &[u8]) -> NotAModule {
    if bytes.is_empty() {
        NotAModule::Empty
    } else if bytes.starts_with(b"\x7fELF") {
        NotAModule::Elf
    } else if bytes.starts_with(b"#!") {
        NotAModule::Script
    } else if MAGIC.starts_with(bytes) {
        NotAModule::Truncated
    } else if bytes.trim_ascii_start().starts_with(b"(module") {
        NotAModule::Text
    } else {
        NotAModule::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: NotAModule) {
        assert_eq!(check_header(bytes), Err(expected));
    }

    #[test]
    fn a_core_module_is_known_by_its_header() {
        assert_eq!(check_header(b"\0asm\x01\0\0\0"), Ok(()));
        assert_eq!(check_header(b"\0asm\x01\0\0\0\x01\x04"), Ok(()));
    }

    #[test]
    fn others_are_named_by_their_first_bytes() {
        check(b"\0asm\x0d\0\x01\0", NotAModule::Component);
        check(b"\0asm\x02\0\0\0", NotAModule::Version(2));
        check(b"\0asm\x01\0\0", NotAModule::Truncated);
        check(b"\0as", NotAModule::Truncated);
        check(b"", NotAModule::Empty);
        check(b"\x7fELF\x02", NotAModule::Elf);
        check(b"#!/bin/sh\n", NotAModule::Script);
        check(b"\n (module)", NotAModule::Text);
        check(b"hello", NotAModule::Other);
        check(b"\0\0\0\0", NotAModule::Other);
    }
}

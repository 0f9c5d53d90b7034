//! What the compiler makes native code of: a module that has been validated, without its custom sections.
//!
//! WasmEdge takes a custom section with a certain name for native code, LLVM is told nothing by the others, and what validates
//! here, in Rust, never reaches C++ malformed. Native code carries the module it was made of, because WasmEdge reads types,
//! imports and data from it when it is loaded, but not the functions' bodies: they are replaced by empty ones, so
//! that a container does not read, and for a moment hold, what nobody looks at.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use thiserror::Error;
use wasmparser::{BinaryReaderError, Parser, Payload, Validator};

use crate::header::{NotAModule, check_header};
use crate::proposal::{Proposal, features};

const HEADER: &[u8] = b"\0asm\x01\0\0\0";
const CUSTOM_SECTION: u8 = 0;
/// The body of a function, behind its size: no locals, and `end`.
const EMPTY_BODY: [u8; 3] = [2, 0, 0x0b];

/// A module to be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// All of it but the custom sections.
    pub module: Vec<u8>,
    /// The same with empty functions, for which it is not valid any more.
    pub outline: Vec<u8>,
}

/// Why a module is not compiled.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It breaks a rule, or uses a proposal that is off.
    #[error("it is malformed, or needs a proposal that is not enabled")]
    Invalid(#[source] BinaryReaderError),
    /// Something else than a core module.
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
}

/// Validates a module, with these proposals switched on, and takes it apart.
pub fn prepare(bytes: &[u8], proposals: &[Proposal]) -> Result<Source, SourceError> {
    check_header(bytes)?;
    Validator::new_with_features(features(proposals))
        .validate_all(bytes)
        .map_err(SourceError::Invalid)?;
    let mut source = Source {
        module: HEADER.to_vec(),
        outline: HEADER.to_vec(),
    };
    for payload in Parser::new(0).parse_all(bytes) {
        source.add(&payload.map_err(SourceError::Invalid)?, bytes);
    }
    Ok(source)
}

impl Source {
    fn add(&mut self, payload: &Payload<'_>, bytes: &[u8]) {
        let Some((id, contents)) = section(payload, bytes) else {
            return;
        };
        push_section(&mut self.module, id, contents);
        match payload {
            Payload::CodeSectionStart { count, .. } => {
                push_section(&mut self.outline, id, &empty_bodies(*count));
            }
            _ => push_section(&mut self.outline, id, contents),
        }
    }
}

/// Identifier and contents of a section that is no custom section.
fn section<'a>(payload: &Payload<'_>, bytes: &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (id, range) = payload.as_section().filter(|(id, _)| *id != CUSTOM_SECTION)?;
    let place = |offset: u64| usize::try_from(offset).expect("it is within the bytes in memory");
    Some((id, &bytes[place(range.start)..place(range.end)]))
}

fn empty_bodies(count: u32) -> Vec<u8> {
    let mut contents = Vec::new();
    push_leb128(&mut contents, count);
    contents.extend((0..count).flat_map(|_| EMPTY_BODY));
    contents
}

fn push_section(module: &mut Vec<u8>, id: u8, contents: &[u8]) {
    let size = u32::try_from(contents.len()).expect("its size was read as 32 bits, or is less");
    module.push(id);
    push_leb128(module, size);
    module.extend_from_slice(contents);
}

fn push_leb128(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One function `() -> i32` that is exported as `f` and returns 300, with custom sections before, between and behind.
    const WITH_CUSTOM: &[u8] = b"\0asm\x01\0\0\0\
        \x00\x0e\x08wasmedge\x01\x02\x03\x04\x05\
        \x01\x05\x01\x60\x00\x01\x7f\
        \x00\x05\x04name\
        \x03\x02\x01\x00\
        \x07\x05\x01\x01f\x00\x00\
        \x0a\x07\x01\x05\x00\x41\xac\x02\x0b\
        \x00\x02\x01x";
    const MODULE: &[u8] = b"\0asm\x01\0\0\0\
        \x01\x05\x01\x60\x00\x01\x7f\
        \x03\x02\x01\x00\
        \x07\x05\x01\x01f\x00\x00\
        \x0a\x07\x01\x05\x00\x41\xac\x02\x0b";
    const OUTLINE: &[u8] = b"\0asm\x01\0\0\0\
        \x01\x05\x01\x60\x00\x01\x7f\
        \x03\x02\x01\x00\
        \x07\x05\x01\x01f\x00\x00\
        \x0a\x04\x01\x02\x00\x0b";
    /// A memory of 64-bit addresses; a shared one; a function that calls itself in its place.
    const MEMORY64: &[u8] = b"\0asm\x01\0\0\0\x05\x03\x01\x04\x01";
    const SHARED: &[u8] = b"\0asm\x01\0\0\0\x05\x04\x01\x03\x01\x01";
    const TAIL_CALL: &[u8] =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x06\x01\x04\x00\x12\x00\x0b";

    #[track_caller]
    fn check_refused(bytes: &[u8], expected: &str) {
        let error = prepare(bytes, &[]).expect_err("this is no module");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn custom_sections_are_left_out() {
        let source = prepare(WITH_CUSTOM, &[]).expect("this is a module");
        assert_eq!(source.module, MODULE);
        assert_eq!(source.outline, OUTLINE);
        assert_eq!(prepare(MODULE, &[]).expect("this is a module"), source);
        let empty = prepare(HEADER, &[]).expect("this is a module");
        assert_eq!((&*empty.module, &*empty.outline), (HEADER, HEADER));
    }

    #[test]
    fn sizes_need_as_many_bytes_as_they_need() {
        for (value, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 15]),
        ] {
            let mut bytes = Vec::new();
            push_leb128(&mut bytes, value);
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        check_refused(b"\x7fELF", "it is a native ELF file, not a WebAssembly module");
        check_refused(b"", "it is empty");
        let invalid = "it is malformed, or needs a proposal that is not enabled";
        for end in HEADER.len() + 1..WITH_CUSTOM.len() {
            // But for where a section ends.
            if ![24, 31, 38, 42, 49, 58].contains(&end) {
                check_refused(&WITH_CUSTOM[..end], invalid);
            }
        }
        // A custom section that is longer than the file, and one whose name is longer than the section.
        check_refused(b"\0asm\x01\0\0\0\x00\xff\xff\xff\xff\x0f\x01x", invalid);
        check_refused(b"\0asm\x01\0\0\0\x00\x02\x7fx", invalid);
        // A body whose result is missing.
        check_refused(OUTLINE, invalid);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for at in 0..WITH_CUSTOM.len() {
            for flip in [1, 0x40, 0x80, 0xff] {
                let mut bytes = WITH_CUSTOM.to_vec();
                bytes[at] ^= flip;
                if let Ok(source) = prepare(&bytes, &Proposal::ALL) {
                    prepare(&source.module, &Proposal::ALL).expect("what is written is valid");
                }
            }
        }
    }

    #[test]
    fn proposals_are_off_unless_they_are_enabled() {
        for (module, proposal) in [
            (SHARED, Proposal::Threads),
            (TAIL_CALL, Proposal::TailCall),
            (MEMORY64, Proposal::Memory64),
        ] {
            assert!(prepare(module, &[]).is_err(), "{proposal}");
            assert!(prepare(module, &[proposal]).is_ok(), "{proposal}");
        }
    }
}

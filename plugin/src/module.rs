//! What the first bytes of a file say it is, and whether a Wasm module is whole.
//!
//! Pure: bytes come through [`ReadAt`], so the same code looks at a file, a blob and a test's array.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use podwasm_engine::proposal::Proposal;
use wasmparser::{
    BinaryReader, BinaryReaderError, ExportSectionReader, ImportSectionReader, MemorySectionReader, TypeRef,
};

/// The four bytes every WebAssembly binary starts with.
const MAGIC: &[u8] = b"\0asm";
/// Magic, 16-bit version, 16-bit layer.
const PREAMBLE_BYTES: u64 = 8;
/// A section's id and its size as LEB128.
const SECTION_HEADER_BYTES: usize = 1 + 5;
const IMPORT_SECTION: u8 = 2;
const MEMORY_SECTION: u8 = 5;
const EXPORT_SECTION: u8 = 7;
/// More than the imports or exports of any real module; bounds the memory that a hostile file takes.
const MAX_SECTION_BYTES: usize = 16 << 20;
/// More sections than any toolchain writes; bounds the work on a hostile file.
const MAX_SECTIONS: usize = 10_000;

/// Bytes that can be read at a place.
pub trait ReadAt {
    /// Fills as much of `buffer` as there is from `offset` on, and says how much that was.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).map_or(self.len(), |offset| offset.min(self.len()));
        let length = buffer.len().min(self.len() - from);
        buffer[..length].copy_from_slice(&self[from..from + length]);
        Ok(length)
    }
}

/// What a file is, as far as deciding needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A component of the component model.
    Component,
    /// A whole core module, version 1.
    CoreModule(Outline),
    /// An ELF program.
    Elf,
    /// No byte at all.
    Empty,
    /// It starts as a Wasm binary does, but is not a whole one.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// Neither a program nor Wasm.
    Other,
    /// A script with an interpreter line.
    Script,
}

/// Looks at a file of `size` bytes.
pub fn kind(file: &(impl ReadAt + ?Sized), size: u64) -> io::Result<Kind> {
    let mut head = [0; 8];
    let length = file.read_at(&mut head, 0)?;
    let head = &head[..length];
    Ok(match head {
        [] => Kind::Empty,
        [0x7f, b'E', b'L', b'F', ..] => Kind::Elf,
        [b'#', b'!', ..] => Kind::Script,
        _ if !head.starts_with(MAGIC) => Kind::Other,
        [_, _, _, _, 1, 0, 0, 0] => match outline(file, size) {
            Ok(outline) => Kind::CoreModule(outline),
            Err(Defect::Malformed(why)) => Kind::Malformed { why },
            Err(Defect::Read(error)) => return Err(error),
        },
        [_, _, _, _, _, _, 1, 0] => Kind::Component,
        [_, _, _, _, version @ ..] if version.len() == 4 => Kind::Malformed {
            why: format!("it has the unknown version {version:02x?}"),
        },
        _ => Kind::Malformed {
            why: format!("it ends after {length} bytes, inside its header"),
        },
    })
}

/// What a module needs and offers, from the sections that say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outline {
    /// The namespaces it imports from.
    pub imports: BTreeSet<String>,
    /// Whether it exports `_start`, as a WASI command does.
    pub is_command: bool,
    /// The memory it has from the start, in pages of 64 KiB.
    pub minimum_pages: u64,
    /// What it cannot do without, beyond version 2.0 of the core specification. For this all of it has to be read, so that it is found when the
    /// module is kept, and not by [`kind`].
    pub proposals: Vec<Proposal>,
}

/// Why a file that starts as a module is none.
enum Defect {
    Malformed(String),
    Read(io::Error),
}

impl From<io::Error> for Defect {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<BinaryReaderError> for Defect {
    fn from(error: BinaryReaderError) -> Self {
        Self::Malformed(format!("{} at byte {}", error.message(), error.offset()))
    }
}

/// Walks the sections' headers, which have to fill the file exactly, and reads the few that matter.
fn outline(file: &(impl ReadAt + ?Sized), size: u64) -> Result<Outline, Defect> {
    let mut outline = Outline::default();
    let mut at = PREAMBLE_BYTES;
    for _ in 0..MAX_SECTIONS {
        if at == size {
            return Ok(outline);
        }
        let mut header = [0; SECTION_HEADER_BYTES];
        let length = file.read_at(&mut header, at)?;
        let Some((id, header_bytes, section_bytes)) = section_header(&header[..length]) else {
            return Err(Defect::Malformed(format!(
                "the section header at byte {at} is cut off or not one"
            )));
        };
        let start = at + header_bytes;
        let end = start + section_bytes;
        if end > size {
            return Err(Defect::Malformed(format!(
                "section {id} at byte {at} should end at byte {end}, but the file has only {size} bytes"
            )));
        }
        if let IMPORT_SECTION | MEMORY_SECTION | EXPORT_SECTION = id {
            outline.read(id, &section(file, start, section_bytes)?, start)?;
        }
        at = end;
    }
    Err(Defect::Malformed(format!(
        "it has more than {MAX_SECTIONS} sections"
    )))
}

fn section(file: &(impl ReadAt + ?Sized), start: u64, bytes: u64) -> Result<Vec<u8>, Defect> {
    let length = usize::try_from(bytes)
        .ok()
        .filter(|length| *length <= MAX_SECTION_BYTES);
    let length =
        length.ok_or_else(|| Defect::Malformed(format!("the section at byte {start} has {bytes} bytes")))?;
    let mut content = vec![0; length];
    if file.read_at(&mut content, start)? < length {
        return Err(Defect::Malformed(format!(
            "the section at byte {start} is cut off"
        )));
    }
    Ok(content)
}

impl Outline {
    fn read(&mut self, id: u8, content: &[u8], offset: u64) -> Result<(), Defect> {
        let reader = BinaryReader::new(content, offset);
        match id {
            IMPORT_SECTION => {
                for import in ImportSectionReader::new(reader)?.into_imports() {
                    let import = import?;
                    if let TypeRef::Memory(memory) = import.ty {
                        self.minimum_pages = self.minimum_pages.max(memory.initial);
                    }
                    self.imports.insert(import.module.to_owned());
                }
            }
            MEMORY_SECTION => {
                for memory in MemorySectionReader::new(reader)? {
                    self.minimum_pages = self.minimum_pages.max(memory?.initial);
                }
            }
            _ => {
                for export in ExportSectionReader::new(reader)? {
                    self.is_command |= export?.name == "_start";
                }
            }
        }
        Ok(())
    }
}

/// A section's id, its header's length and its content's length.
fn section_header(bytes: &[u8]) -> Option<(u8, u64, u64)> {
    let mut reader = BinaryReader::new(bytes, 0);
    let id = reader.read_u8().ok()?;
    let section_bytes = reader.read_var_u32().ok()?;
    Some((id, reader.original_position(), u64::from(section_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A module with a custom section and an empty type section.
    const WHOLE: &[u8] = b"\0asm\x01\0\0\0\x00\x03\x02hi\x01\x01\x00";

    fn check(bytes: &[u8], expected: &Kind) {
        assert_eq!(
            &kind(bytes, bytes.len() as u64).unwrap(),
            expected,
            "{bytes:02x?}"
        );
    }

    fn malformed(why: &str) -> Kind {
        Kind::Malformed { why: why.to_owned() }
    }

    #[test]
    fn the_first_bytes_tell() {
        check(b"", &Kind::Empty);
        check(b"\x7fELF\x02\x01\x01\0", &Kind::Elf);
        check(b"#!/bin/sh\n", &Kind::Script);
        check(b"hello", &Kind::Other);
        check(b"(module)", &Kind::Other);
        check(b"\0as", &Kind::Other);
        check(b"\0asm\x01\0\0\0", &Kind::CoreModule(Outline::default()));
        check(WHOLE, &Kind::CoreModule(Outline::default()));
        check(b"\0asm\x0d\0\x01\0", &Kind::Component);
    }

    #[test]
    fn what_is_wrong_is_said() {
        check(b"\0asm", &malformed("it ends after 4 bytes, inside its header"));
        check(
            b"\0asm\x02\0\0\0",
            &malformed("it has the unknown version [02, 00, 00, 00]"),
        );
        check(
            b"\0asm\x01\0\0\0\x01",
            &malformed("the section header at byte 8 is cut off or not one"),
        );
        let cut = "section 1 at byte 8 should end at byte 15, but the file has only 12 bytes";
        check(b"\0asm\x01\0\0\0\x01\x05ab", &malformed(cut));
        check(
            b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\xff",
            &malformed("the section header at byte 8 is cut off or not one"),
        );
    }

    #[test]
    fn the_outline_says_what_a_module_needs() {
        // (import "wasi_snapshot_preview1" "f" (func)) (memory 17) (export "_start" (func 0))
        let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0".to_vec();
        module.extend(
            b"\x02\x1c\x01\x16wasi_snapshot_preview1\x01f\0\0\x05\x03\x01\0\x11\x07\x0a\x01\x06_start\0\0",
        );
        let imports = BTreeSet::from(["wasi_snapshot_preview1".to_owned()]);
        check(
            &module,
            &Kind::CoreModule(Outline {
                imports,
                is_command: true,
                minimum_pages: 17,
                proposals: Vec::new(),
            }),
        );
    }

    proptest! {
        #[test]
        fn every_cut_through_a_module_is_noticed(length in 0..WHOLE.len()) {
            let cut = &WHOLE[..length];
            // Byte 8 and byte 13 are boundaries between sections: what ends there is whole.
            let whole = length == 8 || length == 13;
            prop_assert_eq!(matches!(kind(cut, length as u64).unwrap(), Kind::CoreModule(_)), whole);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = kind(bytes.as_slice(), bytes.len() as u64).unwrap();
            let mut module = b"\0asm\x01\0\0\0".to_vec();
            module.extend(bytes);
            let _ = kind(module.as_slice(), module.len() as u64).unwrap();
        }
    }
}

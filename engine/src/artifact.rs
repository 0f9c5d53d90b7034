//! Native code as it lies beside the module: its files' names, and whether one is whole.
//!
//! The dynamic linker maps what a file says of itself, and touching what is mapped behind the file's end ends the process. A
//! file that was cut short is therefore told from a whole one before the linker sees it.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use thiserror::Error;

/// The files that a build may have beside a module, the best first.
pub fn candidates(build: &str) -> [String; 2] {
    [format!("{build}-optimised.so"), format!("{build}-fast.so")]
}

/// The file that says that there will be none.
pub fn failed(build: &str) -> String {
    format!("{build}-failed")
}

/// How much of a file's beginning has to be looked at: the header, and far more program headers than the compiler writes.
pub const HEAD_BYTES: usize = 4096;

/// Why a file is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotLoadable {
    /// Shorter than it says.
    #[error("it is cut short")]
    CutShort,
    /// Something else.
    #[error("it is not a shared library for this processor")]
    NotALibrary,
}

/// What the first bytes of a shared library for x86-64 are: ELF, 64 bits, little-endian, version 1.
const IDENTIFICATION: &[u8] = b"\x7fELF\x02\x01\x01";
/// Offset 16: the type, `ET_DYN`, and the machine, `EM_X86_64`.
const TYPE_AND_MACHINE: &[u8] = &[3, 0, 62, 0];
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

/// Whether a file of so many bytes, which begins like this, holds all that its headers promise.
pub fn check_whole(head: &[u8], file_bytes: u64) -> Result<(), NotLoadable> {
    if !head.starts_with(IDENTIFICATION) || head.get(16..20) != Some(TYPE_AND_MACHINE) {
        return Err(NotLoadable::NotALibrary);
    }
    let header = head.get(..HEADER_BYTES).ok_or(NotLoadable::CutShort)?;
    let (size, count) = (u16_at(header, 54), usize::from(u16_at(header, 56)));
    if u64_at(header, 32) != HEADER_BYTES as u64 || usize::from(size) != PROGRAM_HEADER_BYTES {
        return Err(NotLoadable::NotALibrary);
    }
    // The table of sections, at the end, is not mapped, but is written last.
    let sections = u64::from(u16_at(header, 58)) * u64::from(u16_at(header, 60));
    check_extent(u64_at(header, 40), sections, file_bytes)?;
    let end = HEADER_BYTES + count * PROGRAM_HEADER_BYTES;
    if end > HEAD_BYTES {
        return Err(NotLoadable::NotALibrary);
    }
    let table = head.get(HEADER_BYTES..end).ok_or(NotLoadable::CutShort)?;
    table
        .chunks_exact(PROGRAM_HEADER_BYTES)
        .try_for_each(|segment| check_extent(u64_at(segment, 8), u64_at(segment, 32), file_bytes))
}

fn check_extent(offset: u64, bytes: u64, file_bytes: u64) -> Result<(), NotLoadable> {
    match offset.checked_add(bytes) {
        Some(end) if end <= file_bytes => Ok(()),
        _ => Err(NotLoadable::CutShort),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 500;

    /// A library of 500 bytes: two segments, the second up to 300, and two section headers of 64 bytes at its end.
    fn library() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..IDENTIFICATION.len()].copy_from_slice(IDENTIFICATION);
        bytes[16..20].copy_from_slice(TYPE_AND_MACHINE);
        bytes[32] = 64;
        bytes[40..42].copy_from_slice(&372u16.to_le_bytes());
        bytes[54] = 56;
        bytes[56] = 2;
        bytes[58] = 64;
        bytes[60] = 2;
        for (offset, size) in [(0, 200u64), (200, 100)] {
            let mut segment = [0; PROGRAM_HEADER_BYTES];
            segment[8] = offset;
            segment[32..40].copy_from_slice(&size.to_le_bytes());
            bytes.extend(segment);
        }
        bytes
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), expected: &Result<(), NotLoadable>) {
        let mut bytes = library();
        change(&mut bytes);
        assert_eq!(&check_whole(&bytes, FILE_BYTES), expected);
    }

    #[test]
    fn a_whole_library_is_whole() {
        check(|_| {}, &Ok(()));
        assert_eq!(check_whole(&library(), u64::MAX), Ok(()));
    }

    #[test]
    fn a_short_one_is_not() {
        for file_bytes in [0, 176, 299, 300, 499] {
            assert_eq!(check_whole(&library(), file_bytes), Err(NotLoadable::CutShort));
        }
        check(|bytes| bytes.truncate(175), &Err(NotLoadable::CutShort));
        check(|bytes| bytes.truncate(30), &Err(NotLoadable::CutShort));
        check(|bytes| bytes[40..48].fill(0xff), &Err(NotLoadable::CutShort));
        check(
            |bytes| bytes[64 + 8..64 + 16].fill(0xff),
            &Err(NotLoadable::CutShort),
        );
    }

    #[test]
    fn other_files_are_refused() {
        for at in [0, 4, 5, 6, 16, 18, 32, 54] {
            check(|bytes| bytes[at] ^= 0x55, &Err(NotLoadable::NotALibrary));
        }
        check(|bytes| bytes[56..58].fill(0xff), &Err(NotLoadable::NotALibrary));
        check(Vec::clear, &Err(NotLoadable::NotALibrary));
    }

    #[test]
    fn the_optimised_one_is_preferred() {
        assert_eq!(
            candidates("0123456789abcdef"),
            ["0123456789abcdef-optimised.so", "0123456789abcdef-fast.so"]
        );
        assert_eq!(failed("0123456789abcdef"), "0123456789abcdef-failed");
    }
}

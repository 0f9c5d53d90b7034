//! Two tiny modules to try things with.

/// Prints `podwasm` and ends with 7:
///
/// ```wat
/// (module
///   (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
///   (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
///   (memory (export "memory") 1)
///   (data (i32.const 0) "\08\00\00\00\08\00\00\00podwasm\n")
///   (func (export "_start")
///     (drop (call 0 (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
///     (call 1 (i32.const 7))))
/// ```
pub const SAYS: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x10\x03\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\x60\x01\x7f\0\x60\0\0\
    \x02\x46\x02\x16wasi_snapshot_preview1\x08fd_write\0\0\x16wasi_snapshot_preview1\x09proc_exit\0\x01\
    \x03\x02\x01\x02\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\x02\
    \x0a\x13\x01\x11\0\x41\x01\x41\0\x41\x01\x41\x10\x10\0\x1a\x41\x07\x10\x01\x0b\
    \x0b\x16\x01\0\x41\0\x0b\x10\x08\0\0\0\x08\0\0\0podwasm\n";

/// `(module (memory (export "memory") 1) (func (export "_start") unreachable))`
pub const TRAPS: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x04\x01\x60\0\0\
    \x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\0\
    \x0a\x05\x01\x03\0\0\x0b";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::{self, Kind};

    #[test]
    fn they_are_modules_with_a_start() {
        for bytes in [SAYS, TRAPS] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let kind = module::kind(file.as_file(), bytes.len() as u64).unwrap();
            assert!(
                matches!(kind, Kind::CoreModule(outline) if outline.is_command),
                "{bytes:x?}"
            );
        }
    }
}

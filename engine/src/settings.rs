//! What may differ from one container to the next, beyond what the container itself says.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

/// Bytes in a page of WebAssembly memory.
pub const PAGE_BYTES: u64 = 64 * 1024;

/// How the guest is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The most memory the guest can grow to, in pages; at most 65536 (4 GiB).
    pub memory_pages: u32,
    /// The most memory for the guest's call stack in the interpreter. A native process has 8 MiB by
    /// default; a value takes 16 bytes here.
    pub stack_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_pages: 65536,
            stack_bytes: 16 << 20,
        }
    }
}

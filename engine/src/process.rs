//! This process: what it was started with, and its end.

use std::ffi::{CStr, c_char, c_int};

/// Arguments and environment, byte for byte: they need not be UTF-8.
pub struct Process {
    /// Beginning with the path or name that was executed; may be empty.
    pub arguments: Vec<&'static CStr>,
    /// In the order of the environment, names and values not parsed.
    pub variables: Vec<&'static CStr>,
}

impl Process {
    /// # Safety
    /// The arguments are those of a program's `main`, and nothing writes to what they point to.
    pub unsafe fn new(arguments: *const *const c_char, variables: *const *const c_char) -> Self {
        // SAFETY: `main` gets two arrays of strings, each with a null pointer at its end, that live as
        // long as the process.
        unsafe {
            Self {
                arguments: strings(arguments),
                variables: strings(variables),
            }
        }
    }

    /// The bytes of each variable, `NAME=value`.
    pub fn variables(&self) -> impl DoubleEndedIterator<Item = &'static [u8]> {
        self.variables.iter().map(|variable| variable.to_bytes())
    }

    /// The program's name for messages.
    pub fn program(&self) -> &'static [u8] {
        self.arguments.first().map_or(b"", |argument| argument.to_bytes())
    }
}

/// # Safety
/// The array ends with a null pointer; it and its strings are never written to or freed.
unsafe fn strings(mut next: *const *const c_char) -> Vec<&'static CStr> {
    let mut strings = Vec::new();
    // SAFETY: up to the null pointer, each element is a string that lives for ever.
    unsafe {
        while !(*next).is_null() {
            strings.push(CStr::from_ptr(*next));
            next = next.add(1);
        }
    }
    strings
}

/// Ends the process at once: unmapping the guest's memory and running destructors is the kernel's work anyway.
pub fn leave(code: c_int) -> ! {
    // SAFETY: `_exit` has no preconditions, and may be called from a signal handler.
    unsafe { libc::_exit(code) }
}

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
    pub unsafe fn new(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> Self {
        // SAFETY: `main` gets `argc` strings in `argv`, and in `envp` strings up to a null pointer. Both live
        // as long as the process.
        unsafe {
            Self {
                arguments: (0..usize::try_from(argc).unwrap_or(0))
                    .map(|at| CStr::from_ptr(*argv.add(at)))
                    .collect(),
                variables: (0..)
                    .map(|at| *envp.add(at))
                    .take_while(|variable| !variable.is_null())
                    .map(|variable| CStr::from_ptr(variable))
                    .collect(),
            }
        }
    }

    /// The program's name for messages.
    pub fn program(&self) -> &'static [u8] {
        self.arguments.first().map_or(b"", |argument| argument.to_bytes())
    }
}

/// Ends the process at once: unmapping the guest's memory and running destructors is the kernel's work anyway.
pub fn leave(code: c_int) -> ! {
    // SAFETY: `_exit` has no preconditions, and may be called from a signal handler.
    unsafe { libc::_exit(code) }
}

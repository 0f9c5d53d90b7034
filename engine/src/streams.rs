//! The standard streams, which are the guest's.

use std::ffi::c_int;

/// Puts a descriptor that can be neither read nor written in the place of each closed standard stream.
///
/// Otherwise the next file that the engine opens would become the guest's stdin or stdout. The guest gets
/// `EBADF` from it, as it would from a closed one.
pub fn occupy_closed() {
    for stream in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        if is_closed(stream) {
            // The lowest free number is taken, and those below are in use by now.
            // SAFETY: the path is a C string; `open` has no other precondition.
            unsafe { libc::open(c"/".as_ptr(), libc::O_PATH) };
        }
    }
}

fn is_closed(descriptor: c_int) -> bool {
    // SAFETY: asking for the flags of a number that is no descriptor fails with `EBADF`.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) == -1 }
}

/// Writes to stderr in one call, so that the line stays whole; whether it arrives is not for us to handle.
pub fn write_stderr(bytes: &[u8]) {
    // SAFETY: pointer and length are those of a slice.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

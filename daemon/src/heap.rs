//! Memory that the process gets from glibc.
#![expect(unsafe_code, reason = "no library has mallopt(3)")]

/// Keeps all memory in one heap.
///
/// glibc gives each thread a heap of its own, up to eight a processor, and what one thread frees stays in its heap. A process that
/// keeps much and allocates little is then as large as the fullest that each heap has ever been. To be called before there are threads.
pub fn keep_in_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets a limit, and there is no other thread yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

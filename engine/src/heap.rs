//! The engine's own memory.
//!
//! WasmEdge's interpreter keeps the guest's call stack in C++ vectors and has no limit for their size: endless
//! recursion would take all the memory there is. The vectors get their memory from `operator new`, which a
//! program may replace, and nothing else that runs with the guest asks for nearly as much in one piece.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use podwasm_engine::line::line;
use podwasm_engine::outcome::TRAPPED;
use podwasm_engine::settings::Settings;

use crate::{process, streams};

/// The most that C++ code gets in one piece.
static LIMIT_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Gives back what loading the module has left over, and limits the guest's call stack.
pub fn before_guest(settings: &Settings) {
    // SAFETY: it has no preconditions.
    unsafe { libc::malloc_trim(0) };
    LIMIT_BYTES.store(settings.stack_bytes, Ordering::Relaxed);
}

/// Whether the kernel gives what WasmEdge asks for: 12 GiB of address space, and in it the memory itself.
pub fn can_map_guest_memory(bytes: u64) -> bool {
    can_map(12 << 30, libc::PROT_NONE, libc::MAP_NORESERVE)
        && usize::try_from(bytes)
            .is_ok_and(|bytes| bytes == 0 || can_map(bytes, libc::PROT_READ | libc::PROT_WRITE, 0))
}

fn can_map(bytes: usize, protection: c_int, flags: c_int) -> bool {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place that the kernel chooses, and unmapped as it was mapped.
    unsafe {
        let mapping = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0);
        mapping != libc::MAP_FAILED && libc::munmap(mapping, bytes) == 0
    }
}

/// `operator new(std::size_t)` for libwasmedge and libstdc++: the dynamic linker finds the program's first.
// SAFETY: the name is that of the Itanium C++ ABI, and what it returns can be freed with `free`, as
// libstdc++'s `operator delete` does.
#[unsafe(no_mangle)]
extern "C" fn _Znwm(size: usize) -> *mut c_void {
    if size > LIMIT_BYTES.load(Ordering::Relaxed) {
        give_up("call stack exhausted");
    }
    // SAFETY: it has no preconditions.
    let memory = unsafe { libc::malloc(size.max(1)) };
    if memory.is_null() {
        give_up("out of memory");
    }
    memory
}

/// To unwind C++ frames from here is not possible, and nothing could be done after.
fn give_up(what: &str) -> ! {
    streams::write_stderr(line(&format!("trap: {what}")).as_bytes());
    process::leave(TRAPPED.into())
}

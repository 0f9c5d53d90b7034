//! Signals.
//!
//! The kernel does not deliver to a container's first process what it has no handler for: SIGTERM would be ignored, and
//! every pod would take its whole grace period to stop. A guest cannot handle signals, so the engine ends
//! for it, in the handler: the guest may be spinning, sleeping or blocked in a read.

use std::ffi::c_int;

use podwasm_engine::outcome::signal_exit_code;

use crate::{process, streams};

/// What asks a process to end. Others (SIGUSR1, SIGWINCH, ...) have no meaning for a guest that cannot see them.
const REQUESTS: [c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Ends the process with 128 + n on a signal that asks for it.
pub fn end_on_request() {
    for signal in REQUESTS {
        if !is_ignored(signal) {
            handle(signal, end);
        }
    }
    handle(libc::SIGABRT, end_aborted);
    // A write to a closed pipe is an error that the guest gets to see.
    // SAFETY: SIG_IGN is valid for SIGPIPE, and nothing else has set a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    unblock();
}

extern "C" fn end(signal: c_int) {
    process::leave(signal_exit_code(signal));
}

/// WasmEdge has no way to say that memory ran out: the C++ library calls `abort`.
extern "C" fn end_aborted(signal: c_int) {
    streams::write_stderr(b"podwasm: trap: the engine aborted, probably out of memory\n");
    process::leave(signal_exit_code(signal));
}

/// As `nohup` asks for.
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: all zeroes is a valid `sigaction`; a null pointer for the new action only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

fn handle(signal: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: all zeroes is a valid `sigaction`; the handlers only call functions that are safe in a handler
    // (`write`, `_exit`).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// Whoever started us may have blocked the signals, and the mask is inherited.
fn unblock() {
    // SAFETY: the set is initialised by `sigemptyset` before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in REQUESTS {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

//! Signals.
//!
//! The kernel does not deliver to a container's first process what it has no handler for: SIGTERM would be ignored, and
//! every pod would take its whole grace period to stop. A guest cannot handle signals, so the engine ends for it, on every
//! signal that would end a native process that does not handle it.
//!
//! Where the guest is to end at once, that happens in the handler: it may be spinning, sleeping or blocked in a
//! read. Where it is given time to drain, a thread waits for the signal instead, because a handler would interrupt the
//! guest's system calls, and guests take an interrupted sleep for an error. The first signal starts the time and is the one that
//! the exit code names; those that follow change nothing. A guest that ends by itself meanwhile has its own exit code.

use std::ffi::c_int;
use std::mem::{self, MaybeUninit};
use std::time::Duration;
use std::{io, ptr, thread};

use podwasm_engine::outcome::signal_exit_code;

use crate::{process, streams};

/// What asks a process to end, or would end one that does not expect it. The real-time signals belong to them.
const REQUESTS: [c_int; 14] = [
    libc::SIGALRM,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGPWR,
    libc::SIGQUIT,
    libc::SIGSTKFLT,
    libc::SIGTERM,
    libc::SIGTRAP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGVTALRM,
    libc::SIGXCPU,
];

/// What the kernel sends to a thread for what it has just done. There is nothing to wait for then.
const FAULTS: [c_int; 6] = [
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGXFSZ,
];

/// The thread that waits needs no more than a few calls.
const STACK_BYTES: usize = 64 << 10;

/// Ends the process with 128 + n, so long after a signal that asks for it.
pub fn end_on_request(drain: Duration) -> io::Result<()> {
    // A write to a closed pipe is an error that the guest gets to see.
    // SAFETY: SIG_IGN is valid for SIGPIPE, and nothing else has set a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    handle(libc::SIGABRT, end_aborted);
    for signal in FAULTS {
        handle_unless_ignored(signal, end);
    }
    if drain.is_zero() {
        for signal in requests() {
            handle_unless_ignored(signal, end);
        }
        unblock_all();
        Ok(())
    } else {
        unblock_all();
        end_after(drain)
    }
}

fn requests() -> impl Iterator<Item = c_int> {
    REQUESTS.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Blocks the signals for all threads and takes them in one.
fn end_after(drain: Duration) -> io::Result<()> {
    let requests = set(requests().filter(|signal| !is_ignored(*signal)));
    // SAFETY: the set is initialised.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const requests, ptr::null_mut()) };
    let wait = move || {
        let mut signal = 0;
        // SAFETY: the set is initialised, and none of its signals is ignored or handled.
        while unsafe { libc::sigwait(&raw const requests, &raw mut signal) } != 0 {}
        thread::sleep(drain);
        process::leave(signal_exit_code(signal))
    };
    thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(wait)
        .map(drop)
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
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

fn handle_unless_ignored(signal: c_int, handler: extern "C" fn(c_int)) {
    let before = handle(signal, handler);
    if before.sa_sigaction == libc::SIG_IGN {
        // SAFETY: the action is one that the kernel gave out for this signal.
        unsafe { libc::sigaction(signal, &raw const before, ptr::null_mut()) };
    }
}

/// Returns what was there before.
fn handle(signal: c_int, handler: extern "C" fn(c_int)) -> libc::sigaction {
    // SAFETY: all zeroes is a valid `sigaction`; the handlers only call functions that are safe in a handler
    // (`write`, `_exit`).
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = (mem::zeroed(), mem::zeroed());
        action.sa_sigaction = handler as *const () as usize;
        // The guest may have used up its own stack.
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, &raw mut before);
        before
    }
}

/// Whoever started us may have blocked signals, and the mask is inherited.
fn unblock_all() {
    let none = set([]);
    // SAFETY: the set is initialised.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// The C library's, for what is linked into this program.
///
/// The SDK blocks its signal for time limits, `SIGRTMIN`, before each function that the guest calls in the engine, and unblocks it
/// afterwards. There are no time limits here, so for each of the guest's calls that would be two of the kernel more, and the second
/// would take that signal away from the thread that waits for it.
// SAFETY: it has the signature and the results of the function that it stands in for.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    signals: *const libc::sigset_t,
    before: *mut libc::sigset_t,
) -> c_int {
    // SAFETY: a set that is given is initialised.
    let is_for_time_limits =
        !signals.is_null() && unsafe { libc::sigismember(signals, libc::SIGRTMIN()) } == 1;
    if is_for_time_limits && before.is_null() && how != libc::SIG_SETMASK {
        return 0;
    }
    // SAFETY: the arguments are passed on as they came.
    match unsafe { libc::sigprocmask(how, signals, before) } {
        0 => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL),
    }
}

fn set(signals: impl IntoIterator<Item = c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

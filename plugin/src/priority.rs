//! The front's place in the kernel's queue.
#![expect(unsafe_code, reason = "nothing safe sets a scheduling policy")]

use std::io;

/// The lowest of the real-time priorities: before everything that is not of that kind, behind all that is.
const PRIORITY: libc::c_int = 1;

/// Has this thread run as soon as it has something to do, however busy the node is. containerd drops a plugin that does not answer within
/// 2 s, and creates containers without it from then on.
///
/// Threads and processes that this one starts do not inherit it. An error without `CAP_SYS_NICE`, and in a control group that has no
/// share of the time for real-time tasks.
pub fn raise() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the structure is only read, and 0 is the thread that calls.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

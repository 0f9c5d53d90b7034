//! The place in the kernel's queue of the threads that a whole node waits for: the front's, and the one of a worker that reads calls.
#![expect(unsafe_code, reason = "nothing safe sets a scheduling policy")]

use std::io;

/// The lowest of the real-time priorities: before everything that is not of that kind, behind all that is.
const PRIORITY: libc::c_int = 1;

/// The highest of the priorities that share a processor's time.
const NICE: i32 = -20;

/// How long a thread asks to run at a time: more than a call takes, and less than others get, because who asks for less comes sooner.
/// Kernels before 6.12 ignore it.
const SLICE_NANOSECONDS: u64 = 500_000;

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

/// Has this thread run before those that share the processor with it, if it has slept, but gives it no more than a share: it may work
/// on what tenants wrote, and cannot starve the node. Threads and processes that it starts do not inherit it.
///
/// Without `CAP_SYS_NICE` it is the shorter slice alone. Where even that cannot be had, the thread runs as others do.
pub fn prefer() {
    if share(NICE).is_err() {
        // Nothing depends on it.
        let _ = share(own_nice());
    }
}

fn own_nice() -> i32 {
    rustix::process::getpriority_process(None).unwrap_or_default()
}

fn share(nice: i32) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).expect("a few bytes"),
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: u64::from(libc::SCHED_FLAG_RESET_ON_FORK.cast_unsigned()),
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NANOSECONDS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure is only read, and 0 is the thread that calls.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_preferred_thread_starts_is_not_preferred() {
        let before = own_nice();
        let (preferred, started) = std::thread::spawn(|| {
            prefer();
            (own_nice(), std::thread::spawn(own_nice).join().unwrap())
        })
        .join()
        .unwrap();
        assert!(preferred == NICE || preferred == before, "{preferred}");
        assert!(started >= 0, "{started}");
    }
}

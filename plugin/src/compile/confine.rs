//! What happens in a new process between fork and exec, so that a compiler starts with nothing but what it needs.
#![allow(
    unsafe_code,
    reason = "what runs between fork and exec, and three system calls that no crate here wraps; each use says why"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal};

use super::limits::Limits;

/// Open files: the standard streams, the libraries while they are loaded, and what the linker opens.
const OPEN_FILES: u64 = 64;
/// Threads, of which the linker uses some.
const THREADS: u64 = 64;
/// After the soft limit's signal, which a compiler may ignore.
const GRACE_SECONDS: u64 = 5;
/// From the kernel's `linux/ioprio.h`: this process, and the class that gets only time that nobody else wants.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// Makes a command start confined: in a session of its own in `folder`, under `limits`, unable to gain privileges, and gone when
/// the thread that started it is. `alone` says that nobody else runs as its user.
pub fn confine(command: &mut Command, folder: OwnedFd, limits: Limits, alone: bool) {
    let apply = move || {
        rustix::process::setsid()?;
        // Last of what the kernel forgets when credentials change, which they have by now.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
        // By its open folder, because the way there is closed to this user.
        rustix::process::fchdir(&folder)?;
        close_all_but_streams()?;
        stand_back(limits)?;
        limit(Resource::As, limits.address_space_bytes, 0)?;
        limit(Resource::Core, 0, 0)?;
        limit(Resource::Cpu, limits.cpu_seconds, GRACE_SECONDS)?;
        limit(Resource::Fsize, limits.output_bytes, 0)?;
        limit(Resource::Nofile, OPEN_FILES, 0)?;
        if alone {
            limit(Resource::Nproc, THREADS, 0)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called, for another thread may have held any lock at the
    // fork. `apply` makes system calls on values that were computed before, and neither allocates nor locks.
    unsafe {
        command.pre_exec(apply);
    }
}

fn limit(resource: Resource, soft: u64, grace: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(soft),
        maximum: Some(soft.saturating_add(grace)),
    };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// Files that this process was itself started with, such as NRI's socket, may be open across exec.
fn close_all_but_streams() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call takes three integers. It closes nothing now, and at exec what nobody uses any more.
    let closed = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if closed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn stand_back(limits: Limits) -> io::Result<()> {
    rustix::process::nice(limits.nice.into())?;
    if !limits.idle {
        return Ok(());
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` lives through the call, which only reads it; 0 is the calling thread.
    let scheduled = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    // SAFETY: the call takes three integers; 0 is the calling thread.
    let prioritised = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
    if scheduled != 0 || prioritised != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

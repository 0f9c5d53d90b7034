//! A worker's process: started, watched and reaped on a thread of its own, so that the front waits for none of it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::Builder;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;
use tracing::debug;

/// What a thread that only waits needs.
const STACK_BYTES: usize = 128 << 10;
/// This very program, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";
/// What the runtime leaves in the environment of a plugin that it has started is for the front alone.
const FRONT_ONLY: [&str; 3] = ["NRI_PLUGIN_IDX", "NRI_PLUGIN_NAME", "NRI_PLUGIN_SOCKET"];

/// A worker that has been started.
#[derive(Debug)]
pub struct Process {
    /// How it ended, once it has.
    pub ended: oneshot::Receiver<io::Result<ExitStatus>>,
    /// The front's end of the socket between the two.
    pub socket: UnixStream,
    /// To end it by.
    pub handle: Handle,
}

/// A process, whatever its number is given to later.
#[derive(Debug)]
pub struct Handle {
    /// Its number, for logs.
    pub pid: u32,
    process: OwnedFd,
}

impl Handle {
    /// Ends it at once.
    pub fn kill(&self) {
        if let Err(error) = pidfd_send_signal(&self.process, Signal::KILL) {
            debug!(
                pid = self.pid,
                error = &error as &dyn std::error::Error,
                "not killed"
            );
        }
    }
}

/// Starts a worker with these arguments. The thread that does lives as long as the worker: the worker asks the kernel to be killed
/// when it ends.
pub async fn start(arguments: Vec<OsString>) -> io::Result<Process> {
    let (tell, started) = oneshot::channel();
    Builder::new()
        .name("worker".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || watch(&arguments, tell))?;
    started
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has ended")))
}

fn watch(arguments: &[OsString], tell: oneshot::Sender<io::Result<Process>>) {
    let (mut child, socket) = match spawn(arguments) {
        Ok(spawned) => spawned,
        Err(error) => return drop(tell.send(Err(error))),
    };
    let (tell_end, ended) = oneshot::channel();
    let process = handle(&child).map(|handle| Process {
        ended,
        socket,
        handle,
    });
    // Without anyone to tell, the socket is closed, and the worker ends.
    drop(tell.send(process));
    drop(tell_end.send(child.wait()));
}

fn spawn(arguments: &[OsString]) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(PROGRAM);
    for name in FRONT_ONLY {
        command.env_remove(name);
    }
    let child = command
        .arg0("podwasm")
        .args(arguments)
        // A signal from a terminal is for the front, which lets the worker finish.
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    Ok((child, ours))
}

fn handle(child: &Child) -> io::Result<Handle> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    // It is not reaped before this thread waits for it, so the number is still its own.
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Handle {
        pid: child.id(),
        process,
    })
}

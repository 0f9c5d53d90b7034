//! Getting into a node: its namespaces and cgroups, for a new process or for one socket.
#![allow(unsafe_code, reason = "a new process joins namespaces between fork and exec")]

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The namespaces of one process.
#[derive(Debug)]
pub(super) struct Namespaces {
    process: PathBuf,
}

impl Namespaces {
    pub(super) fn of(pid: u32) -> Self {
        Self {
            process: PathBuf::from(format!("/proc/{pid}")),
        }
    }

    /// Starts a command in all of them, with the environment of a login, in the node's cgroups.
    pub(super) fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().display().to_string();
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .envs(environment);
        let processes = self.open("ns/pid")?;
        let mut cgroups = self.cgroups()?;
        let rest = ["cgroup", "ipc", "uts", "net", "mnt"]
            .map(|name| self.open(&format!("ns/{name}")))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let join = move || {
            heed_all_signals();
            for cgroup in &mut cgroups {
                cgroup.write_all(b"0")?;
            }
            rest.iter()
                .try_for_each(|namespace| Ok(setns(namespace, CloneFlags::empty())?))
        };
        // SAFETY: the closure only makes system calls; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(join) };
        // A process stays in its pid namespace; what joins it are the children that a thread starts from then on.
        in_thread(move || {
            setns(&processes, CloneFlags::CLONE_NEWPID)?;
            command.spawn()
        })
        .with_context(|| format!("start {program} in the node"))
    }

    /// The same with output in pipes and no input.
    pub(super) fn output(&self, mut command: Command) -> Result<Child> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.spawn(command)
    }

    /// A connection made in the network namespace; a socket stays in the one it was made in.
    pub(super) async fn connect(&self, address: SocketAddr) -> Result<tokio::net::TcpStream> {
        let network = self.open("ns/net")?;
        let connect = move || {
            in_thread(move || {
                setns(&network, CloneFlags::CLONE_NEWNET)?;
                let stream = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            })
        };
        let stream = tokio::task::spawn_blocking(connect)
            .await?
            .with_context(|| format!("connect to {address}"))?;
        Ok(tokio::net::TcpStream::from_std(stream)?)
    }

    /// The membership files of the node's cgroups: one with cgroup v2 alone, else one for each hierarchy.
    fn cgroups(&self) -> Result<Vec<File>> {
        let top = self.process.join("root/sys/fs/cgroup");
        let folders = if top.join("cgroup.controllers").exists() {
            vec![top.join("init")]
        } else {
            std::fs::read_dir(&top)
                .with_context(|| format!("list {}", top.display()))?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<_>>()?
        };
        folders
            .into_iter()
            .map(|folder| folder.join("cgroup.procs"))
            .map(|file| {
                File::options()
                    .write(true)
                    .open(&file)
                    .with_context(|| format!("open {}", file.display()))
            })
            .collect()
    }

    fn open(&self, name: &str) -> Result<File> {
        let path = self.process.join(name);
        File::open(&path).with_context(|| format!("open {}: has the node ended?", path.display()))
    }
}

/// Runs a step in a thread of its own, which takes the namespaces it joins to its grave.
fn in_thread<T: Send + 'static>(step: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::spawn(step).join().expect("the step does not panic")
}

/// Whoever started the tests may ignore signals, as `nohup` does, and programs inherit that.
fn heed_all_signals() {
    for number in Signal::iterator() {
        // SAFETY: the default is no function of this process. The two that cannot be set are an error, which changes nothing.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}

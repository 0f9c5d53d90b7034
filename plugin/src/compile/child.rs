//! The compiler's process: started with no privileges, watched, and its output taken as a stranger's.
//!
//! What it reads comes from an image, and compilers have bugs, so it counts as hijacked from its first byte on. It has a user of its
//! own, the module as its only open file, an empty folder, and limits; when it has ended, its whole session is killed, and what it
//! left is copied while it is hashed, never moved.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use podwasm_engine::proposal::Proposal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use wait4::Wait4 as _;

use super::confine::confine;
use super::limits::Limits;
use crate::compiled::Tier;

/// What the compiler writes in its folder.
const OUTPUT: &str = "module.so";
/// Of what the compiler says, so much is kept.
const MAX_STDERR_BYTES: usize = 4096;
const TOO_LARGE: &str = "a file larger than it may write";
/// What the kernel takes first when memory runs out.
const FIRST_TO_GO: &str = "1000";

/// The program that the C library loads programs with.
#[cfg(target_arch = "x86_64")]
const LOADER: &str = "ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "ld-linux-aarch64.so.1";
/// `e_machine` in the header of a library for this CPU.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Why there is no native code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compiler ended by a signal that nobody here sent.
    #[error("the compiler crashed with signal {0}")]
    Crashed(i32),
    /// The compiler took more CPU time than it may.
    #[error("the compiler took more than {0} s of CPU time")]
    CpuTime(u64),
    /// The compiler had not ended in time.
    #[error("the compiler had not ended after {0:?}")]
    Hung(Duration),
    /// Something on this node failed.
    #[error("cannot {doing}")]
    Io {
        /// What was being done, as an infinitive.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else ended the compiler, such as the kernel when memory ran out.
    #[error("the compiler was killed")]
    Killed,
    /// The module uses what this node's policy does not allow.
    #[error("this node's policy does not allow {0}, which the module uses")]
    NotAllowed(String),
    /// The module uses what can only be interpreted.
    #[error("there is no native code for {0}, which the module uses")]
    NoNativeCode(String),
    /// What the compiler left is no native code.
    #[error("the compiler left {0}")]
    Output(&'static str),
    /// The compiler would not.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// Whether the same module will fail again, as against a node that could not at this moment.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Killed | Self::NotAllowed(_))
    }
}

/// The compiler's bundle.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its folder.
    pub folder: PathBuf,
}

impl Program {
    /// A command that starts the compiler with its own loader and libraries, and nothing of this process.
    pub fn command(&self) -> Command {
        let libraries = self.folder.join("lib");
        let mut command = Command::new(libraries.join(LOADER));
        command
            .arg("--inhibit-cache")
            .arg("--library-path")
            .arg(&libraries)
            .arg(self.folder.join("compile"))
            .env_clear();
        command
    }

    /// What of the bundle is not there, if anything.
    pub fn missing_part(&self) -> Option<PathBuf> {
        let parts = ["compile", "VERSION", "lib"].map(|part| self.folder.join(part));
        let loader = self.folder.join("lib").join(LOADER);
        parts.into_iter().chain([loader]).find(|part| !part.exists())
    }
}

/// One run of the compiler.
#[derive(Debug)]
pub struct Run<'a> {
    /// The folder to make for it, which only it can write to.
    pub folder: &'a Path,
    /// What it may take.
    pub limits: Limits,
    /// The module, opened for reading.
    pub module: File,
    /// What to run.
    pub program: &'a Program,
    /// What the module may use beyond version 2.0 of the core specification.
    pub proposals: &'a [Proposal],
    /// How thoroughly to compile.
    pub tier: Tier,
    /// The user to run it as; `None` for the one that this process has.
    pub user: Option<u32>,
}

/// What a run has left.
#[derive(Debug)]
pub struct Output {
    /// The library, opened for reading.
    pub file: File,
    /// The most memory that the compiler had.
    pub peak_bytes: u64,
    /// What it said, on one line; nothing as a rule.
    pub said: String,
}

impl Run<'_> {
    /// Runs the compiler to its end, one way or another. Blocks, in a thread that has to live for as long: the kernel kills the compiler
    /// when the thread that started it ends.
    pub fn run(self) -> Result<Output, Error> {
        let folder = self
            .make_folder()
            .map_err(Error::io("make the compiler's folder"))?;
        let mut command = self.program.command();
        command
            .args(["--tier", self.tier.as_str()])
            .args(self.proposals.iter().flat_map(|one| ["--enable", one.name()]))
            .stdin(self.module)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user); // which also drops all other groups
        }
        let of_folder = folder
            .try_clone()
            .map_err(Error::io("keep the compiler's folder"))?;
        confine(&mut command, folder, self.limits, self.user.is_some());
        let child = command.spawn().map_err(Error::io("start the compiler"))?;
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), FIRST_TO_GO); // or it has ended
        let ended = watch(child, self.limits.wall).map_err(Error::io("watch the compiler"))?;
        ended.check(self.limits)?;
        let file = take_output(&of_folder, self.limits.output_bytes)?;
        Ok(Output {
            file,
            peak_bytes: ended.peak_bytes,
            said: ended.said,
        })
    }

    fn make_folder(&self) -> io::Result<OwnedFd> {
        DirBuilder::new().mode(0o700).create(self.folder)?;
        fs::set_permissions(self.folder, Permissions::from_mode(0o700))?;
        if let Some(user) = self.user {
            chown(self.folder, Some(user), Some(user))?;
        }
        Ok(File::open(self.folder)?.into())
    }
}

/// How the compiler ended.
struct Ended {
    code: Option<i32>,
    peak_bytes: u64,
    said: String,
    signal: Option<i32>,
    was_hung: bool,
}

impl Ended {
    fn check(&self, limits: Limits) -> Result<(), Error> {
        match (self.code, self.signal) {
            _ if self.was_hung => Err(Error::Hung(limits.wall)),
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(Error::Refused(match self.said.as_str() {
                "" => format!("the compiler ended with exit code {code}"),
                said => said.to_owned(),
            })),
            (None, Some(libc::SIGXCPU)) => Err(Error::CpuTime(limits.cpu_seconds)),
            (None, Some(libc::SIGXFSZ)) => Err(Error::Output(TOO_LARGE)),
            (None, Some(libc::SIGKILL) | None) => Err(Error::Killed),
            (None, Some(signal)) => Err(Error::Crashed(signal)),
        }
    }
}

/// Waits for the compiler's end, which is brought about when it takes too long. Afterwards all of its session is killed.
fn watch(mut child: Child, patience: Duration) -> io::Result<Ended> {
    let pid = Pid::from_child(&child);
    let mut stderr = child.stderr.take();
    let mut said = Vec::new();
    let watched = pidfd_open(pid, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|process| listen(&process, &mut stderr, &mut said, Instant::now() + patience));
    // Before the child is reaped, its number cannot be another process's.
    let _ = kill_process_group(pid, Signal::KILL);
    let used = child.wait4()?;
    Ok(Ended {
        code: used.status.code(),
        peak_bytes: used.rusage.maxrss,
        said: first_line(&said),
        signal: used.status.signal(),
        was_hung: !watched?,
    })
}

/// Collects what the compiler says, and returns whether it ended before the deadline.
fn listen(
    process: &OwnedFd,
    stderr: &mut Option<ChildStderr>,
    said: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = vec![PollFd::new(process, PollFlags::IN)];
        polled.extend(stderr.as_ref().map(|stderr| PollFd::new(stderr, PollFlags::IN)));
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = !polled[0].revents().is_empty();
        let has_said = polled.get(1).is_some_and(|stderr| !stderr.revents().is_empty());
        if has_said && !read_some(stderr.as_mut(), said)? {
            *stderr = None;
        }
        // What it said last is in the pipe by then.
        if has_ended && !has_said {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(has_ended);
        }
    }
}

/// Reads on, keeping the beginning. Returns whether there may be more.
fn read_some(stderr: Option<&mut ChildStderr>, said: &mut Vec<u8>) -> io::Result<bool> {
    let Some(stderr) = stderr else {
        return Ok(false);
    };
    let mut chunk = [0; MAX_STDERR_BYTES];
    let read = stderr.read(&mut chunk)?;
    let room = MAX_STDERR_BYTES - said.len();
    said.extend_from_slice(&chunk[..read.min(room)]);
    Ok(read > 0)
}

/// It ends up in logs and in pods' events.
fn first_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let printable = line
        .unwrap_or_default()
        .chars()
        .filter(|character| !character.is_control());
    printable.take(300).collect()
}

/// Opens what the compiler left, whatever that is: a link, a pipe, or a file that does not end.
fn take_output(folder: &OwnedFd, limit: u64) -> Result<File, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(folder, OUTPUT, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(Error::Output("nothing")),
        Err(Errno::LOOP) => return Err(Error::Output("a link")),
        Err(Errno::NXIO) => return Err(Error::Output("a socket")),
        Err(error) => return Err(Error::io("open the compiler's output")(error.into())),
    };
    let about = file
        .metadata()
        .map_err(Error::io("look at the compiler's output"))?;
    if !about.is_file() || about.nlink() != 1 {
        return Err(Error::Output("something that is no regular file of its own"));
    }
    if about.len() > limit {
        return Err(Error::Output(TOO_LARGE));
    }
    check_header(&file)?;
    Ok(file)
}

/// A shared library for this CPU.
fn check_header(file: &File) -> Result<(), Error> {
    const SHARED_LIBRARY: u16 = 3;
    let mut header = [0; 64];
    let whole = file.read_exact_at(&mut header, 0);
    match whole {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Error::Output("a file that is cut off"));
        }
        whole => whole.map_err(Error::io("read the compiler's output"))?,
    }
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    // Magic, 64 bits, little endian, version 1.
    let is_elf = header.starts_with(b"\x7fELF\x02\x01\x01");
    if is_elf && number(16) == SHARED_LIBRARY && number(18) == MACHINE {
        Ok(())
    } else {
        Err(Error::Output("a file that is no library for this CPU"))
    }
}

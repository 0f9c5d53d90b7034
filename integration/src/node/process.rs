//! A program that runs in a node until it ends, is killed, or its handle is dropped.

use super::namespaces::Namespaces;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::sync::watch;

const TAIL_LINES: usize = 25;

/// A running program. Dropping the handle kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
    reaper: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts a command; both output streams are appended to `NAME.log` in the folder.
    pub(super) fn spawn(
        namespaces: &Namespaces,
        name: &str,
        mut command: Command,
        logs: &Path,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("open the log")?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0); // an interrupt from the terminal is for this process, which then ends it
        let mut child = namespaces.spawn(command)?;
        let pid = Pid::from_raw(child.id().try_into().context("a pid is positive")?);
        let (ended, exit) = watch::channel(None);
        // The node cannot end before its processes are reaped, which only their parent can do: this one.
        let reaper = std::thread::spawn(move || {
            ended.send_replace(child.wait().ok());
        });
        Ok(Self {
            name: name.to_owned(),
            pid,
            log,
            exit,
            reaper: Some(reaper),
        })
    }

    /// The pid in the host's count.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The file that holds its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited() {
            bail!("{} has ended: {status}\n{}", self.name, log_tail(&self.log));
        }
        kill(self.pid, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits for its end.
    pub async fn wait(&self, patience: Duration) -> Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(patience, exit.wait_for(Option::is_some)).await;
        let status = ended.with_context(|| format!("{} still runs after {patience:?}", self.name))?;
        Ok(status.context("its reaper is gone")?.expect("waited for it"))
    }

    /// The end of its output, for a failure's message.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            let _ = kill(self.pid, Signal::SIGKILL); // it may have ended by now
        }
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

/// The last lines of a log, under its name.
fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("--- {}\n{}\n", path.display(), tail.join("\n"))
}

/// The last lines of every log in a folder.
pub(super) fn log_tails(folder: &Path) -> String {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "log"));
    paths.sort();
    paths.iter().fold(String::new(), |mut all, path| {
        let _ = write!(all, "{}", log_tail(path));
        all
    })
}

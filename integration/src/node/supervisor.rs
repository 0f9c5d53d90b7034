//! The script that holds a node's namespaces, mounts and cgroups, and takes them down when this process ends.

use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A running `node.sh`. Dropping it closes the pipe that keeps the node alive and waits for the end.
#[derive(Debug)]
pub(super) struct Supervisor {
    child: Child,
    lifeline: Option<ChildStdin>,
    init: u32,
}

impl Supervisor {
    /// Makes the node of `folder` on `roots` (topmost first), where each of `binds` (inside, outside) is seen.
    pub(super) fn start(folder: &Path, roots: &[PathBuf], binds: &[(&str, PathBuf)]) -> Result<Self> {
        let log = folder.join("log/node.log");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/node.sh");
        let roots = roots
            .iter()
            .map(|root| root.display().to_string())
            .collect::<Vec<_>>()
            .join(":");
        // In a session of its own: the node's init makes what it starts the terminal's foreground, if it has a terminal, and an
        // interrupt would no longer reach this process. This process ends the node by letting go of the pipe.
        let mut child = Command::new("setsid")
            .arg("bash")
            .arg(script)
            .args(["run".as_ref(), folder.as_os_str(), roots.as_ref()])
            .args(
                binds
                    .iter()
                    .map(|(inside, outside)| format!("{inside}={}", outside.display())),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("start node.sh")?;
        let lifeline = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("standard output is a pipe")).read_line(&mut line)?;
        let Ok(init) = line.trim().parse() else {
            drop(lifeline);
            let status = child.wait()?;
            bail!("node.sh: {status}\n{}", std::fs::read_to_string(&log)?);
        };
        Ok(Self {
            child,
            lifeline,
            init,
        })
    }

    /// The pid of the node's init.
    pub(super) fn init(&self) -> u32 {
        self.init
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        if let Err(error) = self.child.wait() {
            eprintln!("node.sh cannot be waited for: {error}");
        }
    }
}

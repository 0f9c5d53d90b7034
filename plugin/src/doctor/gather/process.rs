//! Processes of this node, and programs that are asked something.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::doctor::facts::Learnt;

/// How long a program may take to tell its version or configuration.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its arguments, the program's name first.
    pub args: Vec<String>,
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
}

impl Process {
    /// The program's last name.
    pub fn program(&self) -> &str {
        let program = self.args.first().map_or("", String::as_str);
        program.rsplit('/').next().unwrap_or(program)
    }

    /// What follows a flag, as `--flag VALUE` or `--flag=VALUE`.
    pub fn flag(&self, names: &[&str]) -> Option<String> {
        let mut args = self.args.iter();
        while let Some(arg) = args.next() {
            if names.contains(&arg.as_str()) {
                return args.next().cloned();
            }
            let value = names
                .iter()
                .find_map(|name| arg.strip_prefix(name)?.strip_prefix('='));
            if let Some(value) = value {
                return Some(value.to_owned());
            }
        }
        None
    }

    /// Its network namespace.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Its program's file.
    pub fn executable(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// Its environment's search path, where this process may see it.
    pub fn search_path(&self) -> Option<OsString> {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let path = variables.find_map(|variable| variable.strip_prefix(b"PATH="))?;
        Some(OsString::from_vec(path.to_vec()))
    }
}

/// All processes that have arguments.
pub fn all() -> Learnt<Vec<Process>> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("processes cannot be listed: {error}"))?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(one).collect())
}

/// One of them, if it is still there.
pub fn one(pid: u32) -> Option<Process> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let line = fs::read(folder.join("cmdline")).ok()?;
    // Each argument ends with a zero byte, the last one too.
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let args: Vec<_> = line
        .split(|byte| *byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect();
    if args.first().is_none_or(String::is_empty) {
        return None;
    }
    // The name in brackets may hold anything; what follows it is the state and the parent.
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?;
    Some(Process { args, pid, parent })
}

/// Where a program is, on a search path unless it names a folder.
pub fn find(program: &str, path: Option<&OsString>) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let usual = OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let path = path.cloned().unwrap_or(usual);
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.exists())
}

/// What a program writes to stdout, if it ends well and in time.
pub async fn ask(program: &Path, called: &str, args: &[&str]) -> Learnt<String> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg0(called)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // crun makes a folder even when it only tells its version; this one is gone afterwards.
    let scratch = tempfile::Builder::new().prefix("podwasm-doctor-").tempdir();
    if let Ok(scratch) = &scratch {
        command.env("XDG_RUNTIME_DIR", scratch.path());
    }
    let name = program.display();
    let answer = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| format!("{name} did not answer within {PATIENCE:?}"))?
        .map_err(|error| format!("{name} cannot be started: {error}"))?;
    if answer.status.success() {
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        Err(format!("{name} failed ({}): {said}", answer.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_in_both_forms() {
        let process = Process {
            args: [
                "/bin/containerd",
                "--log-level",
                "debug",
                "--config=/a",
                "-c",
                "/b",
            ]
            .map(str::to_owned)
            .to_vec(),
            pid: 1,
            parent: 0,
        };
        assert_eq!(process.program(), "containerd");
        assert_eq!(process.flag(&["--config", "-c"]).as_deref(), Some("/a"));
        assert_eq!(process.flag(&["-c"]).as_deref(), Some("/b"));
        assert_eq!(process.flag(&["--root"]), None);
    }

    #[test]
    fn this_process_is_among_all() {
        let own = std::process::id();
        let found = all()
            .unwrap()
            .into_iter()
            .find(|process| process.pid == own)
            .unwrap();
        assert!(found.parent > 0 && !found.args.is_empty(), "{found:?}");
    }

    #[tokio::test]
    async fn programs_are_asked() {
        let shell = Path::new("/bin/sh");
        assert_eq!(
            ask(shell, "sh", &["-c", "echo 1.2"]).await.as_deref(),
            Ok("1.2\n")
        );
        let failed = ask(shell, "sh", &["-c", "echo no >&2; exit 3"])
            .await
            .unwrap_err();
        assert!(
            failed.contains("exit status: 3") && failed.ends_with("no"),
            "{failed}"
        );
    }
}

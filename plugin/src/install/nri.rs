//! `podwasm nri enable` and `podwasm nri restore`: NRI on a node whose containerd has it switched off, and back.
//!
//! What is about to change is written down first, with all that it takes to undo it, in a folder beside containerd's
//! configuration. Every step can be interrupted: whoever comes next finds the record, and goes back before going on.

use std::fs::{self, DirBuilder, File, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::edit::{self, Effective, Refusal};
use super::say;
use crate::containerd::{self, Containerd};
use crate::flags::{NriCommand, NriFlags};

/// The folder beside the configuration that holds what it takes to undo the change.
const RECORD_FOLDER: &str = ".podwasm-nri";
/// How long containerd may take to say what its configuration comes to.
const DUMP: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
/// Where the node's programs are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Of what a program says, so much is told.
const MAX_SAID: usize = 600;

/// Why NRI is not on, or not as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What containerd makes of its configuration cannot be told.
    #[error("containerd does not accept {config:?}: {said}")]
    Config {
        /// Which configuration.
        config: PathBuf,
        /// What containerd said.
        said: String,
    },
    /// containerd does not answer.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The file system said no.
    #[error("cannot {doing} {path:?}: {source}")]
    Io {
        /// What was being done, as an infinitive.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The configuration would be valid, but NRI would still be off.
    #[error("NRI would still be off with {0:?}, because something else says so later")]
    NoEffect(PathBuf),
    /// It did not come up; all is as it was.
    #[error(
        "containerd was not up {patience:?} after its restart ({why}); its old configuration is back, and it runs"
    )]
    RolledBack {
        /// How long it had.
        patience: Duration,
        /// What was missing.
        why: String,
    },
    /// It did not come up, with the old configuration neither.
    #[error(
        "containerd was not up {patience:?} after its restart ({why}); its old configuration is back, but it is still not up ({still}): look at its log"
    )]
    RolledBackInVain {
        /// How long it had.
        patience: Duration,
        /// What was missing.
        why: String,
        /// What is still missing.
        still: String,
    },
    /// The configuration cannot be changed by this.
    #[error("{config:?} is left alone: {refusal}")]
    Refused {
        /// Which configuration.
        config: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// It is back, but containerd did not come up.
    #[error(
        "containerd's configuration is as it was, but containerd was not up {patience:?} after its restart: {why}"
    )]
    Restored {
        /// How long it had.
        patience: Duration,
        /// What was missing.
        why: String,
    },
}

impl Error {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Does what is asked, and says how that went by the exit code.
pub async fn run(flags: NriFlags) -> ExitCode {
    match try_run(&flags).await {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn try_run(flags: &NriFlags) -> Result<String, Error> {
    if let Some(host) = &flags.host {
        // From here on every path, socket and program is the node's.
        rustix::process::chroot(host).map_err(|error| Error::io("enter", host)(error.into()))?;
        std::env::set_current_dir("/").map_err(Error::io("enter", host))?;
    }
    let node = Node { flags };
    match flags.command {
        NriCommand::Enable => node.enable().await,
        NriCommand::Restore => node.restore().await,
    }
}

/// What it takes to undo the change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The file that was added.
    drop_in: PathBuf,
    /// Whether the drop-in's folder was there.
    had_folder: bool,
    /// The configuration before, if there was one and it was changed.
    before: Option<Before>,
    /// The configuration's text after, if it was changed.
    after: Option<String>,
    /// Whether containerd came up with it.
    is_done: bool,
}

/// A configuration as it was; its bytes are in a file of their own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Since 1970.
    modified_seconds: u64,
    modified_nanoseconds: u32,
}

struct Node<'a> {
    flags: &'a NriFlags,
}

impl Node<'_> {
    async fn enable(&self) -> Result<String, Error> {
        if let Some(record) = self.record()? {
            if record.is_done
                && self
                    .effective(self.config())
                    .await
                    .is_ok_and(|effective| effective.is_on)
            {
                return Ok("NRI was switched on before, and is".to_owned());
            }
            say("an earlier try was interrupted: going back first");
            self.undo(&record)?;
        }
        let version = Containerd::at(&self.flags.containerd_socket).version().await?;
        let effective = self.effective(self.config()).await?;
        if effective.is_on {
            return Ok(format!("containerd {version} has NRI switched on: nothing to do"));
        }
        let text = read_if_there(self.config())?;
        let edit =
            edit::enable(text.as_deref(), self.config(), &effective).map_err(|refusal| Error::Refused {
                config: self.config().to_owned(),
                refusal,
            })?;
        let record = Record {
            had_folder: edit.drop_in.parent().is_some_and(Path::exists),
            before: edit
                .config
                .is_some()
                .then(|| self.before())
                .transpose()?
                .flatten(),
            after: edit.config.clone(),
            is_done: false,
            drop_in: edit.drop_in,
        };
        self.write_down(&record, text.as_deref())?;
        if let Err(error) = self.change(&record, &edit.drop_in_text).await {
            self.undo(&record)?;
            return Err(error);
        }
        if let Err(why) = self.restart(Some(&effective.socket)).await {
            self.undo(&record)?;
            let patience = self.flags.patience;
            return Err(match self.restart(None).await {
                Ok(()) => Error::RolledBack { patience, why },
                Err(still) => Error::RolledBackInVain { patience, why, still },
            });
        }
        self.write_record(&Record {
            is_done: true,
            ..record
        })?;
        Ok(format!(
            "NRI is switched on in containerd {version}, which was restarted"
        ))
    }

    async fn restore(&self) -> Result<String, Error> {
        let Some(record) = self.record()? else {
            return Ok("podwasm has changed nothing in containerd's configuration".to_owned());
        };
        self.undo(&record)?;
        let patience = self.flags.patience;
        match self.restart(None).await {
            Ok(()) => Ok("containerd's configuration is as it was, and containerd was restarted".to_owned()),
            Err(why) => Err(Error::Restored { patience, why }),
        }
    }

    fn config(&self) -> &Path {
        &self.flags.config
    }

    fn folder(&self) -> PathBuf {
        self.config().with_file_name(RECORD_FOLDER)
    }

    fn record(&self) -> Result<Option<Record>, Error> {
        let path = self.folder().join("record.json");
        let Some(text) = read_if_there(&path)? else {
            return Ok(None);
        };
        let record = serde_json::from_str(&text).map_err(io::Error::from);
        record.map(Some).map_err(Error::io("read", &path))
    }

    fn before(&self) -> Result<Option<Before>, Error> {
        let about = match fs::metadata(self.config()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(Error::io("look at", self.config()))?,
        };
        let since = about
            .modified()
            .ok()
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = since.unwrap_or_default();
        Ok(Some(Before {
            mode: about.permissions().mode() & 0o7777,
            uid: about.uid(),
            gid: about.gid(),
            modified_seconds: since.as_secs(),
            modified_nanoseconds: since.subsec_nanos(),
        }))
    }

    fn write_down(&self, record: &Record, text: Option<&str>) -> Result<(), Error> {
        let folder = self.folder();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(Error::io("make", &folder))?;
        if record.before.is_some() {
            write_whole(&folder.join("before"), text.unwrap_or_default().as_bytes(), 0o600)?;
        }
        self.write_record(record)
    }

    fn write_record(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(record).expect("a record is JSON");
        write_whole(&self.folder().join("record.json"), &text, 0o600)
    }

    /// Writes the drop-in, and the configuration if containerd accepts it.
    async fn change(&self, record: &Record, drop_in: &str) -> Result<(), Error> {
        if let Some(folder) = record.drop_in.parent() {
            fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        }
        write_whole(&record.drop_in, drop_in.as_bytes(), 0o644)?;
        let (mode, owner) = match &record.before {
            Some(before) => (before.mode, Some((before.uid, before.gid))),
            None => (0o644, None),
        };
        let tried = match &record.after {
            Some(text) => {
                // In the same folder, where relative imports mean the same.
                let tried = self.tried();
                write_whole(&tried, text.as_bytes(), mode)?;
                if let Some((uid, gid)) = owner {
                    chown(&tried, Some(uid), Some(gid)).map_err(Error::io("write", &tried))?;
                }
                tried
            }
            None => self.config().to_owned(),
        };
        if !self.effective(&tried).await?.is_on {
            return Err(Error::NoEffect(self.config().to_owned()));
        }
        if record.after.is_some() {
            fs::rename(&tried, self.config()).map_err(Error::io("replace", self.config()))?;
        }
        sync(self.config())
    }

    /// The new configuration while it is looked at.
    fn tried(&self) -> PathBuf {
        self.config().with_file_name(".podwasm-tried.toml")
    }

    /// Puts everything back to what it was, to the byte, unless somebody has changed the configuration since; then only the import goes.
    fn undo(&self, record: &Record) -> Result<(), Error> {
        remove_if_there(&self.tried())?;
        let now = read_if_there(self.config())?;
        if record.after.is_some() && now == record.after {
            self.put_back(record.before.as_ref())?;
        } else if let (Some(_), Some(now)) = (&record.after, &now) {
            let before = fs::read_to_string(self.folder().join("before")).ok();
            if before.as_ref() != Some(now) {
                say("containerd's configuration was changed by somebody else: only the import is taken out");
                let refused = |refusal| Error::Refused {
                    config: self.config().to_owned(),
                    refusal,
                };
                let text = edit::without_import(now, &record.drop_in).map_err(refused)?;
                let mode =
                    fs::metadata(self.config()).map_or(0o644, |about| about.permissions().mode() & 0o7777);
                write_whole(self.config(), text.as_bytes(), mode)?;
            }
        }
        remove_if_there(&record.drop_in)?;
        if !record.had_folder
            && let Some(folder) = record.drop_in.parent()
        {
            let _ = fs::remove_dir(folder); // or somebody else uses it by now
        }
        sync(self.config())?;
        let folder = self.folder();
        fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))
    }

    fn put_back(&self, before: Option<&Before>) -> Result<(), Error> {
        let Some(before) = before else {
            return remove_if_there(self.config());
        };
        let kept = self.folder().join("before");
        let bytes = fs::read(&kept).map_err(Error::io("read", &kept))?;
        // Prepared beside it, so that it is whole and all its own when it appears.
        let new = self.tried();
        write_whole(&new, &bytes, before.mode)?;
        chown(&new, Some(before.uid), Some(before.gid)).map_err(Error::io("write", &new))?;
        let modified =
            SystemTime::UNIX_EPOCH + Duration::new(before.modified_seconds, before.modified_nanoseconds);
        let times = FileTimes::new().set_modified(modified);
        let set = File::options()
            .write(true)
            .open(&new)
            .and_then(|file| file.set_times(times));
        set.map_err(Error::io("write", &new))?;
        fs::rename(&new, self.config()).map_err(Error::io("replace", self.config()))
    }

    /// What containerd makes of a configuration.
    async fn effective(&self, config: &Path) -> Result<Effective, Error> {
        let refused = |said: String| Error::Config {
            config: config.to_owned(),
            said,
        };
        let mut command = node_program("containerd");
        if config.exists() {
            command.arg("--config").arg(config);
        }
        let output = run_to_its_end(command.args(["config", "dump"]), DUMP)
            .await
            .map_err(&refused)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Effective::parse(&text).map_err(|refusal| refused(refusal.to_string()))
    }

    /// Restarts containerd, and waits until it answers, and NRI if that is to be on.
    async fn restart(&self, nri: Option<&Path>) -> Result<(), String> {
        let (program, arguments) = self.flags.restart.split_first().expect("it has a default");
        let start = Instant::now();
        let patience = self.flags.patience;
        let mut command = node_program(program);
        // systemctl would rather not when it finds itself below another root.
        command.args(arguments).env("SYSTEMD_IGNORE_CHROOT", "1");
        run_to_its_end(&mut command, patience).await?;
        loop {
            let missing = self.missing(nri).await;
            match missing {
                None => return Ok(()),
                Some(missing) if start.elapsed() > patience => return Err(missing),
                Some(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn missing(&self, nri: Option<&Path>) -> Option<String> {
        if let Err(error) = Containerd::at(&self.flags.containerd_socket).version().await {
            return Some(error.to_string());
        }
        let socket = nri?;
        let connected = UnixStream::connect(socket).await;
        let error = connected.err()?;
        Some(format!("NRI's socket {}: {error}", socket.display()))
    }
}

/// A program of the node.
fn node_program(program: &str) -> Command {
    let found = PATH
        .split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists());
    let mut command = Command::new(found.unwrap_or_else(|| program.into()));
    command
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run_to_its_end(command: &mut Command, patience: Duration) -> Result<Output, String> {
    let program = command.as_std().get_program().display().to_string();
    let output = match timeout(patience, command.output()).await {
        Err(_) => return Err(format!("{program} had not ended after {patience:?}")),
        Ok(Err(error)) => return Err(format!("{program} cannot be run: {error}")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(MAX_SAID).collect();
    Err(format!("{program}: {}: {said}", output.status))
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(Error::io("read", path)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io("remove", path)),
    }
}

/// A file that appears whole, or not.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".podwasm-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(Error::io("write", path))
}

/// Brings the names in a file's folder to disk.
fn sync(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let opened = File::open(folder).and_then(|folder| folder.sync_all());
    opened.map_err(Error::io("write", folder))
}

//! `podwasm uninstall`: takes away all that podwasm has put on a node, but for what running containers use.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use podwasm_daemon::signals::told_to_end;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use super::{Kind, Place, entries, file_name, say};
use crate::containerd::{self, Containerd};
use crate::flags::Uninstall;

/// How often it is looked again whether daemons have ended, or other nodes are done.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a node may take to say that it is done.
const ANSWER: Duration = Duration::from_secs(5);
/// The folders of the state that hold nothing a container mounts.
const OWN: [&str; 3] = ["compiled", "compiling", "incoming"];

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other nodes are not done.
    #[error("after {0:?} not all nodes have said that they are done: {1}")]
    Awaited(Duration, String),
    /// What is in use is not known.
    #[error("nothing was removed, because what is in use is not known: {0}")]
    Containerd(#[from] containerd::Error),
    /// A daemon has not ended.
    #[error("nothing was removed, because after {0:?} a podwasm daemon still runs")]
    Daemon(Duration),
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
    /// It cannot be said that this node is done.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
}

impl Error {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Does what is asked, and says how that went by the exit code.
pub async fn run(flags: Uninstall) -> ExitCode {
    let done = match &flags.r#await {
        Some(service) => await_nodes(service, flags.patience).await,
        None => remove_and_say(&flags).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn remove_and_say(flags: &Uninstall) -> Result<(), Error> {
    remove(flags).await?;
    let Some(address) = flags.then_serve else {
        return Ok(());
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Error::Listen(address, error))?;
    let done = Router::new().route("/readyz", get(async || "done\n"));
    let ended = tokio::spawn(async { axum::serve(listener, done).await });
    let terminated = told_to_end().map_err(|error| Error::Listen(address, error))?;
    terminated.await;
    ended.abort();
    Ok(())
}

async fn remove(flags: &Uninstall) -> Result<(), Error> {
    let place = Place::new(&flags.from);
    let locks = await_daemons(&flags.from, flags.patience).await?;
    let has_anything = flags.from.exists() || flags.state.exists();
    if !has_anything {
        say("there is nothing to remove");
        return Ok(());
    }
    let mounted = Containerd::at(&flags.containerd_socket).mounted().await?;
    // From here on a daemon that starts keeps its version.
    drop(locks);
    for line in place.remove_unused(&mounted, |_| true) {
        say(&line);
    }
    let mut kept = place.remove_links()?;
    kept += remove_state(&flags.state, &mounted)?;
    for folder in [&flags.from, &flags.state] {
        // What others have put there, such as plugins, keeps the folder.
        if fs::remove_dir(folder).is_err() && folder.exists() {
            say(&format!("{} stays, because something is in it", folder.display()));
        }
    }
    if kept > 0 {
        say(
            "what stays can be removed when these containers are gone: run podwasm uninstall again, or remove both folders",
        );
    }
    Ok(())
}

/// Waits until no daemon hands out any version any more.
async fn await_daemons(place: &Path, patience: Duration) -> Result<Vec<File>, Error> {
    let start = Instant::now();
    let folders = entries(&place.join(Kind::Engine.versions()));
    let mut locks = Vec::new();
    for folder in folders {
        let lock = File::open(&folder).map_err(Error::io("open", &folder))?;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if start.elapsed() > patience {
                return Err(Error::Daemon(patience));
            }
            sleep(PAUSE).await;
        }
        locks.push(lock);
    }
    Ok(locks)
}

impl Place {
    /// Removes the links whose versions are gone, and the folders that are empty by now. Returns how many versions are left.
    fn remove_links(&self) -> Result<usize, Error> {
        let mut left = 0;
        for kind in Kind::ALL {
            let (link, versions) = (self.folder.join(kind.link()), self.folder.join(kind.versions()));
            left += entries(&versions).len();
            if fs::symlink_metadata(&link).is_ok_and(|about| about.is_symlink()) {
                fs::remove_file(&link).map_err(Error::io("remove", &link))?;
            }
            let _ = fs::remove_dir(&versions); // or it is not empty
        }
        Ok(left)
    }
}

/// Removes modules and their native code. Returns how many modules are left, because containers mount them.
fn remove_state(state: &Path, mounted: &HashSet<PathBuf>) -> Result<usize, Error> {
    for name in OWN {
        let folder = state.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
    }
    let modules = state.join("modules");
    let mut left = 0;
    for folder in entries(&modules) {
        if mounted.iter().any(|source| source.starts_with(&folder)) {
            say(&format!("module {} stays: containers run it", file_name(&folder)));
            left += 1;
        } else {
            fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
    }
    let _ = fs::remove_dir(&modules); // or it is not empty
    Ok(left)
}

/// Waits until every node behind a Service's name says that it is done, and twice in a row there is none that does not.
async fn await_nodes(service: &str, patience: Duration) -> Result<(), Error> {
    let start = Instant::now();
    let mut agreed = 0;
    loop {
        let waiting = match lookup_host(service).await {
            Ok(addresses) => waiting(addresses.collect()).await,
            Err(error) => vec![error.to_string()],
        };
        agreed = if waiting.is_empty() { agreed + 1 } else { 0 };
        if agreed == 2 {
            return Ok(());
        }
        if start.elapsed() > patience {
            return Err(Error::Awaited(patience, waiting.join(", ")));
        }
        sleep(PAUSE).await;
    }
}

/// Who is not done, or that there is nobody.
async fn waiting(nodes: Vec<SocketAddr>) -> Vec<String> {
    if nodes.is_empty() {
        return vec!["nobody answers to that name".to_owned()];
    }
    let asked = nodes.into_iter().map(async |node| {
        let answer = timeout(ANSWER, TcpStream::connect(node)).await;
        (!matches!(answer, Ok(Ok(_)))).then(|| node.to_string())
    });
    let answers = futures_util::future::join_all(asked).await;
    answers.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::bundle;
    use super::*;

    fn installed() -> (tempfile::TempDir, Uninstall) {
        let at = tempfile::tempdir().unwrap();
        let flags = Uninstall {
            from: at.path().join("opt/podwasm"),
            state: at.path().join("state"),
            containerd_socket: at.path().join("containerd.sock"),
            patience: Duration::ZERO,
            then_serve: None,
            r#await: None,
        };
        let place = Place::new(&flags.from);
        for version in ["one", "two"] {
            let bundle = bundle(at.path(), version, version);
            place.publish(Kind::Engine, &bundle).unwrap();
        }
        for folder in ["modules/aa", "modules/bb", "compiled", "compiling/x", "incoming"] {
            fs::create_dir_all(flags.state.join(folder)).unwrap();
        }
        (at, flags)
    }

    #[test]
    fn nothing_is_left_when_nothing_is_used() {
        let (_at, flags) = installed();
        let place = Place::new(&flags.from);
        place.remove_unused(&HashSet::new(), |_| true);
        assert_eq!(place.remove_links().unwrap(), 0);
        assert_eq!(entries(&flags.from), Vec::<PathBuf>::new());
        assert_eq!(remove_state(&flags.state, &HashSet::new()).unwrap(), 0);
        assert_eq!(entries(&flags.state), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_running_containers_use_is_left() {
        let (_at, flags) = installed();
        let place = Place::new(&flags.from);
        let mounted = [
            flags.from.join("engines/one/engine"),
            flags.state.join("modules/bb"),
        ];
        let mounted = HashSet::from(mounted);
        let said = place.remove_unused(&mounted, |_| true);
        assert!(
            said.contains(&"engine one stays: containers run with it".to_owned()),
            "{said:?}"
        );
        assert_eq!(place.remove_links().unwrap(), 1);
        assert_eq!(entries(&flags.from), [flags.from.join("engines")]);
        assert_eq!(remove_state(&flags.state, &mounted).unwrap(), 1);
        assert_eq!(
            entries(&flags.state.join("modules")),
            [flags.state.join("modules/bb")]
        );
    }

    #[tokio::test]
    async fn nothing_is_removed_beside_a_daemon_or_without_containerd() {
        let (_at, flags) = installed();
        let daemon = File::open(flags.from.join("engines/one")).unwrap();
        flock(&daemon, FlockOperation::LockShared).unwrap();
        assert!(matches!(remove(&flags).await, Err(Error::Daemon(_))));
        drop(daemon);
        assert!(matches!(remove(&flags).await, Err(Error::Containerd(_))));
        assert!(flags.from.join("engine/engine").exists() && flags.state.join("modules/aa").exists());
    }

    #[tokio::test]
    async fn nodes_are_awaited_until_all_are_done() {
        let done = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = done.local_addr().unwrap().to_string();
        await_nodes(&name, Duration::from_secs(10)).await.unwrap();
        drop(done);
        let error = await_nodes(&name, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
    }
}

//! `podwasm install`: brings bundles to where the container runtime mounts them from, and takes away those that nobody uses.
//!
//! Every version has a folder of its own, such as `engines/VERSION`, and the link `engine` leads to the current one. A folder appears
//! by rename, when all of it is on disk, and the link moves by rename. A version stays while a container mounts it or a daemon hands it
//! out: daemons hold a shared lock on their version's folder (see [`settle`]).

mod edit;
pub mod nri;
pub mod uninstall;

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FlockOperation, flock};

use crate::containerd::Containerd;
use crate::daemon;
use crate::flags::Install;
use crate::inspect::show::printable;

/// The start of the names of folders that are being written, or thrown away.
const TEMPORARY: &str = ".podwasm-";
const CHUNK_BYTES: usize = 256 << 10;
/// Bundles are three folders deep.
const MAX_DEPTH: u32 = 16;
/// How often a version may be replaced while a daemon starts.
const ATTEMPTS: u32 = 3;

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is to be installed is not whole.
    #[error("the bundle is not whole: {0:?} is missing")]
    Incomplete(PathBuf),
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
    /// Something else has the link's name.
    #[error("{0:?} is there, and was not made by podwasm install: move it away")]
    Occupied(PathBuf),
    /// The bundle holds what no bundle does.
    #[error("{0:?} is neither a file nor a folder")]
    Odd(PathBuf),
    /// The version would not do as a folder's name.
    #[error("{0:?} is no bundle's version")]
    Version(String),
}

impl Error {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// What can be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What compiles, which the daemon runs.
    Compiler,
    /// What containers mount.
    Engine,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Compiler, Self::Engine];

    /// The bundle's folder in an image, and the link on a node.
    pub fn link(self) -> &'static str {
        match self {
            Self::Compiler => "compiler",
            Self::Engine => "engine",
        }
    }

    /// The folder of all versions.
    pub fn versions(self) -> &'static str {
        match self {
            Self::Compiler => "compilers",
            Self::Engine => "engines",
        }
    }
}

/// Does what is asked, and says how that went by the exit code.
pub async fn run(flags: Install) -> ExitCode {
    match try_run(&flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn try_run(flags: &Install) -> Result<(), Error> {
    let place = Place::new(&flags.to);
    for kind in Kind::ALL {
        if kind == Kind::Compiler && !flags.compiler {
            continue;
        }
        let (version, what) = place.publish(kind, &flags.from.join(kind.link()))?;
        say(&format!("{} {version} {what}", kind.link()));
    }
    match Containerd::at(&flags.containerd_socket).mounted().await {
        Ok(mounted) => place.sweep(&mounted).iter().for_each(|line| say(line)),
        // Nothing depends on it; the next one sweeps.
        Err(error) => say(&format!("old versions are left as they are: {error}")),
    }
    Ok(())
}

/// One line of what is done, which ends up in a pod's log.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "podwasm: {}", printable(line));
}

/// What became of a bundle that was to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It was there, whole.
    Already,
    /// It is there now.
    Installed,
    /// It was there, but not as it should be.
    Replaced,
}

impl std::fmt::Display for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Already => "is there already",
            Self::Installed => "was installed",
            Self::Replaced => "was damaged, and was installed again",
        })
    }
}

/// The folder on a node that bundles are installed in.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// Nothing is made or looked at yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Installs a bundle and makes it the current one. Returns its version.
    pub fn publish(&self, kind: Kind, bundle: &Path) -> Result<(String, Published), Error> {
        let version = version(kind, bundle)?;
        let versions = self.folder.join(kind.versions());
        fs::create_dir_all(&versions).map_err(Error::io("make", &versions))?;
        let link = self.folder.join(kind.link());
        if fs::symlink_metadata(&link).is_ok_and(|about| !about.is_symlink()) {
            return Err(Error::Occupied(link));
        }
        let folder = versions.join(&version);
        let published = if !folder.exists() {
            self.copy_whole(bundle, &folder)?;
            Published::Installed
        } else if is_same(bundle, &folder, MAX_DEPTH)? {
            Published::Already
        } else {
            self.discard(&folder)?;
            self.copy_whole(bundle, &folder)?;
            Published::Replaced
        };
        self.point(&link, &Path::new(kind.versions()).join(&version))?;
        Ok((version, published))
    }

    /// Removes the versions that are not current, that no container mounts and no daemon hands out. Returns what there is to say of it.
    pub fn sweep(&self, mounted: &HashSet<PathBuf>) -> Vec<String> {
        self.remove_unused(mounted, |_| false)
    }

    fn remove_unused(&self, mounted: &HashSet<PathBuf>, with_current: impl Fn(Kind) -> bool) -> Vec<String> {
        let mut said = Vec::new();
        for kind in Kind::ALL {
            let current = fs::read_link(self.folder.join(kind.link())).ok();
            for folder in entries(&self.folder.join(kind.versions())) {
                let is_current = current.as_ref().and_then(|link| link.file_name()) == folder.file_name();
                if is_current && !with_current(kind) {
                    continue;
                }
                let name = format!("{} {}", kind.link(), file_name(&folder));
                said.push(match self.remove_if_unused(&folder, mounted) {
                    Ok(None) => format!("{name} was removed"),
                    Ok(Some(reason)) => format!("{name} stays: {reason}"),
                    Err(error) => format!("{name} stays: {error}"),
                });
            }
        }
        for folder in entries(&self.folder) {
            // Left by a process that was killed. One that is still at work is not older than an hour.
            let is_old = fs::metadata(&folder)
                .and_then(|about| about.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 3600));
            if is_old && file_name(&folder).starts_with(TEMPORARY) {
                let _ = fs::remove_dir_all(&folder);
            }
        }
        said
    }

    /// Says why it was not removed.
    fn remove_if_unused(
        &self,
        folder: &Path,
        mounted: &HashSet<PathBuf>,
    ) -> Result<Option<&'static str>, Error> {
        let lock = File::open(folder).map_err(Error::io("open", folder))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(Some("a daemon hands it out"));
        }
        if mounted.iter().any(|source| source.starts_with(folder)) {
            return Ok(Some("containers run with it"));
        }
        self.discard(folder)?;
        Ok(None)
    }

    /// Takes a folder away at once, and then apart.
    fn discard(&self, folder: &Path) -> Result<(), Error> {
        let temporary = self.temporary("remove")?;
        let aside = temporary.path().join("old");
        fs::rename(folder, &aside).map_err(Error::io("move away", folder))?;
        fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))
    }

    fn copy_whole(&self, bundle: &Path, folder: &Path) -> Result<(), Error> {
        let temporary = self.temporary("copy")?;
        let copy = temporary.path().join("new");
        copy_folder(bundle, &copy, MAX_DEPTH)?;
        fs::rename(&copy, folder).map_err(Error::io("move into place", folder))?;
        sync(folder.parent().unwrap_or(&self.folder))
    }

    fn point(&self, link: &Path, target: &Path) -> Result<(), Error> {
        if fs::read_link(link).is_ok_and(|current| current == target) {
            return Ok(());
        }
        let temporary = self.temporary("link")?;
        let new = temporary.path().join("link");
        symlink(target, &new).map_err(Error::io("make", &new))?;
        fs::rename(&new, link).map_err(Error::io("move", link))?;
        sync(&self.folder)
    }

    fn temporary(&self, doing: &str) -> Result<tempfile::TempDir, Error> {
        tempfile::Builder::new()
            .prefix(&format!("{TEMPORARY}{doing}-"))
            .tempdir_in(&self.folder)
            .map_err(Error::io("make a folder in", &self.folder))
    }
}

/// Where a bundle really is, and a promise to hand it out, which lasts as long as this process: what leads there may be made to lead
/// elsewhere at any time, and a version that nobody hands out may be removed.
pub fn settle(bundle: &Path) -> io::Result<PathBuf> {
    for _ in 0..ATTEMPTS {
        let folder = bundle.canonicalize()?;
        let lock = File::open(&folder)?;
        flock(&lock, FlockOperation::NonBlockingLockShared)?;
        if folder.exists() {
            std::mem::forget(lock); // for as long as the process lives
            return Ok(folder);
        }
        // Another version took its place in between.
    }
    Err(io::ErrorKind::NotFound.into())
}

fn version(kind: Kind, bundle: &Path) -> Result<String, Error> {
    let missing = match kind {
        Kind::Compiler => {
            let program = crate::compile::child::Program {
                folder: bundle.to_owned(),
            };
            program.missing_part()
        }
        Kind::Engine => daemon::missing_part(bundle),
    };
    if let Some(part) = missing {
        return Err(Error::Incomplete(part));
    }
    let path = bundle.join("VERSION");
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let version = text.trim();
    let is_name = !version.is_empty() && version.chars().all(|character| character.is_ascii_alphanumeric());
    if !is_name {
        return Err(Error::Version(version.to_owned()));
    }
    Ok(version.to_owned())
}

/// The paths in a folder, sorted; none where there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

fn copy_folder(from: &Path, to: &Path, depth: u32) -> Result<(), Error> {
    if depth == 0 {
        return Err(Error::Odd(from.to_owned()));
    }
    fs::create_dir(to).map_err(Error::io("make", to))?;
    fs::set_permissions(to, Permissions::from_mode(0o755)).map_err(Error::io("make", to))?;
    let entries = fs::read_dir(from).map_err(Error::io("list", from))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let about = entry.metadata().map_err(Error::io("look at", &source))?;
        if about.is_dir() {
            copy_folder(&source, &target, depth - 1)?;
        } else if about.is_file() {
            copy_file(&source, &target, mode(&about))?;
        } else {
            return Err(Error::Odd(source));
        }
    }
    sync(to)
}

/// Whoever built the bundle may have had another umask.
fn mode(about: &fs::Metadata) -> u32 {
    if about.permissions().mode() & 0o100 == 0 {
        0o644
    } else {
        0o755
    }
}

fn copy_file(from: &Path, to: &Path, mode: u32) -> Result<(), Error> {
    let mut source = File::open(from).map_err(Error::io("read", from))?;
    let mut target = File::create_new(to).map_err(Error::io("write", to))?;
    io::copy(&mut source, &mut target).map_err(Error::io("write", to))?;
    target
        .set_permissions(Permissions::from_mode(mode))
        .map_err(Error::io("write", to))?;
    target.sync_all().map_err(Error::io("write", to))
}

fn sync(folder: &Path) -> Result<(), Error> {
    let opened = File::open(folder).and_then(|folder| folder.sync_all());
    opened.map_err(Error::io("write", folder))
}

/// Whether two folders hold the same.
fn is_same(one: &Path, other: &Path, depth: u32) -> Result<bool, Error> {
    if depth == 0 {
        return Err(Error::Odd(one.to_owned()));
    }
    let (ours, theirs) = (entries(one), entries(other));
    if !ours
        .iter()
        .map(|path| path.file_name())
        .eq(theirs.iter().map(|path| path.file_name()))
    {
        return Ok(false);
    }
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let look = |path: &PathBuf| fs::symlink_metadata(path).map_err(Error::io("look at", path));
        let (a, b) = (look(ours)?, look(theirs)?);
        let is_alike = a.file_type() == b.file_type()
            && (a.is_dir() || (a.len() == b.len() && mode(&a) == mode(&b)))
            && if a.is_dir() {
                is_same(ours, theirs, depth - 1)?
            } else {
                a.is_file() && is_same_file(ours, theirs)?
            };
        if !is_alike {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_same_file(one: &Path, other: &Path) -> Result<bool, Error> {
    let open = |path: &Path| File::open(path).map_err(Error::io("read", path));
    let (mut ours, mut theirs) = (open(one)?, open(other)?);
    let (mut a, mut b) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let read = ours.read(&mut a).map_err(Error::io("read", one))?;
        let same = theirs.read_exact(&mut b[..read]);
        match same {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            same => same.map_err(Error::io("read", other))?,
        }
        if a[..read] != b[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn bundle(at: &Path, version: &str, engine: &str) -> PathBuf {
        let folder = at.join(format!("bundle-{version}"));
        for part in ["lib", "module"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        for (name, bytes) in [
            ("engine", engine),
            ("launch", "l"),
            ("lib/libc.so", "c"),
            ("VERSION", version),
        ] {
            fs::write(folder.join(name), bytes).unwrap();
        }
        fs::set_permissions(folder.join("engine"), Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn versions(place: &Place) -> Vec<String> {
        entries(&place.folder.join("engines"))
            .iter()
            .map(|path| file_name(path))
            .collect()
    }

    fn leftovers(place: &Place) -> usize {
        let temporary = |path: &PathBuf| file_name(path).starts_with(TEMPORARY);
        entries(&place.folder)
            .iter()
            .filter(|path| temporary(path))
            .count()
    }

    #[test]
    fn a_bundle_appears_whole_and_becomes_the_current_one() {
        let at = tempfile::tempdir().unwrap();
        let place = Place::new(&at.path().join("opt/podwasm"));
        let one = bundle(at.path(), "one", "1");
        let publish = |bundle: &Path| place.publish(Kind::Engine, bundle).unwrap().1;
        assert_eq!(publish(&one), Published::Installed);
        assert_eq!(publish(&one), Published::Already);
        let installed = place.folder.join("engine");
        assert_eq!(fs::read_link(&installed).unwrap(), Path::new("engines/one"));
        assert_eq!(fs::read_to_string(installed.join("lib/libc.so")).unwrap(), "c");
        let about = fs::metadata(installed.join("engine")).unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, 0o755);

        assert_eq!(publish(&bundle(at.path(), "two", "2")), Published::Installed);
        assert_eq!(fs::read_to_string(installed.join("engine")).unwrap(), "2");
        assert_eq!(
            (versions(&place), leftovers(&place)),
            (vec!["one".to_owned(), "two".to_owned()], 0)
        );
    }

    #[test]
    fn a_damaged_bundle_is_made_whole() {
        let at = tempfile::tempdir().unwrap();
        let place = Place::new(at.path());
        let one = bundle(at.path(), "one", "1");
        let publish = || place.publish(Kind::Engine, &one).unwrap().1;
        publish();
        let installed = place.folder.join("engines/one");
        fs::write(installed.join("engine"), "x").unwrap();
        assert_eq!(publish(), Published::Replaced);
        fs::remove_file(installed.join("lib/libc.so")).unwrap();
        assert_eq!(publish(), Published::Replaced);
        fs::write(installed.join("lib/more"), "").unwrap();
        assert_eq!(publish(), Published::Replaced);
        fs::set_permissions(installed.join("engine"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(publish(), Published::Replaced);
        assert_eq!(publish(), Published::Already);
        assert_eq!(leftovers(&place), 0);
    }

    #[test]
    fn what_is_used_stays() {
        let at = tempfile::tempdir().unwrap();
        let place = Place::new(at.path());
        for version in ["one", "two", "three", "four"] {
            place
                .publish(Kind::Engine, &bundle(at.path(), version, version))
                .unwrap();
        }
        // A container mounts one, a daemon hands out two.
        let mounted = HashSet::from([at.path().join("engines/one/engine"), PathBuf::from("/etc/hosts")]);
        let daemon = File::open(at.path().join("engines/two")).unwrap();
        flock(&daemon, FlockOperation::LockShared).unwrap();
        let said = place.sweep(&mounted);
        assert_eq!(versions(&place), ["four", "one", "two"], "{said:?}");
        drop(daemon);
        place.sweep(&HashSet::new());
        assert_eq!(
            (versions(&place), leftovers(&place)),
            (vec!["four".to_owned()], 0)
        );
    }

    #[test]
    fn what_is_no_bundle_is_not_installed() {
        let at = tempfile::tempdir().unwrap();
        let place = Place::new(at.path());
        let publish = |bundle: &Path| place.publish(Kind::Engine, bundle).unwrap_err().to_string();
        let torn = bundle(at.path(), "torn", "1");
        fs::remove_file(torn.join("launch")).unwrap();
        assert!(publish(&torn).contains("launch\" is missing"));
        let sly = bundle(at.path(), "sly", "1");
        fs::write(sly.join("VERSION"), "../../etc").unwrap();
        assert!(publish(&sly).contains("no bundle's version"));
        let linked = bundle(at.path(), "linked", "1");
        symlink("/etc/shadow", linked.join("lib/shadow")).unwrap();
        assert!(publish(&linked).contains("neither a file nor a folder"));
        assert_eq!((versions(&place).len(), leftovers(&place)), (0, 0));

        fs::create_dir(at.path().join("engine")).unwrap();
        assert!(publish(&bundle(at.path(), "good", "1")).contains("was not made by podwasm install"));
    }

    #[test]
    fn a_daemon_keeps_to_the_version_it_began_with() {
        let at = tempfile::tempdir().unwrap();
        let place = Place::new(at.path());
        place
            .publish(Kind::Engine, &bundle(at.path(), "one", "1"))
            .unwrap();
        let settled = settle(&at.path().join("engine")).unwrap();
        assert_eq!(settled, at.path().canonicalize().unwrap().join("engines/one"));
        place
            .publish(Kind::Engine, &bundle(at.path(), "two", "2"))
            .unwrap();
        place.sweep(&HashSet::new());
        assert!(settled.join("engine").exists());
    }
}

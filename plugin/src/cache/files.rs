//! The cache on disk: where what lies, and how it comes and goes whole.
//!
//! `modules/SHA256/` holds a module and its native code, and is what containers mount; `compiled/` the node's own records of them;
//! `incoming/` what is being written or thrown away; `compiling/` what compilers work on, each under a lock. A file is
//! written elsewhere, synced, and renamed to where it is looked for, so what has its final name is whole.

use std::fs::{self, DirBuilder, DirEntry, File, Permissions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::record::{About, Attempt, Outcome};
use crate::compiled::{Compiled, Tier};

/// The module's name in its folder, and so in the container.
pub const MODULE_FILE: &str = "module.wasm";
/// What native code is called while nobody may run it, because it was not looked at since this process started.
const HIDDEN: &str = ".unverified";
/// What tells the engine that no native code will come.
const FAILED: &str = "failed";
const CHUNK_BYTES: usize = 256 << 10;

/// What tells whether a file is still the one that was looked at, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    inode: u64,
    modified: (i64, i64),
    /// The file's size.
    pub bytes: u64,
}

impl Seen {
    fn of(about: &fs::Metadata) -> Self {
        Self {
            inode: about.ino(),
            modified: (about.mtime(), about.mtime_nsec()),
            bytes: about.len(),
        }
    }
}

/// Native code in a module's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native {
    /// Whose it is.
    pub build: String,
    /// Whether it has to be looked at before it is used.
    pub hidden: bool,
    /// Where it is.
    pub path: PathBuf,
    /// How it looks.
    pub seen: Seen,
    /// How thoroughly it was compiled.
    pub tier: Tier,
}

/// A module's folder.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// The module's SHA-256, in hexadecimal.
    pub digest: String,
    /// When it was last used, as far as that was written down.
    pub last_used: SystemTime,
    /// The module's size; `None` where it is missing.
    pub module_bytes: Option<u64>,
    /// Its native code, of all builds.
    pub natives: Vec<Native>,
}

impl Shelf {
    /// How much disk it takes.
    pub fn bytes(&self) -> u64 {
        let natives: u64 = self.natives.iter().map(|native| native.seen.bytes).sum();
        natives + self.module_bytes.unwrap_or(0)
    }
}

/// What is locked against other processes until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever waits for it notices that it is gone, and makes another.
        let _ = fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The folders below a state folder.
#[derive(Clone, Debug)]
pub struct Files {
    state: PathBuf,
}

impl Files {
    /// Opens a state folder, making what is missing. What others are at is left alone.
    pub fn open(state: &Path) -> io::Result<Self> {
        let files = Self::at(state);
        for name in ["", "modules", "compiled", "compiling", "incoming"] {
            let folder = files.state.join(name);
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            take(&folder)?;
        }
        Ok(files)
    }

    /// The same without making or looking at anything.
    pub fn at(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
        }
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A module's folder.
    pub fn folder(&self, digest: &str) -> PathBuf {
        self.state.join("modules").join(digest)
    }

    /// A module.
    pub fn module(&self, digest: &str) -> PathBuf {
        self.folder(digest).join(MODULE_FILE)
    }

    /// Where a module's native code is looked for.
    pub fn native(&self, digest: &str, build: &str, tier: Tier) -> PathBuf {
        self.folder(digest).join(format!("{build}-{tier}.so"))
    }

    /// What tells the engine not to wait.
    pub fn marker(&self, digest: &str, build: &str) -> PathBuf {
        self.folder(digest).join(format!("{build}-{FAILED}"))
    }

    fn about_file(&self, digest: &str) -> PathBuf {
        self.state.join("compiled").join(format!("{digest}.json"))
    }

    fn attempt_file(&self, digest: &str, build: &str, tier: Tier) -> PathBuf {
        self.state
            .join("compiled")
            .join(format!("{digest}-{build}-{tier}.json"))
    }

    /// A compiler's own folder, which is not made yet.
    pub fn work_folder(&self, digest: &str, tier: Tier) -> PathBuf {
        self.state.join("compiling").join(format!("{digest}-{tier}"))
    }

    /// Throws away what processes that are gone left half made.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in entries(&self.state.join("incoming"))? {
            let path = entry.path();
            let is_abandoned = open(&path)
                .is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok());
            if is_abandoned {
                remove(&path)?;
            }
        }
        for entry in entries(&self.state.join("compiling"))? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".lock") {
                drop(self.try_lock_named(name)?);
            } else if let Some(_lock) = self.try_lock_named(&name)? {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Locks the compiling of a module to a tier, unless another process has it.
    pub fn try_lock(&self, digest: &str, tier: Tier) -> io::Result<Option<Lock>> {
        self.try_lock_named(&format!("{digest}-{tier}"))
    }

    fn try_lock_named(&self, name: &str) -> io::Result<Option<Lock>> {
        let path = self.state.join("compiling").join(format!("{name}.lock"));
        loop {
            // For both, so that a pipe of that name is not waited for.
            let file = File::options().create(true).read(true).append(true).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // It may have been another's, who has removed it since it was opened.
            if fs::metadata(&path)
                .is_ok_and(|there| file.metadata().is_ok_and(|mine| mine.ino() == there.ino()))
            {
                return Ok(Some(Lock { file, path }));
            }
        }
    }

    /// A folder to make something in. It is nobody else's to throw away while the second is open.
    pub fn incoming(&self) -> io::Result<(TempDir, File)> {
        let folder = tempfile::tempdir_in(self.state.join("incoming"))?;
        let held = File::open(folder.path())?;
        flock(&held, FlockOperation::NonBlockingLockExclusive)?;
        Ok((folder, held))
    }

    /// Publishes native code that a compiler left, and returns how it looks and its SHA-256. The record goes first: what has none is not
    /// trusted.
    pub fn publish(
        &self,
        digest: &str,
        build: &str,
        tier: Tier,
        mut native: &File,
        attempt: impl FnOnce(u64, String) -> Attempt,
    ) -> io::Result<Seen> {
        let (folder, _held) = self.incoming()?;
        let path = folder.path().join("native");
        let mut copy = File::options().write(true).create_new(true).open(&path)?;
        native.rewind()?;
        let (sha256, bytes) = copy_hashing(&mut native, |chunk| copy.write_all(chunk))?;
        copy.set_permissions(Permissions::from_mode(0o444))?;
        copy.sync_all()?;
        self.write_attempt(digest, build, &attempt(bytes, sha256))?;
        let seen = Seen::of(&copy.metadata()?);
        fs::rename(&path, self.native(digest, build, tier))?;
        File::open(self.folder(digest))?.sync_all()?;
        Ok(seen)
    }

    /// Notes that a module cannot be compiled, and tells engines that wait for it.
    pub fn publish_failure(&self, digest: &str, build: &str, attempt: &Attempt) -> io::Result<()> {
        self.write_attempt(digest, build, attempt)?;
        if attempt.tier == Tier::Fast {
            let path = self.marker(digest, build);
            File::create(&path)?.set_permissions(Permissions::from_mode(0o444))?;
        }
        Ok(())
    }

    /// Forgets an attempt and what came of it.
    pub fn forget(&self, digest: &str, build: &str, tier: Tier) -> io::Result<()> {
        let native = self.native(digest, build, tier);
        for path in [hidden(&native), native] {
            remove(&path)?;
        }
        if tier == Tier::Fast {
            remove(&self.marker(digest, build))?;
        }
        remove(&self.attempt_file(digest, build, tier))
    }

    /// Removes a module, its native code and what is known of it, in one step for whoever looks for it.
    pub fn evict(&self, digest: &str) -> io::Result<()> {
        let (trash, _held) = self.incoming()?;
        match fs::rename(self.folder(digest), trash.path().join(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for entry in entries(&self.state.join("compiled"))? {
            if entry.file_name().to_string_lossy().starts_with(digest) {
                remove(&entry.path())?;
            }
        }
        trash.close()
    }

    /// All modules there are.
    pub fn shelves(&self) -> io::Result<Vec<Shelf>> {
        let folders = entries(&self.state.join("modules"))?;
        folders
            .into_iter()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_digest(name))
            .map(|digest| self.shelf(digest))
            .collect()
    }

    /// One module's folder.
    pub fn shelf(&self, digest: String) -> io::Result<Shelf> {
        let module = fs::symlink_metadata(self.module(&digest)).ok();
        let written = fs::metadata(self.about_file(&digest)).and_then(|file| file.modified());
        let modified = module.as_ref().and_then(|module| module.modified().ok());
        let natives = entries(&self.folder(&digest))?
            .into_iter()
            .filter_map(|entry| native(&entry));
        Ok(Shelf {
            last_used: written.ok().or(modified).unwrap_or(SystemTime::UNIX_EPOCH),
            module_bytes: module.map(|module| module.len()),
            natives: natives.collect(),
            digest,
        })
    }

    /// Shows it again.
    pub fn show(&self, digest: &str, native: &Native) -> io::Result<()> {
        if !native.hidden {
            return Ok(());
        }
        fs::rename(&native.path, self.native(digest, &native.build, native.tier))
    }

    /// Whether native code is what was published, to the bit. Without a record nothing is.
    pub fn is_genuine(&self, digest: &str, native: &Native) -> io::Result<bool> {
        let Some(Attempt {
            outcome: Outcome::Compiled { bytes, sha256, .. },
            ..
        }) = self.attempt(digest, &native.build, native.tier)
        else {
            return Ok(false);
        };
        Ok(bytes == native.seen.bytes && sha256 == sha256_of(&open_file(&native.path)?)?)
    }

    /// What is known of an attempt, if anything that can be read.
    pub fn attempt(&self, digest: &str, build: &str, tier: Tier) -> Option<Attempt> {
        read_json(&self.attempt_file(digest, build, tier))
    }

    /// All attempts to compile a module, with their builds.
    pub fn attempts(&self, digest: &str) -> io::Result<Vec<(String, Attempt)>> {
        let attempt = |entry: DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name
                .strip_prefix(digest)?
                .strip_prefix('-')?
                .strip_suffix(".json")?;
            Some((rest.rsplit_once('-')?.0.to_owned(), read_json(&entry.path())?))
        };
        let records = entries(&self.state.join("compiled"))?;
        Ok(records.into_iter().filter_map(attempt).collect())
    }

    /// What there is for a container, as the disk has it.
    pub fn compiled(&self, digest: &str, build: &str) -> Compiled {
        let natives = self
            .shelf(digest.to_owned())
            .map(|stored| stored.natives)
            .unwrap_or_default();
        let usable = natives
            .into_iter()
            .filter(|native| native.build == build && !native.hidden);
        let build = build.to_owned();
        match (
            usable.max_by_key(|native| native.tier),
            self.attempt(digest, &build, Tier::Fast),
        ) {
            (Some(native), _) => Compiled::Ready {
                bytes: native.seen.bytes,
                build,
                tier: native.tier,
            },
            (
                None,
                Some(Attempt {
                    outcome: Outcome::Failed { reason },
                    ..
                }),
            ) => Compiled::Failed { why: reason },
            (None, _) => Compiled::Coming { build },
        }
    }

    fn write_attempt(&self, digest: &str, build: &str, attempt: &Attempt) -> io::Result<()> {
        self.write_json(&self.attempt_file(digest, build, attempt.tier), attempt)
    }

    /// What is known of a module.
    pub fn about(&self, digest: &str) -> About {
        read_json(&self.about_file(digest)).unwrap_or_default()
    }

    /// Writes down what is known of a module, and when it was last used.
    pub fn write_about(&self, digest: &str, about: &About, last_used: SystemTime) -> io::Result<()> {
        let path = self.about_file(digest);
        if read_json::<About>(&path).as_ref() != Some(about) {
            self.write_json(&path, about)?;
        }
        File::options().append(true).open(&path)?.set_modified(last_used)
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let (folder, _held) = self.incoming()?;
        let written = folder.path().join("json");
        let mut file = File::create_new(&written)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&written, path)?;
        File::open(self.state.join("compiled"))?.sync_all()
    }
}

/// Takes native code out of engines' sight until it was looked at.
pub fn hide(native: &Native) -> io::Result<()> {
    if native.hidden {
        return Ok(());
    }
    fs::rename(&native.path, hidden(&native.path))
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256_of(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    Ok(copy_hashing(&mut file, |_| Ok(()))?.0)
}

/// Reads to the end, hands each piece on, and returns the SHA-256 of all of it, in hexadecimal, and how many bytes that were.
pub fn copy_hashing(
    source: &mut impl Read,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok((format!("{:x}", hash.finalize()), size)),
            Ok(read) => {
                size += read as u64;
                hash.update(&chunk[..read]);
                write(&chunk[..read])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes whatever it is, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a folder this user's own, whoever had it, and closes it to others.
fn take(folder: &Path) -> io::Result<()> {
    let user = rustix::process::geteuid().as_raw();
    if fs::metadata(folder)?.uid() != user {
        std::os::unix::fs::chown(folder, Some(user), None)?;
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// A folder that is gone has no entries, nor has what is none.
fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        entries => entries?.collect(),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    open_file(path).ok()?.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Opens what should be a file of the cache. A link, a pipe or the like in its place is neither followed nor waited for: it is an error of the
/// kind `InvalidData`.
pub fn open_file(path: &Path) -> io::Result<File> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "it is no regular file");
    match open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Err(odd()),
        Ok(file) if !file.metadata()?.is_file() => Err(odd()),
        file => file,
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn hidden(native: &Path) -> PathBuf {
    let mut name = native.as_os_str().to_owned();
    name.push(HIDDEN);
    name.into()
}

/// Tells native code by its name.
fn native(entry: &DirEntry) -> Option<Native> {
    let name = entry.file_name().into_string().ok()?;
    let (shown, hidden) = match name.strip_suffix(HIDDEN) {
        Some(shown) => (shown, true),
        None => (name.as_str(), false),
    };
    let (build, tier) = shown.strip_suffix(".so")?.rsplit_once('-')?;
    let tier = Tier::ALL.into_iter().find(|known| known.as_str() == tier)?;
    Some(Native {
        build: build.to_owned(),
        hidden,
        path: entry.path(),
        seen: Seen::of(&entry.metadata().ok()?),
        tier,
    })
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

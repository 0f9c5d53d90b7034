//! Modules, copied out of images into a folder of the node's, under the hash of their bytes.
//!
//! A container mounts a folder from here and nothing from an image's layers, so what was looked at and
//! hashed is what runs. Only root can write here; a module appears whole or not at all.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// The module's name in its folder, and so in the container.
pub const MODULE_FILE: &str = "module.wasm";
const CHUNK_BYTES: usize = 256 << 10;

/// Why a module could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's folder cannot be used.
    #[error("cannot make the module store at {folder:?}")]
    Open {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The module could not be read from where it is.
    #[error("cannot read the module")]
    Read(#[source] io::Error),
    /// The module is larger than the node allows.
    #[error("the module has more than the {limit} bytes that this node allows")]
    TooLarge {
        /// The node's limit in bytes.
        limit: u64,
    },
    /// The copy could not be written.
    #[error("cannot write to the module store at {folder:?}")]
    Write {
        /// The store's folder.
        folder: PathBuf,
        /// What the kernel said, a full disk for one.
        source: io::Error,
    },
}

/// A module in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
    /// The folder that holds it, and nothing of anyone else's.
    pub folder: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// The folder of modules.
#[derive(Debug)]
pub struct Store {
    modules: PathBuf,
    incoming: PathBuf,
    limit: u64,
    /// Held while a module is made visible, so that nobody removes what another just put there.
    publishing: Mutex<()>,
}

impl Store {
    /// Opens the store below a state folder, making what is missing and dropping what was left half-made.
    /// Modules above `limit` bytes are not taken.
    pub fn open(state: &Path, limit: u64) -> Result<Self, Error> {
        let (modules, incoming) = (state.join("modules"), state.join("incoming"));
        let store = Self { modules, incoming, limit, publishing: Mutex::new(()) };
        store.make_folders().map_err(|source| Error::Open { folder: state.to_owned(), source })?;
        Ok(store)
    }

    fn make_folders(&self) -> io::Result<()> {
        if self.incoming.exists() {
            fs::remove_dir_all(&self.incoming)?;
        }
        for folder in [&self.modules, &self.incoming] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Whether a module that was kept once is still here.
    pub fn has(&self, module: &Module) -> bool {
        fs::metadata(module.folder.join(MODULE_FILE)).is_ok_and(|file| file.len() == module.size)
    }

    /// Copies a module into the store while hashing it.
    pub fn keep(&self, mut source: impl Read) -> Result<Module, Error> {
        let folder = tempfile::tempdir_in(&self.incoming).map_err(|source| self.write_failed(source))?;
        let path = folder.path().join(MODULE_FILE);
        let mut file = File::create_new(&path).map_err(|source| self.write_failed(source))?;
        let (digest, size) = self.copy(&mut source, &mut file)?;
        let module = Module { folder: self.modules.join(&digest), digest, size };
        self.publish(folder, &file, &module).map_err(|source| self.write_failed(source))?;
        Ok(module)
    }

    fn copy(&self, source: &mut impl Read, file: &mut File) -> Result<(String, u64), Error> {
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = match source.read(&mut chunk) {
                Ok(0) => return Ok((format!("{:x}", hash.finalize()), size)),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Read(error)),
            };
            size += read as u64;
            if size > self.limit {
                return Err(Error::TooLarge { limit: self.limit });
            }
            hash.update(&chunk[..read]);
            file.write_all(&chunk[..read]).map_err(|source| self.write_failed(source))?;
        }
    }

    /// Makes the copy readable for any user of a container, safe against a crash, and visible.
    fn publish(&self, folder: tempfile::TempDir, file: &File, module: &Module) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(0o444))?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        file.sync_all()?;
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has(module) {
            return Ok(());
        }
        if module.folder.exists() {
            fs::remove_dir_all(&module.folder)?; // cut short by something outside
        }
        fs::rename(folder.path(), &module.folder)?;
        drop(folder.keep());
        File::open(&self.modules)?.sync_all()
    }

    fn write_failed(&self, source: io::Error) -> Error {
        Error::Write { folder: self.modules.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn store(limit: u64) -> (tempfile::TempDir, Store) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), limit).unwrap();
        (state, store)
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn a_module_is_kept_under_its_hash() {
        let (state, store) = store(5);
        let module = store.keep(&b"hello"[..]).unwrap();
        assert_eq!((module.digest.as_str(), module.size), (HELLO, 5));
        assert_eq!(fs::read(module.folder.join(MODULE_FILE)).unwrap(), b"hello");
        assert_eq!(fs::metadata(&module.folder).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(store.keep(&b"hello"[..]).unwrap(), module);
        assert!(store.has(&module) && is_empty(&state.path().join("incoming")));
    }

    #[test]
    fn a_module_above_the_limit_leaves_nothing_behind() {
        let (state, store) = store(4);
        assert!(matches!(store.keep(&b"hello"[..]), Err(Error::TooLarge { limit: 4 })));
        assert!(is_empty(&state.path().join("incoming")) && is_empty(&state.path().join("modules")));
    }

    #[test]
    fn a_module_cut_short_is_made_again() {
        let (_state, store) = store(5);
        let module = store.keep(&b"hello"[..]).unwrap();
        let file = module.folder.join(MODULE_FILE);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "hel").unwrap();
        assert!(!store.has(&module));
        store.keep(&b"hello"[..]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"hello");
    }

    #[test]
    fn what_a_crash_left_is_dropped() {
        let (state, _store) = store(5);
        fs::create_dir(state.path().join("incoming/half")).unwrap();
        Store::open(state.path(), 5).unwrap();
        assert!(is_empty(&state.path().join("incoming")));
    }

    #[test]
    fn many_threads_may_keep_the_same_module() {
        let (_state, store) = store(5);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| store.keep(&b"hello"[..]).unwrap())).collect();
            threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().digest, HELLO));
        });
    }
}

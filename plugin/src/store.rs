//! Modules, copied out of images into a folder of the node's, under the hash of their bytes.
//!
//! A container mounts a folder from here and nothing from an image's layers, so what was looked at and
//! hashed is what runs. Only root can write here; a module appears whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use podwasm_engine::proposal;
use sha2::{Digest as _, Sha256};

use crate::cache::Cache;
pub use crate::cache::files::MODULE_FILE;
use crate::cache::files::copy_hashing;
use crate::module::{self, Kind, Outline};

const CHUNK_BYTES: usize = 256 << 10;
/// What is asked for when a module of unknown size does not fit.
const LEAST_ROOM_BYTES: u64 = 512 << 10;

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
    /// What it needs and offers.
    pub outline: Outline,
    /// Its size in bytes.
    pub size: u64,
}

impl Module {
    /// Whether it is still in the store.
    pub fn is_there(&self) -> bool {
        fs::metadata(self.folder.join(MODULE_FILE)).is_ok_and(|file| file.len() == self.size)
    }

    /// Whether a file has the same bytes. It is read from its beginning, wherever it is at, and is there again afterwards.
    pub fn has_the_bytes_of(&self, mut file: &File) -> io::Result<bool> {
        file.rewind()?;
        let (digest, _) = copy_hashing(&mut file.take(self.size + 1), |_| Ok(()))?;
        file.rewind()?;
        Ok(digest == self.digest)
    }
}

/// What became of bytes that were brought to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// They are a module, and in the store.
    Module(Module),
    /// They are something else, and gone.
    NotAModule(Kind),
}

/// The folder of modules.
#[derive(Debug)]
pub struct Store {
    cache: Cache,
    limit: u64,
}

impl Store {
    /// Opens a store that nothing is compiled for.
    pub fn open(state: &Path, limit: u64) -> Result<Self, Error> {
        let cache = Cache::open(state, None).map_err(|source| Error::Open {
            folder: state.to_owned(),
            source,
        })?;
        Ok(Self::new(cache, limit))
    }

    /// The store of a cache. Modules above `limit` bytes are not taken.
    pub fn new(cache: Cache, limit: u64) -> Self {
        Self { cache, limit }
    }

    /// How large a module may be, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Copies bytes while hashing them, looks at the copy, and keeps it if it is a core module.
    pub fn keep(&self, mut source: impl Read) -> Result<Kept, Error> {
        let incoming = self.cache.files().incoming();
        let (folder, _held) = incoming.map_err(|source| self.write_failed(source, 0))?;
        let path = folder.path().join(MODULE_FILE);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| self.write_failed(source, 0))?;
        let (digest, size) = self.copy(&mut source, &mut file)?;
        let mut outline = match module::kind(&file, size).map_err(Error::Read)? {
            Kind::CoreModule(outline) => outline,
            other => return Ok(Kept::NotAModule(other)),
        };
        outline.proposals = proposal::needed(&fs::read(&path).map_err(Error::Read)?);
        let module = Module {
            folder: self.cache.files().folder(&digest),
            digest,
            outline,
            size,
        };
        self.publish(folder, &file, &module)
            .map_err(|source| self.write_failed(source, size))?;
        Ok(Kept::Module(module))
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
            file.write_all(&chunk[..read])
                .map_err(|source| self.write_failed(source, size))?;
        }
    }

    /// Makes the copy readable for any user of a container, safe against a crash, and visible.
    fn publish(&self, folder: tempfile::TempDir, file: &File, module: &Module) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(0o444))?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        file.sync_all()?;
        let _publishing = self.cache.publishing();
        let was_proven = self.cache.add(&module.digest, module.size);
        if was_proven && module.is_there() {
            return Ok(());
        }
        if module.folder.exists() {
            // Containers may have the folder mounted, so it stays and only its file is new.
            fs::rename(folder.path().join(MODULE_FILE), module.folder.join(MODULE_FILE))?;
            return File::open(&module.folder)?.sync_all();
        }
        fs::rename(folder.path(), &module.folder)?;
        drop(folder.keep());
        File::open(self.cache.files().state().join("modules"))?.sync_all()
    }

    /// Where the disk is full, room is made for the next try. How large a module is shows only while it is read.
    fn write_failed(&self, source: io::Error, bytes: u64) -> Error {
        if source.kind() == io::ErrorKind::StorageFull {
            self.cache.want_room(2 * bytes.max(LEAST_ROOM_BYTES));
        }
        Error::Write {
            folder: self.cache.files().state().join("modules"),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const DIGEST: &str = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";

    fn store(limit: u64) -> (tempfile::TempDir, Store) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), limit).unwrap();
        (state, store)
    }

    fn keep(store: &Store) -> Module {
        match store.keep(MODULE).unwrap() {
            Kept::Module(module) => module,
            other @ Kept::NotAModule(_) => panic!("{other:?}"),
        }
    }

    fn is_empty(state: &tempfile::TempDir, folder: &str) -> bool {
        fs::read_dir(state.path().join(folder)).unwrap().next().is_none()
    }

    #[test]
    fn a_module_is_kept_under_its_hash() {
        let (state, store) = store(8);
        let module = keep(&store);
        assert_eq!((module.digest.as_str(), module.size), (DIGEST, 8));
        assert_eq!(fs::read(module.folder.join(MODULE_FILE)).unwrap(), MODULE);
        assert_eq!(
            fs::metadata(&module.folder).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(keep(&store), module);
        assert!(module.is_there() && is_empty(&state, "incoming"));
    }

    #[test]
    fn the_same_bytes_are_recognised() {
        let (state, store) = store(8);
        let module = keep(&store);
        let path = state.path().join("file");
        for (bytes, are_the_same) in [
            (MODULE, true),
            (&MODULE[..7], false),
            (b"\0asm\x01\0\0\x01", false),
            (b"\0asm\x01\0\0\0\0", false),
            (b"", false),
        ] {
            fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            assert_eq!(
                module.has_the_bytes_of(&file).unwrap(),
                are_the_same,
                "{bytes:02x?}"
            );
        }
    }

    #[test]
    fn what_is_not_kept_leaves_nothing_behind() {
        let (state, store) = store(7);
        assert!(matches!(store.keep(MODULE), Err(Error::TooLarge { limit: 7 })));
        assert_eq!(store.keep(&b"hello"[..]).unwrap(), Kept::NotAModule(Kind::Other));
        assert!(is_empty(&state, "incoming") && is_empty(&state, "modules"));
    }

    #[test]
    fn a_module_cut_short_is_made_again() {
        let (_state, store) = store(8);
        let module = keep(&store);
        let file = module.folder.join(MODULE_FILE);
        fs::remove_file(&file).unwrap();
        fs::write(&file, &MODULE[..5]).unwrap();
        assert!(!module.is_there());
        keep(&store);
        assert_eq!(fs::read(&file).unwrap(), MODULE);
    }

    #[test]
    fn what_a_crash_left_is_dropped() {
        let (state, _store) = store(5);
        fs::create_dir(state.path().join("incoming/half")).unwrap();
        Store::open(state.path(), 5).unwrap();
        assert!(is_empty(&state, "incoming"));
    }

    #[test]
    fn what_another_is_at_stays() {
        let (state, store) = store(5);
        let (folder, held) = store.cache.files().incoming().unwrap();
        Store::open(state.path(), 5).unwrap();
        assert!(folder.path().exists());
        drop(held);
        Store::open(state.path(), 5).unwrap();
        assert!(!folder.path().exists());
    }

    #[test]
    fn bytes_that_were_not_looked_at_since_the_start_are_replaced() {
        let (state, store) = store(8);
        let module = keep(&store);
        let file = module.folder.join(MODULE_FILE);
        fs::remove_file(&file).unwrap();
        fs::write(&file, b"\0asm\x01\0\0\x01").unwrap();
        fs::write(module.folder.join("other"), "").unwrap();
        let store = Store::open(state.path(), 8).unwrap();
        keep(&store);
        assert_eq!(fs::read(&file).unwrap(), MODULE);
        assert!(module.folder.join("other").exists(), "the folder is the same");
    }

    #[test]
    fn many_threads_may_keep_the_same_module() {
        let (_state, store) = store(8);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| keep(&store))).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap().digest, DIGEST);
            }
        });
    }
}

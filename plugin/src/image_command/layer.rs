//! The layer of an image: what is in it, and how it becomes an archive that is the same wherever it is made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// More files than a layer of ours should have.
const MAX_FILES: usize = 100_000;
/// gzip's sign for "unknown", so that the archive does not tell where it was made.
const ANY_SYSTEM: u8 = 255;

/// Why a layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file changed its size.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// On this machine.
        path: PathBuf,
    },
    /// Two things for one place.
    #[error("there are two things for {} in the image", path.display())]
    Conflict {
        /// In the image.
        path: PathBuf,
    },
    /// More than should be.
    #[error("there are more than {MAX_FILES} files")]
    Many,
    /// A path in the image that is none.
    #[error("{path:?} is no path in an image: it has to be absolute, without `..`")]
    Path {
        /// As it was given.
        path: String,
    },
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// On this machine.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket, FIFO or device.
    #[error("{} is no file, folder or link", path.display())]
    Special {
        /// On this machine.
        path: PathBuf,
    },
    /// The archive could not be written.
    #[error("cannot write the layer to a temporary file")]
    Write(#[source] io::Error),
}

/// A layer as it is stored.
#[derive(Debug)]
pub struct Layer {
    /// Digest of what it unpacks to.
    pub diff_id: String,
    /// Its digest.
    pub digest: String,
    /// Its bytes.
    pub file: File,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What is at a place.
#[derive(Debug)]
enum Entry {
    Directory,
    File { file: File, mode: u32, path: PathBuf },
    Link { target: PathBuf },
}

/// What is in a layer, by the path in the image.
#[derive(Debug, Default)]
pub struct Contents {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Contents {
    /// Adds the module, which may be executed.
    pub fn module(&mut self, file: File, from: &Path, to: &str) -> Result<(), Error> {
        let path = from.to_owned();
        self.insert(
            &absolute(to)?,
            Entry::File {
                file,
                mode: 0o755,
                path,
            },
        )
    }

    /// Adds a file, a link, or a folder with all that is in it.
    pub fn add(&mut self, from: &Path, to: &str) -> Result<(), Error> {
        let mut pending = vec![(from.to_owned(), absolute(to)?)];
        while let Some((from, to)) = pending.pop() {
            let cannot = |source| Error::Read {
                path: from.clone(),
                source,
            };
            let metadata = fs::symlink_metadata(&from).map_err(cannot)?;
            let entry = if metadata.is_dir() {
                for child in fs::read_dir(&from).map_err(cannot)? {
                    let name = child.map_err(cannot)?.file_name();
                    pending.push((from.join(&name), to.join(&name)));
                }
                Entry::Directory
            } else if metadata.is_file() {
                let mode = if metadata.permissions().mode() & 0o111 == 0 {
                    0o644
                } else {
                    0o755
                };
                let file = File::open(&from).map_err(cannot)?;
                Entry::File {
                    file,
                    mode,
                    path: from,
                }
            } else if metadata.is_symlink() {
                Entry::Link {
                    target: fs::read_link(&from).map_err(cannot)?,
                }
            } else {
                return Err(Error::Special { path: from });
            };
            self.insert(&to, entry)?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, entry: Entry) -> Result<(), Error> {
        let conflict = |path: &Path| {
            Err(Error::Conflict {
                path: path.to_owned(),
            })
        };
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| *parent != Path::new("/"))
        {
            match self.entries.get(parent) {
                None => drop(self.entries.insert(parent.to_owned(), Entry::Directory)),
                Some(Entry::Directory) => {}
                Some(_) => return conflict(parent),
            }
        }
        match (self.entries.get(path), &entry) {
            (None, _) if path != Path::new("/") => drop(self.entries.insert(path.to_owned(), entry)),
            (None | Some(Entry::Directory), Entry::Directory) => {}
            _ => return conflict(path),
        }
        if self.entries.len() > MAX_FILES {
            return Err(Error::Many);
        }
        Ok(())
    }

    /// Writes the archive, compressed, to a file that has no name. All times in it are the same.
    pub fn write(self, modified_seconds: u64) -> Result<Layer, Error> {
        let file = tempfile::tempfile().map_err(Error::Write)?;
        let compressed = Hashing::new(BufWriter::new(file));
        let gzip = GzBuilder::new()
            .operating_system(ANY_SYSTEM)
            .write(compressed, Compression::default());
        let mut archive = tar::Builder::new(Hashing::new(gzip));
        for (path, entry) in self.entries {
            append(&mut archive, &path, entry, modified_seconds)?;
        }
        let (gzip, diff_id) = archive.into_inner().map_err(Error::Write)?.finish();
        let (mut writer, digest) = gzip.finish().map_err(Error::Write)?.finish();
        writer.flush().map_err(Error::Write)?;
        let mut file = writer
            .into_inner()
            .map_err(|error| Error::Write(error.into_error()))?;
        let size_bytes = file.stream_position().map_err(Error::Write)?;
        Ok(Layer {
            diff_id,
            digest,
            file,
            size_bytes,
        })
    }
}

/// A path without `.` and doubled slashes, which leads nowhere but into the image.
fn absolute(path: &str) -> Result<PathBuf, Error> {
    let bad = || Error::Path {
        path: path.to_owned(),
    };
    let mut clean = PathBuf::from("/");
    if !path.starts_with('/') || path.contains('\0') {
        return Err(bad());
    }
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    Ok(clean)
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    entry: Entry,
    modified_seconds: u64,
) -> Result<(), Error> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut header = Header::new_gnu();
    header.set_mtime(modified_seconds);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match entry {
        Entry::Directory => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            archive
                .append_data(&mut header, path, io::empty())
                .map_err(Error::Write)
        }
        Entry::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            archive
                .append_link(&mut header, path, target)
                .map_err(Error::Write)
        }
        Entry::File {
            file,
            mode,
            path: from,
        } => {
            let cannot = |source| Error::Read {
                path: from.clone(),
                source,
            };
            let size = file.metadata().map_err(cannot)?.len();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(mode);
            header.set_size(size);
            let mut source = Whole {
                at: 0,
                failed: None,
                file,
                left: size,
            };
            let written = archive.append_data(&mut header, path, &mut source);
            match (source.failed, source.left) {
                (Some(error), _) => Err(Error::Read {
                    path: from,
                    source: error,
                }),
                (None, 1..) if written.is_ok() => Err(Error::Changed { path: from }),
                _ => written.map_err(Error::Write),
            }
        }
    }
}

/// Reads from a file's beginning as much as was promised, and keeps what went wrong apart from what went wrong in writing.
struct Whole {
    at: u64,
    failed: Option<io::Error>,
    file: File,
    left: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match std::os::unix::fs::FileExt::read_at(&self.file, &mut buffer[..wanted], self.at) {
            Ok(read) => {
                self.at += read as u64;
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Hashes what it hands on.
struct Hashing<W> {
    hash: Sha256,
    inner: W,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            hash: Sha256::new(),
            inner,
        }
    }

    fn finish(self) -> (W, String) {
        (self.inner, format!("sha256:{:x}", self.hash.finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn listed(layer: Layer) -> Vec<String> {
        let mut file = layer.file;
        file.rewind().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let describe = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let header = entry.header();
            format!(
                "{} {:o} {} {text}{}",
                entry.path().unwrap().display(),
                header.mode().unwrap(),
                header.mtime().unwrap(),
                link.unwrap_or_default()
            )
        };
        archive.entries().unwrap().map(describe).collect()
    }

    #[test]
    fn what_is_added_is_there_in_order_and_without_a_trace_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/b"), "b").unwrap();
        fs::write(at("d/a"), "a").unwrap();
        fs::set_permissions(at("d/a"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("b", at("d/link")).unwrap();
        fs::write(at("app.wasm"), "module").unwrap();
        let make = || {
            let mut contents = Contents::default();
            contents
                .module(
                    File::open(at("app.wasm")).unwrap(),
                    &at("app.wasm"),
                    "/bin//./app.wasm",
                )
                .unwrap();
            contents.add(&at("d"), "/srv/d").unwrap();
            contents.write(7).unwrap()
        };
        let (one, two) = (make(), make());
        assert_eq!((&one.digest, &one.diff_id), (&two.digest, &two.diff_id));
        assert_eq!(
            listed(one),
            [
                "bin 755 7 ",
                "bin/app.wasm 755 7 module",
                "srv 755 7 ",
                "srv/d 755 7 ",
                "srv/d/a 755 7 a",
                "srv/d/b 644 7 b",
                "srv/d/link 777 7 b",
            ]
        );
    }

    #[test]
    fn digests_are_those_of_the_bytes() {
        let mut layer = Contents::default().write(0).unwrap();
        let mut bytes = Vec::new();
        layer.file.rewind().unwrap();
        layer.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(layer.digest, format!("sha256:{:x}", Sha256::digest(&bytes)));
        assert_eq!(layer.size_bytes, bytes.len() as u64);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(layer.diff_id, format!("sha256:{:x}", Sha256::digest(&unpacked)));
    }

    #[test]
    fn places_are_paths_and_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "").unwrap();
        let mut contents = Contents::default();
        contents.add(&file, "/a").unwrap();
        for (path, expected) in [
            ("/a", "two things for /a"),
            ("/a/b", "two things for /a"),
            ("a", "has to be absolute"),
            ("/b/../c", "without `..`"),
            ("/", "two things for /"),
        ] {
            let error = contents.add(&file, path).unwrap_err().to_string();
            assert!(error.contains(expected), "{path}: {error}");
        }
        contents.add(folder.path(), "/").unwrap();
        let error = contents.add(Path::new("/dev/null"), "/null").unwrap_err();
        assert!(matches!(error, Error::Special { .. }), "{error}");
        let error = contents.add(&folder.path().join("none"), "/none").unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let mut source = Whole {
            at: 0,
            failed: None,
            file: file.try_clone().unwrap(),
            left: 10,
        };
        file.set_len(4).unwrap();
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.len(), source.left), (4, 6));
    }
}

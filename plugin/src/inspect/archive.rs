//! OCI image layouts: a folder, or an archive of one, with `index.json` and blobs by their digests.
//!
//! Of an archive only the places of its files are kept; it is read where it lies. A folder is walked like an image's layer, so
//! that no link in it leads out and nothing but a regular file is opened.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use super::blob::{self, Blobs};
use super::tarball::{self, Kind};
use crate::layers::{self, Layers, Node};

const INDEX: &str = "index.json";
/// What `docker save` wrote before it wrote an OCI layout too.
const OLD_MANIFEST: &str = "manifest.json";
/// More files than there are blobs in any image; bounds the memory that a hostile archive takes.
const MAX_FILES: usize = 10_000;
const TAR_MAGIC: &[u8] = b"ustar";
const TAR_MAGIC_AT: u64 = 257;

/// Why a layout could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is compressed as a whole.
    #[error("it is compressed as a whole; decompress it first, its layers may stay compressed")]
    Compressed,
    /// It holds no index.
    #[error("it is no OCI image layout: it holds no {INDEX}")]
    NoLayout,
    /// It has the format that older versions of Docker save in.
    #[error(
        "it is what older versions of docker save write; convert it with skopeo copy docker-archive:FILE oci-archive:NEW"
    )]
    Old,
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// The folder could not be walked.
    #[error(transparent)]
    Walk(#[from] layers::Error),
}

/// A layout.
#[derive(Debug)]
pub enum Archive {
    /// A folder.
    Folder(Layers),
    /// An archive, with the place and size of each file in it.
    Tar {
        /// The archive.
        file: File,
        /// Where its files' bytes are.
        files: HashMap<PathBuf, (u64, u64)>,
    },
}

/// Whether a file is an archive that holds a layout, by its first bytes and names. One that cannot be read to its end, or is
/// compressed as a whole, counts as one: then that is what is wrong with it.
pub fn is_archive(file: &File) -> bool {
    !matches!(open_tar(file), Err(Error::NoLayout))
}

impl Archive {
    /// Opens a folder or an archive.
    pub fn open(path: &Path, file: &File) -> Result<Self, Error> {
        if !file.metadata()?.is_dir() {
            return open_tar(file);
        }
        let folder = Self::Folder(Layers::open(&[path], Vec::new())?);
        if folder.read(Path::new(INDEX))?.is_none() {
            return Err(Error::NoLayout);
        }
        Ok(folder)
    }

    /// The index of all that the layout holds.
    pub fn index(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let index = self.read(Path::new(INDEX))?.ok_or(Error::NoLayout)?;
        index.take(blob::MAX_DOCUMENT_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&self, path: &Path) -> Result<Option<Box<dyn Read + Send + '_>>, Error> {
        match self {
            Self::Folder(folder) => match folder.resolve(path)?.node {
                Node::File { file, .. } => Ok(Some(Box::new(file))),
                _ => Ok(None),
            },
            Self::Tar { file, files } => Ok(files
                .get(path)
                .map(|&(at, size)| -> Box<dyn Read + Send> { Box::new(At { at, file }.take(size)) })),
        }
    }
}

impl Blobs for Archive {
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, blob::Error> {
        let path = Path::new("blobs/sha256").join(blob::hex(digest)?);
        let blob = self.read(&path).map_err(|error| blob::Error::Read {
            digest: digest.to_owned(),
            source: io::Error::other(error),
        })?;
        blob.ok_or_else(|| blob::Error::Missing {
            digest: digest.to_owned(),
        })
    }
}

/// Reads a file from a place on, whatever others do with it.
struct At<'a> {
    at: u64,
    file: &'a File,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn open_tar(file: &File) -> Result<Archive, Error> {
    if starts_with(file, &[0x1f, 0x8b], 0)? || starts_with(file, &[0x28, 0xb5, 0x2f, 0xfd], 0)? {
        return Err(Error::Compressed);
    }
    if !starts_with(file, TAR_MAGIC, TAR_MAGIC_AT)? {
        return Err(Error::NoLayout);
    }
    let file = file.try_clone()?;
    let files = places(&file)?;
    match (
        files.contains_key(Path::new(INDEX)),
        files.contains_key(Path::new(OLD_MANIFEST)),
    ) {
        (true, _) => Ok(Archive::Tar { file, files }),
        (false, true) => Err(Error::Old),
        (false, false) => Err(Error::NoLayout),
    }
}

fn starts_with(file: &File, bytes: &[u8], at: u64) -> io::Result<bool> {
    let mut found = vec![0; bytes.len()];
    match file.read_exact_at(&mut found, at) {
        Ok(()) => Ok(found == bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn places(file: &File) -> io::Result<HashMap<PathBuf, (u64, u64)>> {
    let mut places = HashMap::new();
    let length = file.metadata()?.len();
    tarball::walk_file(file, |at, entry| {
        if let Kind::File { size, .. } = entry.kind {
            if at.saturating_add(size) > length {
                return Err(blob::invalid("it is cut off".to_owned()));
            }
            let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
            if entry.path.components().all(plain) {
                let path = entry.path.components().filter(|part| *part != Component::CurDir);
                places.insert(path.collect(), (at, size));
            }
        }
        if places.len() > MAX_FILES {
            return Err(blob::invalid(format!("it holds more than {MAX_FILES} files")));
        }
        Ok(())
    })?;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn tar(files: &[(&str, &[u8])]) -> File {
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(archive: &Archive, digest: &str) -> Result<Vec<u8>, blob::Error> {
        blob::document(archive, digest)
    }

    fn blob_path() -> String {
        format!("blobs/sha256/{}", &DIGEST[7..])
    }

    #[test]
    fn an_archive_is_read_where_it_lies() {
        let blob = blob_path();
        let file = tar(&[("./index.json", b"{}"), ("oci-layout", b"{}"), (&blob, b"abc")]);
        assert!(is_archive(&file));
        let archive = Archive::open(Path::new(""), &file).unwrap();
        assert_eq!(archive.index().unwrap(), b"{}");
        assert_eq!(read(&archive, DIGEST).unwrap(), b"abc");
        let missing = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(
            read(&archive, &missing),
            Err(blob::Error::Missing { .. })
        ));
    }

    #[test]
    fn a_folder_is_not_left() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "abc").unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        let open = || Archive::open(folder.path(), &File::open(folder.path()).unwrap());
        assert!(matches!(open(), Err(Error::NoLayout)));
        fs::write(folder.path().join(INDEX), "{}").unwrap();
        let place = folder.path().join(blob_path());
        symlink(outside.path(), &place).unwrap();
        assert!(matches!(
            read(&open().unwrap(), DIGEST),
            Err(blob::Error::Missing { .. })
        ));
        fs::remove_file(&place).unwrap();
        fs::write(&place, "abc").unwrap();
        assert_eq!(read(&open().unwrap(), DIGEST).unwrap(), b"abc");
        fs::write(&place, "other").unwrap();
        assert!(matches!(
            read(&open().unwrap(), DIGEST),
            Err(blob::Error::Read { .. })
        ));
    }

    #[test]
    fn what_is_no_layout_is_said() {
        let check = |file: &File, expected: &str| {
            let error = Archive::open(Path::new(""), file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&tar(&[("manifest.json", b"[]")]), "older versions of docker save");
        check(&tar(&[("other", b"")]), "holds no index.json");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"\x1f\x8b\x08").unwrap();
        check(file.as_file(), "decompress it first");
        assert!(is_archive(file.as_file()));
        fs::write(file.path(), b"").unwrap();
        check(file.as_file(), "holds no index.json");
        assert!(!is_archive(file.as_file()));
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let blob = blob_path();
        let file = tar(&[("index.json", b"{}"), (&blob, &[b'x'; 4000])]);
        file.set_len(2000).unwrap();
        assert!(is_archive(&file));
        let error = Archive::open(Path::new(""), &file).unwrap_err();
        assert!(matches!(error, Error::Read(_)), "{error}");
    }
}

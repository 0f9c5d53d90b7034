//! Writing an OCI image layout, as an archive or a folder, so that under its name is either all of it or what was there before.

use std::fs::{self, Permissions};
use std::io::{self, BufWriter, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tar::{EntryType, Header};

use super::bundle::Item;
use super::recipe::Document;
use crate::inspect::blob::{self, Blobs};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// By which layouts name their images: the specification's, for the tag alone, and containerd's.
const TAG: &str = "org.opencontainers.image.ref.name";
const NAME: &str = "io.containerd.image.name";
/// What a folder may hold that is replaced.
const PARTS: [&str; 3] = ["blobs", "index.json", "oci-layout"];

/// Why a layout could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the image could not be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// Something else is there.
    #[error("{} is there, and is no OCI image layout that could be replaced", path.display())]
    Occupied {
        /// The output.
        path: PathBuf,
    },
    /// It could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The name of an image, as layouts tell it.
#[derive(Clone, Debug)]
pub struct Name {
    /// Registry, repository and tag.
    pub full: String,
    /// The tag.
    pub tag: String,
}

/// Whether an output is an archive, by its name.
pub fn is_archive(output: &Path) -> bool {
    output.extension().is_some_and(|extension| extension == "tar")
}

/// Writes all parts of an image.
pub fn write(
    blobs: &dyn Blobs,
    items: &[Item],
    target: &Descriptor,
    name: Option<&Name>,
    output: &Path,
) -> Result<(), Error> {
    let index = index(target, name);
    if is_archive(output) {
        archive(blobs, items, &index, output)
    } else {
        folder(blobs, items, &index, output)
    }
}

fn index(target: &Descriptor, name: Option<&Name>) -> Vec<u8> {
    let mut target = target.clone();
    if let Some(Name { full, tag }) = name {
        let pairs = [(NAME.to_owned(), full.clone()), (TAG.to_owned(), tag.clone())];
        target.set_annotations(Some(pairs.into()));
    }
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests([target])
        .build()
        .expect("all fields are set");
    Document::json(MediaType::ImageIndex, &index).bytes
}

fn path_of(item: &Item) -> Result<String, Error> {
    Ok(format!("blobs/sha256/{}", blob::hex(&item.digest)?))
}

fn beside(output: &Path) -> &Path {
    let parent = output.parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

fn archive(blobs: &dyn Blobs, items: &[Item], index: &[u8], output: &Path) -> Result<(), Error> {
    let cannot = |source| Error::Write {
        path: output.to_owned(),
        source,
    };
    let temporary = tempfile::Builder::new()
        .prefix(".podwasm-image-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(beside(output))
        .map_err(cannot)?;
    let mut tar = tar::Builder::new(BufWriter::new(temporary));
    for folder in ["blobs/", "blobs/sha256/"] {
        let mut header = header(EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, folder, io::empty())
            .map_err(cannot)?;
    }
    let mut sorted: Vec<_> = items.iter().collect();
    sorted.sort_by(|one, other| one.digest.cmp(&other.digest));
    for item in sorted {
        let mut header = header(EntryType::Regular, 0o644, item.size_bytes);
        let bytes = blob::open(blobs, &item.digest)?;
        tar.append_data(&mut header, path_of(item)?, bytes)
            .map_err(cannot)?;
    }
    for (name, bytes) in [("index.json", index), ("oci-layout", LAYOUT)] {
        let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).map_err(cannot)?;
    }
    let buffered = tar.into_inner().map_err(cannot)?;
    let temporary = buffered
        .into_inner()
        .map_err(|error| cannot(error.into_error()))?;
    temporary.as_file().sync_all().map_err(cannot)?;
    temporary.persist(output).map_err(|error| cannot(error.error))?;
    Ok(())
}

/// Times are zero, so that the archive depends on nothing but the image.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn folder(blobs: &dyn Blobs, items: &[Item], index: &[u8], output: &Path) -> Result<(), Error> {
    let cannot = |source| Error::Write {
        path: output.to_owned(),
        source,
    };
    let replaces = may_be_replaced(output)?;
    let temporary = tempfile::Builder::new()
        .prefix(".podwasm-image-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(beside(output))
        .map_err(cannot)?;
    let folder = temporary.path();
    fs::create_dir_all(folder.join("blobs/sha256")).map_err(cannot)?;
    for item in items {
        let bytes = blob::open(blobs, &item.digest)?;
        put(&folder.join(path_of(item)?), bytes).map_err(cannot)?;
    }
    put(&folder.join("index.json"), index).map_err(cannot)?;
    put(&folder.join("oci-layout"), LAYOUT).map_err(cannot)?;
    if replaces {
        // What was there goes with the temporary folder.
        let exchanged = renameat_with(CWD, folder, CWD, output, RenameFlags::EXCHANGE);
        return exchanged.map_err(|error| cannot(error.into()));
    }
    fs::rename(folder, output).map_err(cannot)?;
    let _ = temporary.keep();
    Ok(())
}

fn put(path: &Path, mut bytes: impl Read) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    io::copy(&mut bytes, &mut file)?;
    file.flush()?;
    file.sync_all()
}

/// True where a layout or an empty folder is there already, false where nothing is.
fn may_be_replaced(output: &Path) -> Result<bool, Error> {
    let occupied = || Error::Occupied {
        path: output.to_owned(),
    };
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(occupied()),
        Err(source) => {
            return Err(Error::Write {
                path: output.to_owned(),
                source,
            });
        }
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let is_layout = names.iter().any(|name| name == "oci-layout")
        && names.iter().all(|name| PARTS.iter().any(|part| name == part));
    if names.is_empty() || is_layout {
        Ok(true)
    } else {
        Err(occupied())
    }
}

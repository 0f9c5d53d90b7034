//! What is asked about: a file, an OCI layout, or an image in containerd.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::archive::{self, Archive};
use crate::flags::TargetKind;

/// What is asked about.
pub enum Target {
    /// An OCI image layout.
    Archive(Archive),
    /// A regular file.
    File(File),
    /// An image in containerd, by one of its names.
    Image,
}

/// Why it could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It should be a layout, and is none.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// A directory, FIFO or device where a file was expected.
    #[error("it is no regular file")]
    NotAFile,
    /// It could not be opened.
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
}

/// Finds out what it is, unless it is said. What is not there is taken for an image's name, unless it is clearly a path.
pub fn open(name: &str, kind: Option<TargetKind>) -> Result<Target, Error> {
    if kind == Some(TargetKind::Image) {
        return Ok(Target::Image);
    }
    let path = Path::new(name);
    let file = match open_without_waiting(path) {
        Ok(file) => file,
        Err(error) => {
            let may_be_a_name = kind.is_none() && !name.starts_with(['/', '.']);
            return if may_be_a_name && error.kind() == io::ErrorKind::NotFound {
                Ok(Target::Image)
            } else {
                Err(Error::Open(error))
            };
        }
    };
    let what = file.metadata().map_err(Error::Open)?.file_type();
    let is_archive = match kind {
        Some(kind) => kind == TargetKind::Archive,
        None => what.is_dir() || what.is_file() && archive::is_archive(&file),
    };
    match is_archive {
        true if what.is_dir() || what.is_file() => Ok(Target::Archive(Archive::open(path, &file)?)),
        false if what.is_file() => Ok(Target::File(file)),
        _ => Err(Error::NotAFile),
    }
}

/// A FIFO would otherwise wait for its writer.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(name: &str, kind: Option<TargetKind>, expected: &str) {
        let error = open(name, kind).err().unwrap().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }

    #[test]
    fn a_target_is_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("text"), "text").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(matches!(open(&path("text"), None), Ok(Target::File(_))));
        assert!(matches!(open("docker.io/library/x:1", None), Ok(Target::Image)));
        assert!(matches!(
            open(&path("text"), Some(TargetKind::Image)),
            Ok(Target::Image)
        ));
        check_error(&path("none"), None, "cannot be opened");
        check_error("none.wasm", Some(TargetKind::File), "cannot be opened");
        check_error(&path("fifo"), None, "no regular file");
        check_error(&path(""), None, "holds no index.json");
        check_error(&path(""), Some(TargetKind::File), "no regular file");
        check_error(&path("text"), Some(TargetKind::Archive), "holds no index.json");
    }
}

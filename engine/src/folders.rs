//! Finds the folders that the guest is given.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use podwasm_engine::line::quoted;
use podwasm_engine::preopens::{self, Folder, Unnameable};
use podwasm_engine::settings::{Preopen, Settings};
use thiserror::Error;

/// Links that images have, and that WasmEdge would not follow.
const LINKS: [&str; 2] = ["/var/run", "/var/lock"];

/// Files that are mounted into every container for its C library and its runtime. A guest has no use for them.
const FOR_THE_CONTAINER: [&str; 4] = [
    "/dev/termination-log",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
];

/// Why a folder cannot be given to the guest.
#[derive(Debug, Error)]
pub enum FolderError {
    #[error(
        "{0} is a file, and only folders can be given to a guest; mount its folder, or do without `preopens`"
    )]
    File(String),
    #[error("the folder {path} cannot be given to the guest")]
    Missing { path: String, source: io::Error },
    #[error(transparent)]
    Unnameable(#[from] Unnameable),
}

/// The list of folders, as WasmEdge wants it.
pub fn preopens(settings: &Settings) -> Result<Vec<CString>, FolderError> {
    // Where the working directory cannot be named (it was deleted, say), `/` is better than nothing.
    let working_directory = env::current_dir().unwrap_or_else(|_| "/".into());
    let Some(given) = &settings.preopens else {
        let folders = if working_directory == Path::new("/") {
            Vec::new()
        } else {
            root_folders()
        };
        return Ok(preopens::plan(&working_directory, &folders, &links()));
    };
    let mut folders = Vec::new();
    for preopen in given {
        if is_folder(preopen, given, &working_directory)? {
            folders.push(Preopen {
                // The kernel's word for it is the one that native programs know.
                read_only: preopen.read_only && !is_mounted_read_only(&preopen.path),
                ..preopen.clone()
            });
        }
    }
    Ok(preopens::plan_only(&working_directory, &folders)?)
}

fn root_folders() -> Vec<Folder> {
    let entries = fs::read_dir("/").into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.filter_map(|entry| folder(entry.path())).collect();
    folders.sort_by(|a, b| a.path.cmp(&b.path));
    folders
}

fn links() -> Vec<Folder> {
    let links = LINKS.map(PathBuf::from).into_iter();
    links
        .filter(|path| path.is_symlink())
        .filter_map(folder)
        .collect()
}

fn folder(path: PathBuf) -> Option<Folder> {
    let real = path.canonicalize().ok()?;
    real.is_dir().then_some(Folder { path, real })
}

/// Whether it is a folder that can be opened. A file is no error if the guest has it anyway, or need not have it.
fn is_folder(preopen: &Preopen, all: &[Preopen], working_directory: &Path) -> Result<bool, FolderError> {
    let path = Path::new(&preopen.path);
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) if FOR_THE_CONTAINER.contains(&preopen.path.as_str()) => Ok(false),
        Ok(_) if is_within(path, all, working_directory) => Ok(false),
        Ok(_) => Err(FolderError::File(quoted(preopen.path.as_bytes()))),
        // As for a native process: it is an error when the guest wants to go there.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(source) => Err(FolderError::Missing {
            path: quoted(preopen.path.as_bytes()),
            source,
        }),
    }
}

fn is_within(file: &Path, all: &[Preopen], working_directory: &Path) -> bool {
    let mut given = all.iter().map(|other| Path::new(&other.path));
    given.any(|other| file != other && file.starts_with(other) && other.is_dir())
        || (working_directory != Path::new("/") && file.starts_with(working_directory))
}

fn is_mounted_read_only(path: &str) -> bool {
    let Ok(path) = CString::new(path) else {
        return false;
    };
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a C string, and what is read was written by a call that succeeded.
    unsafe {
        libc::statvfs(path.as_ptr(), found.as_mut_ptr()) == 0
            && found.assume_init().f_flag & libc::ST_RDONLY != 0
    }
}

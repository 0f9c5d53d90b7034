//! Which folders the guest is given, and in which order.
//!
//! A native process has a root and a working directory. A WASI guest has a list of opened folders, and
//! the libraries in the guest make paths of it in their own ways:
//!
//! - wasi-libc, and Rust's std on it, take `x`, `./x` and `/x` for the same. `/` and `.` both are the *empty prefix*
//!   to it, of which the last in the list counts; longer prefixes go first.
//! - Go and Zig take the first in the list for the working directory, and Go finds absolute paths under the
//!   entry that is called `/`.
//!
//! So, where the working directory is not `/`, the list is: the working directory by its path, `/`, each folder of `/`
//! by its name, and `.` at the end. Then `data.txt` is in the working directory, `/etc/hosts` is under `/`. What
//! remains is that a guest on wasi-libc cannot reach a plain *file* in `/`, and that of `etc/x` and
//! `/etc/x` it gets the second: it asks the same for both.
//!
//! WasmEdge follows a symbolic link only if it is relative and stays in the opened folder. Images have some that are
//! not, `/var/run` to `/run` above all: those that are known get an entry of their own.
//!
//! A guest that is to have as little as possible gets its working directory, unless that is `/`, and the folders that
//! the settings name.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::line::quoted;
use crate::settings::Preopen;

/// A folder with a path that need not be its real one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Its path for the guest.
    pub path: PathBuf,
    /// The same without symbolic links.
    pub real: PathBuf,
}

/// A path that WasmEdge cannot give to a guest by its name.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the folder {} cannot be given to the guest, because WasmEdge misreads its name", quoted(.0.as_bytes()))]
pub struct Unnameable(String);

/// The list for a working directory, given the folders in `/` and links elsewhere: each the guest's name for it, a colon,
/// the host's path, as WasmEdge wants them.
pub fn plan(working_directory: &Path, root_folders: &[Folder], links: &[Folder]) -> Vec<CString> {
    let others = root_folders.iter().chain(links);
    let others = others
        .filter(|folder| folder.path != working_directory)
        .map(|folder| entry(&folder.path, &folder.real));
    let (root, here) = (entry("/", "/"), entry(".", "."));
    if working_directory == Path::new("/") {
        return [root].into_iter().chain(others).chain([here]).flatten().collect();
    }
    let first = [entry(working_directory, "."), root];
    first.into_iter().chain(others).chain([here]).flatten().collect()
}

/// The list that holds nothing but the working directory and these folders.
pub fn plan_only<'a>(
    working_directory: &Path,
    folders: impl IntoIterator<Item = &'a Preopen>,
) -> Result<Vec<CString>, Unnameable> {
    let mut list = Vec::new();
    let has_own_directory = working_directory != Path::new("/");
    if has_own_directory {
        list.extend(entry(working_directory, "."));
    }
    for folder in folders {
        let entry = entry(&folder.path, &folder.path).ok_or_else(|| Unnameable(folder.path.clone()))?;
        list.push(if folder.read_only {
            read_only(&entry)
        } else {
            entry
        });
    }
    if has_own_directory {
        list.extend(entry(".", "."));
    }
    Ok(list)
}

/// `None` for a name that WasmEdge would not understand: one with a colon, or one that starts with a point,
/// of which it drops parts.
fn entry(guest: impl AsRef<OsStr>, host: impl AsRef<OsStr>) -> Option<CString> {
    let (guest, host) = (guest.as_ref().as_bytes(), host.as_ref().as_bytes());
    let dropped = guest != b"." && guest.split(|&b| b == b'/').any(|part| part.starts_with(b"."));
    if guest.contains(&b':') || host.contains(&b':') || dropped {
        return None;
    }
    CString::new([guest, b":", host].concat()).ok()
}

fn read_only(entry: &CStr) -> CString {
    let bytes = [entry.to_bytes(), b":readonly"].concat();
    CString::new(bytes).expect("a C string and more without a zero byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> Folder {
        let path = Path::new("/").join(name);
        let real = match name {
            "lib" => "/usr/lib".into(),
            "var/run" => "/run".into(),
            _ => path.clone(),
        };
        Folder { path, real }
    }

    #[track_caller]
    fn check(working_directory: &str, root_folders: &[&str], links: &[&str], expected: &[&str]) {
        let folders = |names: &[&str]| names.iter().copied().map(folder).collect::<Vec<_>>();
        let plan = plan(
            Path::new(working_directory),
            &folders(root_folders),
            &folders(links),
        );
        assert_eq!(texts(&plan), expected);
    }

    fn texts(list: &[CString]) -> Vec<&str> {
        let texts = list.iter().map(|entry| entry.to_str());
        texts
            .map(|text| text.expect("the test's names are UTF-8"))
            .collect()
    }

    #[test]
    fn the_root_as_working_directory_needs_no_more() {
        check("/", &[], &[], &["/:/", ".:."]);
    }

    #[test]
    fn a_working_directory_comes_first_and_last() {
        check(
            "/app",
            &["app", "lib"],
            &[],
            &["/app:.", "/:/", "/lib:/usr/lib", ".:."],
        );
        check(
            "/app/x",
            &["app", "etc"],
            &[],
            &["/app/x:.", "/:/", "/app:/app", "/etc:/etc", ".:."],
        );
    }

    #[test]
    fn links_have_entries_of_their_own() {
        check("/", &[], &["var/run"], &["/:/", "/var/run:/run", ".:."]);
        let expected = ["/app:.", "/:/", "/var:/var", "/var/run:/run", ".:."];
        check("/app", &["var"], &["var/run"], &expected);
        check("/var/run", &[], &["var/run"], &["/var/run:.", "/:/", ".:."]);
    }

    #[test]
    fn names_that_wasmedge_would_misread_are_left_out() {
        check(
            "/a:b",
            &["a:b", ".cache", "etc"],
            &[],
            &["/:/", "/etc:/etc", ".:."],
        );
    }

    #[test]
    fn only_what_is_named_is_given() {
        let preopen = |path: &str, read_only| Preopen {
            path: path.to_owned(),
            read_only,
        };
        let data = [preopen("/data", false), preopen("/etc/conf", true)];
        let list = plan_only(Path::new("/"), &data).expect("these can be named");
        assert_eq!(texts(&list), ["/data:/data", "/etc/conf:/etc/conf:readonly"]);
        let list = plan_only(Path::new("/app"), &data[..1]).expect("these can be named");
        assert_eq!(texts(&list), ["/app:.", "/data:/data", ".:."]);
        for path in ["/a:b", "/home/.config"] {
            let error = plan_only(Path::new("/"), &[preopen(path, false)]).expect_err("it has no name");
            assert_eq!(
                error.to_string(),
                format!(
                    "the folder \"{path}\" cannot be given to the guest, because WasmEdge misreads its name"
                )
            );
        }
    }
}

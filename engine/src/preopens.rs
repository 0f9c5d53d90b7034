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
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A folder in `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFolder {
    /// Its path, `/NAME`.
    pub path: PathBuf,
    /// The same without symbolic links, which WasmEdge does not follow here.
    pub real: PathBuf,
}

/// The list for a working directory, given the folders in `/`: each the guest's name for it, a colon, the
/// host's path, as WasmEdge wants them.
pub fn plan(working_directory: &Path, root_folders: &[RootFolder]) -> Vec<CString> {
    let (root, here) = (preopen("/", "/"), preopen(".", "."));
    if working_directory == Path::new("/") {
        return [root, here].into_iter().flatten().collect();
    }
    let folders = root_folders
        .iter()
        .filter(|folder| folder.path != working_directory)
        .map(|folder| preopen(&folder.path, &folder.real));
    let first = [preopen(working_directory, "."), root];
    first.into_iter().chain(folders).chain([here]).flatten().collect()
}

/// `None` for a name that WasmEdge would not understand: one with a colon, or one that starts with a point,
/// of which it drops parts.
fn preopen(guest: impl AsRef<OsStr>, host: impl AsRef<OsStr>) -> Option<CString> {
    let (guest, host) = (guest.as_ref().as_bytes(), host.as_ref().as_bytes());
    let dropped = guest != b"." && guest.split(|&b| b == b'/').any(|part| part.starts_with(b"."));
    if guest.contains(&b':') || host.contains(&b':') || dropped {
        return None;
    }
    CString::new([guest, b":", host].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(working_directory: &str, root_folders: &[&str], expected: &[&str]) {
        let root_folders: Vec<_> = root_folders
            .iter()
            .map(|name| {
                let path = Path::new("/").join(name);
                let real = if *name == "lib" {
                    "/usr/lib".into()
                } else {
                    path.clone()
                };
                RootFolder { path, real }
            })
            .collect();
        let plan = plan(Path::new(working_directory), &root_folders);
        let plan: Vec<_> = plan
            .iter()
            .map(|p| p.to_str().expect("the test's names are UTF-8"))
            .collect();
        assert_eq!(plan, expected);
    }

    #[test]
    fn the_root_as_working_directory_needs_no_more() {
        check("/", &["etc", "data"], &["/:/", ".:."]);
    }

    #[test]
    fn a_working_directory_comes_first_and_last() {
        check(
            "/app",
            &["app", "lib"],
            &["/app:.", "/:/", "/lib:/usr/lib", ".:."],
        );
        check(
            "/app/x",
            &["app", "etc"],
            &["/app/x:.", "/:/", "/app:/app", "/etc:/etc", ".:."],
        );
    }

    #[test]
    fn names_that_wasmedge_would_misread_are_left_out() {
        check("/a:b", &["a:b", ".cache", "etc"], &["/:/", "/etc:/etc", ".:."]);
    }
}

//! Where the runtime will look for the program that a container names.
//!
//! An OCI runtime takes `args[0]` as a path when it holds a slash, and otherwise searches the
//! container's `PATH` for an executable file. Images that hold only a module also name it bare, relative
//! to their working directory, as crun's Wasm handler allows; no runtime would find that on its own.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};

/// What a runtime assumes where the container's environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The places where `args[0]` may stand, as absolute paths inside the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// One path, as given.
    Path(PathBuf),
    /// A bare name: an executable file on `PATH`, else a module on `PATH`, else a module in the
    /// working directory.
    Name {
        /// The name in each folder of `PATH`, in order.
        on_path: Vec<PathBuf>,
        /// The name in the working directory.
        in_working_directory: PathBuf,
    },
}

/// Where `args[0]` may stand, given the container's environment and the image's working directory.
pub fn search(program: &str, env: &[String], working_directory: &Path) -> Search {
    if program.contains('/') {
        return Search::Path(working_directory.join(program));
    }
    Search::Name {
        on_path: path_folders(env)
            .map(|folder| Path::new(folder).join(program))
            .collect(),
        in_working_directory: working_directory.join(program),
    }
}

/// Only absolute folders: a relative one would depend on a working directory that may be another.
fn path_folders(env: &[String]) -> impl Iterator<Item = &str> {
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .filter(|folder| folder.starts_with('/'))
}

/// Whether the name alone lets one expect a module.
pub fn is_named_as_wasm(program: &str) -> bool {
    let extension = Path::new(program)
        .extension()
        .and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        extension.eq_ignore_ascii_case("wasm") || extension.eq_ignore_ascii_case("wat")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(program: &str, env: &[&str], working_directory: &str, expected: &[&str]) {
        let env: Vec<_> = env.iter().map(ToString::to_string).collect();
        let found = match search(program, &env, Path::new(working_directory)) {
            Search::Path(path) => vec![path],
            Search::Name {
                mut on_path,
                in_working_directory,
            } => {
                on_path.push(in_working_directory);
                on_path
            }
        };
        assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn a_slash_makes_a_path() {
        check("/app.wasm", &[], "/srv", &["/app.wasm"]);
        check("bin/app", &[], "/srv", &["/srv/bin/app"]);
        check("./app", &[], "/", &["/app"]);
    }

    #[test]
    fn a_bare_name_is_searched() {
        check("app", &["PATH=/a:/b"], "/srv", &["/a/app", "/b/app", "/srv/app"]);
        check("app", &["PATH=/a", "X=1", "PATH=/b"], "/", &["/b/app", "/app"]);
        check("app", &["PATH=:rel:/a:"], "/", &["/a/app", "/app"]);
        check("app", &["PATH="], "/", &["/app"]);
        let default = [
            "/usr/local/sbin/x",
            "/usr/local/bin/x",
            "/usr/sbin/x",
            "/usr/bin/x",
            "/sbin/x",
            "/bin/x",
            "/x",
        ];
        check("x", &[], "/", &default);
    }

    #[test]
    fn names_can_look_like_wasm() {
        assert!(is_named_as_wasm("/app.wasm") && is_named_as_wasm("App.WASM") && is_named_as_wasm("x.wat"));
        assert!(!is_named_as_wasm("wasm") && !is_named_as_wasm("app.wasm.bak") && !is_named_as_wasm(""));
    }
}

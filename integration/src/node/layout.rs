//! Where things lie: on the host, below `target`, and what of it a node sees.

use super::Flavor;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// Where everything is made: `target` at the project's top, wherever cargo puts its own.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target")
}

/// Where the nodes' folders are.
pub fn nodes() -> PathBuf {
    target().join("nodes")
}

/// The root folders of a flavor, topmost first.
pub(super) fn roots(flavor: Flavor) -> Result<Vec<PathBuf>> {
    let names: &[&str] = match flavor {
        Flavor::Forky => &["forky", "trixie"],
        Flavor::Trixie => &["trixie"],
        Flavor::Upstream => &["upstream", "forky", "trixie"],
    };
    names
        .iter()
        .map(|name| {
            let root = target().join("roots").join(name);
            root.canonicalize()
                .with_context(|| format!("no {}: run `make roots`", root.display()))
        })
        .collect()
}

/// What a node sees on which nothing of podwasm is installed: the tools for tests, and below `/srv` the programs of this build, the
/// bundles and the images.
pub(super) fn bare_binds() -> Vec<(&'static str, PathBuf)> {
    let mut binds = vec![("/srv/bin", programs())];
    let folders = [
        ("/srv/images", "images"),
        ("/srv/bundles", "engine"),
        ("/opt/tools", "roots/tools"),
    ];
    add_existing(&mut binds, &folders);
    binds
}

/// What of the project a node sees, under `/opt`: the programs of this build, the engine and the compiler
/// if they are built; and the tools for tests.
pub(super) fn binds() -> Vec<(&'static str, PathBuf)> {
    let mut binds = vec![("/opt/podwasm/bin", programs())];
    let folders = [
        ("/opt/podwasm/compiler", "engine/compiler"),
        ("/opt/podwasm/engine", "engine/bundle"),
        ("/opt/tools", "roots/tools"),
    ];
    add_existing(&mut binds, &folders);
    binds
}

fn programs() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let folder = program.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps lies in a folder").to_owned()
    } else {
        folder.to_owned()
    }
}

fn add_existing(binds: &mut Vec<(&'static str, PathBuf)>, folders: &[(&'static str, &str)]) {
    for (inside, outside) in folders {
        if let Ok(outside) = target().join(outside).canonicalize() {
            binds.push((inside, outside));
        }
    }
}

//! Removing the folders of nodes that are no more. What was in them is gone with the node; their logs stay a while.

use std::fs;
use std::path::Path;
use std::time::Duration;

const KEPT: Duration = Duration::from_secs(60 * 60);

/// Removes the folders of nodes that ended more than an hour ago.
pub(super) fn dead_nodes(nodes: &Path) {
    for entry in fs::read_dir(nodes).into_iter().flatten().flatten() {
        let folder = entry.path();
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map(|time| time.elapsed());
        let old = age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT));
        if old && !lives(&folder) {
            let _ = fs::remove_dir_all(&folder); // another process may be doing the same
        }
    }
}

/// Whether a node of this folder runs: its init is there, and is the init of a node of that name.
pub(super) fn lives(folder: &Path) -> bool {
    let Ok(pid) = fs::read_to_string(folder.join("init.pid")) else {
        return false;
    };
    let hostname = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("root/etc/hostname"));
    hostname.is_ok_and(|name| folder.ends_with(name.trim()))
}

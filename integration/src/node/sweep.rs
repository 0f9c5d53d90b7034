//! What is left below `target/nodes` of nodes that are no more: their logs, for a while.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

const KEPT: Duration = Duration::from_secs(60 * 60);

/// Removes the folders of nodes that ended more than an hour ago.
pub(super) fn old_nodes(nodes: &Path) {
    for entry in fs::read_dir(nodes).into_iter().flatten().flatten() {
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map(|time| time.elapsed());
        let old = age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT));
        if old && init(&entry.path()).is_none() {
            let _ = fs::remove_dir_all(entry.path()); // another process may be doing the same
        }
    }
}

/// Removes what an earlier node of the same name left.
pub(super) fn make_room(folder: &Path) -> Result<()> {
    ensure!(init(folder).is_none(), "a node runs in {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// The pid of the init of the node of a folder, if it runs: a process that sees that node's root.
pub(super) fn init(folder: &Path) -> Option<u32> {
    let pid = fs::read_to_string(folder.join("init.pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let hostname = fs::read_to_string(format!("/proc/{pid}/root/etc/hostname")).ok()?;
    folder.ends_with(hostname.trim()).then_some(pid)
}

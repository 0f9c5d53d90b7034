//! What lies on a node, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;

use crate::node::Node;

/// Where what is installed may leave something. What the harness and containerd themselves write there is left out.
const LOOKED_AT: [&str; 6] = ["etc", "opt", "root", "usr/local", "var/lib", "var/opt"];
const OTHERS: [&str; 5] = [
    "opt/tools",
    "var/lib/cni",
    "var/lib/containerd",
    "var/lib/kubelet",
    "var/lib/registry",
];

/// Every file below `/etc`, `/opt`, `/root`, `/usr/local`, `/var/lib` and `/var/opt` of a node, with all that can be told apart of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tree(BTreeMap<String, String>);

impl Tree {
    /// What lies there now.
    pub fn of(node: &Node) -> Result<Self> {
        let root = node.path("/");
        let mut found = BTreeMap::new();
        let mut folders: Vec<_> = LOOKED_AT.iter().map(|name| root.join(name)).collect();
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else {
                continue; // it need not be there
            };
            for entry in entries {
                let path = entry?.path();
                let name = path.strip_prefix(&root)?.display().to_string();
                if OTHERS.contains(&name.as_str()) {
                    continue;
                }
                found.insert(name, described(&path)?);
                if fs::symlink_metadata(&path)?.is_dir() {
                    folders.push(path);
                }
            }
        }
        Ok(Self(found))
    }

    /// How many files and folders these are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What one has that the other has not, by name, in order.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let names = self.0.keys().chain(other.0.keys());
        let mut different: Vec<_> = names
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .cloned()
            .collect();
        different.sort();
        different.dedup();
        different
    }
}

fn described(path: &Path) -> Result<String> {
    let about = fs::symlink_metadata(path)?;
    let owner = format!("{:o} {} {}", about.mode(), about.uid(), about.gid());
    Ok(if about.is_symlink() {
        format!("{owner} -> {}", fs::read_link(path)?.display())
    } else if about.is_file() {
        let time = format!("{}.{}", about.mtime(), about.mtime_nsec());
        // Nothing but configuration is ever rewritten, and that is small.
        let bytes = if about.len() < 1 << 20 {
            fs::read(path)?
        } else {
            Vec::new()
        };
        format!("{owner} {} {time} {bytes:?}", about.len())
    } else {
        owner
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree(
            files
                .iter()
                .map(|(name, what)| (name.to_string(), what.to_string()))
                .collect(),
        )
    }

    #[test]
    fn what_came_went_or_changed_is_told() {
        let before = tree(&[("changed", "1"), ("gone", "1"), ("same", "1")]);
        let after = tree(&[("changed", "2"), ("new", "1"), ("same", "1")]);
        assert_eq!(before.differences(&after), ["changed", "gone", "new"]);
        assert!(before.differences(&before).is_empty());
    }
}

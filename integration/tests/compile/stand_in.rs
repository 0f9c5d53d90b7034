//! Compilers that do as they are told.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;
use podwasm_integration::prelude::*;

/// Where it lies in the node.
pub const FOLDER: &str = "/opt/stand-in";
/// Leaves the header of a library for this machine, with nothing that could be run.
pub const SUCCEED: &str =
    r"printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\76\0' > module.so; head -c 1000 /dev/zero >> module.so";
/// Where a node keeps what it knows.
pub const STATE: &str = "/var/lib/podwasm";

/// Puts a script where the compiler's bundle has the program that is started.
pub fn install(node: &Node, script: &str) -> Result<()> {
    let folder = node.path(FOLDER);
    fs::create_dir_all(folder.join("lib"))?;
    for file in ["compile", "VERSION"] {
        fs::write(folder.join(file), "stand-in\n")?;
    }
    let script = format!("#!/bin/sh\ncase \"$*\" in *--cpu*) echo any; exit 0 ;; esac\n{script}\n");
    let loader = folder.join("lib/ld-linux-x86-64.so.2");
    let new = folder.join("lib/new");
    fs::write(&new, script)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755))?;
    fs::rename(new, loader)?;
    Ok(())
}

/// The node's files of native code.
pub fn native(node: &Node) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for module in fs::read_dir(node.path(STATE).join("modules"))? {
        for file in fs::read_dir(module?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|suffix| suffix == "so") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

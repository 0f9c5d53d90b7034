//! What of the file system and the network is left, by Landlock.
//!
//! Reading is not restricted: an image's layers, a pod's volumes and namespaces, certificates and a resolver's files can be anywhere, and what a
//! process may read is a matter of its user and capabilities.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, PathFdError,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::Error;

/// The newest that the rules were written for.
const KNOWN: ABI = ABI::V6;

/// What is written, and whom is connected to.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Whether connections over TCP are opened.
    pub connects: bool,
    /// Files and folders that are written to, as far as they exist; nothing else is changed, made, renamed or removed.
    pub written: Vec<PathBuf>,
}

/// Restricts this thread and all that comes of it. Says whether the kernel can do that without breaking what is allowed: its first version of
/// Landlock refuses every renaming from one folder to another.
pub fn restrict(files: &Files, starts_programs: bool) -> Result<bool, Error> {
    let mut handled = AccessFs::from_write(KNOWN);
    if !starts_programs {
        handled |= AccessFs::Execute;
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .scope(Scope::from_all(KNOWN))?;
    if !files.connects {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut created = ruleset.create()?;
    for path in &files.written {
        let opened = match PathFd::new(path) {
            Ok(opened) => opened,
            Err(PathFdError::OpenCall { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                continue;
            }
            Err(source) => {
                let path = path.clone();
                return Err(Error::Open { path, source });
            }
        };
        let written = AccessFs::from_write(KNOWN);
        let written = if path.is_dir() {
            written
        } else {
            written & AccessFs::from_file(KNOWN)
        };
        created = created.add_rule(PathBeneath::new(opened, written))?;
    }
    Ok(created.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

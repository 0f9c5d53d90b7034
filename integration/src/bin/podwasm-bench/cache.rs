//! What a node's podwasm has compiled so far: the files that it shows to engines, and its own records.

use anyhow::{Context as _, Result, bail};
use podwasm_integration::node::Node;
use podwasm_integration::wait::until;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const COMPILER: &str = "/opt/podwasm/compiler";
const STATE: &str = "/var/lib/podwasm";
/// Small modules take a second; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of an attempt to compile a module.
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    outcome: String,
    pub peak_bytes: Option<f64>,
    reason: Option<String>,
}

/// A module on a node where podwasm runs.
#[derive(Clone, Debug)]
pub struct Cached {
    state: PathBuf,
    digest: String,
}

impl Cached {
    pub fn new(node: &Node, module: &[u8]) -> Self {
        Self {
            state: node.path(STATE),
            digest: format!("{:x}", Sha256::digest(module)),
        }
    }

    /// Whether there is native code of this tier; an error where there will be none.
    pub fn is_compiled(&self, tier: &str) -> Result<bool> {
        let folder = self.state.join("modules").join(&self.digest);
        if find(&folder, "", &format!("-{tier}.so")).is_some() {
            return Ok(true);
        }
        match self.attempt(tier)? {
            Some(attempt) if attempt.outcome != "compiled" => {
                bail!(
                    "{tier}: it could not be compiled: {}",
                    attempt.reason.unwrap_or_default()
                )
            }
            _ => Ok(false),
        }
    }

    /// What is on record of a tier.
    pub fn attempt(&self, tier: &str) -> Result<Option<Attempt>> {
        let records = self.state.join("compiled");
        let Some(record) = find(&records, &self.digest, &format!("-{tier}.json")) else {
            return Ok(None);
        };
        let text = fs::read(&record)?;
        let attempt = serde_json::from_slice(&text).with_context(|| format!("read {}", record.display()))?;
        Ok(Some(attempt))
    }
}

/// A file by how its name begins and ends. A folder need not be there yet.
fn find(folder: &Path, begin: &str, end: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found = names.filter(|name| name.starts_with(begin) && name.ends_with(end));
    found.next().map(|name| folder.join(name))
}

/// Waits until podwasm has compiled a module as well as it can. Without a compiler, modules are interpreted.
pub async fn wait_optimised(node: &Node, module: &[u8]) -> Result<()> {
    if !node.path(COMPILER).exists() {
        return Ok(());
    }
    let cached = Cached::new(node, module);
    until("the module is compiled", PATIENCE, async || {
        Ok(cached.is_compiled("optimised")?.then_some(()))
    })
    .await
    .context("wait for podwasm to compile a module")
}

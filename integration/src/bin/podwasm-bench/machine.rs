//! On what a run was made: numbers without it say little.

use anyhow::{Context as _, Result};
use podwasm_integration::node::{Node, target};
use serde::Serialize;
use std::fs;

/// The machine and the versions of all that takes part.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub memory: String,
    pub kernel: String,
    pub containerd: String,
    pub runc: String,
    pub crun: String,
    pub engine: String,
    pub plugin: String,
    pub load_before: String,
}

impl Machine {
    /// This machine, and a node on it.
    pub async fn of(node: &Node) -> Result<Self> {
        let first_line = async |program: &str| {
            let output = node.exec(program, ["--version"]).await?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            anyhow::Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        let engine = fs::read_to_string(target().join("engine/bundle/VERSION"));
        Ok(Self {
            processor: value_of("/proc/cpuinfo", "model name")?,
            processors: std::thread::available_parallelism()?.get(),
            memory: value_of("/proc/meminfo", "MemTotal")?,
            kernel: read("/proc/sys/kernel/osrelease")?,
            containerd: node.cri().version().await?,
            runc: first_line("runc").await?,
            crun: first_line("crun").await?,
            engine: engine.context("run `make engine`")?.trim().to_owned(),
            plugin: format!("{} ({})", first_line("/opt/podwasm/bin/podwasm").await?, BUILD),
            load_before: load()?,
        })
    }
}

const BUILD: &str = if cfg!(debug_assertions) {
    "an unoptimised build"
} else {
    "a release build"
};

/// The load averages over 1, 5 and 15 minutes.
pub fn load() -> Result<String> {
    let text = read("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

fn value_of(path: &str, key: &str) -> Result<String> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, value)| value.trim());
    Ok(value.unwrap_or("unknown").to_owned())
}

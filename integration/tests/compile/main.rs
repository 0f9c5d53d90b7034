//! Modules are compiled in the background, and nothing that goes wrong with that reaches a pod.
//!
//! What the daemon does is shown with stand-ins for the compiler, shell scripts that take as long or fail as a test needs it
//! (`daemon`); what compiler and engine make of it with the real ones (`native`).

mod daemon;
mod native;
mod stand_in;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::{PLUGIN_HTTP, Podwasm};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::until;
use serde_json::Value;

/// How long a test waits for a compiler, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = "/opt/podwasm/bin/podwasm";

/// What NRI set as the container's tier.
async fn tier(container: &ContainerHandle<'_>) -> Result<String> {
    let info = container.info().await?;
    let annotations = &info["runtimeSpec"]["annotations"];
    let tier = annotations["wasm.noderesource.dev/tier"].as_str();
    Ok(tier
        .with_context(|| format!("no tier in {annotations}"))?
        .to_owned())
}

/// What the engine is told.
async fn settings(container: &ContainerHandle<'_>) -> Result<String> {
    let info = container.info().await?;
    let env = info["runtimeSpec"]["process"]["env"]
        .as_array()
        .context("no env")?;
    let settings = env
        .iter()
        .find_map(|variable| variable.as_str()?.strip_prefix("PODWASM_SETTINGS="));
    Ok(settings.context("no settings")?.to_owned())
}

/// Waits until the plugin has logged a text so many times.
async fn wait_log(plugin: &Podwasm, text: &str, times: usize) -> Result<()> {
    until(text, PATIENCE, async || {
        let log = std::fs::read_to_string(plugin.process().log())?;
        Ok((log.matches(text).count() >= times).then_some(()))
    })
    .await
    .with_context(|| plugin.process().log_tail())
}

/// A sample of the plugin's metrics, 0 if there is none of that name and labels.
async fn metric(node: &Node, sample: &str) -> Result<f64> {
    let text = node.http(PLUGIN_HTTP.parse()?, "/metrics").await?.text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
    Ok(value.unwrap_or_default())
}

/// Runs the project's program in the node, and returns its exit code and what it said.
async fn podwasm<const N: usize>(node: &Node, args: [&str; N]) -> Result<(Option<i32>, String, String)> {
    let output = node.exec(PROGRAM, args).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// What `podwasm cache ls` knows of all modules.
async fn listed(node: &Node) -> Result<Vec<Value>> {
    let (code, stdout, stderr) = podwasm(node, ["cache", "ls", "--json"]).await?;
    ensure!(code == Some(0), "{stderr}");
    let listed: Value = serde_json::from_str(&stdout)?;
    Ok(listed["modules"].as_array().context("no modules")?.clone())
}

/// Waits until each of the tiers named is there for so many modules.
async fn wait_tiers(node: &Node, plugin: &Podwasm, tiers: &[&str], modules: usize) -> Result<()> {
    until(&format!("{tiers:?} of {modules} modules"), PATIENCE, async || {
        let listed = listed(node).await?;
        let has = |module: &&Value, tier: &&str| {
            let tiers = module["tiers"].as_array().into_iter().flatten();
            tiers
                .into_iter()
                .any(|found| found["tier"] == **tier && found["bytes"].is_u64())
        };
        let ready = listed
            .iter()
            .filter(|module| tiers.iter().all(|tier| has(module, tier)));
        Ok((ready.count() >= modules).then_some(()))
    })
    .await
    .with_context(|| plugin.process().log_tail())
}

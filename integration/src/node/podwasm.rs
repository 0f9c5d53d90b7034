//! The plugin under test, running in a node.

use super::{Node, Process};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, bail, ensure};
use std::process::Command;

/// Where the plugin serves its health and metrics, inside the node.
pub const PLUGIN_HTTP: &str = "127.0.0.1:9480";

/// A running `podwasm run`. Dropping it kills it.
#[derive(Debug)]
pub struct Podwasm {
    process: Process,
}

impl Podwasm {
    /// The program itself, to signal it, wait for it, or read what it logged.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Node {
    /// The plugin that all tests on this node share, started by the first that asks.
    pub async fn podwasm(&self) -> Result<&Podwasm> {
        self.podwasm.get_or_try_init(|| self.start_podwasm()).await
    }

    /// Starts the plugin of this build in the node and waits until it calls itself ready: registered with NRI, containerd
    /// reachable.
    pub async fn start_podwasm(&self) -> Result<Podwasm> {
        self.start_podwasm_with([]).await
    }

    /// The same with more arguments.
    pub async fn start_podwasm_with<const N: usize>(&self, args: [&str; N]) -> Result<Podwasm> {
        self.start_podwasm_as(|command| _ = command.args(args)).await
    }

    /// The same with a change of the command: its arguments, its environment.
    pub async fn start_podwasm_as(&self, change: impl FnOnce(&mut Command)) -> Result<Podwasm> {
        for needed in ["/opt/podwasm/bin/podwasm", "/opt/podwasm/engine/engine"] {
            ensure!(
                self.path(needed).exists(),
                "{needed} is not in the node: build it before the node starts"
            );
        }
        let mut command = Command::new("/opt/podwasm/bin/podwasm");
        command
            .arg("run")
            .args(["--nri-socket", "/run/nri/nri.sock"])
            .args(["--containerd-socket", "/run/containerd/containerd.sock"])
            .args(["--engine", "/opt/podwasm/engine"])
            .args(["--compiler", "/opt/podwasm/compiler"])
            .args(["--http", PLUGIN_HTTP])
            .env("RUST_LOG", "info,podwasm=debug,nri=debug")
            .env("RUST_BACKTRACE", "1");
        change(&mut command);
        let plugin = Podwasm {
            process: self.spawn("podwasm", command)?,
        };
        self.wait_podwasm_ready(&plugin)
            .await
            .with_context(|| plugin.process.log_tail())?;
        Ok(plugin)
    }

    /// Waits until the plugin calls itself ready, as after a restart of containerd.
    pub async fn wait_podwasm_ready(&self, plugin: &Podwasm) -> Result<()> {
        until("podwasm is ready", PATIENCE, async || {
            if let Some(status) = plugin.process.exited() {
                bail!("podwasm ended: {status}");
            }
            let answer = self.http(PLUGIN_HTTP.parse()?, "/readyz").await;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .await
    }
}

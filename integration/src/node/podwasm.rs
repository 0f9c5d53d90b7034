//! The plugin under test, running in a node.

use super::{Node, Process};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

    /// Its workers, by their pids in the host's count: the one at work first, then the one that waits.
    pub fn workers(&self) -> Result<Vec<i32>> {
        let front = self.process.pid();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok());
            let stat = std::fs::read_to_string(entry.path().join("stat"));
            let (Some(pid), Ok(stat)) = (pid, stat) else {
                continue;
            };
            let fields: Vec<_> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            let [state, parent] = [0, 1].map(|at| fields.get(at).copied().unwrap_or_default());
            if parent.parse() == Ok(front) && state != "Z" {
                let began: u64 = fields.get(19).context("no start time")?.parse()?;
                found.push((began, pid));
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, pid)| pid).collect())
    }

    /// Sends a signal to the worker at work.
    pub fn signal_worker(&self, signal: Signal) -> Result<()> {
        let worker = *self.workers()?.first().context("no worker")?;
        kill(Pid::from_raw(worker), signal).with_context(|| format!("send {signal} to worker {worker}"))
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

    /// The value of one of the plugin's metrics, by its name and labels; 0 while it does not say.
    pub async fn podwasm_metric(&self, sample: &str) -> Result<f64> {
        let text = self.http(PLUGIN_HTTP.parse()?, "/metrics").await?.text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
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

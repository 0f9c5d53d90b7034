//! The NRI library against real containerd: the `logger` example, started in every way that a plugin can be.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::{Process, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

/// The example, inside a node.
const LOGGER: &str = "/opt/podwasm/bin/examples/logger";

/// What a plugin is told of a pod with one container that is run, stopped and removed: each event, and the state that the
/// container is in.
const LIFE: [(&str, &str); 9] = [
    ("RunPodSandbox", ""),
    ("CreateContainer", "ContainerUnknown"),
    ("PostCreateContainer", "ContainerCreated"),
    ("StartContainer", "ContainerCreated"),
    ("PostStartContainer", "ContainerRunning"),
    ("StopContainer", "ContainerRunning"),
    ("RemoveContainer", "ContainerStopped"),
    ("StopPodSandbox", ""),
    ("RemovePodSandbox", ""),
];

/// Whether a call is this event. Before NRI 0.12 those that want no answer share one method.
fn is_event(method: &str, event: &str) -> bool {
    let answered = matches!(event, "CreateContainer" | "StopContainer");
    method == event || method == "StateChange" && !answered
}

/// What a logger wrote.
struct Log(PathBuf);

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The calls for one pod and its containers, in order: method and container's state.
    fn calls(&self, pod: &str) -> Vec<(String, String)> {
        let of_pod = format!(" pod=\"{pod}\" ");
        let lines = self.lines().into_iter().filter(|line| line.contains(&of_pod));
        lines
            .map(|line| (field(&line, "method"), field(&line, "state")))
            .collect()
    }

    /// Waits until as many lines hold all of `parts`.
    async fn wait(&self, count: usize, parts: &[&str]) -> Result<()> {
        until(&format!("{count} lines with {parts:?}"), PATIENCE, async || {
            let lines = self.lines();
            let found = lines
                .iter()
                .filter(|line| parts.iter().all(|part| line.contains(part)));
            Ok((found.count() >= count).then_some(()))
        })
        .await
        .with_context(|| self.lines().join("\n"))
    }

    /// Waits until a pod's life is told, and checks each event of it.
    async fn wait_life(&self, pod: &str) -> Result<()> {
        until(&format!("the end of {pod}"), PATIENCE, async || {
            Ok((self.calls(pod).len() >= LIFE.len()).then_some(()))
        })
        .await
        .with_context(|| format!("{:#?}", self.calls(pod)))?;
        let calls = self.calls(pod);
        let as_expected = |((method, state), (event, expected)): (&(String, String), (&str, &str))| {
            is_event(method, event) && state == expected
        };
        ensure!(
            calls.len() == LIFE.len() && calls.iter().zip(LIFE).all(as_expected),
            "{pod}: expected {LIFE:#?}, was told {calls:#?}"
        );
        Ok(())
    }
}

/// The value of a field in a log line, or nothing.
fn field(line: &str, name: &str) -> String {
    let value = line.split_once(&format!(" {name}=")).map_or("", |(_, rest)| rest);
    let value = value.split(' ').next().unwrap_or_default();
    value.trim_matches('"').to_owned()
}

/// Starts the logger as an external plugin.
fn start_logger(node: &Node) -> Result<(Process, Log)> {
    ensure!(
        node.path(LOGGER).exists(),
        "no {LOGGER}: run `cargo build -p nri --example logger`"
    );
    let mut command = Command::new(LOGGER);
    command
        .args(["--nri-socket", "/run/nri/nri.sock"])
        .env("NO_COLOR", "1");
    let process = node.spawn("logger", command)?;
    let log = Log(process.log().to_owned());
    Ok((process, log))
}

/// Runs a pod with one container through its whole life.
async fn live(node: &Node, name: &str) -> Result<()> {
    let pod = node.pod(name).run().await?;
    let container = pod
        .container("c")
        .image(node.busybox())
        .shell("echo up; exec sleep 1000");
    let container = container.start().await?;
    container.wait_stdout("up").await?;
    container.stop(Duration::ZERO).await?;
    container.remove().await?;
    pod.remove().await
}

async fn an_external_plugin_is_told_of_a_pod_s_life(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let (process, log) = start_logger(&node)?;
    log.wait(1, &["Synchronize pods=0 containers=0"]).await?;
    live(&node, "whole-life").await?;
    log.wait_life("whole-life").await?;

    process.signal(Signal::SIGTERM)?;
    let status = process.wait(PATIENCE).await?;
    ensure!(
        status.success(),
        "the logger ended with {status}\n{}",
        process.log_tail()
    );
    live(&node, "unseen").await?;
    assert_eq!(log.calls("unseen"), []);
    node.stop().await
}

async fn a_plugin_that_starts_late_is_told_what_there_is(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let pod = node.pod("early").run().await?;
    let sleep = |name| {
        pod.container(name)
            .image(node.busybox())
            .command(["sleep", "1000"])
    };
    sleep("runs").start().await?;
    sleep("waits").create().await?;
    let (_process, log) = start_logger(&node)?;
    log.wait(1, &["Synchronize pods=1 containers=2"]).await?;
    log.wait(
        1,
        &[
            "Synchronize: container",
            "container=\"runs\"",
            "state=ContainerRunning",
        ],
    )
    .await?;
    log.wait(
        1,
        &[
            "Synchronize: container",
            "container=\"waits\"",
            "state=ContainerCreated",
        ],
    )
    .await?;
    pod.remove().await?;
    node.stop().await
}

async fn a_plugin_comes_back_after_containerd_went(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let (process, log) = start_logger(&node)?;
    let pod = node.pod("stays").run().await?;
    let container = pod
        .container("stays")
        .image(node.busybox())
        .command(["sleep", "1000"]);
    container.start().await?;
    log.wait(1, &["logger: connected"]).await?;

    for (times, signal) in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM]
        .into_iter()
        .enumerate()
    {
        node.kill_containerd(signal).await?;
        log.wait(times + 1, &["logger: disconnected"]).await?;
        node.start_containerd().await?;
        log.wait(times + 2, &["logger: connected"]).await?;
        log.wait(
            times + 1,
            &[
                "Synchronize: container",
                "container=\"stays\"",
                "state=ContainerRunning",
            ],
        )
        .await?;
        let name = format!("after-{times}");
        live(&node, &name).await?;
        log.wait_life(&name)
            .await
            .with_context(|| format!("after {signal}"))?;
    }
    ensure!(process.exited().is_none(), "{}", process.log_tail());
    node.stop().await
}

/// containerd gives a plugin that it starts itself neither output nor environment, so a script adds both.
const PREINSTALLED: &str = "#!/bin/sh
exec env NO_COLOR=1 /opt/podwasm/bin/examples/logger 2>>/var/log/preinstalled.log
";

async fn a_pre_installed_plugin_is_told_of_a_pod_s_life(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    node.kill_containerd(Signal::SIGTERM).await?;
    let plugin = node.path("/opt/nri/plugins/10-logger");
    fs::create_dir_all(plugin.parent().context("it lies in a folder")?)?;
    fs::write(&plugin, PREINSTALLED)?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    node.start_containerd().await?;

    let log = Log(node.logs().join("preinstalled.log"));
    log.wait(1, &["logger: connected"]).await?;
    // containerd 1.7 synchronizes only plugins that connect from outside.
    log.wait(
        usize::from(flavor != Flavor::Trixie),
        &["Synchronize pods=0 containers=0"],
    )
    .await?;
    live(&node, "whole-life").await?;
    log.wait_life("whole-life").await?;
    node.stop().await
}

on_each! {
    a_plugin_comes_back_after_containerd_went
    a_plugin_that_starts_late_is_told_what_there_is
    a_pre_installed_plugin_is_told_of_a_pod_s_life
    an_external_plugin_is_told_of_a_pod_s_life
}

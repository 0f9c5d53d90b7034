//! containerd and the plugin come and go while containers are created.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::chaos::connection;
use podwasm_integration::node::{Podwasm, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::until;

/// How often a node is disrupted, and how many containers are created before each time and after the last.
const DISRUPTIONS: usize = 3;
const CREATIONS_BETWEEN: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts creations, so that disruptions come in their midst whatever the machine's pace.
#[derive(Default)]
struct Progress {
    created: AtomicUsize,
    disrupted: AtomicUsize,
}

impl Progress {
    async fn wait_for_creations(&self) -> Result<()> {
        let wanted = self.created.load(Ordering::SeqCst) + CREATIONS_BETWEEN;
        until("containers are created", PATIENCE, async || {
            Ok((self.created.load(Ordering::SeqCst) >= wanted).then_some(()))
        })
        .await
    }

    fn is_over(&self) -> bool {
        self.disrupted.load(Ordering::SeqCst) > DISRUPTIONS
    }
}

/// What became of the containers of a round.
#[derive(Debug, Default)]
struct Tally {
    connected: usize,
    meanwhile: usize,
    unrouted_meanwhile: usize,
}

/// Creates and runs containers one after the other, as a kubelet does, which tries again when containerd was away. Every one
/// has to be created, and those during which the plugin was connected have to be routed.
async fn create_containers(node: &Node, image: &str, progress: &Progress) -> Result<Tally> {
    let mut tally = Tally::default();
    while !progress.is_over() {
        let (before, code, after) = create_one(node, image).await?;
        progress.created.fetch_add(1, Ordering::SeqCst);
        if before.is_some() && before == after {
            ensure!(
                code == 42,
                "a container came out with {code} while the plugin was connected: {tally:?}"
            );
            tally.connected += 1;
        } else {
            tally.meanwhile += 1;
            tally.unrouted_meanwhile += usize::from(code != 42);
        }
    }
    Ok(tally)
}

/// The connection before the creation that succeeded, the exit code, the connection after that creation.
async fn create_one(node: &Node, image: &str) -> Result<(Option<String>, i32, Option<String>)> {
    until("a container is created", PATIENCE, async || {
        let attempt = async {
            let pod = node.pod("busy").run().await?;
            let before = connection(node).await;
            let container = pod.container("c").image(image).create().await?;
            let after = connection(node).await;
            container.start().await?;
            let code = container.wait_exit().await?;
            pod.remove().await?;
            anyhow::Ok((before, code, after))
        };
        match attempt.await {
            Ok(done) => Ok(Some(done)),
            Err(error) if format!("{error:#}").contains("podwasm:") => {
                Err(error.context("a failure of the plugin's own"))
            }
            Err(_) => Ok(None), // containerd was away
        }
    })
    .await
}

async fn restarting_containerd_loses_nothing(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let image = node.push("exit-42", &exits_with_42("/app.wasm")).await?;
    let progress = Progress::default();
    let disrupt = async {
        for _ in 0..=DISRUPTIONS {
            progress.wait_for_creations().await?;
            if progress.disrupted.fetch_add(1, Ordering::SeqCst) < DISRUPTIONS {
                node.restart_containerd().await?;
            }
        }
        anyhow::Ok(())
    };
    let (tally, disrupted) = tokio::join!(create_containers(&node, &image, &progress), disrupt);
    disrupted?;
    let tally = tally.with_context(|| plugin.process().log_tail())?;
    println!("{flavor:?}: {tally:?}");
    ensure!(
        tally.connected >= CREATIONS_BETWEEN,
        "hardly any container was created while connected: {tally:?}"
    );
    node.wait_podwasm_ready(&plugin).await?;
    node.stop().await
}

async fn killing_the_plugin_loses_nothing(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let image = node.push("exit-42", &exits_with_42("/app.wasm")).await?;
    let mut plugin = node.start_podwasm().await?;
    let progress = Progress::default();
    let disrupt = async {
        for _ in 0..=DISRUPTIONS {
            progress.wait_for_creations().await?;
            if progress.disrupted.fetch_add(1, Ordering::SeqCst) < DISRUPTIONS {
                plugin.process().signal(Signal::SIGKILL)?;
                plugin.process().wait(PATIENCE).await?;
                plugin = node.start_podwasm().await?;
            }
        }
        anyhow::Ok(plugin)
    };
    let (tally, plugin) = tokio::join!(create_containers(&node, &image, &progress), disrupt);
    let plugin: Podwasm = plugin?;
    let tally = tally.with_context(|| plugin.process().log_tail())?;
    println!("{flavor:?}: {tally:?}");
    ensure!(
        tally.connected >= CREATIONS_BETWEEN,
        "hardly any container was created while connected: {tally:?}"
    );
    node.stop().await
}

async fn two_instances_agree(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let image = node.push("exit-42", &exits_with_42("/app.wasm")).await?;
    let first = node.start_podwasm_with(["--log-format", "json"]).await?;
    let _second = node
        .start_podwasm_with([
            "--log-format",
            "json",
            "--http",
            "127.0.0.1:9481",
            "--state",
            "/var/lib/podwasm-second",
        ])
        .await?;
    until("the second instance is ready", PATIENCE, async || {
        let answer = node.http("127.0.0.1:9481".parse()?, "/readyz").await;
        Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
    })
    .await?;
    let pod = node.pod("both").run().await?;
    for name in ["a", "b", "c"] {
        let container = pod.container(name).image(&image).start().await?;
        assert_eq!(container.wait_exit().await?, 42);
    }
    pod.runs_native().await?;
    let routed = std::fs::read_to_string(first.process().log())?
        .matches("\"message\":\"routed\"")
        .count();
    ensure!(
        routed == 6,
        "each of two instances should have routed three containers, but it was {routed} in all"
    );
    node.stop().await
}

on_each! {
    killing_the_plugin_loses_nothing
    restarting_containerd_loses_nothing
    two_instances_agree
}

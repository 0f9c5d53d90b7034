//! containerd ends, comes back, and stalls while containers are created.

use std::time::Duration;

use crate::{
    AT_ONCE, asked, both_kinds_run, check_under_faults, created_while, kills, log, script, with_log,
};
use anyhow::{Context as _, Result, ensure};
use podwasm_integration::chaos::Field;
use podwasm_integration::node::{Podwasm, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

/// How often containerd is restarted. `CHAOS_RESTARTS` says otherwise.
const RESTARTS: usize = 4;
/// As long as containerd stands still: within what it gives a plugin, and beyond it.
const STALL: Duration = Duration::from_millis(300);
const LONG_STALL: Duration = Duration::from_secs(3);

/// Waits until each of these containers is told of as one that was created without podwasm.
async fn are_found(plugin: &Podwasm, ids: &[String]) -> Result<()> {
    until(
        "what was created without podwasm is told of",
        PATIENCE,
        async || {
            let log = log(plugin.process())?;
            let told: Vec<_> = log
                .lines()
                .filter(|line| line.contains("created without podwasm"))
                .collect();
            let is_told = |id: &String| told.iter().any(|line| line.contains(id.as_str()));
            Ok(ids.iter().all(is_told).then_some(()))
        },
    )
    .await
    .with_context(|| format!("{ids:?}"))
}

/// By TERM and by KILL in turns. What fails because containerd was away is tried again; nothing may fail for a reason of podwasm's, and
/// nothing may come out unadjusted while it was connected. What was created while it was not is found.
async fn restarts_of_containerd_fail_no_container(flavor: Flavor) -> Result<()> {
    let restarts = asked("CHAOS_RESTARTS").unwrap_or(RESTARTS);
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let disrupt = async {
        for restart in 0..restarts {
            field.wait_for(3).await?;
            let signal = [Signal::SIGTERM, Signal::SIGKILL][restart % 2];
            node.kill_containerd(signal).await?;
            node.start_containerd().await?;
        }
        node.wait_podwasm_ready(&plugin).await?;
        field.wait_for(2 * AT_ONCE).await?;
        Ok(())
    };
    let tally = Box::pin(created_while(&plugin, &field, disrupt)).await?;
    println!("{flavor:?}: {restarts} restarts of containerd: {tally}");
    with_log(&plugin, async {
        tally.check(tally.native + tally.wasm + tally.meanwhile.len())?;
        ensure!(tally.wasm > 0 && tally.native > 0, "{tally}");
        are_found(&plugin, &tally.meanwhile).await
    })
    .await?;
    node.stop().await
}

/// containerd stands still again and again, also between a question to podwasm and the answer's arrival, and podwasm's own questions wait.
async fn a_containerd_that_stalls_fails_no_container(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let disrupt = async {
        for _ in 0..kills() {
            field.wait_for(2).await?;
            stall(&node, STALL).await?;
        }
        Ok(())
    };
    let tally = created_while(&plugin, &field, disrupt).await?;
    println!("{flavor:?}: {} stalls: {tally}", kills());
    check_under_faults(&plugin, &tally).await?;
    node.stop().await
}

/// containerd stands still for longer than it waits for a plugin, so that it may drop podwasm, whose answer has been lying there. podwasm is back
/// at once, and finds what was created without it.
async fn what_a_long_stall_lets_through_is_found(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let disrupt = async {
        for _ in 0..2 {
            field.wait_for(2).await?;
            stall(&node, LONG_STALL).await?;
        }
        field.wait_for(2 * AT_ONCE).await?;
        Ok(())
    };
    let tally = created_while(&plugin, &field, disrupt).await?;
    println!("{flavor:?}: long stalls: {tally}");
    with_log(&plugin, async {
        ensure!(tally.failed.is_empty() && tally.changed == 0, "{tally}");
        are_found(&plugin, &[tally.unadjusted, tally.meanwhile].concat()).await
    })
    .await?;
    node.stop().await
}

async fn stall(node: &Node, duration: Duration) -> Result<()> {
    node.signal_containerd(Signal::SIGSTOP).await?;
    tokio::time::sleep(duration).await;
    node.signal_containerd(Signal::SIGCONT).await
}

/// As after a crash of the machine: no process is left, `/run` is empty, and the disks are as they were.
async fn a_node_that_starts_again_goes_on(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let image = node.push("again", &exits_with_42("/app.wasm")).await?;
    both_kinds_run(&node, &image).await?;
    let pod = node.pod("before").run().await?;
    let container = pod
        .container("c")
        .image(&image)
        .command(["/app.wasm", "sleep"])
        .start()
        .await?;
    let pid = container.info().await?["pid"]
        .as_u64()
        .context("containerd names no process")?;

    node.kill_containerd(Signal::SIGKILL).await?;
    plugin.process().signal(Signal::SIGKILL)?;
    plugin.process().wait(PATIENCE).await?;
    let crash = format!(
        "shim=$(awk '/^PPid:/ {{ print $2 }}' /proc/{pid}/status)
         kill -KILL $(cat /proc/$shim/task/*/children) $shim
         umount -l /run/netns/* $(awk '$2 ~ \"^/run/containerd/\" {{ print $2 }}' /proc/mounts)
         find /run -xdev -mindepth 1 -delete"
    );
    script(&node, &crash).await?;

    node.start_containerd().await?;
    let plugin = node.start_podwasm().await?;
    with_log(&plugin, both_kinds_run(&node, &image)).await?;
    pod.remove().await?;
    node.stop().await
}

/// Containers that are created while no plugin is there are found, and told, by the one that comes.
async fn what_was_created_while_nobody_listened_is_found(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let field = Field::open(&node).await?;
    let tally = field.create(1, |number| number >= 4).await?;
    ensure!(tally.meanwhile.len() == 2 && tally.native == 2, "{tally}");
    let plugin = node.start_podwasm().await?;
    until("they are counted", PATIENCE, async || {
        let found = node.podwasm_metric("podwasm_unadjusted_containers").await?;
        Ok((found > 1.5).then_some(()))
    })
    .await
    .with_context(|| plugin.process().log_tail())?;
    are_found(&plugin, &tally.meanwhile).await?;
    node.stop().await
}

on_both! {
    a_containerd_that_stalls_fails_no_container
    a_node_that_starts_again_goes_on
    restarts_of_containerd_fail_no_container
    what_a_long_stall_lets_through_is_found
    what_was_created_while_nobody_listened_is_found
}

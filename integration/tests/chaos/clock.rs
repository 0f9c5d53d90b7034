//! The wall clock jumps, and a dead worker's process id comes again, while podwasm runs.

use std::fs;
use std::process::Command;

use crate::{both_kinds_run, created_while, log, script, with_log};
use anyhow::{Context as _, Result, ensure};
use podwasm_integration::chaos::Field;
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

/// What the daemon is told of the wall clock, read each time that it asks.
const CLOCK: &str = "/tmp/clock";

/// Has a program see a wall clock of its own. The monotonic one stays the kernel's.
fn with_own_clock(command: &mut Command) {
    let folder = format!("/opt/tools/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    command
        .env("LD_PRELOAD", format!("{folder}/libfaketimeMT.so.1"))
        .env("FAKETIME_TIMESTAMP_FILE", CLOCK)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DISABLE_SHM", "1");
}

/// By decades, forth and back, in the midst of creations; modules arrive, are compiled and run all the same.
async fn a_clock_that_jumps_fails_no_container(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let set_clock = |time: &str| fs::write(node.path(CLOCK), time);
    set_clock("+0")?;
    let plugin = node.start_podwasm_as(with_own_clock).await?;
    let field = Field::open(&node).await?;
    let disrupt = async {
        for (number, time) in ["@2060-01-01 00:00:00", "@2001-01-01 00:00:00", "+5s", "-5s", "+0"]
            .into_iter()
            .enumerate()
        {
            set_clock(time)?;
            field.wait_for(6).await?;
            let image = node
                .push(&format!("clock-{number}"), &exits_with_42("/app.wasm"))
                .await?;
            both_kinds_run(&node, &image).await?;
        }
        Ok(())
    };
    let tally = Box::pin(created_while(&plugin, &field, disrupt)).await?;
    println!("{flavor:?}: the clock jumped by decades: {tally}");
    with_log(&plugin, async { tally.check(tally.native + tally.wasm) }).await?;
    let log = log(plugin.process())?;
    for year in ["2060-", "2001-"] {
        ensure!(
            log.lines().any(|line| line.starts_with(year)),
            "it did not see {year}: {log}"
        );
    }
    node.stop().await
}

/// A process id as the node has it.
fn id_in_node(pid: i32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let id = ids
        .and_then(|ids| ids.split_whitespace().last())
        .context("no NSpid")?;
    Ok(id.parse()?)
}

/// Something else gets the id of a worker that was killed. It is none of podwasm's business, whoever ends meanwhile.
async fn who_gets_a_dead_workers_id_is_left_alone(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let image = node.push("left-alone", &exits_with_42("/app.wasm")).await?;
    let worker = *plugin.workers()?.first().context("no worker")?;
    let id = id_in_node(worker)?;
    plugin.signal_worker(Signal::SIGKILL)?;
    until("the next worker is at work", PATIENCE, async || {
        Ok((!plugin.workers()?.contains(&worker) && plugin.workers()?.len() == 2).then_some(()))
    })
    .await?;
    // Who starts something in between takes the id away; then it has to come round again.
    let take = format!(
        "for attempt in $(seq 50); do
            echo $(({id} - 1)) >/proc/sys/kernel/ns_last_pid
            sleep 600 >/dev/null 2>&1 &
            [ $! != {id} ] || exit 0
            kill $!
        done
        exit 1"
    );
    script(&node, &take).await?;
    for _ in 0..3 {
        both_kinds_run(&node, &image).await?;
        plugin.signal_worker(Signal::SIGKILL)?;
    }
    with_log(&plugin, both_kinds_run(&node, &image)).await?;
    plugin.process().signal(Signal::SIGTERM)?;
    plugin.process().wait(PATIENCE).await?;
    script(&node, &format!("[ \"$(cat /proc/{id}/comm)\" = sleep ]")).await?;
    node.stop().await
}

on_both! {
    a_clock_that_jumps_fails_no_container
    who_gets_a_dead_workers_id_is_left_alone
}

//! Workers are killed while containers are created, and containers are created by the dozen.

use std::time::Duration;

use crate::{asked, check_under_faults, created_while, kills, with_log};
use anyhow::{Result, ensure};
use podwasm_integration::chaos::Field;
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

/// How many containers are created where nothing goes wrong, in how many rows. `CHAOS_CREATES` says otherwise.
const CREATES: usize = 64;
const ROWS: usize = 16;
/// How many are asked for at the same moment. `CHAOS_AT_ONCE` says otherwise.
const BURST: usize = 100;

/// Workers are killed in the midst of creations, as soon as the next one is at work.
async fn killed_workers_fail_no_container(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let disrupt = async {
        for kill in 1..=kills() {
            field.wait_for(3).await?;
            plugin.signal_worker(Signal::SIGKILL)?;
            until("the next worker is at work", PATIENCE, async || {
                #[expect(clippy::cast_precision_loss, reason = "a small number")]
                let wanted = (kill + 1) as f64;
                let workers = node.podwasm_metric("podwasm_workers_total").await?;
                Ok((workers >= wanted).then_some(()))
            })
            .await?;
        }
        Ok(())
    };
    let tally = created_while(&plugin, &field, disrupt).await?;
    println!("{flavor:?}: {} workers killed: {tally}", kills());
    check_under_faults(&plugin, &tally).await?;
    ensure!(tally.wasm > 0 && tally.native > 0, "{tally}");
    let connections = node.podwasm_metric("podwasm_nri_connections_total").await?;
    ensure!(connections < 1.5, "the plugin connected {connections} times");
    node.stop().await
}

/// A worker that ends every 350 ms, whatever it is doing.
async fn a_worker_that_crashes_in_a_loop_fails_no_container(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let disrupt = async {
        for _ in 0..kills() {
            tokio::time::sleep(Duration::from_millis(350)).await;
            plugin.signal_worker(Signal::SIGKILL)?;
        }
        Ok(())
    };
    let tally = created_while(&plugin, &field, disrupt).await?;
    println!("{flavor:?}: {} crashes: {tally}", kills());
    check_under_faults(&plugin, &tally).await?;
    node.stop().await
}

/// Native and Wasm containers side by side, many at once.
async fn many_containers_come_out_as_they_should(flavor: Flavor) -> Result<()> {
    let creates = asked("CHAOS_CREATES").unwrap_or(CREATES);
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let create = field.create(ROWS, |number| number >= creates);
    let tally = with_log(&plugin, create).await?;
    println!("{flavor:?}: {creates} creates, {ROWS} at once: {tally}");
    with_log(&plugin, async { tally.check(creates) }).await?;
    node.stop().await
}

/// As many at the same moment as a node may have: containerd lets them see the plugins one by one.
async fn all_that_is_created_at_once_comes_out_as_it_should(flavor: Flavor) -> Result<()> {
    let burst = asked("CHAOS_AT_ONCE").unwrap_or(BURST);
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let tally = with_log(&plugin, field.create(burst, |number| number >= burst)).await?;
    println!("{flavor:?}: {burst} at once: {tally}");
    with_log(&plugin, async { tally.check(burst) }).await?;
    node.stop().await
}

on_both! {
    all_that_is_created_at_once_comes_out_as_it_should
    a_worker_that_crashes_in_a_loop_fails_no_container
    killed_workers_fail_no_container
    many_containers_come_out_as_they_should
}

//! Faults on purpose, each a test by itself. `make chaos` runs them, and repeats them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::chaos::Field;
use podwasm_integration::node::{Podwasm, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows of creations side by side. containerd lets one at a time see the plugins.
const AT_ONCE: usize = 4;
/// How often something is killed in a test. `CHAOS_KILLS` says otherwise.
const KILLS: usize = 12;

/// How many containers are created where nothing goes wrong, in how many rows. `CHAOS_CREATES` says otherwise.
const CREATES: usize = 64;
const ROWS: usize = 16;

fn kills() -> usize {
    asked("CHAOS_KILLS").unwrap_or(KILLS)
}

fn asked(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The node's own plugin, for its log, should the test fail.
async fn with_log<T>(plugin: &Podwasm, work: impl Future<Output = Result<T>>) -> Result<T> {
    work.await.with_context(|| plugin.process().log_tail())
}

/// Workers are killed in the midst of creations, as soon as the next one is at work.
async fn killed_workers_fail_no_container(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let is_over = AtomicBool::new(false);
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
        is_over.store(true, Ordering::SeqCst);
        anyhow::Ok(())
    };
    let create = field.create(AT_ONCE, |_| is_over.load(Ordering::SeqCst));
    let (tally, ()) = with_log(&plugin, async { tokio::try_join!(create, disrupt) }).await?;
    println!("{flavor:?}: {} workers killed: {tally}", kills());
    with_log(&plugin, async {
        tally.check_under_faults(tally.native + tally.wasm)
    })
    .await?;
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
    let is_over = AtomicBool::new(false);
    let disrupt = async {
        for _ in 0..kills() {
            tokio::time::sleep(Duration::from_millis(350)).await;
            plugin.signal_worker(Signal::SIGKILL)?;
        }
        is_over.store(true, Ordering::SeqCst);
        anyhow::Ok(())
    };
    let create = field.create(AT_ONCE, |_| is_over.load(Ordering::SeqCst));
    let (tally, ()) = with_log(&plugin, async { tokio::try_join!(create, disrupt) }).await?;
    println!("{flavor:?}: {} crashes: {tally}", kills());
    with_log(&plugin, async {
        tally.check_under_faults(tally.native + tally.wasm)
    })
    .await?;
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

/// Containers that are created while no plugin is there are found, and told, by the one that comes.
async fn what_was_created_while_nobody_listened_is_found(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let field = Field::open(&node).await?;
    let tally = field.create(1, |number| number >= 4).await?;
    ensure!(tally.unadjusted.len() == 2 && tally.native == 2, "{tally}");
    let plugin = node.start_podwasm().await?;
    until("they are counted", PATIENCE, async || {
        let found = node.podwasm_metric("podwasm_unadjusted_containers").await?;
        Ok((found > 1.5).then_some(()))
    })
    .await
    .with_context(|| plugin.process().log_tail())?;
    let log = std::fs::read_to_string(plugin.process().log())?;
    for id in &tally.unadjusted {
        ensure!(
            log.lines()
                .any(|line| line.contains("created without podwasm") && line.contains(id.as_str())),
            "{id} is not told of"
        );
    }
    node.stop().await
}

on_both! {
    what_was_created_while_nobody_listened_is_found
    a_worker_that_crashes_in_a_loop_fails_no_container
    killed_workers_fail_no_container
    many_containers_come_out_as_they_should
}

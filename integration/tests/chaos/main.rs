//! Faults on purpose, each a test by itself. `make chaos` runs them, and repeats them.

mod cache;
mod clock;
mod containerd;
mod counting;
mod disk;
mod images;
mod install;
mod plugins;
mod workers;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::chaos::{Field, Tally};
use podwasm_integration::node::{Podwasm, Process};
use podwasm_integration::prelude::*;

/// Rows of creations side by side. containerd lets one at a time see the plugins.
const AT_ONCE: usize = 4;
/// How often something is killed in a test. `CHAOS_KILLS` says otherwise.
const KILLS: usize = 12;

fn kills() -> usize {
    asked("CHAOS_KILLS").unwrap_or(KILLS)
}

/// What a variable asks for. Tests are small unless one is set, and say how much they did.
fn asked(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The node's own plugin, for its log, should the test fail.
async fn with_log<T>(plugin: &Podwasm, work: impl Future<Output = Result<T>>) -> Result<T> {
    work.await.with_context(|| plugin.process().log_tail())
}

/// What a program has written so far.
fn log(process: &Process) -> Result<String> {
    Ok(std::fs::read_to_string(process.log())?)
}

/// Has containers created for as long as `disrupt` takes, and says what became of them.
async fn created_while(
    plugin: &Podwasm,
    field: &Field<'_>,
    disrupt: impl Future<Output = Result<()>>,
) -> Result<Tally> {
    let is_over = AtomicBool::new(false);
    let disrupt = async {
        disrupt.await?;
        is_over.store(true, Ordering::SeqCst);
        Ok(())
    };
    let create = field.create(AT_ONCE, |_| is_over.load(Ordering::SeqCst));
    let (tally, ()) = with_log(plugin, async { tokio::try_join!(create, disrupt) }).await?;
    Ok(tally)
}

/// An error unless all that was created came out as it should, or was refused with a reason.
async fn check_under_faults(plugin: &Podwasm, tally: &Tally) -> Result<()> {
    with_log(plugin, async {
        tally.check_under_faults(tally.native + tally.wasm)
    })
    .await
}

/// A native container and a Wasm one in a pod of their own, both of which have to run.
async fn both_kinds_run(node: &Node, wasm: &str) -> Result<()> {
    let run = async {
        let pod = node.pod("both").run().await?;
        pod.runs_native().await?;
        let wasm = pod.container("wasm").image(wasm).start().await?;
        wasm.ends_with(42).await?;
        pod.remove().await
    };
    Box::pin(run).await
}

/// Runs a shell's script in the node, which has to succeed.
async fn script(node: &Node, script: &str) -> Result<()> {
    let output = node.exec("sh", ["-ec", script]).await?;
    ensure!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

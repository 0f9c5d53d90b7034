//! Faults on purpose, each a test by itself. `make chaos` runs them, and repeats them.

mod cache;
mod containerd;
mod counting;
mod images;
mod install;
mod plugins;
mod workers;

use anyhow::{Context as _, Result, ensure};
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

/// An image of a module, which ends with 42.
fn exits_with_42() -> Image {
    Image::linux()
        .program("/app.wasm", guest("guest.wasm"))
        .entrypoint(["/app.wasm", "exit", "42"])
}

/// Runs a container to its end, which has to be this one.
async fn ends_with(container: &ContainerHandle<'_>, expected: i32) -> Result<()> {
    let code = container.wait_exit().await?;
    ensure!(code == expected, "it ended with {code}: {:?}", container.logs());
    Ok(())
}

/// A native container and a Wasm one in a pod of their own, both of which have to run.
async fn both_kinds_run(node: &Node, wasm: &str) -> Result<()> {
    let run = async {
        let pod = node.pod("both").run().await?;
        let native = pod
            .container("native")
            .image(node.busybox())
            .shell("exit 3")
            .start()
            .await?;
        ends_with(&native, 3).await?;
        let wasm = pod.container("wasm").image(wasm).start().await?;
        ends_with(&wasm, 42).await?;
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

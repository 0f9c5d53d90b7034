//! What compiler and engine make of modules.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::until;

use super::{PATIENCE, tier, wait_tiers};

/// The C guest as a module of its own: a custom section of this name makes another hash.
fn guest_called(name: u8) -> Image {
    let mut module = guest("guest.wasm");
    module.extend([0, 2, 1, name]);
    Image::linux()
        .program("/app.wasm", module)
        .entrypoint(["/app.wasm"])
}

/// The native code that a container's process has mapped.
async fn mapped(node: &Node, container: &ContainerHandle<'_>) -> Result<Option<String>> {
    let pid = container.info().await?["pid"].as_u64().context("no pid")?;
    let maps = fs::read_to_string(node.path(format!("/proc/{pid}/maps")))?;
    let file = |line: &str| Some(line.rsplit_once('/')?.1.to_owned());
    let tiers = ["-fast.so", "-optimised.so"];
    let found = maps.lines().filter_map(file);
    Ok(found
        .into_iter()
        .find(|name| tiers.iter().any(|tier| name.ends_with(tier))))
}

async fn sleeping<'a>(
    node: &'a Node,
    reference: &str,
    annotation: &str,
) -> Result<(PodHandle<'a>, ContainerHandle<'a>)> {
    let pod = node
        .pod("native")
        .annotation("wasm.noderesource.dev", annotation)
        .run()
        .await?;
    let container = pod
        .container("c")
        .image(reference)
        .args(["sleep"])
        .start()
        .await?;
    container.wait_stdout("sleep").await?;
    Ok((pod, container))
}

on_nodes! {
    async fn a_container_runs_native_code(node: &Node) {
        let plugin = node.podwasm().await?;
        let reference = node.push("native", &guest_called(b'n')).await?;
        node.cri().pull(&reference).await?;
        wait_tiers(node, plugin, &["fast", "optimised"], 1).await?;
        let (pod, container) = until("it is optimised", PATIENCE, async || {
            let (pod, container) = sleeping(node, &reference, "aot: auto").await?;
            if tier(&container).await? == "optimised" {
                return Ok(Some((pod, container)));
            }
            pod.remove().await?;
            Ok(None)
        })
        .await?;
        let code = mapped(node, &container).await?;
        ensure!(code.as_ref().is_some_and(|name| name.ends_with("-optimised.so")), "{code:?}");
        let again = container.exec(["/app.wasm", "exit", "42"]).await?;
        assert_eq!((again.code, again.stderr.as_str()), (42, ""));
        container.stop(Duration::from_secs(20)).await?;
        assert_eq!(container.wait_exit().await?, 143);
        pod.remove().await?;

        let (pod, container) = sleeping(node, &reference, "aot: off").await?;
        assert_eq!((tier(&container).await?.as_str(), mapped(node, &container).await?), ("interpreted", None));
        pod.remove().await?;
    }

    async fn a_container_that_starts_early_waits_for_native_code(node: &Node) {
        node.podwasm().await?;
        let reference = node.push("early", &guest_called(b'e')).await?;
        let (pod, container) = sleeping(node, &reference, "aot: auto").await?;
        let code = mapped(node, &container).await?;
        ensure!(code.is_some(), "tier {}", tier(&container).await?);
        pod.remove().await?;
    }

    async fn odd_modules_end_as_they_do_interpreted(node: &Node) {
        let plugin = node.podwasm().await?;
        for name in ["endless-recursion", "memory-4gib", "no-start", "odd-start", "start-exits", "start-traps", "universal", "unknown-import"] {
            let reference = node.push(name, &guest_image(name)).await?;
            let mut ends = Vec::new();
            for annotation in ["aot: off", "aot: auto"] {
                let pod = node.pod("odd").annotation("wasm.noderesource.dev", annotation).run().await?;
                let container = pod.container("c").image(&reference).start().await?;
                ends.push(container.wait_exit().await?);
                pod.remove().await?;
            }
            assert_eq!(ends[0], ends[1], "{name}");
        }
        ensure!(plugin.process().exited().is_none(), "{}", plugin.process().log_tail());
    }
}

//! Images are looked at when they arrive, and what is remembered of them is never what they were before.

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::image::Content;
use podwasm_integration::node::Podwasm;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

/// How often a name changes from a module to a native program and back.
const CHANGES: usize = 12;

/// Waits until the plugin has logged a text so many times.
async fn wait_log(plugin: &Podwasm, text: &str, times: usize) -> Result<()> {
    until(text, PATIENCE, async || {
        let log = std::fs::read_to_string(plugin.process().log())?;
        Ok((log.matches(text).count() >= times).then_some(()))
    })
    .await
    .with_context(|| plugin.process().log_tail())
}

fn modules(node: &Node) -> Result<usize> {
    Ok(std::fs::read_dir(node.path("/var/lib/podwasm/modules"))?.count())
}

async fn exit_code(node: &Node, reference: &str, command: &[&str]) -> Result<i32> {
    let pod = node.pod("arrived").run().await?;
    let container = pod
        .container("c")
        .image(reference)
        .command(command.iter().copied());
    let code = container.start().await?.wait_exit().await?;
    pod.remove().await?;
    Ok(code)
}

fn image(program: Vec<u8>) -> Image {
    Image::linux()
        .program("/app.wasm", program)
        .entrypoint(["/app.wasm", "exit", "42"])
}

/// Pulls an image, waits for its module to be kept, and runs it.
async fn arrives(node: &Node, plugin: &Podwasm, image: &impl Content, command: &[&str]) -> Result<()> {
    let before = modules(node)?;
    let reference = node.push("arriving", image).await?;
    node.cri().pull(&reference).await?;
    until("the module is in the store", PATIENCE, async || {
        Ok((modules(node)? == before + 1).then_some(()))
    })
    .await
    .with_context(|| plugin.process().log_tail())?;
    assert_eq!(exit_code(node, &reference, command).await?, 0);
    Ok(())
}

async fn modules_are_in_the_store_before_a_container_asks(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let there_before = node.push("before", &image(guest("guest.wasm"))).await?;
    node.cri().pull(&there_before).await?;
    let plugin = node.start_podwasm().await?;
    wait_log(&plugin, "module found", 1).await?;
    assert_eq!(modules(node)?, 1);

    let wasi = Image::platform("wasi", "wasm")
        .program("/app.wasm", guest("hello.wasm"))
        .entrypoint(["/app.wasm"]);
    arrives(node, &plugin, &wasi, &["/app.wasm"]).await?;
    arrives(
        node,
        &plugin,
        &Artifact::wasm(guest("rust-hello.wasm")),
        &["/hello"],
    )
    .await?;
    assert_eq!(exit_code(node, &there_before, &[]).await?, 42);
    assert_eq!(modules(node)?, 3);
    Ok(())
}

async fn a_name_that_changes_is_followed(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let kinds = [
        (image(guest("guest.wasm")), 42),
        (image(std::fs::read(node.path("/bin/busybox"))?), 127),
    ];
    for change in 0..CHANGES {
        let (image, code) = &kinds[change % 2];
        let reference = node.push_as("moving", "latest", image).await?;
        node.cri().pull(&reference).await?;
        // Twice: the second is decided upon from memory.
        for _ in 0..2 {
            let found = exit_code(node, &reference, &[]).await?;
            ensure!(
                found == *code,
                "change {change}: {found}\n{}",
                plugin.process().log_tail()
            );
        }
    }
    let log = std::fs::read_to_string(plugin.process().log())?;
    ensure!(!log.contains("unnoticed"), "{}", plugin.process().log_tail());
    Ok(())
}

async fn images_are_followed_again_after_a_restart_of_containerd(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    wait_log(&plugin, "following containerd's images", 1).await?;
    node.restart_containerd().await?;
    wait_log(&plugin, "following containerd's images", 2).await?;
    node.wait_podwasm_ready(&plugin).await?;
    let reference = node.push("after", &image(guest("guest.wasm"))).await?;
    node.cri().pull(&reference).await?;
    wait_log(&plugin, "module found", 1).await?;
    assert_eq!(exit_code(node, &reference, &[]).await?, 42);
    Ok(())
}

on_both! {
    a_name_that_changes_is_followed
    images_are_followed_again_after_a_restart_of_containerd
    modules_are_in_the_store_before_a_container_asks
}

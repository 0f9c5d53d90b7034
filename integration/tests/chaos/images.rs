//! Images that vanish, and images that are too much.

use std::fs::{self, File};
use std::io::Write as _;

use crate::{AT_ONCE, asked, kills, with_log};
use anyhow::{Context as _, Result, ensure};
use podwasm_integration::chaos::Field;
use podwasm_integration::guests::custom_section_head;
use podwasm_integration::prelude::*;

/// Files in one layer. `CHAOS_ENTRIES` says otherwise.
const ENTRIES: usize = 20_000;
const ENTRIES_PER_FOLDER: usize = 1_000;
const HUGE_BYTES: u32 = 500 << 20;

/// An image is removed in the midst of a creation: the container is what it should be, or there is none, with a reason.
async fn an_image_that_is_deleted_meanwhile_starts_nothing_unadjusted(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let pod = node.pod("vanishing").run().await?;
    let (mut created, mut refused, mut not_found) = (0, 0, 0);
    for round in 0..kills() {
        let image = exits_with_42("/app.wasm").env("ROUND", &round.to_string());
        let image = node.push("vanishing", &image).await?;
        node.cri().pull(&image).await?;
        let name = format!("c{round}");
        let container = pod.container(&name).image(&image).without_pull();
        let (container, removed) = tokio::join!(container.create(), node.cri().remove_image(&image));
        removed?;
        match container {
            Ok(container) => {
                let spec = container.info().await?["runtimeSpec"].to_string();
                ensure!(
                    spec.contains("/.podwasm"),
                    "it was created unadjusted\n{}",
                    plugin.process().log_tail()
                );
                created += 1;
            }
            Err(error) if format!("{error:#}").contains("podwasm:") => refused += 1,
            Err(_) => not_found += 1,
        }
    }
    println!("{flavor:?}: {created} created, {refused} refused by podwasm, {not_found} by containerd");
    let image = node.push("stays", &exits_with_42("/app.wasm")).await?;
    let container = pod.container("after").image(&image).start();
    with_log(&plugin, Box::pin(container))
        .await?
        .ends_with(42)
        .await?;
    node.stop().await
}

/// A module of 500 MB, mounted from the node as a volume's would be, where by default 256 MiB are the most. It is refused by its size, at once and
/// for good; others do not wait for it.
async fn a_module_of_500_megabytes_holds_up_nobody(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    fs::create_dir_all(node.path("/var/lib/volumes/huge"))?;
    write_huge(File::create(node.path("/var/lib/volumes/huge/app.wasm"))?)?;
    let plugin = node.start_podwasm().await?;
    let field = Field::open(&node).await?;
    let pod = node.pod("huge").run().await?;
    let huge = async {
        for attempt in 0..8 {
            let container = pod
                .container(&format!("huge-{attempt}"))
                .image(node.busybox())
                .command(["/data/app.wasm"])
                .mount("/var/lib/volumes/huge", "/data", true);
            let error = container.create().await.err().context("it was created")?;
            let error = format!("{error:#}");
            ensure!(
                error.contains("podwasm:") && error.contains("bytes that this node allows"),
                "{error}"
            );
        }
        anyhow::Ok(())
    };
    let create = field.create(AT_ONCE, |number| number >= 16);
    let work = Box::pin(async { tokio::try_join!(create, huge) });
    let (tally, ()) = with_log(&plugin, work).await?;
    println!("{flavor:?}: beside a module of 500 MB: {tally}");
    with_log(&plugin, async { tally.check(16) }).await?;
    node.stop().await
}

/// A module that has nothing but a section of its own, full of nothing.
fn write_huge(mut file: File) -> Result<()> {
    let head = [b"\0asm\x01\0\0\0", &*custom_section_head(HUGE_BYTES)].concat();
    file.write_all(&head)?;
    file.set_len(head.len() as u64 + u64::from(HUGE_BYTES))?;
    Ok(())
}

/// What a module lies among does not matter, however much it is.
async fn a_layer_of_many_files_is_looked_through_in_time(flavor: Flavor) -> Result<()> {
    let entries = asked("CHAOS_ENTRIES").unwrap_or(ENTRIES);
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let path = |at| format!("/many/{}/{at}", at / ENTRIES_PER_FOLDER);
    let many = (0..entries).fold(Layer::new(), |layer, at| layer.file(&path(at), [], 0o644));
    let module = Layer::new().file("/many/app", guest("guest.wasm"), 0o755);
    let image = Image::linux()
        .layer(many)
        .layer(module)
        .entrypoint(["/many/app", "exit", "42"]);
    let image = node.push("many", &image).await?;
    let pulled = node.cri().pull(&image);
    pulled.await.context("pull the layer")?;
    let pod = node.pod("many").run().await?;
    let container = with_log(&plugin, Box::pin(pod.container("c").image(&image).start())).await?;
    container.ends_with(42).await?;
    let slow = node
        .podwasm_metric("podwasm_create_seconds_bucket{le=\"+Inf\"}")
        .await?
        - node
            .podwasm_metric("podwasm_create_seconds_bucket{le=\"0.25\"}")
            .await?;
    println!("{flavor:?}: {entries} files in a layer: {slow} creations took more than 250 ms");
    node.stop().await
}

on_both! {
    a_layer_of_many_files_is_looked_through_in_time
    a_module_of_500_megabytes_holds_up_nobody
    an_image_that_is_deleted_meanwhile_starts_nothing_unadjusted
}

//! The cache is read-only, hostile, damaged, or of another time.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::{both_kinds_run, script, with_log};
use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use sha2::{Digest as _, Sha256};

const STATE: &str = "/var/lib/podwasm";

/// What is known goes on running, native containers do not notice, and a new module is either run or refused with a reason.
async fn on_a_read_only_disk_containers_go_on(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    script(&node, &format!("mkdir -p {STATE}; mount -t tmpfs disk {STATE}")).await?;
    let plugin = node.start_podwasm().await?;
    let known = node.push("known", &exits_with_42("/app.wasm")).await?;
    with_log(&plugin, both_kinds_run(&node, &known)).await?;
    // What is being written is written first.
    until("the disk is read-only", PATIENCE, async || {
        let mounted = node.exec("mount", ["-o", "remount,ro", STATE]).await?;
        Ok(mounted.status.success().then_some(()))
    })
    .await?;
    with_log(&plugin, both_kinds_run(&node, &known)).await?;

    let new = node.push("new", &guest_image("hello")).await?;
    let pod = node.pod("new").run().await?;
    match pod.container("new").image(&new).start().await {
        Ok(container) => container.ends_with(0).await?,
        Err(error) => {
            let error = format!("{error:#}");
            println!("{flavor:?}: a new module on a read-only disk: {error}");
            ensure!(
                error.contains("podwasm:") && error.contains("Read-only file system"),
                "{error}"
            );
        }
    }
    script(&node, &format!("mount -o remount,rw {STATE}")).await?;
    let container = until("the module can be kept again", PATIENCE, async || {
        Ok(pod.container("later").image(&new).start().await.ok())
    })
    .await?;
    container.ends_with(0).await?;
    node.stop().await
}

/// Links, pipes, loops, strange names, other owners and wrong bytes where modules and records should be: nothing is followed out of the
/// folder, nothing waited for, and nothing run that is not what it is called.
async fn a_hostile_cache_leads_nowhere(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let digest = format!("{:x}", Sha256::digest(guest("guest.wasm")));
    let victim = node.path("/srv/victim");
    fs::create_dir_all(&victim)?;
    fs::write(victim.join("file"), "stays")?;
    let shadow = fs::read(node.path("/etc/shadow"))?;
    lay_traps(&node.path(STATE), &digest)?;
    script(
        &node,
        &format!(
            "cd {STATE}; mkfifo modules/{0}/module.wasm modules/{1} compiled/{0}.json compiling/{0}.lock incoming/pipe
             chown -R 1234:1234 modules; chmod 0777 . modules compiled",
            "1".repeat(64),
            "2".repeat(64)
        ),
    )
    .await?;

    let plugin = node.start_podwasm().await?;
    let image = node.push("trapped", &exits_with_42("/app.wasm")).await?;
    let ran = until("a module is run in spite of all", PATIENCE, async || {
        Ok(both_kinds_run(&node, &image).await.ok())
    });
    with_log(&plugin, ran).await?;
    ensure!(
        fs::read_to_string(victim.join("file"))? == "stays",
        "something was done to a folder that a link led to"
    );
    ensure!(
        fs::read(node.path("/etc/shadow"))? == shadow,
        "/etc/shadow was changed"
    );
    node.stop().await
}

fn lay_traps(state: &Path, digest: &str) -> Result<()> {
    for folder in ["modules", "compiled", "compiling", "incoming"] {
        fs::create_dir_all(state.join(folder)).context("make the folders")?;
    }
    let modules = state.join("modules");
    // Of the module that is going to be used: other bytes under its name, and a record that leads elsewhere.
    fs::create_dir(modules.join(digest))?;
    fs::write(modules.join(digest).join("module.wasm"), guest("hello.wasm"))?;
    symlink(
        "/etc/shadow",
        state.join("compiled").join(format!("{digest}.json")),
    )?;
    fs::create_dir(modules.join("1".repeat(64)))?;
    symlink("/srv/victim", modules.join("3".repeat(64)))?;
    fs::create_dir(modules.join("4".repeat(64)))?;
    symlink("/etc/shadow", modules.join("4".repeat(64)).join("module.wasm"))?;
    symlink("loop", modules.join("loop"))?;
    symlink("/srv/victim", state.join("incoming/link"))?;
    symlink("/srv/victim", state.join("compiling/link"))?;
    fs::write(modules.join("a\nname"), "")?;
    fs::write(
        state.join("compiled").join(format!("{}.json", "5".repeat(64))),
        [0xff; 1000],
    )?;
    Ok(())
}

/// What a clock that jumped leaves: files from the future, and from before there was time. They are used, and they make room. All else that
/// podwasm measures, it measures by a clock that does not jump.
async fn files_of_another_time_are_used_and_evicted(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let image = node.push("times", &exits_with_42("/app.wasm")).await?;
    fs::write(node.path("/tmp/policy.yaml"), "cache_size: 1\n")?;
    let future = SystemTime::now() + Duration::from_secs(50 * 365 * 86_400);
    for time in [SystemTime::now(), future, SystemTime::UNIX_EPOCH] {
        date(&node.path(STATE), time)?;
        let plugin = node.start_podwasm_with(["--config", "/tmp/policy.yaml"]).await?;
        with_log(&plugin, both_kinds_run(&node, &image)).await?;
        plugin.process().signal(Signal::SIGTERM)?;
        plugin.process().wait(PATIENCE).await?;
    }
    node.stop().await
}

/// Gives all files below a folder a time.
fn date(folder: &Path, time: SystemTime) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() {
            date(&path, time)?;
        } else {
            File::open(&path)?.set_modified(time)?;
        }
    }
    Ok(())
}

on_both! {
    a_hostile_cache_leads_nowhere
    files_of_another_time_are_used_and_evicted
    on_a_read_only_disk_containers_go_on
}

//! What the daemon does with compilers, whatever those do.

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::guests::push_custom_section;
use podwasm_integration::node::{Podwasm, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::until;

use super::stand_in::{FOLDER, STATE, SUCCEED, install, native};
use super::{PATIENCE, listed, metric, podwasm, settings, tier, wait_log, wait_tiers};

const OPTED_OUT: (&str, &str) = ("wasm.noderesource.dev", "aot: off");
const REQUIRED: (&str, &str) = ("wasm.noderesource.dev", "aot: required");

async fn start(node: &Node) -> Result<Podwasm> {
    node.start_podwasm_with(["--compiler", FOLDER]).await
}

async fn pull(node: &Node, name: &str) -> Result<String> {
    let reference = node.push(name, &guest_image(name)).await?;
    node.cri().pull(&reference).await?;
    Ok(reference)
}

/// Creates a container of a pod with this annotation and returns its tier and settings, or what the kubelet would read.
async fn create(
    node: &Node,
    image: &str,
    (key, value): (&str, &str),
) -> Result<Result<(String, String), String>> {
    let pod = node.pod("created").annotation(key, value).run().await?;
    let created = match pod.container("c").image(image).create().await {
        Ok(container) => Ok((tier(&container).await?, settings(&container).await?)),
        Err(error) => Err(format!("{error:#}")),
    };
    pod.remove().await?;
    Ok(created)
}

async fn what_arrives_is_compiled_before_a_container_asks(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, SUCCEED)?;
    let there_before = pull(node, "hello").await?;
    let plugin = start(node).await?;
    wait_tiers(node, &plugin, &["fast", "optimised"], 1).await?;
    let reference = pull(node, "guest").await?;
    wait_tiers(node, &plugin, &["fast", "optimised"], 2).await?;
    for image in [&there_before, &reference] {
        let (tier, settings) = create(node, image, ("x", ""))
            .await?
            .map_err(anyhow::Error::msg)?;
        assert_eq!(tier, "optimised");
        ensure!(
            settings.contains("compiled=") && settings.contains("wait_ms=3000"),
            "{settings}"
        );
    }
    let (tier, settings) = create(node, &reference, OPTED_OUT)
        .await?
        .map_err(anyhow::Error::msg)?;
    assert_eq!(tier, "interpreted");
    ensure!(
        !settings.contains("compiled=") && !settings.contains("wait_ms="),
        "{settings}"
    );
    let required = create(node, &reference, REQUIRED)
        .await?
        .map_err(anyhow::Error::msg)?;
    assert_eq!(required.0, "optimised");

    for (sample, expected) in [
        ("podwasm_compiles_total{tier=\"fast\",outcome=\"compiled\"}", 2.0),
        (
            "podwasm_compiles_total{tier=\"optimised\",outcome=\"compiled\"}",
            2.0,
        ),
        ("podwasm_routed_tier_total{tier=\"optimised\"}", 3.0),
        ("podwasm_routed_tier_total{tier=\"interpreted\"}", 1.0),
        ("podwasm_compile_queue{tier=\"fast\"}", 0.0),
    ] {
        let found = metric(node, sample).await?;
        ensure!((found - expected).abs() < 0.1, "{sample}: {found}");
    }
    let log = fs::read_to_string(plugin.process().log())?;
    ensure!(
        log.contains("peak_bytes") && log.contains("tier=\"optimised\""),
        "{log}"
    );
    Ok(())
}

async fn what_is_required_is_tried_again_until_it_is_there(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(
        node,
        &format!("while ! [ -e /tmp/go ]; do sleep 0.05; done; {SUCCEED}"),
    )?;
    let _plugin = start(node).await?;
    let reference = pull(node, "guest").await?;
    let refused = create(node, &reference, REQUIRED)
        .await?
        .expect_err("nothing is compiled yet");
    ensure!(
        refused.contains("the module is being compiled; it is tried again"),
        "{refused}"
    );
    let early = create(node, &reference, ("x", ""))
        .await?
        .map_err(anyhow::Error::msg)?;
    assert_eq!(early.0, "waiting");
    ensure!(early.1.contains("wait_ms=3000"), "{}", early.1);
    let hasty = ("wasm.noderesource.dev", "wait: 250ms");
    let hasty = create(node, &reference, hasty)
        .await?
        .map_err(anyhow::Error::msg)?;
    ensure!(hasty.1.contains("wait_ms=250"), "{}", hasty.1);

    fs::write(node.path("/tmp/go"), "")?;
    let tier = until("it is not refused any more", PATIENCE, async || {
        Ok(create(node, &reference, REQUIRED).await?.ok())
    })
    .await?;
    ensure!(matches!(tier.0.as_str(), "fast" | "optimised"), "{tier:?}");
    Ok(())
}

async fn a_failure_is_remembered_told_and_can_be_tried_again(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, "echo it is too beautiful >&2; exit 1")?;
    let plugin = start(node).await?;
    let reference = pull(node, "guest").await?;
    wait_log(&plugin, "cannot be compiled; this is remembered", 1).await?;
    let refused = create(node, &reference, REQUIRED)
        .await?
        .expect_err("it cannot be compiled");
    ensure!(
        refused.contains("the module cannot be compiled: it is too beautiful"),
        "{refused}"
    );
    let pod = node.pod("interpreted").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .args(["exit", "42"])
        .start()
        .await?;
    assert_eq!(container.wait_exit().await?, 42, "{:?}", container.logs()?);
    assert_eq!(tier(&container).await?, "interpreted");
    pod.remove().await?;
    let (_, table, _) = podwasm(node, ["cache", "ls"]).await?;
    ensure!(
        table.contains("failed") && table.contains("to fast: it is too beautiful"),
        "{table}"
    );

    drop(plugin);
    let plugin = start(node).await?;
    let refused = create(node, &reference, REQUIRED)
        .await?
        .expect_err("it is remembered");
    ensure!(refused.contains("it is too beautiful"), "{refused}");
    let compile = ["compile", &reference, "--compiler", FOLDER];
    let (code, said, errors) = podwasm(node, compile).await?;
    ensure!(
        code == Some(1) && said.contains("--again tries once more"),
        "{said}{errors}"
    );
    install(node, SUCCEED)?;
    let (code, said, errors) =
        podwasm(node, ["compile", &reference, "--compiler", FOLDER, "--again"]).await?;
    ensure!(code == Some(0), "{said}{errors}");
    until("the daemon notices", PATIENCE, async || {
        Ok(create(node, &reference, REQUIRED).await?.ok())
    })
    .await
    .with_context(|| plugin.process().log_tail())?;
    Ok(())
}

async fn a_daemon_that_is_killed_leaves_nothing_half_made(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, "exec sleep 1234")?;
    let plugin = start(node).await?;
    pull(node, "guest").await?;
    let compilers = async || {
        let found = node.exec("pgrep", ["-x", "-f", "sleep 1234"]).await?;
        anyhow::Ok(String::from_utf8(found.stdout)?.lines().count())
    };
    until("a compiler runs", PATIENCE, async || {
        Ok((compilers().await? == 1).then_some(()))
    })
    .await?;
    plugin.process().signal(Signal::SIGKILL)?;
    plugin.process().wait(PATIENCE).await?;
    until("the compiler is gone", PATIENCE, async || {
        Ok((compilers().await? == 0).then_some(()))
    })
    .await?;
    ensure!(native(node)?.is_empty());

    install(node, SUCCEED)?;
    let plugin = start(node).await?;
    wait_tiers(node, &plugin, &["fast", "optimised"], 1).await?;
    for folder in ["compiling", "incoming"] {
        let left: Vec<_> = fs::read_dir(node.path(STATE).join(folder))?.collect();
        ensure!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

/// Changes a byte in place and puts the time back, as a bad disk does.
fn damage(path: &std::path::Path) -> Result<()> {
    let modified = fs::metadata(path)?.modified()?;
    let mut file = File::options().write(true).open(path)?;
    file.write_all(b"?")?;
    file.set_modified(modified)?;
    Ok(())
}

async fn native_code_that_was_damaged_is_made_again(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, SUCCEED)?;
    let plugin = start(node).await?;
    pull(node, "guest").await?;
    wait_tiers(node, &plugin, &["fast", "optimised"], 1).await?;
    drop(plugin);
    let files = native(node)?;
    let sound = fs::read(&files[0])?;
    damage(&files[0])?;
    let (code, said, _) = podwasm(node, ["cache", "verify"]).await?;
    ensure!(
        code == Some(1) && said.contains("is not what was put there; it is removed"),
        "{said}"
    );
    let (code, said, _) = podwasm(node, ["cache", "verify"]).await?;
    ensure!(code == Some(0), "{said}");

    damage(&files[1])?;
    let plugin = start(node).await?;
    wait_log(&plugin, "native code is not what was put there; it is dropped", 1).await?;
    wait_tiers(node, &plugin, &["optimised"], 1).await?;
    for path in native(node)? {
        assert_eq!(fs::read(&path)?, sound, "{}", path.display());
    }
    Ok(())
}

async fn on_a_full_disk_modules_are_interpreted(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, &format!("{SUCCEED}; head -c 900000 /dev/zero >> module.so"))?;
    mount_small(node, "1200k").await?;
    let plugin = node
        .start_podwasm_with(["--compiler", FOLDER, "--state", "/var/lib/small"])
        .await?;
    let reference = pull(node, "guest").await?;
    wait_log(&plugin, "cannot be compiled at this moment", 1).await?;
    let pod = node.pod("full").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .args(["exit", "42"])
        .start()
        .await?;
    assert_eq!(container.wait_exit().await?, 42, "{:?}", container.logs()?);
    assert_eq!(tier(&container).await?, "interpreted");
    pod.remove().await?;
    let log = fs::read_to_string(plugin.process().log())?;
    ensure!(log.contains("No space left on device"), "{log}");
    Ok(())
}

/// A module that does not fit comes in after those that nobody has used for longest.
async fn on_a_full_disk_room_is_made(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    mount_small(node, "5m").await?;
    fs::write(node.path("/tmp/policy.yaml"), "aot: off\n")?;
    let plugin = node
        .start_podwasm_with(["--config", "/tmp/policy.yaml", "--state", "/var/lib/small"])
        .await?;
    let large = |name| {
        let mut module = guest("guest.wasm");
        push_custom_section(&mut module, name, 2 << 20);
        Image::linux()
            .program("/app.wasm", module)
            .entrypoint(["/app.wasm", "exit", "42"])
    };
    let mut images = Vec::new();
    for name in ["large-a", "large-b", "large-c"] {
        let image = node.push(name, &large(name.as_bytes()[6])).await?;
        node.cri().pull(&image).await?;
        images.push(image);
        if name != "large-c" {
            let found = format!("module found image=\"127.0.0.1:5000/{name}");
            wait_log(&plugin, &found, 1).await?;
        }
    }
    wait_log(&plugin, "evicted", 1).await?;
    // The last one was brought in before anybody asked; the first has to come in anew.
    for image in [&images[2], &images[0]] {
        let pod = node.pod("full").run().await?;
        let container = until("the container starts", PATIENCE, async || {
            match pod.container("c").image(image).start().await {
                Ok(container) => Ok(Some(container)),
                Err(error) => {
                    let error = format!("{error:#}");
                    ensure!(error.contains("No space left on device"), "{error}");
                    Ok(None)
                }
            }
        })
        .await?;
        container
            .ends_with(42)
            .await
            .with_context(|| plugin.process().log_tail())?;
        pod.remove().await?;
    }
    Ok(())
}

async fn mount_small(node: &Node, size: &str) -> Result<()> {
    fs::create_dir_all(node.path("/var/lib/small"))?;
    let size = format!("size={size}");
    let mounted = node
        .exec("mount", ["-t", "tmpfs", "-o", &size, "small", "/var/lib/small"])
        .await?;
    ensure!(mounted.status.success(), "{mounted:?}");
    Ok(())
}

/// As if all had been used long ago.
fn make_old(node: &Node) -> Result<()> {
    let long_ago = SystemTime::now() - Duration::from_secs(86_400);
    for record in fs::read_dir(node.path(STATE).join("compiled"))? {
        File::options()
            .append(true)
            .open(record?.path())?
            .set_modified(long_ago)?;
    }
    Ok(())
}

async fn room_is_never_made_of_what_a_container_uses(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, SUCCEED)?;
    let plugin = start(node).await?;
    let (used, unused) = (pull(node, "guest").await?, pull(node, "rust-hello").await?);
    wait_tiers(node, &plugin, &["fast", "optimised"], 2).await?;
    let (key, value) = OPTED_OUT;
    let pod = node.pod("user").annotation(key, value).run().await?;
    let container = pod.container("c").image(&used).args(["sleep"]).start().await?;
    container.wait_stdout("sleep").await?;
    until("the image is noted", PATIENCE, async || {
        let noted = |module: &serde_json::Value| module["names"][0].is_string();
        Ok(listed(node).await?.iter().any(noted).then_some(()))
    })
    .await?;
    let (_, said, _) = podwasm(node, ["cache", "gc", "--budget", "0"]).await?;
    ensure!(
        said.starts_with("0 modules removed") && said.contains("or did a moment ago"),
        "{said}"
    );
    drop(plugin);
    for image in [&used, &unused] {
        node.cri().remove_image(image).await?;
    }
    make_old(node)?;

    fs::write(node.path("/tmp/policy.yaml"), "cache_size: 1\n")?;
    let plugin = node
        .start_podwasm_with(["--compiler", FOLDER, "--config", "/tmp/policy.yaml"])
        .await?;
    wait_log(&plugin, "evicted", 1).await?;
    let left = listed(node).await?;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["in_use"], true);
    ensure!(
        left[0]["names"][0]
            .as_str()
            .is_some_and(|name| name.contains("/guest")),
        "{left:?}"
    );
    assert_eq!(container.exec(["/guest.wasm", "exit", "7"]).await?.code, 7);

    make_old(node)?;
    pod.remove().await?;
    let (code, said, errors) = podwasm(node, ["cache", "gc", "--budget", "0"]).await?;
    ensure!(code == Some(0), "{said}{errors}");
    until("nothing is left", PATIENCE, async || {
        Ok(listed(node).await?.is_empty().then_some(()))
    })
    .await?;
    let reference = node.push("guest", &guest_image("guest")).await?;
    let again = create(node, &reference, OPTED_OUT).await?;
    ensure!(again.is_ok(), "what was evicted comes back: {again:?}");
    Ok(())
}

async fn compilers_do_not_hold_up_containers(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    install(node, "while :; do :; done")?;
    let plugin = start(node).await?;
    for name in ["guest", "hello", "rust-hello", "look"] {
        pull(node, name).await?;
    }
    let busy = async || {
        let found = node.exec("pgrep", ["-c", "-f", "tier fast"]).await?;
        Ok((String::from_utf8(found.stdout)?.trim() == "2").then_some(()))
    };
    until("two compilers run", PATIENCE, busy).await?;
    let reference = node.push("guest", &guest_image("guest")).await?;
    let started = Instant::now();
    for _ in 0..10 {
        let created = create(node, &reference, OPTED_OUT).await?;
        ensure!(created.is_ok(), "{created:?}");
    }
    let (seconds, count) = (
        metric(node, "podwasm_create_seconds_sum{outcome=\"routed\"}").await?,
        metric(node, "podwasm_create_seconds_count{outcome=\"routed\"}").await?,
    );
    ensure!(
        count > 9.0 && seconds / count < 0.02,
        "{seconds} s for {count}, {:?} in all",
        started.elapsed()
    );
    drop(plugin);
    Ok(())
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn a_node_without_a_compiler_says_so_once_and_runs_modules() -> Result<()> {
    let node = &Node::start(Flavor::Forky, Runtime::Runc).await?;
    let plugin = node.start_podwasm_with(["--compiler", "/nowhere"]).await?;
    let reference = pull(node, "guest").await?;
    let refused = create(node, &reference, REQUIRED)
        .await?
        .expect_err("there is no compiler");
    ensure!(
        refused.contains("aot: required, but there is no compiler at /nowhere"),
        "{refused}"
    );
    let pod = node.pod("interpreted").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .args(["exit", "42"])
        .start()
        .await?;
    assert_eq!(container.wait_exit().await?, 42);
    assert_eq!(tier(&container).await?, "interpreted");
    let log = fs::read_to_string(plugin.process().log())?;
    assert_eq!(log.matches("modules are interpreted").count(), 1, "{log}");
    Ok(())
}

on_both! {
    a_daemon_that_is_killed_leaves_nothing_half_made
    a_failure_is_remembered_told_and_can_be_tried_again
    compilers_do_not_hold_up_containers
    native_code_that_was_damaged_is_made_again
    on_a_full_disk_modules_are_interpreted
    on_a_full_disk_room_is_made
    room_is_never_made_of_what_a_container_uses
    what_arrives_is_compiled_before_a_container_asks
    what_is_required_is_tried_again_until_it_is_there
}

//! podwasm is installed on bare nodes as the chart has it, with the images that are released, used, upgraded, and taken away again
//! without a trace.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::release::{self, Installed, Release, Tree};
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::json;

on_both! {
    is_installed_used_upgraded_and_gone
}

/// A pod with a Wasm server, which a Deployment called `web` would have made.
async fn server<'a>(node: &'a Node, name: &str) -> Result<(PodHandle<'a>, ContainerHandle<'a>, SocketAddr)> {
    let image = node.push("server", &guest_image("server")).await?;
    let pod = node.pod(name).label("app", name).run().await?;
    let container = pod
        .container("server")
        .image(&image)
        .args(["0.0.0.0:8080"])
        .env("NAME", name)
        .memory_limit(64 << 20)
        .start()
        .await?;
    container.wait_stdout("listening").await?;
    let address = SocketAddr::new(pod.ip().await?, 8080);
    Ok((pod, container, address))
}

async fn answers(node: &Node, server: SocketAddr, name: &str) -> Result<()> {
    let answer = node.http(server, "/").await?.text();
    ensure!(answer == format!("hello from {name}\n"), "it answered {answer:?}");
    Ok(())
}

async fn wait_metric(node: &Node, at: SocketAddr, name: &str, labels: &[&str], expected: f64) -> Result<()> {
    let value = async || {
        node.metric_at(at, name, labels)
            .await
            .map(Option::unwrap_or_default)
    };
    until(
        &format!("{name} {labels:?} is {expected}"),
        PATIENCE,
        async || Ok((value().await? >= expected).then_some(())),
    )
    .await?;
    let value = value().await?;
    ensure!(
        (value - expected).abs() < 0.5,
        "{name} {labels:?} is {value}, not {expected}"
    );
    Ok(())
}

#[allow(clippy::too_many_lines, reason = "one node lives through all of it")]
async fn is_installed_used_upgraded_and_gone(flavor: Flavor) -> Result<()> {
    let node = release::bare_node(flavor).await?;
    let before = Tree::of(&node)?;

    // An older version, installed by hand.
    let old = "0123456789abcdef";
    fs::create_dir_all(node.path("/tmp/old"))?;
    let copied = node
        .exec("cp", ["-r", "/srv/bundles/bundle", "/tmp/old/engine"])
        .await?;
    ensure!(copied.status.success(), "{copied:?}");
    fs::write(node.path("/tmp/old/engine/VERSION"), format!("{old}\n"))?;
    let installed = node
        .exec("/srv/bin/podwasm", ["install", "--from", "/tmp/old"])
        .await?;
    ensure!(installed.status.success(), "{installed:?}");
    let mut daemon = std::process::Command::new("/srv/bin/podwasm");
    daemon.args(["run", "--compiler", "/srv/bundles/compiler"]);
    let daemon = node.spawn("podwasm", daemon)?;
    until("the older daemon is ready", PATIENCE, async || {
        let answer = node.http("127.0.0.1:9465".parse()?, "/readyz").await;
        Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
    })
    .await
    .with_context(|| daemon.log_tail())?;
    let (old_pod, old_container, old_server) = server(&node, "old").await?;
    answers(&node, old_server, "old").await?;

    // The new one, as the chart has it. The older daemon goes when the new one is ready.
    let release = Release::read("k8s")?;
    let plugin = release.start_plugin(&node).await?;
    daemon.signal(Signal::SIGTERM)?;
    ensure!(daemon.wait(PATIENCE).await?.success(), "{}", daemon.log_tail());
    let mut installed = Installed {
        plugin,
        exporter: release.start_exporter(&node).await?,
        scalers: release.start_scalers(&node).await?,
    };
    let engines = node.path("/opt/podwasm/engines");
    let versions = || -> Result<usize> { Ok(fs::read_dir(&engines)?.count()) };
    ensure!(
        versions()? == 2,
        "the version in use was removed, or none was added"
    );

    // The first pod: run natively, counted, and told to KEDA.
    let (pod, container, at) = server(&node, "first").await?;
    let optimised = ["tier=\"optimised\"", "outcome=\"compiled\""];
    let plugin_at = installed.plugin_http().await?;
    wait_metric(&node, plugin_at, "podwasm_compiles_total", &optimised, 1.0)
        .await
        .with_context(|| format!("{:?}", installed.daemon().and_then(ContainerHandle::logs)))?;
    for _ in 0..20 {
        answers(&node, at, "first").await?;
    }
    let first = ["namespace=\"default\"", "pod=\"first\""];
    let exporter_at = installed.exporter_http().await?;
    wait_metric(&node, exporter_at, "podwasm_requests_total", &first, 20.0)
        .await
        .with_context(|| {
            let exporter = installed.exporter.container("exporter");
            format!("{:?}", exporter.and_then(ContainerHandle::logs))
        })?;
    let trigger = json!({"name": "web", "namespace": "default", "scalerMetadata":
        {"selector": "app=first", "targetRequestsPerSecond": "10"}});
    for scaler in installed.scalers_grpc().await? {
        let keda = node.keda(&scaler.to_string());
        until("KEDA is told", PATIENCE, async || {
            let said = keda.call("IsActive", &trigger).await?;
            ensure!(
                said.get("code").is_none() || said["code"] == "UNAVAILABLE",
                "{said}"
            );
            Ok((said == json!({"answer": {"result": true}})).then_some(()))
        })
        .await?;
    }

    // What ran before the upgrade still does, and can be looked into; when it is gone, so is its version.
    answers(&node, old_server, "old").await?;
    old_pod.remove().await?;
    drop(old_container);
    installed.plugin.delete().await?;
    installed.plugin = release.start_plugin(&node).await?;
    ensure!(versions()? == 1, "a version that nobody uses stays");

    // Uninstalled while a Wasm container runs: that goes on, and what it uses stays.
    installed.delete().await?;
    let said = release.clean_up_and_await(&node).await?;
    ensure!(said.contains("stays: containers run with it"), "{said}");
    answers(&node, at, "first").await?;
    let again = container.exec(["/server.wasm", "no address"]).await?;
    ensure!(again.code != 126 && again.code != 127, "exec in it: {again:?}");
    pod.remove().await?;

    // And when it is gone, nothing of podwasm is left.
    let said = release.clean_up(&node).await?;
    fs::remove_dir_all(node.path("/tmp/old"))?;
    let left = before.differences(&Tree::of(&node)?);
    ensure!(
        left.is_empty(),
        "these were left or changed: {left:?}; it said {said}"
    );
    node.stop().await
}

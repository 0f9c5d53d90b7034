//! podwasm is installed on bare nodes as the chart has it, with the images that are released, used, upgraded, and taken away again
//! without a trace.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::manifest::{Manifest, RunningPod};
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::json;

on_both! {
    is_installed_used_upgraded_and_gone
}

/// Where what is installed may leave something. What the harness and containerd themselves write there is left out.
const LOOKED_AT: [&str; 6] = ["etc", "opt", "root", "usr/local", "var/lib", "var/opt"];
const OTHERS: [&str; 5] = [
    "opt/tools",
    "var/lib/cni",
    "var/lib/containerd",
    "var/lib/kubelet",
    "var/lib/registry",
];
const PLUGIN_PORT: u16 = 9465;
const EXPORTER_PORT: u16 = 9466;
const SCALER_PORT: u16 = 9468;

/// Every file with all that can be told apart of it.
type Tree = BTreeMap<String, String>;

fn tree(node: &Node) -> Result<Tree> {
    let root = node.path("/");
    let mut found = Tree::new();
    let mut folders: Vec<_> = LOOKED_AT.iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue; // it need not be there
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.strip_prefix(&root)?.display().to_string();
            if OTHERS.contains(&name.as_str()) {
                continue;
            }
            found.insert(name, described(&path)?);
            if fs::symlink_metadata(&path)?.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(found)
}

fn described(path: &Path) -> Result<String> {
    let about = fs::symlink_metadata(path)?;
    let owner = format!("{:o} {} {}", about.mode(), about.uid(), about.gid());
    Ok(if about.is_symlink() {
        format!("{owner} -> {}", fs::read_link(path)?.display())
    } else if about.is_file() {
        let time = format!("{}.{}", about.mtime(), about.mtime_nsec());
        // Nothing but configuration is ever rewritten, and that is small.
        let bytes = if about.len() < 1 << 20 {
            fs::read(path)?
        } else {
            Vec::new()
        };
        format!("{owner} {} {time} {bytes:?}", about.len())
    } else {
        owner
    })
}

/// What one has that the other has not, by name.
fn differences(before: &Tree, after: &Tree) -> Vec<String> {
    let names = before.keys().chain(after.keys());
    let mut different: Vec<_> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect();
    different.sort();
    different.dedup();
    different
}

async fn bare_node(flavor: Flavor) -> Result<Node> {
    let node = Node::start_bare(flavor, Runtime::Runc).await?;
    fs::create_dir_all(node.path("/var/lib/kubelet"))?;
    for name in ["podwasm", "podwasm-exporter", "podwasm-scaler"] {
        node.load_image(name).await?;
    }
    Ok(node)
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

async fn apply<'a>(
    node: &'a Node,
    manifest: &Manifest,
    kind: &str,
    name: &str,
) -> Result<Vec<RunningPod<'a>>> {
    let pods = manifest.only(kind, name).run(node).await?;
    ensure!(!pods.is_empty(), "{kind} {name} has no pods");
    Ok(pods)
}

async fn address(pod: &RunningPod<'_>, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(pod.handle().ip().await?, port))
}

async fn metric(node: &Node, at: SocketAddr, series: &str) -> Result<f64> {
    let text = node.http(at, "/metrics").await?.text();
    let lines = text.lines().filter(|line| line.starts_with(series));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(values.sum())
}

async fn wait_metric(node: &Node, at: SocketAddr, series: &str, expected: f64) -> Result<()> {
    until(&format!("{series} is {expected}"), PATIENCE, async || {
        let value = metric(node, at, series).await?;
        Ok((value >= expected).then_some(()))
    })
    .await?;
    let value = metric(node, at, series).await?;
    ensure!(
        (value - expected).abs() < 0.5,
        "{series} is {value}, not {expected}"
    );
    Ok(())
}

/// Cleans up as `helm uninstall` does, by a `DaemonSet`. Returns what its pod said.
async fn clean_up(node: &Node, manifest: &Manifest) -> Result<String> {
    let pods = apply(node, manifest, "DaemonSet", "podwasm-cleanup").await?;
    let said = pods[0].container("uninstall")?.logs()?.stderr;
    pods[0].delete().await?;
    Ok(said)
}

/// The same with the Job that waits for it. Names are never forgotten by the node's name server, so this is done once.
async fn clean_up_and_await(node: &Node, manifest: &Manifest) -> Result<String> {
    let pods = apply(node, manifest, "DaemonSet", "podwasm-cleanup").await?;
    let ip = pods[0].handle().ip().await?;
    node.publish("podwasm-cleanup.podwasm.svc.cluster.local", ip)
        .await?;
    let (end, tries) = manifest.run_job(node, "podwasm-cleanup-await").await?;
    ensure!(end.complete, "the Job failed: {end:?}");
    let said = pods[0].container("uninstall")?.logs()?.stderr;
    for pod in tries.iter().chain(&pods) {
        pod.delete().await?;
    }
    Ok(said)
}

#[allow(clippy::too_many_lines, reason = "one node lives through all of it")]
async fn is_installed_used_upgraded_and_gone(flavor: Flavor) -> Result<()> {
    let node = bare_node(flavor).await?;
    let before = tree(&node)?;

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
    let manifest = Manifest::read("deploy/rendered/k8s.yaml")?;
    let plugin = apply(&node, &manifest, "DaemonSet", "podwasm").await?;
    daemon.signal(Signal::SIGTERM)?;
    ensure!(daemon.wait(PATIENCE).await?.success(), "{}", daemon.log_tail());
    let exporter = apply(&node, &manifest, "DaemonSet", "podwasm-exporter").await?;
    let exporter_at = address(&exporter[0], EXPORTER_PORT).await?;
    node.publish("podwasm-exporter.podwasm.svc.cluster.local", exporter_at.ip())
        .await?;
    let scalers = apply(&node, &manifest, "Deployment", "podwasm-scaler").await?;
    ensure!(scalers.len() == 2, "there are {} scalers", scalers.len());
    let engines = node.path("/opt/podwasm/engines");
    let versions = || -> Result<usize> { Ok(fs::read_dir(&engines)?.count()) };
    ensure!(
        versions()? == 2,
        "the version in use was removed, or none was added"
    );

    // The first pod: run natively, counted, and told to KEDA.
    let (pod, container, at) = server(&node, "first").await?;
    let plugin_at = address(&plugin[0], PLUGIN_PORT).await?;
    let optimised = "podwasm_compiles_total{tier=\"optimised\",outcome=\"compiled\"}";
    wait_metric(&node, plugin_at, optimised, 1.0)
        .await
        .with_context(|| {
            format!(
                "{:?}",
                plugin[0].container("podwasm").and_then(ContainerHandle::logs)
            )
        })?;
    for _ in 0..20 {
        answers(&node, at, "first").await?;
    }
    let counted = "podwasm_requests_total{namespace=\"default\",pod=\"first\"";
    wait_metric(&node, exporter_at, counted, 20.0)
        .await
        .with_context(|| {
            format!(
                "{:?}",
                exporter[0].container("exporter").and_then(ContainerHandle::logs)
            )
        })?;
    let trigger = json!({"name": "web", "namespace": "default", "scalerMetadata":
        {"selector": "app=first", "targetRequestsPerSecond": "10"}});
    for scaler in &scalers {
        let keda = node
            .keda(&address(scaler, SCALER_PORT).await?.to_string())
            .clone();
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
    plugin[0].delete().await?;
    let plugin = apply(&node, &manifest, "DaemonSet", "podwasm").await?;
    ensure!(versions()? == 1, "a version that nobody uses stays");

    // Uninstalled while a Wasm container runs: that goes on, and what it uses stays.
    for pod in plugin.iter().chain(&exporter).chain(&scalers) {
        pod.delete().await?;
    }
    let cleanup = Manifest::read("deploy/rendered/k8s-cleanup.yaml")?;
    let said = clean_up_and_await(&node, &cleanup).await?;
    ensure!(said.contains("stays: containers run with it"), "{said}");
    answers(&node, at, "first").await?;
    let again = container.exec(["/server.wasm", "no address"]).await?;
    ensure!(again.code != 126 && again.code != 127, "exec in it: {again:?}");
    pod.remove().await?;

    // And when it is gone, nothing of podwasm is left.
    let said = clean_up(&node, &cleanup).await?;
    fs::remove_dir_all(node.path("/tmp/old"))?;
    let left = differences(&before, &tree(&node)?);
    ensure!(
        left.is_empty(),
        "these were left or changed: {left:?}; it said {said}"
    );
    node.stop().await
}

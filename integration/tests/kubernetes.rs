//! What podwasm asks the Kubernetes API for: with its privileges dropped, over TLS, of a server that stands in for it and says what it was asked.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::authority::{Authority, Certified};
use podwasm_integration::node::{Process, lines};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::{Value, json};

const ACCOUNT: &str = "/tmp/account";
const SERVER: &str = "https://127.0.0.1:6443";
const STAND_IN: &str = include_str!("kubernetes/server.py");

/// Starts the server, whose pods these are, and leaves beside it what a service account has.
async fn start_server(node: &Node, pods: &[Value]) -> Result<Process> {
    let authority = Authority::new()?;
    let Certified { certificate, key } = authority.certify("127.0.0.1", "kubernetes")?;
    fs::create_dir_all(node.path(ACCOUNT))?;
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("token", "of-the-account\n".to_owned()),
        ("server.pem", certificate + &key),
    ] {
        fs::write(node.path(ACCOUNT).join(name), text)?;
    }
    let mut command = node.tool("python3")?;
    command
        .args(["-u", "-c", STAND_IN])
        .args([&format!("{ACCOUNT}/server.pem"), "of-the-account"])
        .arg(Value::from(pods).to_string());
    let server = node.spawn("kubernetes", command)?;
    until("the server listens", PATIENCE, async || {
        let connected = node.connect("127.0.0.1:6443".parse()?).await;
        Ok(connected.is_ok().then_some(()))
    })
    .await
    .with_context(|| server.log_tail())?;
    Ok(server)
}

/// A pod as the API has it.
fn known(pod: &PodHandle<'_>, controllers: &[&str]) -> Result<Value> {
    let metadata = pod.config().metadata.as_ref().context("a pod has metadata")?;
    let owners: Vec<_> = controllers
        .iter()
        .map(|kind| json!({"kind": kind, "name": "web", "controller": true}))
        .collect();
    Ok(json!({"metadata": {"name": metadata.name, "uid": metadata.uid, "ownerReferences": owners}}))
}

/// What it was asked by this method, for a path with this end.
fn asked(server: &Process, method: &str, end: &str) -> Result<Vec<Value>> {
    let mut asked = lines(server)?;
    asked.retain(|line| line["method"] == method && line["path"].as_str().unwrap_or_default().ends_with(end));
    Ok(asked)
}

async fn pods_of_the_window_get_events_and_are_made_anew(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let image = node.push("exit-42", &exits_with_42("/app.wasm")).await?;
    let (owned, bare) = (node.pod("owned").run().await?, node.pod("bare").run().await?);
    let mut ids = Vec::new();
    for (pod, name) in [(&owned, "one"), (&owned, "two"), (&bare, "three")] {
        let container = pod.container(name).image(&image).create().await?;
        ids.push(container.id().to_owned());
    }
    let native = owned
        .container("native")
        .image(node.busybox())
        .shell("exec sleep 600");
    native.create().await?.start().await?;
    let pods = [known(&owned, &["ReplicaSet"])?, known(&bare, &[])?];
    let server = start_server(&node, &pods).await?;

    for round in 1..=2 {
        let flags = ["--events", "--evict", "--kubernetes-server", SERVER];
        let plugin = node
            .start_podwasm_as(|command| _ = command.args(flags).args(["--kubernetes-account", ACCOUNT]))
            .await?;
        until(
            "one pod is evicted, and the other told of",
            PATIENCE,
            async || {
                let log = fs::read_to_string(plugin.process().log())?;
                let is_told = log.contains("no controller would make it anew");
                let is_evicted = asked(&server, "POST", "/eviction")?.len() == round;
                Ok((is_told && is_evicted).then_some(()))
            },
        )
        .await
        .with_context(|| server.log_tail())?;
        let log = fs::read_to_string(plugin.process().log())?;
        ensure!(!log.contains("no event"), "{log}");
    }
    // Each event is asked for once more, and refused for its name, which is no fault.
    let events = asked(&server, "POST", "/events")?;
    let names: Vec<_> = events
        .iter()
        .map(|event| &event["body"]["metadata"]["name"])
        .collect();
    ensure!(names.len() == 6, "{events:?}");
    for id in &ids {
        let of_this = names
            .iter()
            .filter(|name| name.as_str().is_some_and(|name| name.ends_with(&id[..16])));
        ensure!(of_this.count() == 2, "{id} {names:?}");
    }
    let evictions = asked(&server, "POST", "/eviction")?;
    let uid = &pods[0]["metadata"]["uid"];
    ensure!(
        evictions.len() == 2,
        "a pod of two containers goes once: {evictions:?}"
    );
    for eviction in &evictions {
        assert_eq!(&eviction["body"]["deleteOptions"]["preconditions"]["uid"], uid);
        let path = eviction["path"].as_str().unwrap_or_default();
        ensure!(path.contains("/pods/owned"), "{path}");
    }
    node.stop().await
}

async fn without_an_account_it_does_not_begin(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let engine = ["run", "--engine", "/opt/podwasm/engine", "--evict"];
    let account = ["--kubernetes-server", SERVER, "--kubernetes-account", "/nowhere"];
    let output = node
        .exec("/opt/podwasm/bin/podwasm", [&engine[..], &account].concat())
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it ended well");
    ensure!(said.contains("cannot read /nowhere/ca.crt"), "{said}");
    node.stop().await
}

on_both! {
    pods_of_the_window_get_events_and_are_made_anew
    without_an_account_it_does_not_begin
}

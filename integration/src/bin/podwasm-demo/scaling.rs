//! The demo's second half: load goes in, requests per second come out, and KEDA would ask for replicas.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use podwasm_integration::load;
use podwasm_integration::node::{Keda, Process, lines, scaled_object};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::{Value, json};

use crate::show::{note, step, table, with_bar};
use crate::summary::Summary;

/// How many requests per second go in, each for so many seconds.
const PHASES: [(u32, u64); 3] = [(8, 4), (45, 5), (0, 4)];
const TARGET: f64 = 10.0;
/// The scaler tells KEDA of a first request within half a second; a busy machine gets more.
const MAX_PUSH_MILLISECONDS: f64 = 2_000.0;
/// Kubernetes makes a Deployment's pod's name of its own, this and five letters more.
const HASH: &str = "6d4cf56db6";

/// Runs a Wasm server as the pod of a Deployment, sends load, and asks for its rate as KEDA does.
pub async fn show(node: &Node, summary: &mut Summary) -> Result<()> {
    step("Starting podwasm-exporter, which counts requests, and podwasm-scaler, which KEDA asks");
    let exporter = node.start_exporter([]).await?;
    let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
    let keda = node.keda(scaler.grpc());
    note("no proxy, no sidecar, no change to any pod");

    step("Sending load to a Wasm server, the pod of the Deployment `web`");
    let (pod, server) = web(node).await?;
    let trigger =
        json!({"workload": "Deployment/web", "targetRequestsPerSecond": TARGET.to_string(), "window": "2s"});
    let trigger = scaled_object("shop", &trigger);
    note(&format!(
        "trigger: external-push, {TARGET} requests per second for each replica, over 2 s"
    ));
    let watcher = keda.spawn("watch", ["watch", &trigger.to_string()])?;
    wait_active(&watcher, false).await?;
    let seconds: u64 = PHASES.iter().map(|(_, seconds)| seconds).sum();
    let poller = poll(&keda, &trigger, seconds + 1).await?;

    let start = seconds_since_epoch();
    let load = async {
        let mut sent = 0;
        for (per_second, seconds) in PHASES {
            sent += load::send(node, server, per_second, Duration::from_secs(seconds)).await?;
        }
        Ok::<_, anyhow::Error>(sent)
    };
    let sent = with_bar("sending requests", Duration::from_secs(seconds), load).await?;
    let active = wait_active(&watcher, true).await?;
    poller.wait(PATIENCE).await?;
    println!();
    table(
        &[
            "second",
            "requests sent",
            "requests per second told",
            "replicas KEDA would ask for",
        ],
        &rows(&lines(&poller)?, start),
    );
    let pushed = (active - start) * 1_000.0;
    note(&format!(
        "KEDA was told of the first request after {pushed:.0} ms"
    ));
    let counted = node
        .settled_metric(&exporter, "podwasm_requests_total", &["workload=\"web\""])
        .await?;
    note(&format!("sent: {sent} requests, counted: {counted}"));
    summary.add(
        "from the first request until KEDA was told",
        format!("{pushed:.0} ms"),
        pushed < MAX_PUSH_MILLISECONDS,
    );
    summary.add(
        "requests counted, of those sent",
        format!("{counted} of {sent}"),
        (counted - f64::from(sent)).abs() < 0.5,
    );
    pod.remove().await
}

async fn web(node: &Node) -> Result<(PodHandle<'_>, SocketAddr)> {
    let image = Image::linux().program("/server.wasm", crate::guest("server.wasm")?);
    let image = node.push("demo/web", &image).await?;
    let pod = node
        .pod(&format!("web-{HASH}-x2x8k"))
        .namespace("shop")
        .label("pod-template-hash", HASH);
    let pod = pod.run().await?;
    let server = pod
        .container("web")
        .image(&image)
        .command(["/server.wasm", "0.0.0.0:8080"])
        .start()
        .await?;
    server.wait_stdout("listening").await?;
    let address = SocketAddr::new(pod.ip().await?, 8080);
    Ok((pod, address))
}

/// Asks for the rate for so many seconds, from now on.
async fn poll(keda: &Keda<'_>, trigger: &Value, seconds: u64) -> Result<Process> {
    let seconds = seconds.to_string();
    let poller = keda.spawn(
        "poll",
        ["poll", &trigger.to_string(), "requests-per-second", &seconds],
    )?;
    let asks = async || Ok(lines(&poller)?.into_iter().next());
    until("the scaler is asked", PATIENCE, asks).await?;
    Ok(poller)
}

/// When the scaler has said that the workload is active, or not.
async fn wait_active(watcher: &Process, active: bool) -> Result<f64> {
    let said = async || Ok(lines(watcher)?.into_iter().find(|line| line["active"] == active));
    let line = until("the scaler says whether the workload is active", PATIENCE, said).await?;
    line["time"].as_f64().context("the line has no time")
}

/// What was sent in each second, what was told at its end, and what KEDA would make of it.
fn rows(answers: &[Value], start: f64) -> Vec<Vec<String>> {
    let sent = PHASES
        .into_iter()
        .flat_map(|(per_second, seconds)| (0..seconds).map(move |_| per_second));
    let row = |(second, sent): (u32, u32)| {
        let end = start + f64::from(second);
        let told = answers
            .iter()
            .find(|answer| answer["time"].as_f64().is_some_and(|time| time >= end));
        let told = told.and_then(|answer| answer["value"].as_f64());
        let replicas = told.map(|rate| (rate / TARGET).ceil());
        let told = told.map_or("not known".to_owned(), |rate| format!("{rate:.1}"));
        let replicas = replicas.map_or("as they are".to_owned(), |replicas| replicas.to_string());
        vec![second.to_string(), sent.to_string(), told, replicas]
    };
    (1..).zip(sent).map(row).collect()
}

fn seconds_since_epoch() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

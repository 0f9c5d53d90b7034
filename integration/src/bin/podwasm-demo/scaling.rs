//! The demo's second half: load goes in, requests per second come out, and KEDA would ask for replicas.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use podwasm_integration::load;
use podwasm_integration::manifest::Manifest;
use podwasm_integration::node::{Keda, Process, REGISTRY, lines, scaled_object};
use podwasm_integration::prelude::*;
use podwasm_integration::release::Installed;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::Value;

use crate::show::{note, step, table, with_bar};
use crate::summary::Summary;

/// How many requests per second go in, each for so many seconds.
const PHASES: [(u32, u64); 3] = [(8, 4), (45, 5), (0, 4)];
const TARGET: f64 = 10.0;
/// The scaler tells KEDA of a first request within half a second; a busy machine gets more.
const MAX_PUSH_MILLISECONDS: f64 = 2_000.0;
const SAMPLE: &str = "deploy/samples/http-server.yaml";
const SERVER_PORT: u16 = 8080;

/// Runs the sample's Wasm server, sends load, and asks for its rate as KEDA does.
pub async fn show(node: &Node, installed: &Installed<'_>, summary: &mut Summary) -> Result<()> {
    step("Applying deploy/samples/http-server.yaml: a Wasm server, and a ScaledObject for KEDA");
    let sample = sample(node).await?;
    let pods = sample.run(node).await?;
    let pod = pods.first().context("the sample has no pod")?;
    let server = SocketAddr::new(pod.handle().ip().await?, SERVER_PORT);
    note(&format!(
        "{} is ready: no proxy, no sidecar, nothing of podwasm in it",
        pod.name()
    ));

    step("Sending load to it, and asking podwasm-scaler for its requests as KEDA does");
    let scalers = installed.scalers_grpc().await?;
    let scaler = scalers.first().context("no scaler runs")?.to_string();
    let keda = node.keda(&scaler);
    let spec = &sample.kept("ScaledObject", "web")?["spec"];
    let replicas = ["minReplicaCount", "maxReplicaCount"].map(|bound| spec[bound].as_f64());
    let [Some(min), Some(max)] = replicas else {
        bail!("the sample has no bounds for its replicas")
    };
    let mut trigger = spec["triggers"][0]["metadata"].clone();
    trigger["targetRequestsPerSecond"] = TARGET.to_string().into();
    trigger["window"] = "2s".into();
    let trigger = scaled_object("shop", &trigger);
    note(&format!(
        "the sample's trigger, but with {TARGET} requests per second for each replica, over 2 s; {min} to {max} replicas"
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
        &rows(&lines(&poller)?, start, |rate| {
            (rate / TARGET).ceil().clamp(min, max)
        }),
    );
    let pushed = (active - start) * 1_000.0;
    note(&format!(
        "KEDA was told of the first request after {pushed:.0} ms"
    ));
    let counted = node
        .settled_metric_at(
            installed.exporter_http().await?,
            "podwasm_requests_total",
            &["workload=\"web\""],
        )
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
    for pod in &pods {
        pod.delete().await?;
    }
    Ok(())
}

/// The sample, with its image in the node's registry.
async fn sample(node: &Node) -> Result<Manifest> {
    let image = Image::linux()
        .program("/server.wasm", crate::guest("server.wasm")?)
        .entrypoint(["/server.wasm"]);
    node.push_as("demo/server", "1", &image).await?;
    Ok(Manifest::read(SAMPLE)?.images_from("registry.example.com/", &format!("{REGISTRY}/demo/")))
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
fn rows(answers: &[Value], start: f64, replicas: impl Fn(f64) -> f64) -> Vec<Vec<String>> {
    let sent = PHASES
        .into_iter()
        .flat_map(|(per_second, seconds)| (0..seconds).map(move |_| per_second));
    let row = |(second, sent): (u32, u32)| {
        let end = start + f64::from(second);
        let told = answers
            .iter()
            .find(|answer| answer["time"].as_f64().is_some_and(|time| time >= end));
        let told = told.and_then(|answer| answer["value"].as_f64());
        let replicas = told.map(&replicas);
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

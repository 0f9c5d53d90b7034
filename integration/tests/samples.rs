//! Each of the samples that users take away runs as it says, with nothing changed but where its images come from.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use podwasm_integration::manifest::{JobEnd, Manifest};
use podwasm_integration::node::REGISTRY;
use podwasm_integration::prelude::*;
use serde_json::json;

const SAMPLES: &str = "deploy/samples";
/// Which samples are pods, and run here. All others are about pods that there are, and tested with what they are for.
const RUN: [&str; 4] = ["hello.yaml", "http-server.yaml", "job.yaml", "sidecar.yaml"];

/// Reads a sample, and pushes the images that it names, made of the modules that its comment says.
async fn sample(node: &Node, file: &str) -> Result<Manifest> {
    node.podwasm().await?;
    let path = format!("{SAMPLES}/{file}");
    let manifest = Manifest::read(&path)?;
    for (module, image) in pushes(&path) {
        let (name, tag) = image.rsplit_once(':').expect("the image has a tag");
        node.push_as(&format!("samples/{name}"), tag, &guest_image(&module))
            .await?;
    }
    Ok(manifest
        .images_from("registry.example.com/", &format!("{REGISTRY}/samples/"))
        .images_from("docker.io/library/busybox:1.37", node.busybox()))
}

/// The modules and images of the `podwasm image push` lines in a sample's comment.
fn pushes(path: &str) -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = std::fs::read_to_string(file).expect("the sample is there");
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("#   podwasm image push target/guests/"));
    let parts = lines.filter_map(|line| line.split_once(".wasm registry.example.com/"));
    parts
        .map(|(module, image)| (module.to_owned(), image.to_owned()))
        .collect()
}

#[test]
fn every_sample_with_pods_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SAMPLES);
    let files = std::fs::read_dir(folder).expect("there are samples");
    let names = files.map(|file| file.expect("it can be listed").file_name().display().to_string());
    let with_pods: BTreeSet<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|suffix| suffix == "yaml"))
        .filter(|name| {
            let manifest = Manifest::read(format!("{SAMPLES}/{name}"));
            let manifest = manifest.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            manifest.has_pods()
        })
        .collect();
    assert_eq!(with_pods, BTreeSet::from(RUN.map(ToOwned::to_owned)));
    for name in RUN {
        assert!(
            !pushes(&format!("{SAMPLES}/{name}")).is_empty(),
            "{name} does not say how its images are made"
        );
    }
}

on_nodes! {
    async fn hello(node: &Node) {
        let pods = sample(node, "hello.yaml").await?.run(node).await?;
        let container = pods[0].container("hello")?;
        assert_eq!(container.wait_exit().await?, 0);
        let said = container.logs()?.stdout;
        assert_eq!(said, "hello from Rust\nargv[0]=/rust-hello.wasm\nargv[1]=from\nargv[2]=Wasm\n");
        pods[0].delete().await?;
    }

    async fn http_server(node: &Node) {
        let exporter = node.exporter().await?;
        let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
        let manifest = sample(node, "http-server.yaml").await?;
        let pods = manifest.run(node).await?;
        let places = manifest.endpoints("web", 80, &pods)?;
        assert_eq!(places.len(), 1);
        // Probes are not counted: the pod is ready, and KEDA is told that nothing is asked of it.
        let scaled = manifest.kept("ScaledObject", "web")?;
        let trigger = json!({"name": "web", "namespace": "shop", "scalerMetadata": scaled["spec"]["triggers"][0]["metadata"]});
        let keda = node.keda(scaler.grpc());
        assert_eq!(keda.call("IsActive", &trigger).await?, json!({"answer": {"result": false}}));
        for _ in 0..20 {
            assert_eq!(node.http(places[0], "/").await?.text(), format!("hello from {}\n", pods[0].name()));
        }
        let name = format!("pod=\"{}\"", pods[0].name());
        let counted = node.settled_metric(exporter, "podwasm_requests_total", &["workload=\"web\"", &name]).await?;
        ensure!((counted - 20.0).abs() < 0.5, "{counted} of 20 requests were counted");
        podwasm_integration::wait::until("KEDA is told", podwasm_integration::wait::PATIENCE, async || {
            let said = keda.call("IsActive", &trigger).await?;
            Ok((said == json!({"answer": {"result": true}})).then_some(()))
        }).await?;
        pods[0].is_live("web").await?;
        pods[0].delete().await?;
    }

    async fn job(node: &Node) {
        let manifest = sample(node, "job.yaml").await?;
        let (end, pods) = manifest.run_job(node, "count").await?;
        assert_eq!(end, JobEnd { complete: true, reason: "", codes: vec![0] });
        let report: serde_json::Value = serde_json::from_str(&pods[0].container("count")?.logs()?.stdout)?;
        assert_eq!(report["documents"], 2);
        let (end, failed) = manifest.run_job(node, "give-up").await?;
        assert_eq!(end, JobEnd { complete: false, reason: "PodFailurePolicy", codes: vec![42] });
        for pod in pods.iter().chain(&failed) {
            pod.delete().await?;
        }
    }

    async fn sidecar(node: &Node) {
        let pods = sample(node, "sidecar.yaml").await?.run(node).await?;
        let reader = pods[0].container("reader")?;
        reader.wait_stdout("written by a native container").await?;
        // As `kubectl exec` would have it: the native container has its shell, the Wasm one its module.
        let said = reader.exec(["uname", "-s"]).await?;
        assert_eq!((said.code, said.stdout.as_str()), (0, "Linux\n"));
        pods[0].delete().await?;
    }
}

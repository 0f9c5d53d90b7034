//! What is counted is what was sent: real servers in real pods, real clients, every time.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::Exporter;
use podwasm_integration::prelude::*;

const REQUESTS: &str = "podwasm_requests_total";

/// The requests that were counted for a pod, once their number has settled.
async fn counted(exporter: &Exporter, pod: &PodHandle<'_>) -> Result<f64> {
    let name = format!(
        "pod=\"{}\"",
        pod.config().metadata.as_ref().context("a name")?.name
    );
    pod.node().settled_metric(exporter, REQUESTS, &[&name]).await
}

/// A name that no other test's pod on this node has.
fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

on_nodes! {
    async fn requests_to_a_wasm_server(node: &Node) {
        node.podwasm().await?;
        let exporter = node.exporter().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod(&unique("wasm")).run().await?;
        let server = pod.container("server").image(&image).args(["0.0.0.0:8080"]).env("NAME", "x").start().await?;
        server.wait_stdout("listening").await?;
        let address = SocketAddr::new(pod.ip().await?, 8080);
        for _ in 0..25 {
            ensure!(node.http(address, "/").await?.status == 200);
        }
        assert_eq!(counted(exporter, &pod).await?, 25.0, "{}", exporter.process().log_tail());
        pod.remove().await?;
    }
}

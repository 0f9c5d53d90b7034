//! The pods of a soak, each from its sandbox to its removal.

use crate::churn::Churn;
use anyhow::{Result, ensure};
use podwasm_integration::guests::exits_with;
use podwasm_integration::load;
use podwasm_integration::node::scaled_object;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Requests to each server.
const PER_SECOND: u32 = 20;
const LOAD: Duration = Duration::from_secs(15);
/// How often a server's container is restarted before its pod is replaced.
const RESTARTS: usize = 3;
/// What the controller of a Deployment puts behind its pods' names.
const HASH: &str = "6d4cf56db6";

/// A pod with a native container and a Wasm one, which both end; the Wasm one comes twice.
pub async fn run_to_end(churn: &Churn<'_>, _number: usize) -> Result<()> {
    let _open = churn.gate.read().await;
    let node = churn.parts.node;
    let pod = node.pod("ends").run().await?;
    pod.runs_native().await?;
    for _ in 0..2 {
        let wasm = pod
            .container("wasm")
            .image(&churn.guest)
            .args(["exit", "42"])
            .start()
            .await?;
        wasm.ends_with(42).await?;
        wasm.remove().await?;
    }
    pod.remove().await?;
    churn.did(|tally| {
        tally.pods += 1;
        tally.containers += 3;
    });
    Ok(())
}

/// An image that the node has never seen comes, is compiled and run, and goes.
pub async fn run_new_image(churn: &Churn<'_>, number: usize) -> Result<()> {
    let _open = churn.gate.read().await;
    let node = churn.parts.node;
    let module = exits_with("(i32.const 42)", &format!("(global i32 (i32.const {number}))"));
    let image = Image::linux()
        .program("/app.wasm", module)
        .entrypoint(["/app.wasm"]);
    let image = node.push("soak-new", &image).await?;
    node.cri().pull(&image).await?;
    let pod = node.pod("new").run().await?;
    let container = pod.container("wasm").image(&image).start().await?;
    container.ends_with(42).await?;
    pod.remove().await?;
    node.cri().remove_image(&image).await?;
    churn.did(|tally| {
        tally.pods += 1;
        tally.containers += 1;
        tally.images += 1;
    });
    Ok(())
}

/// A native and a Wasm server under load, whose containers are restarted now and then. All requests are counted, and KEDA is told
/// of them.
pub async fn serve(churn: &Churn<'_>, end: Instant) -> Result<()> {
    let open = churn.gate.read().await;
    let node = churn.parts.node;
    let mut servers = Vec::new();
    for kind in [Kind::Native, Kind::Wasm] {
        servers.push(Server::start(churn, kind).await?);
    }
    drop(open);
    let mut sent = 0;
    for round in 0..=RESTARTS {
        let loads = servers
            .iter()
            .map(|server| load::send(node, server.address, PER_SECOND, LOAD));
        for count in futures_util::future::join_all(loads).await {
            let count = count?;
            churn.did(|tally| tally.requests += count as usize);
            sent += count;
        }
        let open = churn.gate.read().await;
        let rate = node.keda(churn.parts.scaler.grpc()).rate(&trigger()).await?;
        ensure!(
            rate.as_f64().is_some_and(|rate| rate > 1.0),
            "KEDA was told {rate}"
        );
        drop(open);
        if round == RESTARTS || Instant::now() >= end {
            break;
        }
        let _open = churn.gate.read().await;
        for server in &mut servers {
            server.restart(churn).await?;
        }
    }
    let _open = churn.gate.read().await;
    let mut counted = 0.0;
    for server in &servers {
        let pod = format!("pod=\"{}\"", server.name);
        counted += node
            .settled_metric(&churn.parts.exporter, "podwasm_requests_total", &[&pod])
            .await?;
        server.pod.remove().await?;
        churn.did(|tally| tally.pods += 1);
    }
    ensure!(
        (counted - f64::from(sent)).abs() < 0.5,
        "of {sent} requests {counted} were counted"
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Native,
    Wasm,
}

struct Server<'a> {
    kind: Kind,
    name: String,
    pod: PodHandle<'a>,
    container: ContainerHandle<'a>,
    address: SocketAddr,
}

impl<'a> Server<'a> {
    async fn start(churn: &Churn<'a>, kind: Kind) -> Result<Self> {
        let name = format!("web-{HASH}-{}", suffix(churn.tally().pods, kind));
        let pod = churn
            .parts
            .node
            .pod(&name)
            .namespace("shop")
            .label("pod-template-hash", HASH);
        let pod = pod
            .annotation("requests.noderesource.dev/count", "true")
            .run()
            .await?;
        let container = container(churn, kind, &pod).await?;
        let address = SocketAddr::new(pod.ip().await?, 8080);
        let server = Self {
            kind,
            name,
            pod,
            container,
            address,
        };
        server.wait().await?;
        Ok(server)
    }

    async fn restart(&mut self, churn: &Churn<'a>) -> Result<()> {
        self.container.stop(Duration::from_secs(1)).await?;
        self.container.remove().await?;
        self.container = container(churn, self.kind, &self.pod).await?;
        self.wait().await
    }

    /// Until it listens. A connection without a request is none that counts.
    async fn wait(&self) -> Result<()> {
        let node = self.pod.node();
        until("a server listens", PATIENCE, async || {
            Ok(node.connect(self.address).await.ok())
        })
        .await?;
        Ok(())
    }
}

async fn container<'a>(churn: &Churn<'a>, kind: Kind, pod: &PodHandle<'a>) -> Result<ContainerHandle<'a>> {
    let container = pod.container("server");
    let container = match kind {
        Kind::Native => {
            let serve = "mkdir /tmp/www; echo hello >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
            container.image(churn.parts.node.busybox()).shell(serve)
        }
        Kind::Wasm => container.image(&churn.server).args(["0.0.0.0:8080"]),
    };
    let container = container.start().await?;
    churn.did(|tally| tally.containers += 1);
    Ok(container)
}

/// Five letters, as a controller puts them behind its pods' names.
fn suffix(number: usize, kind: Kind) -> String {
    let letters = b"bcdfghjklmnpqrst";
    let kind = match kind {
        Kind::Native => 'n',
        Kind::Wasm => 'w',
    };
    let digits = (0..4).map(|place| char::from(letters[(number >> (4 * place)) % letters.len()]));
    digits.chain([kind]).collect()
}

/// What KEDA asks about.
fn trigger() -> Value {
    let metadata = json!({"workload": "Deployment/web", "targetRequestsPerSecond": "10", "window": "10s"});
    scaled_object("shop", &metadata)
}

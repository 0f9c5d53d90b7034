//! Requests that a small HTTP server answers each second: as native code and as a module, in pods of the same shape.

use crate::bar::Check;
use crate::cache;
use crate::section::{Better, Panel, Section, Who};
use crate::stats::{Values, geometric_mean};
use crate::table::Table;
use crate::variant::{Handler, Variant, read_guest};
use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::Node;
use podwasm_integration::prelude::{Image, PodHandle};
use podwasm_integration::wait::{PATIENCE, until};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const VARIANTS: [Variant; 3] = [
    Variant::PODWASM_ON_CRUN.native(),
    Variant::PODWASM_ON_CRUN,
    Variant::PEER,
];
/// How many connections the client has at a time.
const CONNECTIONS: [usize; 3] = [1, 4, 16];
/// One CPU is the server's, the other one the client's.
const CPU_MILLIS: i64 = 1000;
const MEMORY_BYTES: i64 = 256 << 20;
const PATH: &str = "/bench";

/// What was measured of one variant.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    variant: Variant,
    /// By the number of connections.
    requests_per_second: BTreeMap<usize, Values>,
}

impl Row {
    fn median(&self, connections: usize) -> f64 {
        self.requests_per_second
            .get(&connections)
            .map_or(f64::NAN, Values::median)
    }
}

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub rounds: usize,
    pub seconds: usize,
}

/// Starts a server of each variant and loads them in turns.
pub async fn measure(node: &Node, sizes: Sizes) -> Result<Section> {
    let module = read_guest("keep-alive.wasm")?;
    let native = read_guest("keep-alive-native")?;
    let native = Image::linux().program("/server", native).entrypoint(["/server"]);
    let wasm = Image::linux()
        .program("/server.wasm", module.clone())
        .entrypoint(["/server.wasm"]);
    let native = node.push("server-native", &native).await?;
    let wasm = node.push("server-wasm", &wasm).await?;
    for image in [&native, &wasm] {
        node.cri().pull(image).await?;
    }
    cache::wait_optimised(node, &module).await?;
    let mut servers = Vec::new();
    for variant in VARIANTS {
        let image = if variant.handler == Handler::Native {
            &native
        } else {
            &wasm
        };
        let server = Server::start(node, variant, image).await;
        servers.push(server.with_context(|| format!("start the server: {}", variant.name()))?);
    }
    for round in 1..=sizes.rounds {
        eprintln!("http: round {round} of {}", sizes.rounds);
        for server in &mut servers {
            for connections in CONNECTIONS {
                let rate = load(node, server.address, connections, sizes.seconds).await?;
                let rates = &mut server.row.requests_per_second;
                rates.entry(connections).or_default().push(rate);
            }
        }
        servers.reverse();
    }
    if sizes.rounds % 2 == 1 {
        servers.reverse();
    }
    let mut rows = Vec::new();
    for server in servers {
        server.pod.remove().await?;
        rows.push(server.row);
    }
    section(&rows)
}

struct Server<'a> {
    pod: PodHandle<'a>,
    address: SocketAddr,
    row: Row,
}

impl<'a> Server<'a> {
    async fn start(node: &'a Node, variant: Variant, image: &str) -> Result<Self> {
        let pod = variant.pod(node).run().await?;
        let container = pod.container("server").image(image).without_pull();
        let container = container.args(["0.0.0.0:8080"]);
        let limited = container.cpu_limit(CPU_MILLIS).memory_limit(MEMORY_BYTES);
        limited.start().await?;
        let address = SocketAddr::new(pod.ip().await?, 8080);
        until("the server answers", PATIENCE, async || {
            let Ok(answer) = node.http(address, PATH).await else {
                return Ok(None);
            };
            ensure!(
                answer.text() == format!("hello from {PATH}\n"),
                "it answers {:?}",
                answer.text()
            );
            Ok(Some(()))
        })
        .await?;
        let row = Row {
            variant,
            requests_per_second: BTreeMap::new(),
        };
        Ok(Self { pod, address, row })
    }
}

/// Requests per second, over connections that stay open, from a client in the node's network.
async fn load(node: &Node, address: SocketAddr, connections: usize, seconds: usize) -> Result<f64> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{}/ns/net", node.init()))
        .args(["wrk", "--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .arg(format!("http://{address}{PATH}"))
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.context("nsenter is part of util-linux, wrk a package of its own")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    requests_per_second(&text).with_context(|| format!("wrk said {text:?} {output:?}"))
}

/// None where anything failed.
fn requests_per_second(text: &str) -> Option<f64> {
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    line?.trim().parse().ok()
}

fn section(rows: &[Row]) -> Result<Section> {
    let [native, podwasm, peer] = VARIANTS.map(|variant| rows.iter().find(|row| row.variant == variant));
    let [native, podwasm, peer] = [native, podwasm, peer].map(|row| row.expect("each variant has a row"));
    let mut table = Table::new(
        std::iter::once(String::new())
            .chain(CONNECTIONS.map(|connections| format!("requests/s, connections: {connections}"))),
    );
    for row in [native, podwasm, peer] {
        let cells = CONNECTIONS.map(|connections| {
            let ratio = row.median(connections) / native.median(connections);
            format!("{:.0} (× {ratio:.2})", row.median(connections))
        });
        table.row(std::iter::once(row.variant.name().to_owned()).chain(cells));
    }
    let mean = |row: &Row| geometric_mean(CONNECTIONS.map(|connections| row.median(connections)));
    let mut section = Section::new("HTTP", &rows)?;
    section.notes.push(format!(
        "A server in one thread, the same source in Rust; pods on crun with a limit of {CPU_MILLIS}m CPU; wrk over connections \
         that stay open."
    ));
    section.tables.push(table);
    section.checks.push(Check::at_least(
        0.7,
        " ×",
        "HTTP requests per second against native, geometric mean",
        mean(podwasm) / mean(native),
    ));
    section.panels.push(Panel {
        title: "HTTP requests per second, mean".to_owned(),
        unit: "",
        better: Better::More,
        bars: vec![
            (Who::Native, mean(native)),
            (Who::Podwasm, mean(podwasm)),
            (Who::Peer, mean(peer)),
        ],
    });
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_is_no_result() {
        let good = "  1000 requests in 1.00s, 1MB read\nRequests/sec:   999.50\nTransfer/sec: 1MB\n";
        assert_eq!(requests_per_second(good), Some(999.5));
        assert_eq!(
            requests_per_second(&format!("Socket errors: connect 1\n{good}")),
            None
        );
        assert_eq!(
            requests_per_second(&format!("Non-2xx or 3xx responses: 1\n{good}")),
            None
        );
        assert_eq!(requests_per_second("unable to connect\n"), None);
    }
}

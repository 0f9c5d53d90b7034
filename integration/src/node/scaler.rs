//! The scaler under test, running in a node, and an independent client that asks it as KEDA does.

use super::{Node, Process};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

const PROGRAM: &str = "/opt/podwasm/bin/podwasm-scaler";
const TOOLS: &str = "/opt/tools/usr";
const CLIENT: &str = include_str!("../../keda/client.py");

/// A port of the node's loopback that nobody else has.
pub(crate) fn free_port() -> u16 {
    static PORTS: AtomicU16 = AtomicU16::new(12_000);
    PORTS.fetch_add(1, Ordering::Relaxed)
}

/// A running `podwasm-scaler`. Dropping it kills it.
#[derive(Debug)]
pub struct Scaler {
    grpc: String,
    http: String,
    process: Process,
}

impl Scaler {
    /// Where it answers KEDA, inside the node.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Where it serves its metrics, inside the node.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// KEDA, as far as the scaler can tell: grpcio with stubs of its own.
#[derive(Clone, Debug)]
pub struct Keda<'a> {
    address: String,
    flags: Vec<String>,
    node: &'a Node,
}

impl Node {
    /// Starts the scaler of this build in the node, for exporters at these addresses, and waits until it calls itself ready.
    pub async fn start_scaler(&self, exporters: &[&str], args: &[&str]) -> Result<Scaler> {
        let (grpc, http) = (free_port(), free_port());
        self.start_scaler_on(grpc, http, exporters, args).await
    }

    /// The same on ports of the caller's choice.
    pub async fn start_scaler_on(
        &self,
        grpc: u16,
        http: u16,
        exporters: &[&str],
        args: &[&str],
    ) -> Result<Scaler> {
        ensure!(
            self.path(PROGRAM).exists(),
            "{PROGRAM} is not in the node: build it before the node starts"
        );
        let [grpc, http] = [grpc, http].map(|port| format!("127.0.0.1:{port}"));
        let mut command = Command::new(PROGRAM);
        command.args(["--grpc", &grpc, "--http", &http]);
        command.args(exporters.iter().flat_map(|exporter| ["--exporters", exporter]));
        command
            .args(args)
            .env("RUST_LOG", "debug,h2=info,hyper_util=info,tower=info");
        let scaler = Scaler {
            process: self.spawn(&format!("scaler-{}", &grpc[10..]), command)?,
            grpc,
            http,
        };
        let ready = until("the scaler is ready", PATIENCE, async || {
            if let Some(status) = scaler.process.exited() {
                bail!("the scaler ended: {status}");
            }
            let answer = self.http(scaler.http.parse()?, "/readyz").await;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        });
        ready.await.with_context(|| scaler.process.log_tail())?;
        Ok(scaler)
    }

    /// An exporter that is none: it serves this state as a node without load would.
    pub async fn start_fake_exporter(&self, state: &Value) -> Result<(String, Process)> {
        let address = format!("127.0.0.1:{}", free_port());
        let exporter = self.start_fake_exporter_on(&address, state).await?;
        Ok((address, exporter))
    }

    /// The same at an address of the caller's choice.
    pub async fn start_fake_exporter_on(&self, address: &str, state: &Value) -> Result<Process> {
        let exporter = self
            .keda(address)
            .spawn("exporter", ["serve", &state.to_string()])?;
        until("the exporter serves", PATIENCE, async || {
            let is_there = !lines(&exporter)?.is_empty();
            ensure!(
                exporter.exited().is_none(),
                "it has ended\n{}",
                exporter.log_tail()
            );
            Ok(is_there.then_some(()))
        })
        .await?;
        Ok(exporter)
    }

    /// A client at an address, which may be gRPC's for several.
    pub fn keda(&self, address: &str) -> Keda<'_> {
        Keda {
            address: address.to_owned(),
            flags: Vec::new(),
            node: self,
        }
    }

    /// A program of `integration/node/tools.sh`.
    pub fn tool(&self, name: &str) -> Result<Command> {
        let path = format!("{TOOLS}/bin/{name}");
        ensure!(
            self.path(&path).exists(),
            "{path} is not in the node: run integration/node/tools.sh"
        );
        let mut command = Command::new(path);
        let libraries = format!("{TOOLS}/lib/{}-linux-gnu", std::env::consts::ARCH);
        command.env("LD_LIBRARY_PATH", libraries).env("PYTHONHOME", TOOLS);
        Ok(command)
    }
}

impl Keda<'_> {
    /// The same with files for TLS, by the client's flags.
    #[must_use]
    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Asks one question; the answer has the key `answer`, or `code` and `message`.
    pub async fn call(&self, method: &str, question: &Value) -> Result<Value> {
        let output = self
            .node
            .output_of(self.command(["call", method, &question.to_string()])?)
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_str(text.trim()).with_context(|| format!("{text}{errors}"))
    }

    /// The rate that it is told.
    pub async fn rate(&self, trigger: &Value) -> Result<Value> {
        let question = json!({"scaledObjectRef": trigger, "metricName": "requests-per-second"});
        let said = self.call("GetMetrics", &question).await?;
        let value = &said["answer"]["metricValues"][0]["metricValueFloat"];
        Ok(if value.is_null() { said } else { value.clone() })
    }

    /// Starts the client with a command; what it says is in the process's log, see [`lines`].
    pub fn spawn<const N: usize>(&self, name: &str, arguments: [&str; N]) -> Result<Process> {
        let name = format!("keda-{name}-{}", free_port());
        self.node.spawn(&name, self.command(arguments)?)
    }

    fn command<const N: usize>(&self, arguments: [&str; N]) -> Result<Command> {
        let mut command = self.node.tool("python3")?;
        command
            .args(["-c", CLIENT])
            .args(&self.flags)
            .arg(&self.address)
            .args(arguments);
        Ok(command)
    }
}

/// The lines of JSON that a client has said so far.
pub fn lines(client: &Process) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(client.log())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| serde_json::from_str(line).with_context(|| text.clone());
    whole.lines().map(parse).collect()
}

/// A ScaledObject named `scaling` in a namespace, with a trigger's metadata.
pub fn scaled_object(namespace: &str, metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    metadata["scalerAddress"] = "podwasm-scaler.podwasm:9468".into();
    json!({"name": "scaling", "namespace": namespace, "scalerMetadata": metadata})
}

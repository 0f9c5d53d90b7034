//! The exporter under test, running in a node, and what it has counted.

use super::{Node, Process};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, bail, ensure};
use std::cell::Cell;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/opt/podwasm/bin/podwasm-exporter";

/// A running `podwasm-exporter`. Dropping it kills it.
#[derive(Debug)]
pub struct Exporter {
    grpc: String,
    http: String,
    process: Process,
}

impl Exporter {
    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it serves scalers, inside the node.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Where it serves its metrics, inside the node.
    pub fn http(&self) -> &str {
        &self.http
    }
}

impl Node {
    /// The exporter that all tests on this node share, started by the first that asks, after podwasm. It has to be asked for before
    /// the test's first pod: containerd 2.1 waits for ever when a plugin registers while a pod is being stopped.
    pub async fn exporter(&self) -> Result<&Exporter> {
        self.podwasm().await?;
        self.exporter.get_or_try_init(|| self.start_exporter([])).await
    }

    /// Starts the exporter of this build in the node, under a name and on ports that no other has, and waits until it calls
    /// itself ready.
    pub async fn start_exporter<const N: usize>(&self, args: [&str; N]) -> Result<Exporter> {
        self.start_exporter_with(&args).await
    }

    /// The same with any number of arguments.
    pub async fn start_exporter_with(&self, args: &[impl AsRef<OsStr>]) -> Result<Exporter> {
        static PORTS: AtomicU16 = AtomicU16::new(9_500);
        self.exporter_on(PORTS.fetch_add(2, Ordering::Relaxed), args)
            .await
    }

    /// The same on a port of the caller's choice and the one after it.
    pub async fn start_exporter_on<const N: usize>(&self, port: u16, args: [&str; N]) -> Result<Exporter> {
        self.exporter_on(port, &args).await
    }

    async fn exporter_on(&self, port: u16, args: &[impl AsRef<OsStr>]) -> Result<Exporter> {
        ensure!(
            self.path(PROGRAM).exists(),
            "{PROGRAM} is not in the node: build it before the node starts"
        );
        let (http, grpc) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
        let name = format!("exporter-{port}");
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "--name",
                &name,
                "--nri-socket",
                "/run/nri/nri.sock",
                "--http",
                &http,
            ])
            .args(["--grpc", &grpc])
            .args(args)
            .env("RUST_LOG", "info,podwasm_metrics_exporter=debug,nri=debug")
            .env("RUST_BACKTRACE", "1");
        let exporter = Exporter {
            grpc,
            http,
            process: self.spawn(&name, command)?,
        };
        let ready = self.wait_exporter_ready(&exporter).await;
        ready.with_context(|| exporter.process.log_tail())?;
        Ok(exporter)
    }

    /// Waits until the exporter calls itself ready.
    pub async fn wait_exporter_ready(&self, exporter: &Exporter) -> Result<()> {
        until("the exporter is ready", PATIENCE, async || {
            if let Some(status) = exporter.process.exited() {
                bail!("the exporter ended: {status}");
            }
            let answer = self.http(exporter.http.parse()?, "/readyz").await;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .await
    }

    /// The sum of a metric's series that have all these labels, each as `name="value"`. `None` if there is no such series.
    pub async fn metric(&self, exporter: &Exporter, name: &str, labels: &[&str]) -> Result<Option<f64>> {
        self.metric_at(exporter.http.parse()?, name, labels).await
    }

    /// The same of whatever serves metrics there.
    pub async fn metric_at(&self, at: SocketAddr, name: &str, labels: &[&str]) -> Result<Option<f64>> {
        let text = self.http(at, "/metrics").await?.text();
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (found, value) = rest.rsplit_once(' ')?;
            let is_wanted = (found.is_empty() || found.starts_with('{'))
                && labels.iter().all(|label| found.contains(label));
            is_wanted.then(|| value.parse::<f64>().ok())?
        });
        Ok(series.reduce(|sum, value| sum + value))
    }

    /// Waits until a metric no longer changes though its exporter looked again, and returns it: what is under way has then been counted.
    pub async fn settled_metric(&self, exporter: &Exporter, name: &str, labels: &[&str]) -> Result<f64> {
        self.settled_metric_at(exporter.http.parse()?, name, labels).await
    }

    /// The same of whatever serves metrics there.
    pub async fn settled_metric_at(&self, at: SocketAddr, name: &str, labels: &[&str]) -> Result<f64> {
        let before = Cell::new((None, Instant::now()));
        until("the number settles", PATIENCE, async || {
            let asked = Instant::now();
            let (now, age) = tokio::try_join!(
                self.metric_at(at, name, labels),
                self.metric_at(at, "podwasm_sample_age_seconds", &[])
            )?;
            let (earlier, then) = before.replace((now, asked));
            // An exporter that had no time to look has the same number as before. What adds up many has no age.
            let has_looked = age.is_none_or(|age| age < (asked - then).as_secs_f64());
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(now.filter(|_| has_looked && earlier == now))
        })
        .await
    }
}

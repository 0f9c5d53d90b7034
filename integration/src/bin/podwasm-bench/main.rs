//! What a Wasm container costs on a node, beside a native one and beside crun's own Wasm handler, and what the plugin costs
//! the containers that it does not touch. All variants take turns within one run, so that they share what the machine
//! does meanwhile; docs/benchmarks.md says how to read the result.

mod cpu;
mod machine;
mod output;
mod overhead;
mod pods;
mod report;
mod stats;
mod variant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use cpu::Meter;
use machine::Machine;
use pods::Ground;
use podwasm_integration::node::{Flavor, Node, Runtime};
use report::{AtOnce, Report};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use variant::Images;

/// Compares podwasm with native containers and with crun's own WasmEdge handler, on throw-away nodes.
#[derive(Parser)]
#[command(name = "podwasm-bench")]
struct Arguments {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["one-by-one", "at-once", "latency"])]
    parts: Vec<Part>,
    /// Whose containerd.
    #[arg(long, value_enum, default_value_t = Flavor::Trixie)]
    containerd: Flavor,
    /// The runtime on which the plugin's latency is measured; pods are run on both.
    #[arg(long, value_enum, default_value_t = Runtime::Runc)]
    runtime: Runtime,
    /// Pods of each variant, one by one.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Pods of each variant that are run before what counts.
    #[arg(long, default_value_t = 2)]
    warm_up: usize,
    /// Pods at once.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// How often each variant has that many pods at once.
    #[arg(long, default_value_t = 2)]
    bursts: usize,
    /// Native containers created with the plugin, and as many without.
    #[arg(long, default_value_t = 500)]
    creations: usize,
    /// Also write all measured values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Many pods started together.
    AtOnce,
    /// The latency that the plugin adds to the creation of a native container.
    Latency,
    /// One pod after another.
    OneByOne,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.rounds > 0 && arguments.pods > 0 && arguments.bursts > 0 && arguments.creations > 0,
        "nothing can be measured zero times"
    );
    let mut terminate = signal(SignalKind::terminate())?;
    // Nodes end with the handles on them, which are dropped with whatever is measured when a signal comes first.
    let report = tokio::select! {
        report = measure(&arguments) => report?,
        _ = terminate.recv() => bail!("terminated"),
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            bail!("interrupted")
        }
    };
    println!("{report}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let wants = |part| arguments.parts.contains(&part);
    let node = Node::start(arguments.containerd, Runtime::Runc).await?;
    let mut report = Report {
        machine: Machine::of(&node).await?,
        load_after: String::new(),
        idle: None,
        one_by_one: None,
        at_once: None,
        latency: None,
    };
    if wants(Part::OneByOne) || wants(Part::AtOnce) {
        let outcome = run_pods(&node, arguments, &mut report).await;
        outcome.with_context(|| node.log_tails())?;
    }
    node.stop().await?;
    if wants(Part::Latency) {
        let Arguments {
            containerd,
            runtime,
            creations,
            ..
        } = *arguments;
        report.latency = Some(overhead::measure(containerd, runtime, creations).await?);
    }
    report.load_after = machine::load()?;
    Ok(report)
}

async fn run_pods(node: &Node, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let _plugin = node
        .start_podwasm_as(|command| _ = command.env("RUST_LOG", "info"))
        .await?;
    let images = Images::on(node).await?;
    let meter = Meter::of(node).await?;
    report.idle = Some(meter.idle());
    let ground = Ground {
        node,
        images: &images,
        meter: &meter,
    };
    ground.rounds(arguments.warm_up, 1, "warm-up").await?;
    if arguments.parts.contains(&Part::OneByOne) {
        report.one_by_one = Some(ground.rounds(arguments.rounds, 1, "one by one").await?);
    }
    if arguments.parts.contains(&Part::AtOnce) {
        let pods = arguments.pods;
        let rows = ground
            .rounds(arguments.bursts, pods, &format!("{pods} at once"))
            .await?;
        report.at_once = Some(AtOnce { pods, rows });
    }
    Ok(())
}

//! What a Wasm container costs and gives, beside a native one and beside crun's own Wasm handler, and what the plugin costs the
//! containers that it does not touch. All that is compared takes turns within one run, so that it shares what the machine does
//! meanwhile; docs/benchmarks.md says how to read the result.

mod arrival;
mod bar;
mod bare;
mod cache;
mod chart;
mod compiler;
mod compute;
mod cpu;
mod density;
mod histogram;
mod http;
mod idle;
mod latency;
mod memory;
mod module;
mod output;
mod parts;
mod pods;
mod report;
mod section;
mod start;
mod variant;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum as _};
use parts::{Asked, Part, Run, Sizes};
use podwasm_integration::measure::machine::Machine;
use podwasm_integration::measure::svg::write;
use podwasm_integration::measure::{mappings, stats, table};
use podwasm_integration::node::{Flavor, Node, Runtime};
use report::Report;
use std::path::PathBuf;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Compares podwasm with native containers and with crun's own WasmEdge handler.
#[derive(Parser)]
#[command(name = "podwasm-bench")]
struct Arguments {
    /// What to measure, instead of everything.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Whose containerd.
    #[arg(long, value_enum, default_value_t = Flavor::Trixie)]
    containerd: Flavor,
    /// The runtime on which the plugin's latency is measured.
    #[arg(long, value_enum, default_value_t = Runtime::Runc)]
    runtime: Runtime,
    #[command(flatten)]
    sizes: Asked,
    /// Also write all measured values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also draw a chart into this file, as SVG.
    #[arg(long)]
    chart: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    ensure!(!arguments.sizes.has_zero(), "nothing can be measured zero times");
    if arguments.parts.is_empty() {
        arguments.parts = Part::value_variants().to_vec();
    }
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
    print!("{report}");
    if let Some(path) = &arguments.json {
        write(path, &(serde_json::to_string(&report)? + "\n"))?;
    }
    if let Some(path) = &arguments.chart {
        let panels = report.sections.iter().flat_map(|section| &section.panels);
        write(path, &chart::draw(panels))?;
    }
    ensure!(
        report.failures.is_empty(),
        "{} parts failed",
        report.failures.len()
    );
    Ok(())
}

/// A part that fails does not keep the others from being measured.
async fn measure(arguments: &Arguments) -> Result<Report> {
    let start = Instant::now();
    let node = Node::start(arguments.containerd, Runtime::Runc).await?;
    let mut report = Report {
        machine: Machine::of(&node).await?,
        sections: Vec::new(),
        failures: Vec::new(),
    };
    let run = Run::new(&node, arguments.runtime, Sizes::of(&arguments.sizes))?;
    for part in &arguments.parts {
        match run.measure(*part).await {
            Ok(section) => report.sections.push(section),
            Err(error) => {
                let failure = format!("{part:?} failed: {error:#}");
                eprintln!("{failure}\nits logs are in {}", node.logs().display());
                report.failures.push(failure);
            }
        }
    }
    drop(run);
    node.stop().await?;
    report.machine.after(start.elapsed()).await?;
    Ok(report)
}

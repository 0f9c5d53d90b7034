//! Pods, containers and images come and go on a throw-away node for as long as asked, under load, while workers are killed and containerd
//! is restarted; what podwasm's processes and the node keep meanwhile has to stay flat. docs/reliability.md says how to read the result.

mod chart;
mod churn;
mod disrupt;
mod pods;
mod report;
mod sample;
mod series;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use churn::Churn;
use clap::Parser;
use disrupt::Happened;
use podwasm_integration::measure::machine::Machine;
use podwasm_integration::measure::svg;
use podwasm_integration::node::{Exporter, Flavor, Node, Podwasm, Runtime, Scaler};
use report::Report;
use sample::Samples;
use std::cell::RefCell;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The cache is so small that it is full after some minutes of an hour: what is flat then is flat because it is kept so.
const POLICY: &str = "cache_size: 1280Ki\n";
/// How many samples a run has, unless that makes them rarer or more frequent than this.
const SAMPLES: u32 = 360;
const BETWEEN_SAMPLES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// Progress is told as often.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// Lets pods and images come and go under load, and tells whether memory, descriptors, threads, mounts and the like stay flat.
#[derive(Parser)]
#[command(name = "podwasm-soak")]
struct Arguments {
    /// How long: `90s`, `10m`, `1h`.
    #[arg(long, default_value = "10m", value_parser = duration)]
    duration: Duration,
    /// Whose containerd.
    #[arg(long, value_enum, default_value_t = Flavor::Trixie)]
    containerd: Flavor,
    /// The runtime.
    #[arg(long, value_enum, default_value_t = Runtime::Runc)]
    runtime: Runtime,
    /// Also draw a chart into this file, as SVG.
    #[arg(long)]
    chart: Option<PathBuf>,
}

/// All that runs.
struct Parts<'a> {
    node: &'a Node,
    plugin: Podwasm,
    exporter: Exporter,
    scaler: Scaler,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let node = Node::start(arguments.containerd, arguments.runtime).await?;
    let report = Box::pin(soak(&node, arguments.duration))
        .await
        .with_context(|| format!("logs are in {}", node.logs().display()));
    node.stop().await?;
    let report = report?;
    print!("{report}");
    if let Some(path) = &arguments.chart {
        svg::write(path, &chart::draw(&report))?;
    }
    report.check()
}

/// Runs until the time is over or somebody interrupts; what was seen until then is told either way.
async fn soak(node: &Node, duration: Duration) -> Result<Report> {
    let mut machine = Machine::of(node).await?;
    std::fs::write(node.path("/tmp/policy.yaml"), POLICY).context("write the policy")?;
    let plugin = node.start_podwasm_with(["--config", "/tmp/policy.yaml"]).await?;
    let exporter = node.start_exporter([]).await?;
    let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
    let parts = Parts {
        node,
        plugin,
        exporter,
        scaler,
    };
    let churn = Churn::prepare(&parts).await?;

    let start = Instant::now();
    let samples = RefCell::new(Samples::new(start));
    let happened = RefCell::new(Vec::new());
    samples.borrow_mut().take(&parts)?;
    let watch = watch(&parts, &churn, &samples, duration);
    let disrupt = disrupt::disrupt(&parts, &churn, start, duration, &happened);
    let mut whole = Box::pin(async {
        tokio::select! {
            done = async { tokio::try_join!(churn.run(start + duration), disrupt) } => done.map(drop),
            watched = watch => watched,
        }
    });
    let is_whole = tokio::select! {
        done = &mut whole => { done?; true }
        () = interrupted() => false,
    };
    if is_whole {
        samples.borrow_mut().take(&parts)?;
    }
    machine.after(start.elapsed()).await?;
    let happened: Vec<Happened> = happened.borrow().clone();
    Ok(Report {
        machine,
        is_whole,
        asked: duration,
        series: samples.borrow().series.clone(),
        happened,
        tally: churn.tally(),
    })
}

/// Samples at intervals, and tells how it goes. Never ends by itself.
async fn watch(
    parts: &Parts<'_>,
    churn: &Churn<'_>,
    samples: &RefCell<Samples>,
    duration: Duration,
) -> Result<()> {
    let [least, most] = BETWEEN_SAMPLES;
    let mut ticks = interval((duration / SAMPLES).clamp(least, most));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Instant::now();
    loop {
        ticks.tick().await;
        for (name, status) in [
            ("podwasm", parts.plugin.process().exited()),
            ("podwasm-exporter", parts.exporter.process().exited()),
            ("podwasm-scaler", parts.scaler.process().exited()),
        ] {
            if let Some(status) = status {
                bail!("{name} ended: {status}");
            }
        }
        samples.borrow_mut().take(parts)?;
        if told.elapsed() >= BETWEEN_LINES {
            told = Instant::now();
            eprintln!("{}; {}", samples.borrow().line(), churn.tally());
        }
    }
}

/// Returns when somebody wants the soak to end.
async fn interrupted() {
    let of = |kind| signal(kind).expect("signals can be waited for");
    let (mut interrupt, mut terminate) = (of(SignalKind::interrupt()), of(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.len() - usize::from(text.ends_with(['s', 'm', 'h'])));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => bail!("a duration is a number and a unit, as in 90s, 10m or 1h"),
    };
    let number: u64 = number
        .parse()
        .context("a duration is a whole number and a unit")?;
    ensure!(
        (1..=10_000).contains(&number),
        "a duration is from 1 to 10000 of a unit"
    );
    Ok(Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1h").unwrap(), Duration::from_secs(3600));
        for wrong in ["", "1", "h", "-1m", "0s", "1.5h", "1d", "ü"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

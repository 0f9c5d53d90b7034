//! On what a run was made, and whether it was left alone: numbers without that say little.

use crate::node::{Node, target};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// For so long the machine is watched before a run and after it.
const WATCHED: Duration = Duration::from_secs(3);
/// What others may use of the machine without being mentioned.
const QUIET_PERCENT: f64 = 10.0;

/// The machine and the versions of all that takes part.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// When the run began.
    pub date: String,
    /// The model.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// All of it.
    pub memory: String,
    /// Its release.
    pub kernel: String,
    /// Its version.
    pub containerd: String,
    /// Its version.
    pub runc: String,
    /// Its version.
    pub crun: String,
    /// The version that crun loads.
    pub wasmedge: String,
    /// The engine's bundle and the compiler's.
    pub engine: String,
    /// Its version, and how it was built.
    pub plugin: String,
    /// Load averages before the run.
    pub load_before: String,
    /// The same after it.
    pub load_after: String,
    /// How much of all processors others used, before the run.
    pub busy_before_percent: f64,
    /// The same after it.
    pub busy_after_percent: f64,
    /// How long the run took.
    pub minutes: f64,
}

impl Machine {
    /// This machine before the run, and a node on it.
    pub async fn of(node: &Node) -> Result<Self> {
        let load_before = load()?;
        let first_line = async |program: &str| {
            let output = node.exec(program, ["--version"]).await?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            anyhow::Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        let plugin = first_line("/opt/podwasm/bin/podwasm").await?;
        let date = Command::new("date").args(["--utc", "+%F %R UTC"]).output()?;
        Ok(Self {
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            processor: value_of("/proc/cpuinfo", "model name")?,
            processors: std::thread::available_parallelism()?.get(),
            memory: value_of("/proc/meminfo", "MemTotal")?,
            kernel: read("/proc/sys/kernel/osrelease")?,
            containerd: node.cri().version().await?,
            runc: first_line("runc").await?,
            crun: first_line("crun").await?,
            wasmedge: wasmedge()?,
            engine: engine()?,
            plugin: format!("{plugin} ({BUILD})"),
            load_before,
            load_after: String::new(),
            busy_before_percent: busy_percent().await?,
            busy_after_percent: f64::NAN,
            minutes: f64::NAN,
        })
    }

    /// After the run. An error where the engine or its compiler was replaced meanwhile.
    pub async fn after(&mut self, took: Duration) -> Result<()> {
        self.load_after = load()?;
        self.busy_after_percent = busy_percent().await?;
        self.minutes = took.as_secs_f64() / 60.0;
        let engine = engine()?;
        ensure!(
            engine == self.engine,
            "the engine was replaced while it was measured: {} before, {engine} after",
            self.engine
        );
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            date,
            processor,
            processors,
            memory,
            kernel,
            containerd,
            runc,
            crun,
            wasmedge,
            engine,
            plugin,
            load_before,
            load_after,
            busy_before_percent,
            busy_after_percent,
            minutes,
        } = self;
        writeln!(
            f,
            "{date}, {minutes:.1} minutes. {processor}, {processors} CPUs, {memory}, Linux {kernel}."
        )?;
        writeln!(f, "{containerd}; {runc}; {crun}; libwasmedge0 {wasmedge}.")?;
        writeln!(f, "{plugin}, engine {engine}.")?;
        writeln!(
            f,
            "Load average {load_before} before, {load_after} after; others used {busy_before_percent:.0} % of the machine \
             before and {busy_after_percent:.0} % after."
        )?;
        if busy_before_percent.max(*busy_after_percent) > QUIET_PERCENT {
            writeln!(
                f,
                "**The machine was busy with other work:** read the ratios, not the milliseconds."
            )?;
        }
        Ok(())
    }
}

const BUILD: &str = if cfg!(debug_assertions) {
    "an unoptimised build"
} else {
    "a release build"
};

/// The versions of the engine's bundle and of the compiler's.
fn engine() -> Result<String> {
    let version = |part| {
        let file = target().join("engine").join(part).join("VERSION");
        read(&file.to_string_lossy()).context("run `make engine`")
    };
    Ok(match version("compiler") {
        Ok(compiler) => format!("{} with compiler {compiler}", version("bundle")?),
        Err(_) => format!(
            "{} without a compiler: modules are interpreted",
            version("bundle")?
        ),
    })
}

/// Debian's version of what crun loads.
fn wasmedge() -> Result<String> {
    let versions = read(&target().join("roots/trixie/versions").to_string_lossy())?;
    let line = versions
        .lines()
        .find_map(|line| line.strip_prefix("libwasmedge0="));
    Ok(line.unwrap_or("unknown").to_owned())
}

/// The load averages over 1, 5 and 15 minutes.
fn load() -> Result<String> {
    let text = read("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// How much of all processors is used while this process waits.
async fn busy_percent() -> Result<f64> {
    let before = Ticks::now()?;
    tokio::time::sleep(WATCHED).await;
    Ok(Ticks::now()?.busy_percent_since(&before))
}

/// The first line of `/proc/stat`.
#[derive(Debug)]
struct Ticks {
    all: f64,
    idle: f64,
}

impl Ticks {
    fn now() -> Result<Self> {
        Self::parse(&read("/proc/stat")?).context("/proc/stat does not begin with all processors")
    }

    /// User, nice, system, idle, waiting for I/O, and more.
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<f64> = numbers.map_while(|number| number.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all = ticks.iter().take(8).sum(); // guests are counted among user and nice
        Some(Self { all, idle })
    }

    fn busy_percent_since(&self, before: &Self) -> f64 {
        100.0 * (1.0 - (self.idle - before.idle) / (self.all - before.all))
    }
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

fn value_of(path: &str, key: &str) -> Result<String> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, value)| value.trim());
    Ok(value.unwrap_or("unknown").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle() {
        let before = Ticks::parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        let after = Ticks::parse("cpu  130 0 120 840 110 0 0 0 0 0\n").unwrap();
        assert!((after.busy_percent_since(&before) - 25.0).abs() < 1e-9);
        assert!(Ticks::parse("cpu0 1 1 1 1 1\n").is_none());
    }
}

//! CPU time of a whole node, by the cgroup that holds everything in it.

use anyhow::{Context as _, Result};
use podwasm_integration::node::Node;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(3);

/// Reads how much CPU time a node has used.
#[derive(Debug)]
pub struct Meter {
    source: Source,
    /// Seconds per second that the node uses when nothing is asked of it.
    idle: f64,
}

#[derive(Debug)]
enum Source {
    /// cgroup v1: one number, in nanoseconds.
    V1(PathBuf),
    /// cgroup v2: a line among others, in microseconds.
    V2(PathBuf),
}

/// The meter at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    used: Duration,
}

impl Meter {
    /// A meter for this node, which must be idle, since that is measured first.
    pub async fn of(node: &Node) -> Result<Self> {
        let mut meter = Self {
            source: Source::of(node)?,
            idle: 0.0,
        };
        let start = meter.read()?;
        tokio::time::sleep(IDLE).await;
        meter.idle = meter.since(&start)?.as_secs_f64() / start.at.elapsed().as_secs_f64();
        Ok(meter)
    }

    /// Seconds per second that the node uses when nothing is asked of it.
    pub fn idle(&self) -> f64 {
        self.idle
    }

    pub fn read(&self) -> Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            used: self.source.used()?,
        })
    }

    /// CPU time between two readings, less what the node would have used anyway.
    pub fn between(&self, start: &Reading, end: &Reading) -> Duration {
        let idle = Duration::from_secs_f64((end.at - start.at).as_secs_f64() * self.idle);
        end.used.saturating_sub(start.used).saturating_sub(idle)
    }

    /// The same up to now.
    pub fn since(&self, start: &Reading) -> Result<Duration> {
        Ok(self.between(start, &self.read()?))
    }
}

impl Source {
    fn of(node: &Node) -> Result<Self> {
        let top = node.path("/sys/fs/cgroup");
        if top.join("cgroup.controllers").exists() {
            return Ok(Self::V2(top.join("cpu.stat")));
        }
        fs::read_dir(&top)
            .with_context(|| format!("list {}", top.display()))?
            .filter_map(|entry| Some(entry.ok()?.path().join("cpuacct.usage")))
            .find(|file| file.exists())
            .map(Self::V1)
            .context("no cgroup of the node counts CPU time")
    }

    fn used(&self) -> Result<Duration> {
        let (Self::V1(path) | Self::V2(path)) = self;
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        match self {
            Self::V1(_) => Ok(Duration::from_nanos(text.trim().parse()?)),
            Self::V2(_) => {
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Ok(Duration::from_micros(
                    line.context("no usage_usec")?.trim().parse()?,
                ))
            }
        }
    }
}

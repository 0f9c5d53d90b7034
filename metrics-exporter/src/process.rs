//! What Prometheus' conventions want to know of every process, read when it is asked for.

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// This process's CPU time, memory and open files.
#[derive(Debug)]
pub struct Process {
    started_seconds: f64,
}

impl Process {
    /// Of a process that has just started.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started_seconds: now.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut metric =
            |name, help, unit: Option<&Unit>, value: &dyn Metric| value.write(&mut encoder, name, help, unit);
        let help = "When this process started, since the epoch";
        let started = ConstGauge::new(self.started_seconds);
        metric("process_start_time", help, Some(&Unit::Seconds), &started)?;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(usage) = Usage::parse(&stat) {
            let help = "User and system CPU time of this process";
            metric(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                &ConstCounter::new(usage.cpu_seconds),
            )?;
            let help = "Memory of this process that is resident";
            let resident = ConstGauge::new(usage.resident_bytes);
            metric("process_resident_memory", help, Some(&Unit::Bytes), &resident)?;
        }
        let help = "Files that this process has open";
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        metric(
            "process_open_fds",
            help,
            None,
            &ConstGauge::new(i64::try_from(files).unwrap_or(0)),
        )
    }
}

/// What can be written as a metric of its own.
trait Metric {
    fn write(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> fmt::Result;
}

impl<M: EncodeMetric> Metric for M {
    fn write(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, unit, self.metric_type())?)
    }
}

#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: i64,
}

impl Usage {
    /// From `/proc/PID/stat`, whose second field is a name in parentheses that may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)?;
        let pages = field(24)?;
        Some(Self {
            cpu_seconds: Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
                .as_secs_f64(),
            resident_bytes: i64::try_from(pages * rustix::param::page_size() as u64).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_understood() {
        let stat =
            "7 (a ) b) S 1 7 7 0 -1 4194560 200 0 1 0 150 50 0 0 20 0 3 0 9 1000 512 18446744073709551615";
        let usage = Usage::parse(stat).unwrap();
        let ticks = rustix::param::clock_ticks_per_second();
        let cpu = Duration::from_millis(200_000 / ticks).as_secs_f64();
        assert!((usage.cpu_seconds - cpu).abs() < 1e-9, "{usage:?}");
        assert_eq!(
            usage.resident_bytes,
            512 * i64::try_from(rustix::param::page_size()).unwrap()
        );
        assert_eq!(Usage::parse(""), None);
        assert_eq!(Usage::parse("7 (a) S 1"), None);
    }
}

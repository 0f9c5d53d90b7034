//! The plugin's own account of how long it takes: a histogram among its metrics.

use anyhow::{Context as _, Result};
use podwasm_integration::node::{Node, PLUGIN_HTTP};
use serde::Serialize;
use std::collections::BTreeMap;

/// The histogram of containers with one outcome.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Histogram {
    pub count: f64,
    pub sum_seconds: f64,
    /// How many took at most so many microseconds.
    pub at_most_microseconds: BTreeMap<u64, f64>,
}

impl Histogram {
    /// Reads it from the plugin on a node: `native` or `routed` containers.
    pub async fn of(node: &Node, outcome: &str) -> Result<Self> {
        let answer = node.http(PLUGIN_HTTP.parse()?, "/metrics").await?;
        Self::parse(&answer.text(), outcome).context("read the plugin's metrics")
    }

    /// Nothing of an outcome means that it did not happen.
    fn parse(text: &str, outcome: &str) -> Option<Self> {
        let mut histogram = Self::default();
        let label = format!("outcome=\"{outcome}\"");
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("podwasm_create_seconds_"));
        for line in lines.filter(|line| line.contains(&label)) {
            let (series, rest) = line.split_once('{')?;
            let (labels, value) = rest.split_once("} ")?;
            let value = value.split(' ').next()?.parse().ok()?;
            match series {
                "count" => histogram.count = value,
                "sum" => histogram.sum_seconds = value,
                "bucket" => {
                    let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
                    if bound != "+Inf" {
                        histogram.at_most_microseconds.insert(microseconds(bound)?, value);
                    }
                }
                _ => {}
            }
        }
        Some(histogram)
    }

    /// Adds what came between two readings.
    pub fn add(&mut self, after: &Self, before: &Self) {
        self.count += after.count - before.count;
        self.sum_seconds += after.sum_seconds - before.sum_seconds;
        for (bound, count) in &after.at_most_microseconds {
            let earlier = before.at_most_microseconds.get(bound).unwrap_or(&0.0);
            *self.at_most_microseconds.entry(*bound).or_default() += count - earlier;
        }
    }

    pub fn mean_microseconds(&self) -> f64 {
        self.sum_seconds / self.count * 1e6
    }

    /// The smallest bound, in milliseconds, that so many percent kept; not a number when there is none.
    pub fn percentile_milliseconds(&self, percent: f64) -> f64 {
        let wanted = self.count * percent / 100.0;
        let mut bounds = self.at_most_microseconds.iter();
        let bound = bounds.find(|&(_, &count)| count > 0.0 && count >= wanted);
        #[expect(clippy::cast_precision_loss, reason = "a bound is a small number")]
        bound.map_or(f64::NAN, |(&bound, _)| bound as f64 / 1e3)
    }
}

/// A histogram's bound, which is in seconds.
fn microseconds(bound: &str) -> Option<u64> {
    let seconds: f64 = bound.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bound is a small number"
    )]
    Some((seconds * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE podwasm_create_seconds histogram
podwasm_create_seconds_sum{outcome=\"native\"} 0.004
podwasm_create_seconds_count{outcome=\"native\"} 4
podwasm_create_seconds_bucket{le=\"0.00005\",outcome=\"native\"} 3
podwasm_create_seconds_bucket{le=\"0.005\",outcome=\"native\"} 4
podwasm_create_seconds_bucket{le=\"+Inf\",outcome=\"native\"} 4
podwasm_create_seconds_count{outcome=\"routed\"} 9
";

    #[test]
    fn one_outcome_is_read_from_the_metrics() {
        let mut histogram = Histogram::default();
        histogram.add(
            &Histogram::parse(METRICS, "native").unwrap(),
            &Histogram::default(),
        );
        assert!((histogram.mean_microseconds() - 1000.0).abs() < 1e-6);
        assert!((histogram.percentile_milliseconds(50.0) - 0.05).abs() < 1e-9);
        assert!((histogram.percentile_milliseconds(99.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn what_did_not_happen_is_no_error() {
        let none = Histogram::parse("podwasm_nri_connected 1\n", "native").unwrap();
        assert!(none.count.abs() < f64::EPSILON);
        assert!(none.percentile_milliseconds(99.0).is_nan());
    }
}

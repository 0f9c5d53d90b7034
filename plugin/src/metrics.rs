//! What the daemon counts about itself.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// From 50 µs, an answer from memory, to containerd's own limit of 2 s.
const LATENCY_BUCKETS_SECONDS: [f64; 13] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.3, 1.0, 2.0,
];

/// What became of a container.
#[derive(Clone, Copy, Debug, EncodeLabelValue, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Left as it is.
    #[allow(non_camel_case_types, reason = "the label's value")]
    native,
    /// Left as it is because it could not be looked at, and nothing pointed to Wasm.
    #[allow(non_camel_case_types, reason = "the label's value")]
    unobserved,
    /// Its creation failed with a reason.
    #[allow(non_camel_case_types, reason = "the label's value")]
    refused,
    /// The engine runs it.
    #[allow(non_camel_case_types, reason = "the label's value")]
    routed,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Decided {
    outcome: Outcome,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Refused {
    reason: &'static str,
}

/// The daemon's metrics; owns their registry.
#[derive(Debug)]
pub struct Metrics {
    connected: Gauge,
    connections: Counter,
    decisions: Family<Decided, Counter>,
    latency: Family<Decided, Histogram, fn() -> Histogram>,
    refusals: Family<Refused, Counter>,
    registry: Registry,
}

impl Metrics {
    /// Metrics of a daemon that uses this engine build.
    pub fn new(engine: &str) -> Self {
        let mut root = Registry::default();
        let start = Gauge::<f64, AtomicU64>::default();
        start.set(seconds_since_epoch());
        let help = "When this process started, since the epoch";
        root.register_with_unit("process_start_time", help, Unit::Seconds, start);
        let registry = root.sub_registry_with_prefix("podwasm");
        let metrics = Self {
            connected: Gauge::default(),
            connections: Counter::default(),
            decisions: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS_SECONDS)),
            refusals: Family::default(),
            registry: Registry::default(),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = Info::new(vec![("version", version), ("engine", engine.to_owned())]);
        registry.register("build", "What runs here", build);
        registry.register(
            "nri_connected",
            "1 while registered with NRI",
            metrics.connected.clone(),
        );
        registry.register(
            "nri_connections",
            "Times this process has registered with NRI",
            metrics.connections.clone(),
        );
        registry.register("decisions", "Containers decided upon", metrics.decisions.clone());
        let help = "Time from a CreateContainer request to its answer";
        registry.register_with_unit("create", help, Unit::Seconds, metrics.latency.clone());
        registry.register(
            "refusals",
            "Containers refused, by reason",
            metrics.refusals.clone(),
        );
        for outcome in [
            Outcome::native,
            Outcome::unobserved,
            Outcome::refused,
            Outcome::routed,
        ] {
            drop(metrics.decisions.get_or_create(&Decided { outcome })); // shown as 0 until it happens
        }
        Self {
            registry: root,
            ..metrics
        }
    }

    /// Counts a container and how long it took to decide.
    pub fn decided(&self, outcome: Outcome, took: Duration) {
        self.decisions.get_or_create(&Decided { outcome }).inc();
        self.latency
            .get_or_create(&Decided { outcome })
            .observe(took.as_secs_f64());
    }

    /// Counts a refusal by its reason.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Refused { reason }).inc();
    }

    /// Notes whether the plugin is registered.
    pub fn connected(&self, connected: bool) {
        self.connected.set(connected.into());
        if connected {
            self.connections.inc();
        }
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing into a string cannot fail");
        text
    }
}

fn seconds_since_epoch() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_what_was_counted() {
        let metrics = Metrics::new("e1");
        metrics.decided(Outcome::routed, Duration::from_micros(80));
        metrics.refused("component");
        metrics.connected(true);
        let text = metrics.text();
        for line in [
            "podwasm_decisions_total{outcome=\"routed\"} 1",
            "podwasm_decisions_total{outcome=\"native\"} 0",
            "podwasm_create_seconds_count{outcome=\"routed\"} 1",
            "podwasm_refusals_total{reason=\"component\"} 1",
            "podwasm_nri_connected 1",
            "podwasm_nri_connections_total 1",
            "process_start_time_seconds 1",
            "engine=\"e1\"",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

//! What the scaler publishes about itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use super::cluster::Cluster;
use crate::process::Process;
use crate::text::Format;

/// From what an answer from memory takes to what nobody should have to wait.
const LATENCY_BUCKETS_SECONDS: [f64; 10] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1,
];

/// The scaler's metrics; owns their registry.
#[derive(Debug)]
pub struct Metrics {
    answers: Family<Answer, Histogram, fn() -> Histogram>,
    handshake_failures: Counter,
    lookup_failures: Counter,
    registry: Registry,
    watchers: Gauge,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Answer {
    method: &'static str,
    code: &'static str,
}

impl Metrics {
    /// Metrics of a scaler that knows this cluster.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let mut metrics = Self {
            answers: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS_SECONDS)),
            handshake_failures: Counter::default(),
            lookup_failures: Counter::default(),
            registry: Registry::default(),
            watchers: Gauge::default(),
        };
        let scaler = registry.sub_registry_with_prefix("podwasm_scaler");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        scaler.register("build", "What runs here", build);
        let help = "Time that an answer to KEDA took";
        scaler.register_with_unit("answer", help, Unit::Seconds, metrics.answers.clone());
        let help = "TLS handshakes that failed";
        scaler.register("handshake_failures", help, metrics.handshake_failures.clone());
        let help = "Times that the exporters could not be looked up";
        scaler.register("lookup_failures", help, metrics.lookup_failures.clone());
        let help = "Triggers that are told when they become active";
        scaler.register("watchers", help, metrics.watchers.clone());
        scaler.register_collector(Box::new(Known(cluster)));
        metrics.registry = registry;
        metrics
    }

    /// Counts an answer and how long it took.
    pub fn answered(&self, method: &'static str, code: Code, took: Duration) {
        let code = match code {
            Code::Ok => "ok",
            Code::InvalidArgument => "invalid_argument",
            Code::Unavailable => "unavailable",
            _ => "other",
        };
        let answers = self.answers.get_or_create(&Answer { method, code });
        answers.observe(took.as_secs_f64());
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failed(&self) {
        self.handshake_failures.inc();
    }

    /// Counts a lookup that failed.
    pub fn lookup_failed(&self) {
        self.lookup_failures.inc();
    }

    /// How many triggers are told when they become active.
    pub fn watchers(&self) -> &Gauge {
        &self.watchers
    }

    /// All metrics as text.
    ///
    /// # Panics
    ///
    /// Never: writing into a string cannot fail.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing into a string cannot fail");
        format.of(text)
    }
}

/// The cluster, as a collector.
#[derive(Debug)]
struct Known(Arc<Cluster>);

impl Collector for Known {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let census = self.0.census();
        let gauge = |number: usize| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        let help = "Exporters that tell all there is to know, and those that should";
        let mut exporters = encoder.encode_descriptor("exporters", help, None, MetricType::Gauge)?;
        for (state, number) in [
            ("current", census.current_nodes),
            ("missing", census.missing_nodes),
        ] {
            gauge(number).encode(exporters.encode_family(&[("state", state)])?)?;
        }
        let help = "Pods that exporters tell of";
        let pods = encoder.encode_descriptor("pods", help, None, MetricType::Gauge)?;
        gauge(census.pods).encode(pods)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::{Partial, Patience};
    use super::*;

    #[test]
    fn the_text_shows_what_was_counted() {
        let patience = Patience {
            stale_after: Duration::from_secs(3),
            forget_after: Duration::from_secs(60),
            partial: Partial::Refuse,
        };
        let cluster = Arc::new(Cluster::new(patience));
        cluster.tell(|fleet, now| fleet.listed(&["127.0.0.1:1".parse().unwrap()].into(), now));
        let metrics = Metrics::new(cluster);
        metrics.answered("GetMetrics", Code::Ok, Duration::from_micros(20));
        metrics.lookup_failed();
        let text = metrics.text(Format::Text);
        for line in [
            "podwasm_scaler_answer_seconds_bucket{le=\"0.000025\",method=\"GetMetrics\",code=\"ok\"} 1",
            "podwasm_scaler_lookup_failures_total 1",
            "podwasm_scaler_exporters{state=\"missing\"} 1",
            "podwasm_scaler_pods 0",
            "podwasm_scaler_watchers 0",
            "podwasm_scaler_build_info{version=",
            "process_open_fds",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

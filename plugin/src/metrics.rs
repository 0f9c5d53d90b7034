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

use crate::compiled::{Runs, Tier};

/// From 50 µs, an answer from memory, to containerd's own limit of 2 s.
const LATENCY_BUCKETS_SECONDS: [f64; 13] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.3, 1.0, 2.0,
];

/// From a module that is hardly one to the policy's limits.
const COMPILE_BUCKETS_SECONDS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0, 3600.0];

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

/// What came of compiling a module to a tier.
#[derive(Clone, Copy, Debug, EncodeLabelValue, PartialEq, Eq, Hash)]
pub enum CompileOutcome {
    /// Native code.
    #[allow(non_camel_case_types, reason = "the label's value")]
    compiled,
    /// Nothing, which is remembered.
    #[allow(non_camel_case_types, reason = "the label's value")]
    failed,
    /// Nothing yet: the node could not at that moment.
    #[allow(non_camel_case_types, reason = "the label's value")]
    postponed,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Attempted {
    tier: &'static str,
    outcome: CompileOutcome,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct OfTier {
    tier: &'static str,
}

/// The daemon's metrics; owns their registry.
#[derive(Debug)]
pub struct Metrics {
    cache_bytes: Gauge,
    cache_evictions: Counter,
    cache_modules: Gauge,
    compile_queue: Family<OfTier, Gauge>,
    compile_time: Family<OfTier, Histogram, fn() -> Histogram>,
    compiles: Family<Attempted, Counter>,
    connected: Gauge,
    connections: Counter,
    decisions: Family<Decided, Counter>,
    latency: Family<Decided, Histogram, fn() -> Histogram>,
    refusals: Family<Refused, Counter>,
    registry: Registry,
    routed_tier: Family<OfTier, Counter>,
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
            cache_bytes: Gauge::default(),
            cache_evictions: Counter::default(),
            cache_modules: Gauge::default(),
            compile_queue: Family::default(),
            compile_time: Family::new_with_constructor(|| Histogram::new(COMPILE_BUCKETS_SECONDS)),
            compiles: Family::default(),
            connected: Gauge::default(),
            connections: Counter::default(),
            decisions: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS_SECONDS)),
            refusals: Family::default(),
            registry: Registry::default(),
            routed_tier: Family::default(),
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
        metrics.register_compiling(registry);
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

    fn register_compiling(&self, registry: &mut Registry) {
        let help = "Modules and tiers that compilers were run for, by what came of it";
        registry.register("compiles", help, self.compiles.clone());
        let help = "Time that a compiler took";
        registry.register_with_unit("compile", help, Unit::Seconds, self.compile_time.clone());
        let help = "Modules that wait to be compiled";
        registry.register("compile_queue", help, self.compile_queue.clone());
        let help = "Disk that modules and their native code take";
        registry.register_with_unit("cache", help, Unit::Bytes, self.cache_bytes.clone());
        registry.register("cache_modules", "Modules on disk", self.cache_modules.clone());
        let help = "Modules that left the disk to make room";
        registry.register("cache_evictions", help, self.cache_evictions.clone());
        let help = "Containers that the engine runs, by what they run as known when they were created";
        registry.register("routed_tier", help, self.routed_tier.clone());
    }

    /// Counts what came of compiling, and how long it took.
    pub fn compiled(&self, tier: Tier, outcome: CompileOutcome, took: Duration) {
        let tier = tier.as_str();
        self.compiles.get_or_create(&Attempted { tier, outcome }).inc();
        self.compile_time
            .get_or_create(&OfTier { tier })
            .observe(took.as_secs_f64());
    }

    /// Notes how many modules wait for a tier.
    pub fn compile_queue(&self, tier: Tier, waiting: usize) {
        let tier = tier.as_str();
        self.compile_queue
            .get_or_create(&OfTier { tier })
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Notes what the cache holds.
    pub fn cache(&self, bytes: u64, modules: usize) {
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.cache_modules.set(i64::try_from(modules).unwrap_or(i64::MAX));
    }

    /// Counts modules that left.
    pub fn evicted(&self, modules: u64) {
        self.cache_evictions.inc_by(modules);
    }

    /// Counts a container by what it runs.
    pub fn routed_tier(&self, runs: Runs) {
        self.routed_tier
            .get_or_create(&OfTier { tier: runs.as_str() })
            .inc();
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
        metrics.compiled(Tier::Fast, CompileOutcome::failed, Duration::from_secs(3));
        metrics.compile_queue(Tier::Optimised, 2);
        metrics.cache(1 << 20, 3);
        metrics.evicted(2);
        metrics.routed_tier(Runs::Waiting);
        let text = metrics.text();
        for line in [
            "podwasm_decisions_total{outcome=\"routed\"} 1",
            "podwasm_decisions_total{outcome=\"native\"} 0",
            "podwasm_create_seconds_count{outcome=\"routed\"} 1",
            "podwasm_refusals_total{reason=\"component\"} 1",
            "podwasm_nri_connected 1",
            "podwasm_nri_connections_total 1",
            "podwasm_compiles_total{tier=\"fast\",outcome=\"failed\"} 1",
            "podwasm_compile_seconds_count{tier=\"fast\"} 1",
            "podwasm_compile_queue{tier=\"optimised\"} 2",
            "podwasm_cache_bytes 1048576",
            "podwasm_cache_modules 3",
            "podwasm_cache_evictions_total 2",
            "podwasm_routed_tier_total{tier=\"waiting\"} 1",
            "process_start_time_seconds 1",
            "engine=\"e1\"",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

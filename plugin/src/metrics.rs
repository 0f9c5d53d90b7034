//! What the daemon counts about itself.
//!
//! The front owns the [`Metrics`], so they outlive workers; a worker has a [`Recorder`], and what it records is a [`Sample`] on its way
//! to the front.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::compiled::{Runs, Tier};
use crate::decide::Refusal;
use crate::hop::clock;

/// From 50 µs, an answer from memory, to containerd's own limit of 2 s; below 1 ms fine enough to tell what an answer from memory takes.
const LATENCY_BUCKETS_SECONDS: [f64; 20] = [
    0.000_05, 0.000_075, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_4, 0.000_5, 0.000_75, 0.001, 0.001_5,
    0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 1.0, 2.0,
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

impl Outcome {
    const ALL: [Self; 4] = [Self::native, Self::unobserved, Self::refused, Self::routed];

    fn as_str(self) -> &'static str {
        match self {
            Self::native => "native",
            Self::unobserved => "unobserved",
            Self::refused => "refused",
            Self::routed => "routed",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == name)
    }
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

impl CompileOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::compiled => "compiled",
            Self::failed => "failed",
            Self::postponed => "postponed",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::compiled, Self::failed, Self::postponed]
            .into_iter()
            .find(|outcome| outcome.as_str() == name)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Attempted {
    tier: &'static str,
    outcome: CompileOutcome,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Judged {
    verdict: &'static str,
}

impl Judged {
    const ALL: [Self; 2] = [Self { verdict: "accepted" }, Self { verdict: "rejected" }];

    fn of(is_accepted: bool) -> Self {
        let [accepted, rejected] = Self::ALL;
        if is_accepted { accepted } else { rejected }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct OfTier {
    tier: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, PartialEq, Eq, Hash)]
struct Given {
    answer: &'static str,
    why: &'static str,
}

/// Something to be counted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sample {
    /// One of these.
    #[prost(oneof = "What", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub what: Option<What>,
}

/// What can be counted.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum What {
    /// What the cache holds.
    #[prost(message, tag = "1")]
    Cache(CacheHolds),
    /// What came of compiling.
    #[prost(message, tag = "2")]
    Compiled(Labelled),
    /// How many modules wait for a tier.
    #[prost(message, tag = "3")]
    CompileQueue(Labelled),
    /// A container was decided upon, and its answer follows.
    #[prost(message, tag = "4")]
    Decided(Decision),
    /// How many modules left the cache.
    #[prost(uint64, tag = "5")]
    Evicted(u64),
    /// A refusal.
    #[prost(message, tag = "6")]
    Refused(Labelled),
    /// What the engine runs in a container.
    #[prost(message, tag = "7")]
    RoutedTier(Labelled),
    /// Whether a container was accepted as all plugins had adjusted it.
    #[prost(bool, tag = "8")]
    Validated(bool),
}

/// What the cache holds.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CacheHolds {
    /// Disk it takes.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Modules in it.
    #[prost(uint64, tag = "2")]
    pub modules: u64,
}

/// What was decided upon a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Decision {
    /// The outcome's label.
    #[prost(string, tag = "1")]
    pub outcome: String,
    /// When the call came in, on [`clock`]: how long it took is known to who has the answer in hand.
    #[prost(uint64, tag = "2")]
    pub arrival: u64,
}

/// A value under one or two labels.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Labelled {
    /// The first label's value.
    #[prost(string, tag = "1")]
    pub label: String,
    /// The second one's.
    #[prost(string, tag = "2")]
    pub outcome: String,
    /// Seconds or a number.
    #[prost(double, tag = "3")]
    pub value: f64,
}

/// Where the daemon's parts leave what is to be counted. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<dyn Fn(What) + Send + Sync>);

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Recorder")
    }
}

impl Recorder {
    /// Gives what is recorded to `to`.
    pub fn new(to: impl Fn(What) + Send + Sync + 'static) -> Self {
        Self(Arc::new(to))
    }

    /// Counts what came of compiling, and how long it took.
    pub fn compiled(&self, tier: Tier, outcome: CompileOutcome, took: Duration) {
        self.0(What::Compiled(labelled(
            tier.as_str(),
            outcome.as_str(),
            took.as_secs_f64(),
        )));
    }

    /// Notes how many modules wait for a tier.
    pub fn compile_queue(&self, tier: Tier, waiting: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a queue is short")]
        self.0(What::CompileQueue(labelled(tier.as_str(), "", waiting as f64)));
    }

    /// Notes what the cache holds.
    pub fn cache(&self, bytes: u64, modules: usize) {
        let modules = modules as u64;
        self.0(What::Cache(CacheHolds { bytes, modules }));
    }

    /// Counts modules that left.
    pub fn evicted(&self, modules: u64) {
        self.0(What::Evicted(modules));
    }

    /// Counts a container by what it runs.
    pub fn routed_tier(&self, runs: Runs) {
        self.0(What::RoutedTier(labelled(runs.as_str(), "", 1.0)));
    }

    /// Counts a container, and how long its call took that came in at `arrival`.
    pub fn decided(&self, outcome: Outcome, arrival: Instant) {
        self.0(What::Decided(Decision {
            outcome: outcome.as_str().to_owned(),
            arrival: clock::to_nanoseconds(arrival),
        }));
    }

    /// Counts a refusal by its reason.
    pub fn refused(&self, reason: Refusal) {
        self.0(What::Refused(labelled(reason.as_str(), "", 1.0)));
    }

    /// Counts a container that was looked at once all plugins had adjusted it.
    pub fn validated(&self, is_accepted: bool) {
        self.0(What::Validated(is_accepted));
    }
}

fn labelled(label: &str, outcome: &str, value: f64) -> Labelled {
    Labelled {
        label: label.to_owned(),
        outcome: outcome.to_owned(),
        value,
    }
}

/// The label of what is none of the known values.
const UNKNOWN: &str = "unknown";
/// The reason of a refusal that no worker gave.
const WORKER: &str = "no_worker";

fn known_tier(label: &str) -> &'static str {
    let known = Tier::ALL
        .map(Tier::as_str)
        .into_iter()
        .chain([Runs::Interpreted.as_str(), Runs::Waiting.as_str()]);
    known.into_iter().find(|known| *known == label).unwrap_or(UNKNOWN)
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
    unadjusted: Gauge,
    unanswered: Family<Given, Counter>,
    unknown: Gauge,
    validations: Family<Judged, Counter>,
    worker_up: Gauge,
    workers: Counter,
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
            unadjusted: Gauge::default(),
            unanswered: Family::default(),
            unknown: Gauge::default(),
            validations: Family::default(),
            worker_up: Gauge::default(),
            workers: Counter::default(),
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
        metrics.register_workers(registry);
        for outcome in Outcome::ALL {
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

    fn register_workers(&self, registry: &mut Registry) {
        let help = "1 while a worker is at work";
        registry.register("worker_up", help, self.worker_up.clone());
        let help = "Workers that took up work; all but the first replaced one that had ended";
        registry.register("workers", help, self.workers.clone());
        let help = "Containers that no worker decided upon, by what was answered and why";
        registry.register("unanswered", help, self.unanswered.clone());
        let help = "Wasm containers that nobody adjusted, as seen when the plugin registered last";
        registry.register("unadjusted_containers", help, self.unadjusted.clone());
        let help = "Containers that could not be looked at when the plugin registered last";
        registry.register("unknown_containers", help, self.unknown.clone());
        let help = "Containers looked at once all plugins had adjusted them, by what was answered";
        registry.register("validations", help, self.validations.clone());
        for verdict in Judged::ALL {
            drop(self.validations.get_or_create(&verdict)); // shown as 0 until it happens
        }
    }

    /// Takes a sample over. Labels come from a short list, whatever a worker says.
    pub fn count(&self, sample: &What) {
        match sample {
            What::Cache(holds) => {
                self.cache_bytes.set(holds.bytes.cast_signed());
                self.cache_modules.set(holds.modules.cast_signed());
            }
            What::Compiled(compiled) => {
                let tier = known_tier(&compiled.label);
                if let Some(outcome) = CompileOutcome::named(&compiled.outcome) {
                    self.compiles.get_or_create(&Attempted { tier, outcome }).inc();
                }
                self.compile_time
                    .get_or_create(&OfTier { tier })
                    .observe(compiled.value);
            }
            What::CompileQueue(queue) => {
                let tier = known_tier(&queue.label);
                #[expect(clippy::cast_possible_truncation, reason = "a queue is short")]
                self.compile_queue
                    .get_or_create(&OfTier { tier })
                    .set(queue.value as i64);
            }
            What::Decided(decided) => {
                if let Some(outcome) = Outcome::named(&decided.outcome) {
                    self.decided(outcome, clock::to_instant(decided.arrival).elapsed());
                }
            }
            What::Evicted(modules) => _ = self.cache_evictions.inc_by(*modules),
            What::Refused(refused) => {
                let known = Refusal::ALL.into_iter().map(Refusal::as_str);
                let reason = known.into_iter().find(|known| *known == refused.label);
                let reason = reason.unwrap_or(UNKNOWN);
                self.refusals.get_or_create(&Refused { reason }).inc();
            }
            What::RoutedTier(routed) => {
                let tier = known_tier(&routed.label);
                self.routed_tier.get_or_create(&OfTier { tier }).inc();
            }
            What::Validated(is_accepted) => self.validated(*is_accepted),
        }
    }

    /// Counts a container that was looked at once all plugins had adjusted it.
    pub fn validated(&self, is_accepted: bool) {
        self.validations.get_or_create(&Judged::of(is_accepted)).inc();
    }

    fn decided(&self, outcome: Outcome, took: Duration) {
        self.decisions.get_or_create(&Decided { outcome }).inc();
        let latency = self.latency.get_or_create(&Decided { outcome });
        latency.observe(took.as_secs_f64());
    }

    /// Counts a container that no worker decided upon, and what became of it.
    pub fn unanswered(&self, outcome: Outcome, why: &'static str, took: Duration) {
        self.decided(outcome, took);
        let answer = if outcome == Outcome::refused {
            self.refusals.get_or_create(&Refused { reason: WORKER }).inc();
            "error"
        } else {
            "empty"
        };
        self.unanswered.get_or_create(&Given { answer, why }).inc();
    }

    /// Notes whether a worker is at work.
    pub fn worker(&self, is_up: bool) {
        self.worker_up.set(is_up.into());
        if is_up {
            self.workers.inc();
        }
    }

    /// Notes what a look at all containers brought.
    pub fn surveyed(&self, unadjusted: u64, unknown: u64) {
        self.unadjusted.set(unadjusted.cast_signed());
        self.unknown.set(unknown.cast_signed());
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
        let metrics = Arc::new(Metrics::new("e1"));
        let recorder = Recorder::new({
            let metrics = metrics.clone();
            move |what| metrics.count(&what)
        });
        recorder.decided(Outcome::routed, Instant::now());
        recorder.refused(Refusal::Component);
        metrics.connected(true);
        recorder.compiled(Tier::Fast, CompileOutcome::failed, Duration::from_secs(3));
        recorder.compile_queue(Tier::Optimised, 2);
        recorder.cache(1 << 20, 3);
        recorder.evicted(2);
        recorder.routed_tier(Runs::Waiting);
        recorder.validated(false);
        metrics.worker(true);
        metrics.unanswered(Outcome::unobserved, "died", Duration::from_millis(3));
        metrics.surveyed(2, 1);
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
            "podwasm_workers_total 1",
            "podwasm_worker_up 1",
            "podwasm_unanswered_total{answer=\"empty\",why=\"died\"} 1",
            "podwasm_decisions_total{outcome=\"unobserved\"} 1",
            "podwasm_unadjusted_containers 2",
            "podwasm_unknown_containers 1",
            "podwasm_validations_total{verdict=\"accepted\"} 0",
            "podwasm_validations_total{verdict=\"rejected\"} 1",
            "process_start_time_seconds 1",
            "engine=\"e1\"",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_worker_cannot_make_up_labels() {
        let metrics = Metrics::new("e1");
        metrics.count(&What::Refused(labelled("made up", "", 1.0)));
        metrics.count(&What::RoutedTier(labelled("made up", "", 1.0)));
        metrics.count(&What::Decided(Decision {
            outcome: "made up".to_owned(),
            arrival: 1,
        }));
        assert!(!metrics.text().contains("made up"), "{}", metrics.text());
    }
}

//! What the exporter publishes for Prometheus.
//!
//! The numbers of pods are taken from the table when a scrape asks for them, so a series is there as soon as its pod is,
//! at zero, and goes some time after it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::counts::{Exclusion, Identity, Pod, Protocol};
use crate::process::Process;
use crate::recent::Recent;
use crate::text::Format;

/// The window of the gauge of workloads' rates.
const WINDOW: Duration = Duration::from_secs(30);

/// The exporter's metrics; owns their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics of what is counted. The series of a pod that has ended are shown for so long.
    pub fn new(recent: Arc<Recent>, keep_ended: Duration) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let podwasm = registry.sub_registry_with_prefix("podwasm");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        podwasm.register("exporter_build", "What runs here", build);
        podwasm.register_collector(Box::new(Counted { keep_ended, recent }));
        Self { registry }
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

/// The table, as a collector.
#[derive(Debug)]
struct Counted {
    keep_ended: Duration,
    recent: Arc<Recent>,
}

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let pods = self.shown(Instant::now());
        encode_pods(&mut encoder, &pods)?;
        self.encode_workloads(&mut encoder)?;
        self.encode_node(&mut encoder)
    }
}

impl Counted {
    /// All pods that have series. What others share is among them as soon as there is something.
    fn shown(&self, now: Instant) -> Vec<Arc<Pod>> {
        let table = self.recent.table();
        let is_old = |pod: &Pod| pod.ended_for(now).is_some_and(|ended| ended > self.keep_ended);
        let mut pods = table.pods();
        pods.retain(|pod| !is_old(pod));
        if table.pods_beyond() > 0 || table.overflow().total_requests() > 0 {
            pods.push(table.overflow().clone());
        }
        pods
    }

    fn encode_workloads(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Requests per second of a workload's pods on this node, over 30 s";
        let mut rates =
            encoder.encode_descriptor("workload_requests_per_second", help, None, MetricType::Gauge)?;
        for ((namespace, workload), rate) in self.recent.past().rates(WINDOW) {
            let labels = [
                ("namespace", namespace),
                ("workload", &workload.name),
                ("workload_kind", &workload.kind),
            ];
            ConstGauge::new(rate).encode(rates.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_node(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let table = self.recent.table();
        let pods = table.pods();
        let living = || pods.iter().filter(|pod| !pod.has_ended());
        let attached = living().filter(|pod| pod.is_attached()).count();
        let states = [
            ("attached", attached),
            ("beyond", table.pods_beyond()),
            ("unseen", living().count() - attached),
        ];
        let help = "Pods that are counted, are more than the table takes, or have requests that are not seen";
        let mut metric = encoder.encode_descriptor("pods", help, None, MetricType::Gauge)?;
        for (state, pods) in states {
            let pods = ConstGauge::new(i64::try_from(pods).unwrap_or(i64::MAX));
            pods.encode(metric.encode_family(&[("state", state)])?)?;
        }
        let help = "Age of the last look at the traffic";
        let age = ConstGauge::new(table.sample_age(Instant::now()).as_secs_f64());
        let seconds = Some(&Unit::Seconds);
        age.encode(encoder.encode_descriptor("sample_age", help, seconds, MetricType::Gauge)?)?;
        let help = "1 while all pods of the node are known";
        let synchronized = ConstGauge::new(i64::from(table.is_synchronized()));
        synchronized.encode(encoder.encode_descriptor("synchronized", help, None, MetricType::Gauge)?)
    }
}

fn encode_pods(encoder: &mut DescriptorEncoder, pods: &[Arc<Pod>]) -> fmt::Result {
    let requests = Protocol::ALL.map(|protocol| (protocol, protocol.name()));
    let mut metric = counter(encoder, "requests", "Requests to a pod", None)?;
    for pod in pods {
        for (protocol, name) in requests {
            encode_count(
                &mut metric,
                &(labels(pod), [("protocol", name)]),
                pod.requests(protocol),
            )?;
        }
    }
    let help = "Requests to a pod that are left out of the others";
    let mut metric = counter(encoder, "excluded_requests", help, None)?;
    for pod in pods {
        for reason in Exclusion::ALL {
            let labels = (labels(pod), [("reason", reason.name())]);
            encode_count(&mut metric, &labels, pod.excluded(reason))?;
        }
    }
    let help = "Packets of a pod that were not seen";
    let lost = counter(encoder, "lost_packets", help, None)?;
    encode_by_pod(lost, pods, Pod::lost_packets)?;
    let help = "Connections to a pod whose requests cannot be seen";
    let tls = counter(encoder, "tls_connections", help, None)?;
    encode_by_pod(tls, pods, Pod::tls_connections)?;
    let help = "Bytes to a pod in no protocol that is understood";
    let unparsed = counter(encoder, "unparsed", help, Some(&Unit::Bytes))?;
    encode_by_pod(unparsed, pods, Pod::unparsed_bytes)
}

fn encode_by_pod(mut metric: MetricEncoder, pods: &[Arc<Pod>], count: impl Fn(&Pod) -> u64) -> fmt::Result {
    pods.iter()
        .try_for_each(|pod| encode_count(&mut metric, &labels(pod), count(pod)))
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder,
    name: &'a str,
    help: &str,
    unit: Option<&'a Unit>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn encode_count(metric: &mut MetricEncoder, labels: &impl EncodeLabelSet, count: u64) -> fmt::Result {
    ConstCounter::new(count).encode(metric.encode_family(labels)?)
}

fn labels(pod: &Pod) -> [(&'static str, &str); 5] {
    let Identity {
        namespace,
        name,
        container,
        workload,
        ..
    } = pod.identity();
    [
        ("namespace", namespace),
        ("pod", name),
        ("container", container),
        ("workload", &workload.name),
        ("workload_kind", &workload.kind),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Table, Workload};

    fn table() -> (Arc<Table>, Metrics) {
        let now = Instant::now();
        let table = Arc::new(Table::new(1, now));
        let recent = Recent::new(table.clone(), now);
        (table, Metrics::new(Arc::new(recent), Duration::from_secs(60)))
    }

    fn identity(uid: &str) -> Identity {
        Identity {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: format!("web-{uid}"),
            container: "app".to_owned(),
            workload: Workload {
                kind: "Deployment".to_owned(),
                name: "web".to_owned(),
            },
            ..Identity::default()
        }
    }

    fn assert_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|found| found.starts_with(line)),
                "{line} is not in\n{text}"
            );
        }
    }

    const POD: &str =
        r#"namespace="shop",pod="web-1",container="app",workload="web",workload_kind="Deployment""#;

    #[test]
    fn series_begin_at_zero() {
        let (table, metrics) = table();
        table.start(identity("1"));
        let text = metrics.text(Format::OpenMetrics);
        assert_has(
            &text,
            &[
                "# TYPE podwasm_requests counter",
                &format!("podwasm_requests_total{{{POD},protocol=\"grpc\"}} 0"),
                &format!("podwasm_requests_total{{{POD},protocol=\"http1\"}} 0"),
                &format!("podwasm_requests_total{{{POD},protocol=\"http2\"}} 0"),
                &format!("podwasm_excluded_requests_total{{{POD},reason=\"http_probe\"}} 0"),
                &format!("podwasm_unparsed_bytes_total{{{POD}}} 0"),
                "podwasm_pods{state=\"unseen\"} 1",
                "podwasm_sample_age_seconds 0",
                "podwasm_exporter_build_info{version=\"",
                "process_cpu_seconds_total ",
                "process_resident_memory_bytes ",
                "process_open_fds ",
                "# EOF",
            ],
        );
    }

    #[test]
    fn what_was_counted_is_shown_in_both_formats() {
        let (table, metrics) = table();
        let pod = table.start(identity("1"));
        pod.add_requests(Protocol::Http1, 7);
        pod.add_tls_connections(2);
        pod.set_attached(true);
        let lines = [
            format!("podwasm_requests_total{{{POD},protocol=\"http1\"}} 7"),
            format!("podwasm_tls_connections_total{{{POD}}} 2"),
            "podwasm_pods{state=\"attached\"} 1".to_owned(),
        ];
        for format in [Format::OpenMetrics, Format::Text] {
            assert_has(&metrics.text(format), &lines.each_ref().map(String::as_str));
        }
        let text = metrics.text(Format::Text);
        assert_has(
            &text,
            &[
                "# TYPE podwasm_requests_total counter",
                "# TYPE podwasm_exporter_build_info gauge",
            ],
        );
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    }

    #[test]
    fn series_go_after_their_pod() {
        let (table, metrics) = table();
        table.start(identity("1"));
        table.end("1", Instant::now());
        assert!(metrics.text(Format::Text).contains("web-1"));
        let ended = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
        table.end("1", ended);
        assert!(!metrics.text(Format::Text).contains("web-1"));
    }

    #[test]
    fn pods_without_room_have_series_together() {
        let (table, metrics) = table();
        assert!(!metrics.text(Format::Text).contains("_overflow"));
        for uid in ["1", "2", "3"] {
            table.start(identity(uid)).add_requests(Protocol::Http2, 1);
        }
        let text = metrics.text(Format::Text);
        assert_has(
            &text,
            &[
                r#"podwasm_requests_total{namespace="",pod="_overflow",container="",workload="",workload_kind="",protocol="http2"} 2"#,
                "podwasm_pods{state=\"beyond\"} 2",
            ],
        );
    }
}

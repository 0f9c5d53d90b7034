//! The exporter's HTTP endpoint: `/metrics`, `/healthz`, `/readyz`, and each workload's rate as JSON.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::counts::Identity;
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::text::Format;

/// The windows that rates are told for.
const WINDOWS: [(&str, Duration); 5] = [
    ("1s", Duration::from_secs(1)),
    ("10s", Duration::from_secs(10)),
    ("1m", Duration::from_secs(60)),
    ("5m", Duration::from_secs(300)),
    ("10m", Duration::from_secs(600)),
];

/// What the endpoint reports on.
#[derive(Clone, Debug)]
pub struct Http {
    /// What is published for Prometheus.
    pub metrics: Arc<Metrics>,
    /// What was counted.
    pub recent: Arc<Recent>,
}

/// One workload's pods on this node. The numbers of all nodes may be added up.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names are the answer's")]
struct Workload {
    namespace: String,
    workload: String,
    pods: usize,
    requests: u64,
    requests_per_second: Rates,
}

#[derive(Debug, PartialEq)]
struct Rates(Vec<f64>);

impl Serialize for Rates {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(WINDOWS.map(|(name, _)| name).iter().zip(&self.0))
    }
}

impl Http {
    /// The endpoint's routes. Health is answered by being able to answer; readiness means knowing all that there is to count.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/metrics", get(metrics))
            .route("/readyz", get(ready))
            .route("/api/v1/namespaces/{namespace}/workloads/{name}", get(by_name))
            .route(
                "/api/v1/namespaces/{namespace}/workloads/{kind}/{name}",
                get(by_kind),
            )
            .with_state(self)
    }

    fn workload(&self, namespace: String, name: String, kind: Option<&str>) -> Result<Workload, String> {
        if let Some(reason) = self.recent.unknown(Instant::now()) {
            return Err(reason);
        }
        let select = |pod: &Identity| {
            pod.namespace == namespace
                && pod.workload.name == name
                && kind.is_none_or(|kind| pod.workload.kind == kind)
        };
        let load = self
            .recent
            .past()
            .load(&WINDOWS.map(|(_, window)| window), select);
        if load.unseen > 0 {
            return Err(format!(
                "{} of {} pods have requests that are not seen",
                load.unseen, load.pods
            ));
        }
        Ok(Workload {
            namespace,
            workload: name,
            pods: load.pods,
            requests: load.requests,
            requests_per_second: Rates(load.rates),
        })
    }
}

async fn metrics(State(http): State<Http>, headers: HeaderMap) -> Response {
    metrics_answer(&headers, |format| http.metrics.text(format))
}

/// Metrics, in the format that is asked for.
pub fn metrics_answer(headers: &HeaderMap, text: impl FnOnce(Format) -> String) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    ([(header::CONTENT_TYPE, format.content_type())], text(format)).into_response()
}

async fn ready(State(http): State<Http>) -> (StatusCode, String) {
    match http.recent.unknown(Instant::now()) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

async fn by_name(State(http): State<Http>, Path((namespace, name)): Path<(String, String)>) -> Response {
    answer(http.workload(namespace, name, None))
}

async fn by_kind(
    State(http): State<Http>,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Response {
    answer(http.workload(namespace, name, Some(&kind)))
}

fn answer(workload: Result<Workload, String>) -> Response {
    match workload {
        Ok(workload) => Json(workload).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Protocol, Table, Workload as Owner};

    /// An endpoint for a pod of this workload with ten requests in the last second.
    fn http(kind: &str, name: &str) -> (Arc<Table>, Http) {
        let start = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let table = Arc::new(Table::new(10, start));
        let recent = Arc::new(Recent::new(table.clone(), start));
        let metrics = Arc::new(Metrics::new(recent.clone(), Duration::from_secs(60)));
        let pod = table.start(Identity {
            uid: name.to_owned(),
            namespace: "shop".to_owned(),
            workload: Owner {
                kind: kind.to_owned(),
                name: name.to_owned(),
            },
            ..Identity::default()
        });
        pod.set_attached(true);
        recent.read(start);
        pod.add_requests(Protocol::Http1, 10);
        recent.read(start + Duration::from_secs(1));
        table.sampled(Instant::now());
        table.set_synchronized(true);
        (table, Http { metrics, recent })
    }

    fn ask(http: &Http, name: &str, kind: Option<&str>) -> Result<String, String> {
        let workload = http.workload("shop".to_owned(), name.to_owned(), kind)?;
        Ok(serde_json::to_string(&workload).unwrap())
    }

    #[test]
    fn a_workload_is_told_with_its_rates() {
        let (_table, http) = http("Deployment", "web");
        let expected = r#"{"namespace":"shop","workload":"web","pods":1,"requests":10,"requestsPerSecond":{"1s":10.0,"10s":10.0,"1m":10.0,"5m":10.0,"10m":10.0}}"#;
        assert_eq!(ask(&http, "web", None).unwrap(), expected);
        assert_eq!(ask(&http, "web", Some("Deployment")).unwrap(), expected);
    }

    #[test]
    fn a_workload_without_pods_here_adds_nothing() {
        let (_table, http) = http("Deployment", "web");
        for (name, kind) in [("db", None), ("web", Some("StatefulSet"))] {
            let answer = ask(&http, name, kind).unwrap();
            assert!(
                answer.contains(r#""pods":0,"requests":0,"requestsPerSecond":{"1s":0.0,"#),
                "{answer}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_no_zero() {
        let (table, http) = http("Deployment", "web");
        table.pods()[0].set_attached(false);
        assert!(ask(&http, "web", None).unwrap_err().contains("1 of 1 pods"));
        assert!(ask(&http, "db", None).is_ok());
        table.set_synchronized(false);
        assert!(ask(&http, "db", None).is_err());
    }
}

//! The scaler's HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use tokio::sync::watch;

use super::cluster::Cluster;
use super::fleet::Fleet;
use super::metrics::Metrics;
use crate::http::metrics_answer;

/// What the endpoint reports on.
#[derive(Clone, Debug)]
pub struct Http {
    /// What is known.
    pub cluster: Arc<Cluster>,
    /// What is published for Prometheus.
    pub metrics: Arc<Metrics>,
    /// Becomes true when nobody is to come any more.
    pub closing: watch::Receiver<bool>,
}

impl Http {
    /// The endpoint's routes. Ready is who has heard every exporter there is, or waited long enough for it: a scaler that knows of
    /// missing exporters answers, with an error, as well as any other.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/metrics", get(metrics))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(http): State<Http>, headers: HeaderMap) -> Response {
    metrics_answer(&headers, |format| http.metrics.text(format))
}

async fn ready(State(http): State<Http>) -> (StatusCode, &'static str) {
    if *http.closing.borrow() {
        (StatusCode::SERVICE_UNAVAILABLE, "ending\n")
    } else if http.cluster.ask(Fleet::has_begun) {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not all exporters have been heard\n",
        )
    }
}

//! The daemon's own HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use podwasm_daemon::listener::Limited;
use tokio::runtime::Builder;

use crate::front;
use crate::front::workers::Workers;
use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoint reports on.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Asked whether the plugin is registered.
    pub nri: nri::Runtime,
    /// Asked whether they can work.
    pub workers: Workers,
}

impl Admin {
    /// Serves on a thread of its own: however many ask, NRI's calls do not wait for them.
    pub fn serve(self, listener: TcpListener) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let serve =
            move || runtime.block_on(async { axum::serve(Limited::new(listener), self.routes()).await });
        thread::Builder::new().name("http".to_owned()).spawn(serve)?;
        Ok(())
    }

    /// The endpoint's routes. Health is answered by being able to answer; readiness means registered
    /// with NRI, a worker at work and containerd reachable.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/metrics", get(metrics))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], admin.metrics.text())
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let mut missing = String::new();
    if !admin.nri.is_connected() {
        missing.push_str("not registered with NRI\n");
    }
    if let Err(problem) = front::is_ready(&admin.workers).await {
        missing = missing + &problem + "\n";
    }
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing)
    }
}

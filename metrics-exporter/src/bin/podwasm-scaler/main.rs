//! The cluster's scaler: start order, and the end.

#[cfg(test)]
#[path = "../../../../integration/src/documents.rs"]
mod documents;
mod flags;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use podwasm_daemon::heap;
use podwasm_daemon::listener::Limited;
use podwasm_daemon::logging::start_logging;
use podwasm_daemon::privileges::{daemons, keep_only};
use podwasm_daemon::signals::told_to_end;
use podwasm_metrics_exporter::daemon;
use podwasm_metrics_exporter::scaler::cluster::Cluster;
use podwasm_metrics_exporter::scaler::exporters;
use podwasm_metrics_exporter::scaler::http::Http;
use podwasm_metrics_exporter::scaler::keda::{Keda, MAX_STREAMS};
use podwasm_metrics_exporter::scaler::metrics::Metrics;
use podwasm_metrics_exporter::scaler::tls;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Server;
use tracing::{info, warn};

use flags::Flags;

/// KEDA's client does not look after its connections, so those that are dead are found here.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers may still take once the end has come.
const DRAIN: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    // It keeps minutes of what it is told, and is told little at a time.
    heap::keep_in_one();
    let flags = Flags::parse();
    // What threads there are from here on have no more, the one that writes log lines included.
    let kept = keep_only(&daemons::scaler()).context("cannot drop privileges")?;
    let _written = start_logging(flags.log_format);
    kept.say();
    daemon::run(run(flags))
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let told_to_end = told_to_end()?;
    info!(version = env!("CARGO_PKG_VERSION"), exporters = ?flags.exporters, "podwasm-scaler");

    let cluster = Arc::new(Cluster::new(flags.patience()));
    let metrics = Arc::new(Metrics::new(cluster.clone()));
    let (close, closing) = watch::channel(false);
    let http = Http {
        cluster: cluster.clone(),
        metrics: metrics.clone(),
        closing: closing.clone(),
    };
    let keda = Keda {
        cluster: cluster.clone(),
        metrics: metrics.clone(),
        closing,
    };
    serve_http(&flags, http).await?;
    let serving = tokio::spawn(serve_keda(&flags, keda, metrics.clone()).await?);
    tokio::spawn(exporters::follow(
        flags.exporters,
        flags.refresh,
        cluster,
        metrics,
    ));

    told_to_end.await;
    close.send_replace(true); // a stream that ends well is opened again at once, elsewhere
    if timeout(DRAIN, serving).await.is_err() {
        warn!("some connections were still open at the end");
    }
    info!("ended");
    Ok(())
}

async fn serve_http(flags: &Flags, http: Http) -> anyhow::Result<()> {
    let listener = TcpListener::bind(flags.http)
        .await
        .with_context(|| format!("cannot listen on {}", flags.http))?;
    info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
    tokio::spawn(async { axum::serve(Limited::new(listener), http.routes()).await });
    Ok(())
}

async fn serve_keda(
    flags: &Flags,
    keda: Keda,
    metrics: Arc<Metrics>,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let listener = TcpListener::bind(flags.grpc)
        .await
        .with_context(|| format!("cannot listen on {}", flags.grpc))?;
    info!(address = %listener.local_addr()?, tls = flags.tls_cert.is_some(), "serving KEDA");
    let current = match flags.tls() {
        None => None,
        Some(files) => {
            let current = Arc::new(files.read()?);
            tokio::spawn(files.follow(current.clone()));
            Some(current)
        }
    };
    Ok(async move {
        let mut closing = keda.closing.clone();
        let closed = async move { drop(closing.wait_for(|closing| *closing).await) };
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_STREAMS)
            .add_service(keda.service());
        let end = match current {
            None => {
                let incoming = daemon::incoming(listener);
                server.serve_with_incoming_shutdown(incoming, closed).await
            }
            Some(current) => {
                let incoming = tls::incoming(listener, current, metrics);
                server.serve_with_incoming_shutdown(incoming, closed).await
            }
        };
        if let Err(error) = end {
            warn!(error = &error as &dyn std::error::Error, "serving KEDA failed");
        }
    })
}

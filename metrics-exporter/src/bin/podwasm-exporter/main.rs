//! The node's exporter: start order, and the end.

#[cfg(test)]
#[path = "../../../../integration/src/documents.rs"]
mod documents;
mod flags;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use nri::{Identity, Preinstalled, Runner};
use podwasm_daemon::listener::Limited;
use podwasm_daemon::logging::start_logging;
use podwasm_daemon::privileges::{daemons, keep_only};
use podwasm_daemon::signals::told_to_end;
use podwasm_metrics_exporter::capture::{Capture, Means};
use podwasm_metrics_exporter::counts::Table;
use podwasm_metrics_exporter::daemon;
use podwasm_metrics_exporter::feed::Feed;
use podwasm_metrics_exporter::http::Http;
use podwasm_metrics_exporter::metrics::Metrics;
use podwasm_metrics_exporter::observe::Observer;
use podwasm_metrics_exporter::recent::Recent;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tracing::info;

use flags::Flags;

/// When counts were not read for so long, what reads them is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let means = Means::get(flags.filter);
    // What threads there are from here on have no more, the one that writes log lines included.
    let kept = keep_only(&daemons::exporter()).context("cannot drop privileges")?;
    let _written = start_logging(flags.log_format);
    kept.say();
    daemon::run(run(flags, means))
}

async fn run(flags: Flags, means: Means) -> anyhow::Result<()> {
    let told_to_end = told_to_end()?;
    let node = match &flags.node_name {
        Some(name) => name.clone(),
        None => daemon::hostname().context("cannot read the host name")?,
    };
    let preinstalled = Preinstalled::from_env()?;
    let identity = Identity::new(flags.name.clone(), flags.idx.clone())?;
    info!(version = env!("CARGO_PKG_VERSION"), node, "podwasm-exporter");

    let table = Arc::new(Table::new(flags.max_pods, Instant::now()));
    let recent = Arc::new(Recent::new(table.clone(), Instant::now()));
    let watched = recent.clone();
    tokio::spawn(async move { watched.watch_over(PATIENCE).await });
    serve_http(&flags, recent.clone()).await?;
    serve_counts(&flags, Feed::new(&node, recent.clone())).await?;

    let capture =
        Capture::start(recent, flags.interval, flags.rules(), means).context("cannot start to capture")?;
    let observer = Observer::new(capture, table);
    let runner = match preinstalled {
        Some(preinstalled) => Runner::preinstalled(observer, preinstalled),
        None => Runner::external(observer, identity).socket(flags.nri_socket),
    };
    runner.run(told_to_end).await?;
    info!("ended");
    Ok(())
}

async fn serve_http(flags: &Flags, recent: Arc<Recent>) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new(recent.clone(), flags.keep_ended));
    let listener = TcpListener::bind(flags.http)
        .await
        .with_context(|| format!("cannot listen on {}", flags.http))?;
    info!(address = %listener.local_addr()?, "serving /metrics, /healthz, /readyz and rates as JSON");
    tokio::spawn(async { axum::serve(Limited::new(listener), Http { metrics, recent }.routes()).await });
    Ok(())
}

async fn serve_counts(flags: &Flags, feed: Feed) -> anyhow::Result<()> {
    let listener = TcpListener::bind(flags.grpc)
        .await
        .with_context(|| format!("cannot listen on {}", flags.grpc))?;
    info!(address = %listener.local_addr()?, "serving counts to scalers");
    tokio::spawn(
        Server::builder()
            .add_service(feed.service())
            .serve_with_incoming(daemon::incoming(listener)),
    );
    Ok(())
}

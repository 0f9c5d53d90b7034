//! What both programs do when they start and end.

use std::fs;
use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use futures_util::{Stream, stream};
use podwasm_daemon::listener::{Connection, Limited};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Logs to standard error from now on. A thread of its own writes the lines: whoever reads there may be slow, and must not hold up an
/// answer. What is still to be written when the guard is dropped is written then; above 128,000 lines that wait, further ones are lost.
pub fn start_logging(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer)
        .with_target(false);
    match format {
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
        LogFormat::Text => subscriber.init(),
    }
    guard
}

/// Does the work of a process, with threads for it.
pub fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// The connections of a listener, as many as it may have, for gRPC's server.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold(Limited::new(listener), async |listener| {
        let (connection, _) = listener.next().await;
        Some((Ok(connection), listener))
    })
}

/// Ends when the process is asked to. Asking counts from now on.
pub fn told_to_end() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The name that the kernel has for this machine.
pub fn hostname() -> std::io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

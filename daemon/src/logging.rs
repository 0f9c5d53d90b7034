//! Where log lines go.

use std::io::{IsTerminal as _, stderr};

use clap::ValueEnum;
use tracing_appender::non_blocking::NonBlockingBuilder;
pub use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// Room for them is taken at the start, 32 bytes each.
const WAITING_LINES: usize = 8192;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Log lines go to standard error, each written at once, so that those of several processes do not mix. A thread of its own writes them:
/// whoever reads there, containerd as a rule, may be slow, and must not hold up an answer. What is still to be written when the guard is
/// dropped is written then; above 8,192 lines that wait, further ones are lost.
pub fn start_logging(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .finish(stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(writer)
        .with_target(false);
    match format {
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
        LogFormat::Text => subscriber.init(),
    }
    guard
}

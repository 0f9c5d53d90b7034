//! When a daemon is to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Ends when the process is asked to, by SIGTERM or SIGINT. Asking counts from now on.
pub fn told_to_end() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

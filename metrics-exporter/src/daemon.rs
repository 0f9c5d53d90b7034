//! What both programs do when they start and end.

use std::fs;
use std::io;

use futures_util::{Stream, stream};
use podwasm_daemon::listener::{Connection, Limited};
use tokio::net::TcpListener;

/// Enough for what either has to do; a thread for each processor of a large machine would only take memory.
const THREADS: usize = 2;

/// Does the work of a process, with threads for it.
pub fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// The connections of a listener, as many as it may have, for gRPC's server.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold(Limited::new(listener), async |listener| {
        let (connection, _) = listener.next().await;
        Some((Ok(connection), listener))
    })
}

/// The name that the kernel has for this machine.
pub fn hostname() -> std::io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

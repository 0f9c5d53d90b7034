//! What goes wrong during a soak: workers are killed, containerd is restarted.

use crate::Parts;
use crate::churn::Churn;
use crate::sample::WORKERS_LAST_FROM;
use anyhow::Result;
use podwasm_integration::node::Signal;
use std::cell::RefCell;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A run has so many of these intervals. containerd is restarted in the middle of each; a worker is killed at the end of
/// each in the part of the run in which workers are not left alone.
const INTERVALS: u32 = 12;

/// Something that was done on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Happened {
    pub minutes: f64,
    pub what: What,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// By which signal.
    ContainerdRestarted(Signal),
    WorkerKilled,
}

/// Does all of it, in its time.
pub async fn disrupt(
    parts: &Parts<'_>,
    churn: &Churn<'_>,
    start: Instant,
    duration: Duration,
    happened: &RefCell<Vec<Happened>>,
) -> Result<()> {
    let note = |what| {
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        happened.borrow_mut().push(Happened { minutes, what });
    };
    for half in 1..2 * INTERVALS {
        let share = f64::from(half) / f64::from(2 * INTERVALS);
        sleep_until(start + duration.mul_f64(share)).await;
        if half % 2 == 1 {
            let signal = if half % 4 == 1 {
                Signal::SIGTERM
            } else {
                Signal::SIGKILL
            };
            note(What::ContainerdRestarted(signal));
            restart_containerd(parts, churn, signal).await?;
        } else if share < WORKERS_LAST_FROM {
            note(What::WorkerKilled);
            parts.plugin.signal_worker(Signal::SIGKILL)?;
        }
    }
    Ok(())
}

/// Nothing else is asked of containerd meanwhile: what it leaves of half an operation is its own, and would look like a leak. Pods and
/// the load on them go on.
async fn restart_containerd(parts: &Parts<'_>, churn: &Churn<'_>, signal: Signal) -> Result<()> {
    let _closed = churn.gate.write().await;
    parts.node.kill_containerd(signal).await?;
    parts.node.start_containerd().await?;
    parts.node.wait_podwasm_ready(&parts.plugin).await?;
    parts.node.wait_exporter_ready(&parts.exporter).await
}

//! Instants that another process understands: nanoseconds of the kernel's monotonic clock.
#![allow(clippy::disallowed_methods, reason = "this one does I/O")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

fn now() -> (Instant, u64) {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    (
        Instant::now(),
        seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds),
    )
}

/// An instant as a number.
pub fn to_nanoseconds(instant: Instant) -> u64 {
    let (at, now) = now();
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if instant >= at {
        now.saturating_add(nanoseconds(instant - at))
    } else {
        now.saturating_sub(nanoseconds(at - instant))
    }
}

/// A number as an instant.
pub fn to_instant(nanoseconds: u64) -> Instant {
    let (at, now) = now();
    if nanoseconds >= now {
        at + Duration::from_nanos(nanoseconds - now)
    } else {
        at.checked_sub(Duration::from_nanos(now - nanoseconds))
            .unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn instants_survive() {
        let now = Instant::now();
        for instant in [now, now + Duration::from_secs(3)] {
            let there_and_back = to_instant(to_nanoseconds(instant));
            let off = there_and_back
                .max(instant)
                .duration_since(there_and_back.min(instant));
            assert!(off < Duration::from_millis(50), "{off:?}");
        }
    }
}

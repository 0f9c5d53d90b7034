//! How long to wait before connecting again.
//!
//! Containers created while a plugin is away are created without it, so the first attempt comes at
//! once. Knocking at a socket that nobody listens on costs nothing and may go on often; an attempt that
//! gets as far as registering costs the runtime a full synchronization, and is spaced out more.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(20);

/// The longest wait while the runtime cannot be reached.
const LONGEST_UNREACHABLE: Duration = Duration::from_millis(50);

/// The longest wait while the runtime can be reached.
const LONGEST_REACHABLE: Duration = Duration::from_secs(1);

/// The waits between attempts.
#[derive(Debug, Default)]
pub struct Backoff {
    /// Failures in a row, and whether they were with a runtime that could be reached.
    failures: (u32, bool),
}

impl Backoff {
    /// The wait after another failure, shortened at `random` (0 to 1) by up to a half so that plugins
    /// do not move in step.
    pub fn next(&mut self, reachable: bool, random: f64) -> Duration {
        let failures = if self.failures.1 == reachable {
            self.failures.0
        } else {
            0
        };
        self.failures = (failures.saturating_add(1), reachable);
        if failures == 0 {
            return FIRST;
        }
        let longest = if reachable {
            LONGEST_REACHABLE
        } else {
            LONGEST_UNREACHABLE
        };
        let wait = FIRST.saturating_mul(1 << failures.min(16)).min(longest);
        wait.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(reachable: bool, random: f64) -> Vec<u128> {
        let mut backoff = Backoff::default();
        (0..8)
            .map(|_| backoff.next(reachable, random).as_millis())
            .collect()
    }

    #[test]
    fn waits_grow_up_to_a_limit() {
        assert_eq!(waits(true, 1.0), [20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(waits(false, 1.0), [20, 40, 50, 50, 50, 50, 50, 50]);
    }

    #[test]
    fn at_worst_half_a_wait_is_taken_off() {
        assert_eq!(waits(true, 0.0), [20, 20, 40, 80, 160, 320, 500, 500]);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff {
            failures: (u32::MAX, true),
        };
        assert_eq!(backoff.next(true, 1.0), LONGEST_REACHABLE);
    }

    #[test]
    fn a_runtime_that_is_back_is_not_kept_waiting() {
        let mut backoff = Backoff {
            failures: (500, false),
        };
        assert_eq!(backoff.next(true, 0.0), FIRST);
    }
}

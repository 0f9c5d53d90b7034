//! How soon a worker follows another that has ended.
//!
//! One that did its work before it ended is replaced at once, so that a crash is not noticed; a few times in a row, and then at a
//! pace that the node does not feel. One that did not even come to its work is tried again less and less often.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::{Duration, Instant};

/// How many are started without a pause.
const BURST: f64 = 20.0;
/// How many are started a second in the long run. Each takes some 10 ms of CPU time.
const PER_SECOND: f64 = 4.0;
/// The first pause after one that could not begin.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known of workers that have ended.
#[derive(Debug)]
pub struct Restarts {
    at: Instant,
    failures: u32,
    left: f64,
}

impl Restarts {
    /// None has ended yet.
    pub fn new(now: Instant) -> Self {
        Self {
            at: now,
            failures: 0,
            left: BURST,
        }
    }

    /// A worker has come to its work.
    pub fn began(&mut self) {
        self.failures = 0;
    }

    /// A worker has ended before it came to its work.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait before the next one is started.
    pub fn pause(&mut self, now: Instant) -> Duration {
        let since = now.duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * PER_SECOND).min(BURST) - 1.0;
        self.at = now;
        let paced = Duration::from_secs_f64((-self.left / PER_SECOND).max(0.0));
        paced.max(self.after_failures())
    }

    fn after_failures(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => FIRST_PAUSE
                .saturating_mul(1 << (failures - 1).min(16))
                .min(LONGEST_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn a_crash_now_and_then_costs_no_time() {
        let start = Instant::now();
        let mut restarts = Restarts::new(start);
        for number in 0..1000 {
            let now = start + Duration::from_millis(350) * number;
            assert_eq!(restarts.pause(now), Duration::ZERO, "{number}");
            restarts.began();
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn crashes_without_end_are_paced() {
        let start = Instant::now();
        let mut restarts = Restarts::new(start);
        let (mut now, mut started) = (start, 0);
        while now < start + Duration::from_secs(60) {
            now += restarts.pause(now) + Duration::from_millis(1);
            restarts.began();
            started += 1;
        }
        assert!((240..280).contains(&started), "{started} in a minute");
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn what_cannot_begin_is_tried_less_and_less_often() {
        let mut now = Instant::now();
        let mut restarts = Restarts::new(now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            restarts.failed();
            let pause = restarts.pause(now);
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses[..3], [20, 40, 80].map(Duration::from_millis));
        assert_eq!(pauses[11], LONGEST_PAUSE);
        restarts.began();
        assert_eq!(restarts.pause(now), Duration::ZERO);
    }
}

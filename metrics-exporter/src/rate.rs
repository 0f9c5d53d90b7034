//! Rates of requests over windows that slide.
//!
//! Each pod has a [`Ring`] of what was counted in which stretch of time: fine slots for the last seconds, coarse ones
//! for the last minutes. What is known of a counter are its readings; the requests between two of them are spread
//! evenly over the time between, so that a reading that comes late makes no peak, and none gets lost. Time is
//! in milliseconds since whatever the caller likes.

#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]
#![allow(
    clippy::cast_precision_loss,
    reason = "what a float cannot hold exactly is no rate of requests"
)]
#![cfg_attr(test, allow(clippy::float_cmp, reason = "counts that a float holds exactly"))]

use std::time::Duration;

/// The longest window.
pub const MAX_WINDOW: Duration = Duration::from_secs(600);
/// Above this, a window consists of coarse slots.
const MAX_FINE_WINDOW_MS: u64 = 10_000;
const FINE_SLOT_MS: u64 = 250;
const COARSE_SLOT_MS: u64 = 1_000;
/// One more than the longest window takes, because its oldest slot is seldom whole.
const FINE_SLOTS: usize = 41;
const COARSE_SLOTS: usize = 601;
/// What is known for less than this is taken for known this long, so that a first request is not a storm.
const MIN_SPAN_MS: u64 = 1_000;

/// What a counter that may start again from zero grew by between two readings.
pub fn increase(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// What was counted in the last minutes, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    fine: Slots,
    coarse: Slots,
    since: u64,
}

impl Ring {
    /// Nothing has been counted, and it is known since this moment.
    pub fn new(since: u64) -> Self {
        Self {
            fine: Slots::new(FINE_SLOTS, FINE_SLOT_MS),
            coarse: Slots::new(COARSE_SLOTS, COARSE_SLOT_MS),
            since,
        }
    }

    /// Since when it is known what was counted.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Adds what was counted between two moments.
    pub fn add(&mut self, count: u64, from: u64, to: u64) {
        if count > 0 {
            self.fine.add(count, from, to);
            self.coarse.add(count, from, to);
        }
    }

    /// Adds all that another ring holds.
    pub fn merge(&mut self, other: &Self) {
        self.fine.merge(&other.fine);
        self.coarse.merge(&other.coarse);
    }

    /// Takes away what another ring holds, all of which was added here before.
    pub fn separate(&mut self, other: &Self) {
        self.fine.separate(&other.fine);
        self.coarse.separate(&other.coarse);
    }

    /// Sets since when it is known what was counted.
    pub fn know_since(&mut self, since: u64) {
        self.since = since;
    }

    /// What was counted in the window that ends at `to`, which is not before the end of what was added last.
    pub fn sum(&self, window_ms: u64, to: u64) -> f64 {
        if window_ms <= MAX_FINE_WINDOW_MS {
            self.fine.sum(window_ms, to)
        } else {
            self.coarse.sum(window_ms, to)
        }
    }

    /// Adds what was counted in each of the whole seconds before one, to as many sums as there are.
    fn add_seconds(&self, end: u64, sums: &mut [u64]) {
        let length = sums.len() as u64;
        let first = end.saturating_sub(length).max(self.coarse.oldest());
        let Ok(at) = usize::try_from((first + length).saturating_sub(end)) else {
            return;
        };
        let counts = self.coarse.counts(first, end);
        for (sum, count) in sums.iter_mut().skip(at).zip(counts) {
            *sum += u64::from(count);
        }
    }

    /// What was counted in each second, oldest first: the second's beginning and the count. Seconds without are left out.
    pub fn seconds(&self) -> impl Iterator<Item = (u64, u32)> {
        self.coarse.filled()
    }
}

/// Counts by stretches of equal length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slots {
    counts: Box<[u32]>,
    /// The number, since time began, of the newest slot.
    newest: u64,
    width_ms: u64,
}

impl Slots {
    fn new(slots: usize, width_ms: u64) -> Self {
        Self {
            counts: vec![0; slots].into(),
            newest: 0,
            width_ms,
        }
    }

    fn at(&self, slot: u64) -> usize {
        usize::try_from(slot % self.len()).expect("less than a length")
    }

    fn len(&self) -> u64 {
        self.counts.len() as u64
    }

    /// The oldest slot that is still held.
    fn oldest(&self) -> u64 {
        (self.newest + 1).saturating_sub(self.len())
    }

    /// Makes room for a slot, whose counts are then as many slots old at most as there are.
    fn reach(&mut self, slot: u64) {
        if slot <= self.newest {
            return;
        }
        for new in (self.newest + 1).max((slot + 1).saturating_sub(self.len()))..=slot {
            self.counts[self.at(new)] = 0;
        }
        self.newest = slot;
    }

    fn add(&mut self, count: u64, from: u64, to: u64) {
        let last = to.max(1) - 1; // a slot ends before the next begins
        let first = from.min(last);
        self.reach(last / self.width_ms);
        let span = u128::from(last + 1 - first);
        let until = |ms: u64| {
            let share = u128::from(count) * u128::from(ms - first) / span;
            u64::try_from(share).expect("a share of it is not more")
        };
        let mut begin = first.max(self.oldest() * self.width_ms);
        while begin <= last {
            let slot = begin / self.width_ms;
            let end = ((slot + 1) * self.width_ms).min(last + 1);
            let share = u32::try_from(until(end) - until(begin)).unwrap_or(u32::MAX);
            let at = self.at(slot);
            self.counts[at] = self.counts[at].saturating_add(share);
            begin = end;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.reach(other.newest);
        for slot in other.oldest().max(self.oldest())..=other.newest {
            let (at, count) = (self.at(slot), other.counts[other.at(slot)]);
            self.counts[at] = self.counts[at].saturating_add(count);
        }
    }

    fn separate(&mut self, other: &Self) {
        for slot in other.oldest().max(self.oldest())..=other.newest.min(self.newest) {
            let (at, count) = (self.at(slot), other.counts[other.at(slot)]);
            self.counts[at] = self.counts[at].saturating_sub(count);
        }
    }

    fn sum(&self, window_ms: u64, to: u64) -> f64 {
        let from = to.saturating_sub(window_ms);
        let edge = from / self.width_ms;
        let whole: u64 = self.counts(edge + 1, self.newest + 1).map(u64::from).sum();
        whole as f64 + self.part(edge, from)
    }

    /// The counts of slots from one to before another; those that are not held are left out.
    fn counts(&self, first: u64, end: u64) -> impl Iterator<Item = u32> {
        let first = first.max(self.oldest());
        let length = end.min(self.newest + 1).saturating_sub(first);
        let length = usize::try_from(length).expect("no more than are held");
        let at = self.at(first);
        let to_the_end = length.min(self.counts.len() - at);
        let (older, newer) = (
            &self.counts[at..at + to_the_end],
            &self.counts[..length - to_the_end],
        );
        older.iter().chain(newer).copied()
    }

    /// What a slot holds after a moment in it.
    fn part(&self, slot: u64, from: u64) -> f64 {
        if slot < self.oldest() || slot > self.newest {
            return 0.0;
        }
        let after = (slot + 1) * self.width_ms - from;
        f64::from(self.counts[self.at(slot)]) * after as f64 / self.width_ms as f64
    }

    fn filled(&self) -> impl Iterator<Item = (u64, u32)> {
        let slots = self.oldest()..=self.newest;
        let counts = self.counts(self.oldest(), self.newest + 1);
        let begins = slots.map(|slot| slot * self.width_ms);
        begins.zip(counts).filter(|&(_, count)| count > 0)
    }
}

/// A pod's counts, and until when they are known.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The counts.
    pub ring: &'a Ring,
    /// When the counter was last read.
    pub until: u64,
}

/// Requests per second of some pods together, over a window.
///
/// As long as none of them is known for the whole window, the time that the first of them is known for is used
/// instead: a workload that has just begun is as busy as it is, and not as busy as if it had rested before.
pub fn rate<'a>(pods: impl Iterator<Item = Known<'a>>, window: Duration) -> f64 {
    let window_ms = millis(window);
    let (mut sum, mut span) = (0.0, MIN_SPAN_MS.min(window_ms));
    for Known { ring, until } in pods {
        sum += ring.sum(window_ms, until);
        span = span.max(until.saturating_sub(ring.since()).min(window_ms));
    }
    sum * 1_000.0 / span as f64
}

/// When a burst counts for more than the average, as in Knative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Panic {
    /// The short window, of whole seconds.
    pub window: Duration,
    /// A burst is when the rate over the short window is this many times that over the long one, or more.
    pub threshold: f64,
}

/// Requests per second over a window, or of the greatest burst that began in it, whichever is more.
///
/// Nothing is kept from one question to the next, so whoever has the same counts gives the same answer.
pub fn rate_or_burst<'a>(
    pods: impl Iterator<Item = Known<'a>> + Clone,
    window: Duration,
    panic: Panic,
) -> f64 {
    let now = pods.clone().map(|pod| pod.until).max().unwrap_or(0);
    let since = pods.clone().map(|pod| pod.ring.since()).min().unwrap_or(now);
    let sums = sums_by_second(pods.clone(), 2 * window, now);
    let (stable, burst) = (seconds(window), seconds(panic.window));
    let last = sums.len() - 1;
    let counted = |end: usize, length: usize| sums[end] - sums[end.saturating_sub(length)];
    let known_seconds = usize::try_from(now.saturating_sub(since) / COARSE_SLOT_MS).unwrap_or(usize::MAX);
    let per_second = |end: usize, length: usize| {
        let known = known_seconds.saturating_sub(last - end).clamp(1, length);
        counted(end, length) as f64 / known as f64
    };
    let bursts = (last.saturating_sub(stable) + 1..=last)
        .map(|end| (per_second(end, burst), per_second(end, stable)))
        .filter(|(burst, stable)| *burst >= panic.threshold * stable)
        .map(|(burst, _)| burst);
    bursts.fold(rate(pods, window), f64::max)
}

/// Sums of all counts up to the end of each of the last whole seconds, oldest first. The first is zero.
fn sums_by_second<'a>(pods: impl Iterator<Item = Known<'a>>, span: Duration, now: u64) -> Vec<u64> {
    let length = seconds(span);
    let end = now / COARSE_SLOT_MS;
    let mut sums = vec![0; length + 1];
    for pod in pods {
        pod.ring.add_seconds(end, &mut sums[1..]);
    }
    for at in 1..sums.len() {
        sums[at] += sums[at - 1];
    }
    sums
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(duration: Duration) -> usize {
    usize::try_from(duration.as_secs()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 5_000_000;

    /// A ring that is known for long, with these counts: each from its moment, in milliseconds before now, to another.
    fn ring(counts: &[(u64, u64, u64)]) -> Ring {
        let mut ring = Ring::new(0);
        for &(count, from, to) in counts {
            ring.add(count, NOW - from, NOW - to);
        }
        ring
    }

    fn rate_of(rings: &[Ring], window_s: u64) -> f64 {
        let known = rings.iter().map(|ring| Known { ring, until: NOW });
        rate(known, Duration::from_secs(window_s))
    }

    #[test]
    fn windows_hold_what_was_counted_in_them() {
        let busy = [
            (100, 1_000, 0),
            (900, 10_000, 1_000),
            (5_000, 60_000, 10_000),
            (54_000, 600_000, 60_000),
        ];
        let mut rings = [ring(&[busy[3], busy[2], busy[1], busy[0]])];
        for window_s in [1, 2, 10, 30, 60, 300, 600] {
            assert_eq!(rate_of(&rings, window_s), 100.0, "{window_s} s");
        }
        rings[0].add(10, NOW, NOW + 1_000);
        let known = rings.iter().map(|ring| Known {
            ring,
            until: NOW + 1_000,
        });
        assert_eq!(rate(known, Duration::from_secs(1)), 10.0);
    }

    #[test]
    fn pods_add_up() {
        let rings = [ring(&[(100, 1_000, 0)]), ring(&[(50, 1_000, 0)]), ring(&[])];
        assert_eq!(rate_of(&rings, 1), 150.0);
        assert_eq!(rate_of(&rings, 10), 15.0);
        assert_eq!(rate_of(&[], 10), 0.0);
    }

    #[test]
    fn a_pod_that_takes_over_is_not_counted_twice() {
        let mut new = Ring::new(NOW - 5_000);
        new.add(500, NOW - 5_000, NOW);
        let rings = [ring(&[(5_500, 60_000, 5_000)]), new];
        assert_eq!(rate_of(&rings, 60), 100.0);
    }

    #[test]
    fn what_has_just_begun_is_as_busy_as_it_is() {
        let begun = |ago: u64, count| {
            let mut ring = Ring::new(NOW - ago);
            ring.add(count, NOW - ago, NOW);
            ring
        };
        assert_eq!(rate_of(&[begun(6_000, 60)], 60), 10.0);
        assert_eq!(rate_of(&[begun(6_000, 60)], 1), 10.0);
        assert_eq!(rate_of(&[begun(100, 1)], 60), 1.0, "a first request is no storm");
    }

    #[test]
    fn a_reading_that_comes_late_makes_no_peak() {
        let rings = [ring(&[(2_000, 20_000, 0)])];
        assert_eq!(rate_of(&rings, 1), 100.0);
        assert_eq!(rate_of(&rings, 10), 100.0);
    }

    #[test]
    fn what_is_older_than_the_ring_is_gone() {
        let rings = [ring(&[(1_000_000, 4_000_000, 700_000), (6, 500, 0)])];
        assert_eq!(rate_of(&rings, 600), 0.01);
        let mut once = Ring::new(0);
        once.add(u64::MAX, 0, NOW); // more than a slot holds
        assert!(once.sum(1_000, NOW) > 1e9);
    }

    #[test]
    fn counters_start_again_from_zero() {
        assert_eq!([increase(5, 7), increase(5, 5), increase(5, 3)], [2, 0, 3]);
    }

    #[test]
    fn a_burst_is_held_for_the_window_that_it_began_in() {
        const PANIC: Panic = Panic {
            window: Duration::from_secs(6),
            threshold: 2.0,
        };
        let answer = |ring: &Ring, until: u64| {
            let known = [Known { ring, until }];
            rate_or_burst(known.into_iter(), Duration::from_secs(60), PANIC)
        };
        let mut ring = ring(&[(60_000, 600_000, 0)]);
        assert_eq!(answer(&ring, NOW), 100.0);
        ring.add(6_000, NOW, NOW + 6_000);
        assert_eq!(
            answer(&ring, NOW + 6_000),
            1_000.0,
            "ten times the rate, seen within the short window"
        );
        let calm = |s: u64| NOW + s * 1_000;
        ring.add(5_400, calm(6), calm(60));
        assert_eq!(answer(&ring, calm(60)), 1_000.0);
        ring.add(1_000, calm(60), calm(70));
        assert_eq!(
            answer(&ring, calm(70)),
            100.0,
            "nothing of it is in the window any more"
        );
    }

    #[test]
    fn a_burst_from_nothing_is_seen_at_once() {
        let mut ring = Ring::new(NOW - 300_000);
        ring.add(50, NOW, NOW + 1_000);
        let known = [Known {
            ring: &ring,
            until: NOW + 1_000,
        }];
        let panic = Panic {
            window: Duration::from_secs(1),
            threshold: 2.0,
        };
        assert_eq!(
            rate_or_burst(known.into_iter(), Duration::from_secs(60), panic),
            50.0
        );
    }

    #[test]
    fn rings_come_together_and_apart_again() {
        let mut others = ring(&[(600, 600_000, 0), (7, 3_000, 1_000)]);
        let one = ring(&[(90, 90_000, 60_000), (40, 2_000, 1_500)]);
        let alone = others.clone();
        others.merge(&one);
        assert_eq!(others.sum(600_000, NOW), 737.0);
        assert_eq!(others.sum(2_000, NOW), alone.sum(2_000, NOW) + 40.0);
        others.separate(&one);
        assert_eq!(others, alone);
        let mut newer = Ring::new(0);
        newer.add(5, NOW + 599_000, NOW + 600_000);
        newer.merge(&alone);
        assert_eq!(newer.sum(600_000, NOW + 600_000), 5.0, "what is too old is gone");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_made_up(readings in prop::collection::vec((0_u64..5_000, 0_u64..3_000), 1..100)) {
            let mut ring = Ring::new(0);
            let (mut at, mut total) = (NOW, 0);
            for (count, took_ms) in readings {
                ring.add(count, at, at + took_ms);
                at += took_ms;
                total += count;
            }
            prop_assume!(at - NOW < 590_000);
            prop_assert_eq!(ring.sum(600_000, at), total as f64);
            prop_assert_eq!(ring.seconds().map(|(_, count)| u64::from(count)).sum::<u64>(), total);
            let mut before = 0.0;
            for window_ms in (1_000..=600_000).step_by(1_000).filter(|ms| *ms > MAX_FINE_WINDOW_MS) {
                let sum = ring.sum(window_ms, at);
                prop_assert!(sum >= before, "a longer window holds no less");
                before = sum;
            }
        }

        #[test]
        fn an_even_load_has_its_rate_whenever_it_is_read(
            pauses in prop::collection::vec(1_u64..2_000, 1..400),
            per_ms in 1_u64..50,
            window_s in 1_u64..=600,
        ) {
            let mut ring = Ring::new(0);
            let mut at = NOW;
            for pause in pauses {
                ring.add(pause * per_ms, at, at + pause);
                at += pause;
            }
            prop_assume!(at - NOW >= window_s * 1_000 + COARSE_SLOT_MS);
            let known = [Known { ring: &ring, until: at }];
            let rate = rate(known.into_iter(), Duration::from_secs(window_s));
            let expected = (per_ms * 1_000) as f64;
            prop_assert!((rate / expected - 1.0).abs() < 1e-9, "{} instead of {}", rate, expected);
        }
    }
}

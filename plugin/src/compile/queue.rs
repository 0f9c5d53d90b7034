//! What is to be compiled, and what of it next.
//!
//! The fast tier of all modules comes before the optimised tier of any: the first takes a container from crawling to running, the
//! second from running to running well. Among those of a tier the highest need counts, then the smallest module, then who came first.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::cmp::Reverse;
use std::collections::HashSet;

use crate::compiled::Tier;

/// How pressing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// An image with the module arrived on the node.
    Arrived,
    /// A pod that will run the module was scheduled here.
    Scheduled,
    /// A container of the module was created.
    Waiting,
}

/// What is compiled at once: a module to a tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// SHA-256 of the module's bytes, in hexadecimal.
    pub digest: String,
    /// How thoroughly.
    pub tier: Tier,
}

/// A key that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    key: Key,
    need: Need,
    number: u64,
    size: u64,
}

/// How many may run at once.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Of the fast tier.
    pub fast: usize,
    /// Of the optimised tier.
    pub optimised: usize,
}

/// What waits and what runs. A key is there once.
#[derive(Debug, Default)]
pub struct Queue {
    numbers: u64,
    running: HashSet<Key>,
    waiting: Vec<Job>,
}

impl Queue {
    /// Adds a key, or raises the need of one that waits. What runs already is left alone.
    pub fn add(&mut self, key: Key, need: Need, size: u64) {
        if self.running.contains(&key) {
            return;
        }
        if let Some(job) = self.waiting.iter_mut().find(|job| job.key == key) {
            job.need = job.need.max(need);
            return;
        }
        self.numbers += 1;
        let number = self.numbers;
        self.waiting.push(Job {
            key,
            need,
            number,
            size,
        });
    }

    /// Takes what comes next, if a slot is free for it.
    pub fn start(&mut self, slots: Slots) -> Option<Key> {
        let order = |(_, job): &(usize, &Job)| (job.key.tier, Reverse(job.need), job.size, job.number);
        let (at, first) = self.waiting.iter().enumerate().min_by_key(order)?;
        let free = match first.key.tier {
            Tier::Fast => self.running(Tier::Fast) < slots.fast,
            Tier::Optimised => {
                self.running(Tier::Fast) == 0 && self.running(Tier::Optimised) < slots.optimised
            }
        };
        if !free {
            return None;
        }
        let key = self.waiting.swap_remove(at).key;
        self.running.insert(key.clone());
        Some(key)
    }

    /// Notes that something that was started has ended.
    pub fn end(&mut self, key: &Key) {
        self.running.remove(key);
    }

    /// Whether anything of a module waits or runs.
    pub fn has(&self, digest: &str) -> bool {
        let waiting = self.waiting.iter().map(|job| &job.key);
        waiting.chain(&self.running).any(|key| key.digest == digest)
    }

    /// How many wait for a tier.
    pub fn waiting(&self, tier: Tier) -> usize {
        self.waiting.iter().filter(|job| job.key.tier == tier).count()
    }

    fn running(&self, tier: Tier) -> usize {
        self.running.iter().filter(|key| key.tier == tier).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Need::{Arrived, Scheduled, Waiting};
    use Tier::{Fast, Optimised};

    const ONE: Slots = Slots {
        fast: 1,
        optimised: 1,
    };

    fn key(digest: &str, tier: Tier) -> Key {
        Key {
            digest: digest.to_owned(),
            tier,
        }
    }

    fn queue(jobs: &[(&str, Tier, Need, u64)]) -> Queue {
        let mut queue = Queue::default();
        for (digest, tier, need, size) in jobs {
            queue.add(key(digest, *tier), *need, *size);
        }
        queue
    }

    /// Starts one after the other, each when the one before has ended.
    fn check(jobs: &[(&str, Tier, Need, u64)], expected: &[(&str, Tier)]) {
        let mut queue = queue(jobs);
        let order = std::iter::from_fn(|| {
            let key = queue.start(ONE)?;
            queue.end(&key);
            Some(key)
        });
        let expected: Vec<_> = expected.iter().map(|(digest, tier)| key(digest, *tier)).collect();
        assert_eq!(order.collect::<Vec<_>>(), expected, "{jobs:?}");
    }

    #[test]
    fn fast_for_all_comes_before_optimised_for_any() {
        check(
            &[
                ("a", Optimised, Waiting, 1),
                ("a", Fast, Waiting, 1),
                ("b", Optimised, Arrived, 1),
                ("b", Fast, Arrived, 1),
            ],
            &[("a", Fast), ("b", Fast), ("a", Optimised), ("b", Optimised)],
        );
    }

    #[test]
    fn need_comes_before_size_and_size_before_age() {
        check(
            &[
                ("a", Fast, Arrived, 9),
                ("b", Fast, Arrived, 1),
                ("c", Fast, Arrived, 1),
                ("d", Fast, Scheduled, 99),
                ("e", Fast, Waiting, 999),
            ],
            &[("e", Fast), ("d", Fast), ("b", Fast), ("c", Fast), ("a", Fast)],
        );
    }

    #[test]
    fn need_is_raised_and_never_lowered() {
        check(
            &[
                ("a", Fast, Arrived, 1),
                ("b", Fast, Arrived, 1),
                ("b", Fast, Waiting, 1),
                ("b", Fast, Arrived, 1),
            ],
            &[("b", Fast), ("a", Fast)],
        );
    }

    #[test]
    fn what_waits_for_fast_does_not_wait_for_optimised() {
        let mut queue = queue(&[("a", Optimised, Arrived, 1)]);
        assert_eq!(queue.start(ONE), Some(key("a", Optimised)));
        queue.add(key("b", Fast), Arrived, 1);
        queue.add(key("b", Optimised), Waiting, 1);
        assert_eq!(queue.start(ONE), Some(key("b", Fast)));
        assert_eq!(queue.start(ONE), None, "the optimised slot is taken");
        queue.end(&key("a", Optimised));
        assert_eq!(queue.start(ONE), None, "a fast one runs");
        queue.end(&key("b", Fast));
        assert_eq!(queue.start(ONE), Some(key("b", Optimised)));
    }

    #[test]
    fn slots_bound_what_runs() {
        let slots = |fast| Slots { fast, optimised: 0 };
        let mut queue = queue(&[
            ("a", Fast, Arrived, 1),
            ("b", Fast, Arrived, 1),
            ("c", Fast, Arrived, 1),
        ]);
        assert!(queue.start(slots(2)).is_some() && queue.start(slots(2)).is_some());
        assert_eq!(queue.start(slots(2)), None);
        assert_eq!((queue.waiting(Fast), queue.running(Fast)), (1, 2));
        assert_eq!(queue.start(slots(3)), Some(key("c", Fast)));
        queue.add(key("c", Fast), Waiting, 1);
        assert_eq!(queue.waiting(Fast), 0, "it runs already");
        assert!(queue.has("a") && !queue.has("d"));
        queue.add(key("d", Optimised), Waiting, 1);
        for digest in ["a", "b", "c"] {
            queue.end(&key(digest, Fast));
        }
        assert_eq!(queue.start(slots(2)), None);
        assert!(queue.has("d") && !queue.has("a"));
    }
}

//! The fleet as tasks share it: under a lock, with a clock, and with word of its changes.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::watch;

use super::fleet::{Census, Fleet, Patience, Unknown};
use super::trigger::Trigger;
use crate::rate;

/// What the clock shows when it starts: exporters tell of a time before that.
const BEGIN_MS: u64 = 2 * rate::MAX_WINDOW.as_secs() * 1_000;

/// The fleet, shared.
#[derive(Debug)]
pub struct Cluster {
    changes: watch::Sender<()>,
    fleet: RwLock<Fleet>,
    since: Instant,
}

impl Cluster {
    /// Nobody is known yet.
    pub fn new(patience: Patience) -> Self {
        Self {
            changes: watch::Sender::new(()),
            fleet: RwLock::new(Fleet::new(patience)),
            since: Instant::now(),
        }
    }

    /// Tells the fleet something, with the time.
    pub fn tell<T>(&self, tell: impl FnOnce(&mut Fleet, u64) -> T) -> T {
        let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
        let told = tell(&mut fleet, self.now());
        drop(fleet);
        self.changes.send_replace(());
        told
    }

    /// Asks the fleet something, with the time.
    pub fn ask<T>(&self, ask: impl FnOnce(&Fleet, u64) -> T) -> T {
        let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
        ask(&fleet, self.now())
    }

    /// The rate that a trigger in a namespace asks for.
    pub fn rate(&self, namespace: &str, trigger: &Trigger) -> Result<f64, Unknown> {
        self.ask(|fleet, now| fleet.rate(namespace, trigger, now))
    }

    /// How many there are.
    pub fn census(&self) -> Census {
        self.ask(Fleet::census)
    }

    /// Says when the fleet was told something.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.since.elapsed().as_millis());
        BEGIN_MS.saturating_add(elapsed.unwrap_or(u64::MAX))
    }
}

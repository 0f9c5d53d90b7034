//! What the cache holds, in memory: the state of each module and of its native code.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use super::budget::Held;
use super::files::Seen;
use super::record::About;
use crate::compiled::{Compiled, Tier};

/// For so long a module stays after it was handed out: its container is not in containerd's list yet, or its pod is tried again.
pub const GRACE: Duration = Duration::from_secs(600);
/// The same where a disk is full, which is as long as it may take until a container is in the list. A module that is evicted too early comes in again.
pub const GRACE_WHEN_FULL: Duration = Duration::from_secs(10);
/// Images that a module is known to come from; more are not remembered.
const MAX_NAMES: usize = 8;

/// Now, on both of the machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For how long ago something was.
    pub instant: Instant,
    /// For what is written down.
    pub time: SystemTime,
}

/// What there is of one tier of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// Nothing, and trying again would end the same.
    Failed {
        /// Why.
        why: String,
    },
    /// Nothing, and trying again is of no use before some time has passed.
    Later {
        /// When to try again.
        after: Instant,
        /// Why it failed.
        why: String,
    },
    /// Native code.
    Ready {
        /// How its file looked when it was last known to be genuine.
        seen: Seen,
    },
    /// A file that was not looked at since this process started.
    Unproven,
}

/// A module and what belongs to it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The images it comes from.
    pub about: About,
    /// When it was last handed out by this process.
    pub handed_out: Option<Instant>,
    /// Whether what was written down of it is out of date.
    pub is_changed: bool,
    /// Whether this process has seen the module's bytes.
    pub is_proven: bool,
    /// When it was last asked for.
    pub last_used: SystemTime,
    /// The module's size.
    pub module_bytes: u64,
    /// The size of other builds' native code.
    pub old_bytes: u64,
    tiers: [State; 2],
}

impl Entry {
    /// A module without native code.
    pub fn new(module_bytes: u64, last_used: SystemTime) -> Self {
        Self {
            about: About::default(),
            handed_out: None,
            is_changed: false,
            is_proven: false,
            last_used,
            module_bytes,
            old_bytes: 0,
            tiers: [State::Absent, State::Absent],
        }
    }

    /// What there is of a tier.
    pub fn state(&self, tier: Tier) -> &State {
        &self.tiers[tier as usize]
    }

    fn bytes(&self) -> u64 {
        let native = |state: &State| match state {
            State::Ready { seen } => seen.bytes,
            _ => 0,
        };
        self.module_bytes + self.old_bytes + self.tiers.iter().map(native).sum::<u64>()
    }

    /// The best there is for a container now.
    fn compiled(&self, build: &str, now: Instant) -> Compiled {
        for tier in Tier::ALL.into_iter().rev() {
            if let State::Ready { seen } = self.state(tier) {
                return Compiled::Ready {
                    bytes: seen.bytes,
                    build: build.to_owned(),
                    tier,
                };
            }
        }
        match self.state(Tier::Fast) {
            State::Failed { why } => Compiled::Failed { why: why.clone() },
            State::Later { after, why } if now < *after => Compiled::Failed { why: why.clone() },
            _ => Compiled::Coming {
                build: build.to_owned(),
            },
        }
    }

    /// What is still to be made. After a better tier the first is of no use, and a module whose first failed is hopeless.
    fn missing(&self, now: Instant) -> Vec<Tier> {
        let is_missing = |tier: &Tier| match self.state(*tier) {
            State::Absent => true,
            State::Later { after, .. } => now >= *after,
            State::Failed { .. } | State::Ready { .. } | State::Unproven => false,
        };
        let has_best = matches!(self.state(Tier::Optimised), State::Ready { .. });
        let is_hopeless = matches!(self.state(Tier::Fast), State::Failed { .. });
        if has_best || is_hopeless {
            return Vec::new();
        }
        Tier::ALL.into_iter().filter(is_missing).collect()
    }
}

/// All modules, by their SHA-256.
#[derive(Debug, Default)]
pub struct Entries {
    all: HashMap<String, Entry>,
}

impl Entries {
    /// Notes a module whose bytes have just been seen.
    pub fn add(&mut self, digest: &str, module_bytes: u64, now: Now) {
        let entry = self
            .all
            .entry(digest.to_owned())
            .or_insert_with(|| Entry::new(module_bytes, now.time));
        entry.handed_out = Some(now.instant);
        entry.is_proven = true;
        entry.last_used = now.time;
        entry.is_changed = true;
    }

    /// Notes a module that was found on disk.
    pub fn insert(&mut self, digest: &str, entry: Entry) {
        self.all.insert(digest.to_owned(), entry);
    }

    /// Forgets a module.
    pub fn remove(&mut self, digest: &str) {
        self.all.remove(digest);
    }

    /// A module.
    pub fn find(&self, digest: &str) -> Option<&Entry> {
        self.all.get(digest)
    }

    /// A module, to change it.
    pub fn find_mut(&mut self, digest: &str) -> Option<&mut Entry> {
        self.all.get_mut(digest)
    }

    /// Notes what there is of a tier; of a module that has gone meanwhile, nothing.
    pub fn set(&mut self, digest: &str, tier: Tier, state: State) {
        if let Some(entry) = self.all.get_mut(digest) {
            entry.tiers[tier as usize] = state;
        }
    }

    /// What a container of this image gets, which keeps the module from being evicted for a while.
    pub fn hand_out(&mut self, digest: &str, image: &str, build: &str, now: Now) -> Compiled {
        let Some(entry) = self.all.get_mut(digest) else {
            return Compiled::Evicted;
        };
        entry.handed_out = Some(now.instant);
        entry.last_used = now.time;
        entry.is_changed = true;
        let names = &mut entry.about.names;
        if !image.is_empty() && names.len() < MAX_NAMES && !names.iter().any(|name| name == image) {
            names.push(image.to_owned());
        }
        entry.compiled(build, now.instant)
    }

    /// Which tiers of a module are still to be made, and the module's size.
    pub fn missing(&self, digest: &str, now: Instant) -> (Vec<Tier>, u64) {
        let entry = self.all.get(digest);
        entry.map_or((Vec::new(), 0), |entry| (entry.missing(now), entry.module_bytes))
    }

    /// What is to be written down, which from then on is.
    pub fn take_changed(&mut self) -> Vec<(String, About, SystemTime)> {
        let changed = self.all.iter_mut().filter(|(_, entry)| entry.is_changed);
        changed
            .map(|(digest, entry)| {
                entry.is_changed = false;
                (digest.clone(), entry.about.clone(), entry.last_used)
            })
            .collect()
    }

    /// All modules for the budget. `in_use` are those that containers have, `busy` says which are being worked on; what was handed out less than
    /// `grace` ago stays, too.
    pub fn held(
        &self,
        in_use: &HashSet<String>,
        busy: impl Fn(&str) -> bool,
        grace: Duration,
        now: Instant,
    ) -> Vec<Held> {
        let is_recent = |entry: &Entry| {
            entry
                .handed_out
                .is_some_and(|then| now.duration_since(then) < grace)
        };
        self.all
            .iter()
            .map(|(digest, entry)| Held {
                bytes: entry.bytes(),
                digest: digest.clone(),
                in_use: in_use.contains(digest) || busy(digest) || is_recent(entry),
                last_used: entry.last_used,
            })
            .collect()
    }

    /// How much disk everything takes.
    pub fn bytes(&self) -> u64 {
        self.all.values().map(Entry::bytes).sum()
    }

    /// How many modules there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The modules' SHA-256s.
    pub fn digests(&self) -> HashSet<String> {
        self.all.keys().cloned().collect()
    }
}

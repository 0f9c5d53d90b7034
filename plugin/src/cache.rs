//! Modules and their native code on this node: what there is, kept within a budget, and true to what was put there.
//!
//! What a container is told comes from memory. The disk is compared with it in the background ([`Cache::sync`]), because others
//! change it too: `podwasm compile` and `podwasm cache`, a second daemon while one is replaced by the next, a bad disk.

pub mod budget;
pub mod entries;
pub mod files;
pub mod record;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::compiled::{Compiled, Tier};
use budget::{Held, to_evict};
use entries::{Entries, Entry, Now, State};
use files::{Files, Shelf};
use record::Outcome;

/// The cache of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    build: Option<String>,
    entries: Mutex<Entries>,
    files: Files,
    /// Held while a module comes or goes, so that nobody takes away what another just put there.
    publishing: Mutex<()>,
    shortage: Shortage,
}

/// What did not fit on the disk.
#[derive(Debug, Default)]
struct Shortage {
    bytes: AtomicU64,
    noted: Notify,
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        time: SystemTime::now(),
    }
}

impl Cache {
    /// Opens the cache below a state folder for the native code of one build. Throws away what others left half made, and hides native
    /// code from engines until [`Cache::sync`] has looked at it.
    pub fn open(state: &Path, build: Option<String>) -> io::Result<Self> {
        let cache = Self::beside(state, build)?;
        cache.0.files.sweep()?;
        for stored in cache.0.files.shelves()? {
            for native in stored
                .natives
                .iter()
                .filter(|native| cache.is_ours(&native.build))
            {
                files::hide(native)?;
            }
            cache.note(&stored, &State::Unproven);
        }
        Ok(cache)
    }

    /// The same beside a daemon that may be at work: nothing is looked at, hidden or thrown away.
    pub fn beside(state: &Path, build: Option<String>) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            build,
            entries: Mutex::default(),
            files: Files::open(state)?,
            publishing: Mutex::default(),
            shortage: Shortage::default(),
        })))
    }

    /// The files behind it.
    pub fn files(&self) -> &Files {
        &self.0.files
    }

    /// Whose native code it is for.
    pub fn build(&self) -> Option<&str> {
        self.0.build.as_deref()
    }

    /// Keeps modules from coming and going.
    pub fn publishing(&self) -> MutexGuard<'_, ()> {
        self.0.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ours(&self, build: &str) -> bool {
        self.build() == Some(build)
    }

    /// Notes a module whose bytes have just been seen, and says whether they had been before.
    pub fn add(&self, digest: &str, module_bytes: u64) -> bool {
        let mut entries = self.entries();
        let is_proven = entries.find(digest).is_some_and(|entry| entry.is_proven);
        entries.add(digest, module_bytes, now());
        is_proven
    }

    /// What a container of this image gets. The module stays for a while because of it.
    pub fn hand_out(&self, digest: &str, image: &str) -> Compiled {
        let build = self.build().unwrap_or_default();
        self.entries().hand_out(digest, image, build, now())
    }

    /// Which tiers of a module are still to be made, and the module's size.
    pub fn missing(&self, digest: &str) -> (Vec<Tier>, u64) {
        self.entries().missing(digest, Instant::now())
    }

    /// Notes what there is of a tier.
    pub fn set(&self, digest: &str, tier: Tier, state: State) {
        self.entries().set(digest, tier, state);
    }

    /// Forgets a module that turned out to be gone.
    pub fn forget(&self, digest: &str) {
        self.entries().remove(digest);
    }

    /// The modules there are.
    pub fn digests(&self) -> HashSet<String> {
        self.entries().digests()
    }

    /// How much disk everything takes, and how many modules there are.
    pub fn size(&self) -> (u64, usize) {
        let entries = self.entries();
        (entries.bytes(), entries.len())
    }

    /// Takes over what has changed on disk, looks at native code that was not looked at yet, and writes down what was used. Returns
    /// the modules whose native code was lost.
    pub fn sync(&self) -> io::Result<Vec<String>> {
        let known: std::collections::HashMap<_, _> = {
            let entries = self.entries();
            let states = |entry: &Entry| Tier::ALL.map(|tier| entry.state(tier).clone());
            entries
                .digests()
                .into_iter()
                .filter_map(|digest| Some((digest.clone(), states(entries.find(&digest)?))))
                .collect()
        };
        let mut shelves = self.sync_modules()?;
        shelves.sort_by_key(|stored| std::cmp::Reverse(stored.last_used));
        let mut lost = Vec::new();
        for stored in &shelves {
            let mut is_whole = true;
            for tier in Tier::ALL {
                let state = known
                    .get(&stored.digest)
                    .map_or(&State::Absent, |states| &states[tier as usize]);
                is_whole &= self.sync_tier(stored, tier, state)?;
            }
            if !is_whole {
                lost.push(stored.digest.clone());
            }
        }
        self.write_down();
        Ok(lost)
    }

    fn sync_modules(&self) -> io::Result<Vec<Shelf>> {
        let _publishing = self.publishing();
        let mut shelves = self.0.files.shelves()?;
        shelves.retain(|stored| stored.module_bytes.is_some());
        let there: HashSet<_> = shelves.iter().map(|stored| stored.digest.clone()).collect();
        let known = self.entries().digests();
        for digest in known.difference(&there) {
            self.forget(digest);
        }
        for stored in &shelves {
            if !known.contains(&stored.digest) {
                self.note(stored, &State::Absent);
            }
            if let Some(entry) = self.entries().find_mut(&stored.digest) {
                let old = stored
                    .natives
                    .iter()
                    .filter(|native| !self.is_ours(&native.build));
                entry.old_bytes = old.map(|native| native.seen.bytes).sum();
            }
        }
        Ok(shelves)
    }

    /// Notes a module on disk; `native` is what native code of its counts as.
    fn note(&self, stored: &Shelf, native: &State) {
        let Some(module_bytes) = stored.module_bytes else {
            return;
        };
        let mut entry = Entry::new(module_bytes, stored.last_used);
        entry.about = self.0.files.about(&stored.digest);
        let mut entries = self.entries();
        entries.insert(&stored.digest, entry);
        for found in stored.natives.iter().filter(|found| self.is_ours(&found.build)) {
            entries.set(&stored.digest, found.tier, native.clone());
        }
    }

    /// Compares a tier with what is known of it, and returns whether nothing was lost.
    fn sync_tier(&self, stored: &Shelf, tier: Tier, known: &State) -> io::Result<bool> {
        let (Some(build), digest) = (self.build(), stored.digest.as_str()) else {
            return Ok(true);
        };
        let found = stored
            .natives
            .iter()
            .find(|native| native.build == build && native.tier == tier);
        let Some(native) = found else {
            return Ok(self.sync_absent(digest, build, tier, known));
        };
        let is_known = matches!(known, State::Ready { seen } if *seen == native.seen && !native.hidden);
        if is_known {
            return Ok(true);
        }
        let files = &self.0.files;
        if files.is_genuine(digest, native)? {
            files.show(digest, native)?;
            self.set(digest, tier, State::Ready { seen: native.seen });
            return Ok(true);
        }
        warn!(module = digest, %tier, file = %native.path.display(), "native code is not what was put there; it is dropped");
        files.forget(digest, build, tier)?;
        self.set(digest, tier, State::Absent);
        Ok(false)
    }

    fn sync_absent(&self, digest: &str, build: &str, tier: Tier, known: &State) -> bool {
        let failure = match self
            .0
            .files
            .attempt(digest, build, tier)
            .map(|attempt| attempt.outcome)
        {
            Some(Outcome::Failed { reason }) => Some(State::Failed { why: reason }),
            _ => None,
        };
        match (known, failure) {
            (State::Ready { .. }, None) => {
                info!(module = digest, %tier, "native code was removed");
                self.set(digest, tier, State::Absent);
                false
            }
            (State::Failed { .. } | State::Unproven, None) => {
                self.set(digest, tier, State::Absent);
                true
            }
            (_, Some(failure)) => {
                self.set(digest, tier, failure);
                true
            }
            (State::Absent | State::Later { .. }, None) => true,
        }
    }

    /// Writes down what was used when, for after a restart. On a full disk the order in which modules are evicted is a lesser worry.
    pub fn write_down(&self) {
        let changed = self.entries().take_changed();
        for (digest, about, last_used) in changed {
            let _ = self.0.files.write_about(&digest, &about, last_used);
        }
    }

    /// Makes room: modules leave, those that were not used for longest first, until the rest fits; what was handed out less than
    /// `grace` ago stays. Returns what left.
    pub fn evict(
        &self,
        in_use: &HashSet<String>,
        busy: &HashSet<String>,
        budget_bytes: u64,
        grace: Duration,
    ) -> io::Result<Vec<Held>> {
        let _publishing = self.publishing();
        let leaving = {
            let mut entries = self.entries();
            let mut held = entries.held(in_use, |digest| busy.contains(digest), grace, Instant::now());
            let digests = to_evict(held.clone(), budget_bytes);
            held.retain(|held| digests.contains(&held.digest));
            for held in &held {
                entries.remove(&held.digest);
            }
            held
        };
        for held in &leaving {
            self.0.files.evict(&held.digest)?;
        }
        Ok(leaving)
    }

    /// Notes that so many bytes did not fit on the disk.
    pub fn want_room(&self, bytes: u64) {
        let shortage = &self.0.shortage;
        shortage.bytes.fetch_max(bytes, Ordering::Relaxed);
        shortage.noted.notify_one();
    }

    /// How many bytes have to go, once something did not fit.
    pub async fn room_wanted(&self) -> u64 {
        let shortage = &self.0.shortage;
        shortage.noted.notified().await;
        shortage.bytes.swap(0, Ordering::Relaxed)
    }

    /// Drops other builds' native code, unless a container has it. Returns how many bytes that was.
    pub fn drop_old(&self, in_use: &HashSet<String>) -> io::Result<u64> {
        let mut bytes = 0;
        for stored in self.0.files.shelves()? {
            let old = stored
                .natives
                .iter()
                .filter(|native| !self.is_ours(&native.build));
            for native in old.filter(|_| !in_use.contains(&stored.digest)) {
                self.0.files.forget(&stored.digest, &native.build, native.tier)?;
                bytes += native.seen.bytes;
            }
        }
        Ok(bytes)
    }

    /// Whether there is any native code of other builds.
    pub fn has_old(&self) -> bool {
        let entries = self.entries();
        entries
            .digests()
            .iter()
            .any(|digest| entries.find(digest).is_some_and(|entry| entry.old_bytes > 0))
    }
}

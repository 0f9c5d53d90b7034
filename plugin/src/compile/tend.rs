//! Keeps the cache true and within its budget, in the background.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::Compiler;
use super::queue::Need;
use crate::cache::Cache;
use crate::cache::entries::{GRACE, GRACE_WHEN_FULL};
use crate::containerd::{self, Containerd};
use crate::metrics::Recorder;
use crate::policy_file::Current;

/// How often the disk is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// What tends the cache.
#[derive(Debug)]
pub struct Tender {
    /// What to tend.
    pub cache: Cache,
    /// Told of what has to be made again.
    pub compiler: Compiler,
    /// Asked for what is in use.
    pub containerd: Containerd,
    /// What is counted.
    pub recorder: Recorder,
    /// Says how much there may be.
    pub policy: Arc<Current>,
}

/// The modules whose folders containers mount.
pub async fn in_use(cache: &Cache, containerd: &Containerd) -> Result<HashSet<String>, containerd::Error> {
    let mounted = containerd.mounted().await?;
    let modules = cache.files().state().join("modules");
    let digest = |path: PathBuf| {
        Some(
            path.strip_prefix(&modules)
                .ok()?
                .iter()
                .next()?
                .to_str()?
                .to_owned(),
        )
    };
    Ok(mounted.into_iter().filter_map(digest).collect())
}

/// What is said once, and again when it has changed.
#[derive(Default)]
struct Said(Option<String>);

impl Said {
    fn warn(&mut self, problem: Option<String>) {
        if self.0 != problem
            && let Some(problem) = &problem
        {
            warn!(problem, "the module cache cannot be tended; it is tried again");
        }
        self.0 = problem;
    }
}

impl Tender {
    /// Tends for ever.
    pub async fn tend(self) {
        let started = Instant::now();
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = Said::default();
        loop {
            let wanted = tokio::select! {
                _ = ticks.tick() => 0,
                bytes = self.cache.room_wanted() => bytes,
            };
            // Another instance that this one replaces may still hand out its own.
            let is_settled = started.elapsed() > GRACE;
            said.warn(self.tend_once(is_settled, wanted).await.err());
            let (bytes, modules) = self.cache.size();
            self.recorder.cache(bytes, modules);
        }
    }

    /// `wanted` are bytes that did not fit on the disk, whatever the budget says.
    async fn tend_once(&self, is_settled: bool, wanted: u64) -> Result<(), String> {
        let cache = self.cache.clone();
        let lost = blocking(move || cache.sync()).await?;
        for digest in lost {
            self.compiler.want_digest(&digest, Need::Arrived);
        }
        let bytes = self.cache.size().0;
        let mut budget = self.policy.borrow().cache_size.to_units();
        if wanted > 0 {
            info!(
                bytes = wanted,
                cached = bytes,
                "a module did not fit on the disk; room is made for it"
            );
            budget = budget.min(bytes.saturating_sub(wanted));
        }
        let is_too_much = bytes > budget;
        let has_old = is_settled && self.cache.has_old();
        if !is_too_much && !has_old {
            return Ok(());
        }
        let in_use = in_use(&self.cache, &self.containerd).await;
        let in_use = in_use.map_err(|error| error.to_string())?;
        if has_old {
            let (cache, in_use) = (self.cache.clone(), in_use.clone());
            let bytes = blocking(move || cache.drop_old(&in_use)).await?;
            if bytes > 0 {
                info!(bytes, "native code of other builds dropped");
            }
        }
        let grace = if wanted > 0 { GRACE_WHEN_FULL } else { GRACE };
        self.evict(in_use, budget, grace).await
    }

    async fn evict(&self, in_use: HashSet<String>, budget: u64, grace: Duration) -> Result<(), String> {
        let busy = self.compiler.busy(&self.cache.digests());
        let cache = self.cache.clone();
        let evicted = blocking(move || cache.evict(&in_use, &busy, budget, grace)).await?;
        self.recorder.evicted(evicted.len() as u64);
        for held in evicted {
            info!(module = held.digest, bytes = held.bytes, "evicted");
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

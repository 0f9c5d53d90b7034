//! Compiles modules in the background, and knows what there is when a container is created.
//!
//! [`Compiler`] is what others hold: they say what they need, and are told what there is. Both are a matter of memory. The work is
//! done by [`Compiler::work`], one process for each module and tier.

pub mod child;
mod confine;
pub mod job;
pub mod limits;
pub mod queue;
pub mod tend;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cache::Cache;
use crate::compiled::{Compiled, Tier};
use crate::metrics::{CompileOutcome, Recorder};
use crate::policy::Policy;
use crate::policy_file::Current;
use crate::store::Module;
use child::Program;
use job::{Done, Workshop};
use limits::of_tier;
use queue::{Key, Need, Queue, Slots};

/// How long a compiler may think about what it is.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(10);
/// When to look again whether another process has finished.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(300);
/// Digits of a build's name.
const BUILD_DIGITS: usize = podwasm_engine::settings::BUILD_LENGTH;

/// The compiler of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Compiler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    is_disk_full: AtomicBool,
    recorder: Recorder,
    policy: Arc<Current>,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Or why there is none.
    workshop: Result<Workshop, String>,
    cache: Cache,
}

/// What names the native code that this compiler makes for this engine on this CPU. What was made by another compiler, for another engine
/// or on another CPU has another name, and so is never run.
pub async fn build(program: &Program, engine: &str) -> anyhow::Result<String> {
    if let Some(part) = program.missing_part() {
        anyhow::bail!("{} is missing", part.display());
    }
    let version = program.folder.join("VERSION");
    let version =
        fs::read_to_string(&version).with_context(|| format!("cannot read {}", version.display()))?;
    let mut command = tokio::process::Command::from(program.command());
    let asked = command.arg("--cpu").kill_on_drop(true).output();
    let answer = tokio::time::timeout(IDENTITY_TIMEOUT, asked)
        .await
        .context("the compiler does not answer")?
        .context("the compiler cannot be started")?;
    ensure!(
        answer.status.success() && !answer.stdout.is_empty(),
        "the compiler cannot tell the CPU: {}: {}",
        answer.status,
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    let mut hash = Sha256::new();
    for part in [engine.as_bytes(), version.as_bytes(), &answer.stdout] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let mut name = format!("{:x}", hash.finalize());
    name.truncate(BUILD_DIGITS);
    Ok(name)
}

impl Compiler {
    /// Compiles what is in `cache` with `program`; or compiles nothing, for the reason given.
    pub fn new(
        cache: Cache,
        program: Result<Program, String>,
        policy: Arc<Current>,
        recorder: Recorder,
    ) -> Self {
        let workshop = program.map(|program| Workshop {
            cache: cache.clone(),
            program,
        });
        Self(Arc::new(Inner {
            is_disk_full: AtomicBool::new(false),
            policy,
            queue: Mutex::default(),
            recorder,
            wake: Notify::new(),
            workshop,
            cache,
        }))
    }

    /// Asks for a module's native code. Costs nothing where there is some, or none can be had.
    pub fn want(&self, module: &Module, need: Need) {
        self.want_digest(&module.digest, need);
    }

    fn want_digest(&self, digest: &str, need: Need) {
        if self.off().is_some() {
            return;
        }
        let policy = self.0.policy.borrow().clone();
        let (missing, size) = self.0.cache.missing(digest);
        let missing = missing
            .into_iter()
            .filter(|tier| of_tier(&policy.compile, *tier).at_once > 0);
        let keys: Vec<_> = missing
            .map(|tier| Key {
                digest: digest.to_owned(),
                tier,
            })
            .collect();
        if keys.is_empty() {
            return;
        }
        let mut queue = self.queue();
        for key in keys {
            queue.add(key, need, size);
        }
        drop(queue);
        self.0.wake.notify_one();
    }

    /// What a container of this module gets, which keeps the module in the cache for a while. Of an image whose name is known, the
    /// cache remembers it.
    pub fn hand_out(&self, module: &Module, image: &str) -> Compiled {
        let compiled = self.0.cache.hand_out(&module.digest, image);
        match (self.off(), compiled) {
            (Some(why), Compiled::Coming { .. } | Compiled::Failed { .. }) => Compiled::Off { why },
            (_, compiled) => compiled,
        }
    }

    /// Why nothing is compiled here, if so.
    fn off(&self) -> Option<String> {
        let policy = self.0.policy.borrow();
        match &self.0.workshop {
            Err(why) => Some(why.clone()),
            Ok(_)
                if Tier::ALL
                    .into_iter()
                    .all(|tier| of_tier(&policy.compile, tier).at_once == 0) =>
            {
                Some("this node's policy says that modules are not compiled".to_owned())
            }
            Ok(_) => None,
        }
    }

    /// The modules that wait for a compiler, or have one.
    pub fn busy(&self, among: &HashSet<String>) -> HashSet<String> {
        let queue = self.queue();
        among.iter().filter(|digest| queue.has(digest)).cloned().collect()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what was asked for, for ever.
    pub async fn work(self) {
        let Ok(workshop) = self.0.workshop.clone() else {
            return;
        };
        loop {
            let policy = self.0.policy.borrow().clone();
            let slots = Slots {
                fast: policy.compile.fast.at_once,
                optimised: policy.compile.optimised.at_once,
            };
            let next = self.queue().start(slots);
            self.count();
            match next {
                Some(key) => drop(tokio::spawn(self.clone().compile(
                    workshop.clone(),
                    key,
                    policy.clone(),
                ))),
                None => self.0.wake.notified().await,
            }
        }
    }

    async fn compile(self, workshop: Workshop, key: Key, policy: Arc<Policy>) {
        let need = Need::Arrived;
        let done = in_thread(workshop, key.clone(), policy).await;
        if matches!(done, Done::Elsewhere) {
            sleep(ELSEWHERE_PAUSE).await;
        }
        self.queue().end(&key);
        if matches!(done, Done::Elsewhere) {
            self.want_digest(&key.digest, need);
        }
        self.tell(&key, &done);
        self.0.wake.notify_one();
    }

    fn tell(&self, key: &Key, done: &Done) {
        let Key { digest, tier } = key;
        match done {
            Done::Already | Done::Elsewhere | Done::Gone => {}
            Done::Compiled {
                bytes,
                peak_bytes,
                took,
            } => {
                self.0.is_disk_full.store(false, Ordering::Relaxed);
                self.0.recorder.compiled(*tier, CompileOutcome::compiled, *took);
                let module_bytes = self.0.cache.missing(digest).1;
                info!(module = digest, %tier, ?took, peak_bytes, module_bytes, native_bytes = bytes, "compiled");
            }
            Done::Failed {
                is_lasting: true,
                reason,
                took,
                ..
            } => {
                self.0.recorder.compiled(*tier, CompileOutcome::failed, *took);
                warn!(module = digest, %tier, ?took, reason, "cannot be compiled; this is remembered");
            }
            Done::Failed {
                is_disk_full,
                reason,
                took,
                ..
            } => {
                self.0.recorder.compiled(*tier, CompileOutcome::postponed, *took);
                let was_full = self.0.is_disk_full.swap(*is_disk_full, Ordering::Relaxed);
                if !(*is_disk_full && was_full) {
                    warn!(module = digest, %tier, ?took, reason, "cannot be compiled at this moment; it is tried again");
                }
            }
        }
    }

    fn count(&self) {
        let queue = self.queue();
        for tier in Tier::ALL {
            self.0.recorder.compile_queue(tier, queue.waiting(tier));
        }
    }
}

/// A compiler is killed when the thread that started it ends, so it gets one of its own.
async fn in_thread(workshop: Workshop, key: Key, policy: Arc<Policy>) -> Done {
    let (tell, told) = oneshot::channel();
    let work = move || drop(tell.send(workshop.work(&key, &policy)));
    let started = std::thread::Builder::new().name("compile".to_owned()).spawn(work);
    match started {
        Ok(_) => told
            .await
            .unwrap_or_else(|_| failed("the thread that watched the compiler has panicked")),
        Err(error) => failed(&format!("cannot start a thread: {error}")),
    }
}

fn failed(reason: &str) -> Done {
    Done::Failed {
        is_disk_full: false,
        is_lasting: false,
        reason: reason.to_owned(),
        took: Duration::ZERO,
    }
}

/// The compiler at a folder, and the name of its build; or why there is none.
pub async fn find(folder: &Path, engine: &str) -> Result<(Program, String), String> {
    let program = Program {
        folder: folder.to_owned(),
    };
    match build(&program, engine).await {
        Ok(build) => Ok((program, build)),
        Err(error) => Err(format!("there is no compiler at {}: {error:#}", folder.display())),
    }
}

//! One module to one tier: from the module in the cache to native code beside it, or to a remembered failure.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podwasm_engine::proposal::{self, Proposal};

use super::child::{self, Output, Program, Run};
use super::limits::limits;
use super::queue::Key;
use crate::cache::Cache;
use crate::cache::entries::State;
use crate::cache::files::{Seen, open_file, sha256_of};
use crate::cache::record::{Attempt, Outcome};
use crate::policy::Policy;

/// Users that no node has otherwise: above what containers and user namespaces are given, below what is reserved. Each compiler gets
/// one of its own, so that one which was hijacked cannot reach for the next.
const FIRST_USER: u32 = 2_000_000_000;
const USERS: u32 = 1 << 16;
/// When to try again what the node could not do at that moment, such as on a full disk.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// What came of a job.
#[derive(Debug)]
pub enum Done {
    /// Native code is there, and was before.
    Already,
    /// Native code is there now.
    Compiled {
        /// Its size.
        bytes: u64,
        /// The most memory that the compiler had.
        peak_bytes: u64,
        /// How long that took.
        took: Duration,
    },
    /// Another process is at it.
    Elsewhere,
    /// There is none.
    Failed {
        /// Whether it will be so again.
        is_lasting: bool,
        /// Whether it was for want of disk.
        is_disk_full: bool,
        /// Why.
        reason: String,
        /// How long that took.
        took: Duration,
    },
    /// The module is no longer in the cache.
    Gone,
}

/// What jobs are done with.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// Where modules come from and native code goes.
    pub cache: Cache,
    /// The compiler.
    pub program: Program,
}

impl Workshop {
    /// Compiles a module to a tier. Blocks until that has ended, and the calling thread has to live for as long.
    pub fn work(&self, key: &Key, policy: &Policy) -> Done {
        let started = Instant::now();
        match self.try_work(key, policy, started) {
            Ok(done) => done,
            Err(error) => self.fail(key, &error, started.elapsed()),
        }
    }

    fn try_work(&self, key: &Key, policy: &Policy, started: Instant) -> Result<Done, child::Error> {
        let Key { digest, tier } = key;
        let (files, build) = (self.cache.files(), self.cache.build().unwrap_or_default());
        let Some(_lock) = files.try_lock(digest, *tier).map_err(io("lock the module"))? else {
            return Ok(Done::Elsewhere);
        };
        if self.is_there(key, build).map_err(io("look at native code"))? {
            return Ok(Done::Already);
        }
        let Some(module) = self.open_module(digest).map_err(io("read the module"))? else {
            self.cache.forget(digest);
            return Ok(Done::Gone);
        };
        let size = module.metadata().map_err(io("look at the module"))?.len();
        let proposals = proposals(&module, policy)?;
        let folder = files.work_folder(digest, *tier);
        let _ = fs::remove_dir_all(&folder); // left by a process that was killed
        let run = Run {
            folder: &folder,
            limits: limits(&policy.compile, *tier, size),
            module,
            program: &self.program,
            proposals: &proposals,
            tier: *tier,
            user: user(),
        };
        let published = run.run().and_then(|output| {
            let seen = self.publish(key, build, &output, started);
            let seen = seen.map_err(io("keep the native code"))?;
            Ok((seen, output.peak_bytes))
        });
        let _ = fs::remove_dir_all(&folder);
        let (seen, peak_bytes) = published?;
        self.cache.set(digest, *tier, State::Ready { seen });
        Ok(Done::Compiled {
            bytes: seen.bytes,
            peak_bytes,
            took: started.elapsed(),
        })
    }

    fn is_there(&self, key: &Key, build: &str) -> io::Result<bool> {
        let stored = self.cache.files().shelf(key.digest.clone())?;
        let is_it = |native: &&crate::cache::files::Native| {
            native.build == build && native.tier == key.tier && !native.hidden
        };
        let Some(native) = stored.natives.iter().find(is_it) else {
            return Ok(false);
        };
        let is_genuine = self.cache.files().is_genuine(&key.digest, native)?;
        if is_genuine {
            self.cache
                .set(&key.digest, key.tier, State::Ready { seen: native.seen });
        }
        Ok(is_genuine)
    }

    /// The module, if its bytes are still those of its name.
    fn open_module(&self, digest: &str) -> io::Result<Option<File>> {
        let path = self.cache.files().module(digest);
        let found = match open_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            file => Some(file?),
        };
        if let Some(mut file) = found
            && sha256_of(&file)? == digest
        {
            file.rewind()?;
            return Ok(Some(file));
        }
        tracing::warn!(
            module = digest,
            "the module is not what was put there; it is dropped"
        );
        fs::remove_file(&path)?;
        Ok(None)
    }

    fn publish(&self, key: &Key, build: &str, output: &Output, started: Instant) -> io::Result<Seen> {
        let seconds = started.elapsed().as_secs_f64();
        let attempt = |bytes, sha256| Attempt {
            ended: seconds_since_epoch(),
            outcome: Outcome::Compiled {
                bytes,
                peak_bytes: output.peak_bytes,
                sha256,
            },
            seconds,
            tier: key.tier,
        };
        self.cache
            .files()
            .publish(&key.digest, build, key.tier, &output.file, attempt)
    }

    /// Notes a failure: for good on disk, where it is the module's, or for a while in memory, where it is the node's.
    fn fail(&self, key: &Key, error: &child::Error, took: Duration) -> Done {
        let why = reason(error);
        let attempt = Attempt {
            ended: seconds_since_epoch(),
            outcome: Outcome::Failed { reason: why.clone() },
            seconds: took.as_secs_f64(),
            tier: key.tier,
        };
        let build = self.cache.build().unwrap_or_default();
        let is_written = error.is_lasting() && {
            let files = self.cache.files();
            files.publish_failure(&key.digest, build, &attempt).is_ok()
        };
        let state = if is_written {
            State::Failed { why: why.clone() }
        } else {
            State::Later {
                after: Instant::now() + RETRY_AFTER,
                why: why.clone(),
            }
        };
        self.cache.set(&key.digest, key.tier, state);
        Done::Failed {
            is_disk_full: matches!(error, child::Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            is_lasting: error.is_lasting(),
            reason: why,
            took,
        }
    }
}

/// What the compiler has to switch on for a module, opened and at its beginning.
fn proposals(module: &File, policy: &Policy) -> Result<Vec<Proposal>, child::Error> {
    let mut bytes = Vec::new();
    let mut file = module;
    file.read_to_end(&mut bytes).map_err(io("read the module"))?;
    file.rewind().map_err(io("read the module"))?;
    let needed = proposal::needed(&bytes);
    let those = |is_so: &dyn Fn(&Proposal) -> bool| {
        let found: Vec<_> = needed.iter().filter(|one| is_so(one)).copied().collect();
        (!found.is_empty()).then(|| proposal::list(&found))
    };
    if let Some(refused) = those(&|one| !policy.proposals.contains(one)) {
        return Err(child::Error::NotAllowed(refused));
    }
    match those(&|one| !one.has_native_code()) {
        Some(interpreted) => Err(child::Error::NoNativeCode(interpreted)),
        None => Ok(needed),
    }
}

fn io(doing: &'static str) -> impl FnOnce(io::Error) -> child::Error {
    move |source| child::Error::Io { doing, source }
}

/// An error with its cause, on one line.
fn reason(error: &child::Error) -> String {
    match error {
        child::Error::Io { source, .. } => format!("{error}: {source}"),
        error => error.to_string(),
    }
}

/// Without root's rights, compilers run as whoever this is.
pub fn user() -> Option<u32> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let number = RUNS
        .fetch_add(1, Ordering::Relaxed)
        .wrapping_add(std::process::id());
    rustix::process::geteuid()
        .is_root()
        .then_some(FIRST_USER + number % USERS)
}

fn seconds_since_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

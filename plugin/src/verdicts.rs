//! What was found at entrypoints, remembered, so that an image is looked at once.
//!
//! Looking is shared and outlives who asked: a request that ran out of time leaves the work going on,
//! and the kubelet's next try finds it done.

use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use lru::LruCache;

use crate::catalog::forget;

/// A thousand entrypoints are more than a node runs, and some 200 kB.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// All that what is found at an entrypoint depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// What the image's name stands for, where containerd still knows it.
    pub image: Option<String>,
    /// The layers, topmost first.
    pub layers: Vec<Layer>,
    /// Destinations of the container's mounts, and whether each shows something of the host. What that is differs from pod
    /// to pod, so nothing that was found in a volume is kept.
    pub mounts: Vec<(PathBuf, bool)>,
    /// The container's `PATH` and `args[0]`.
    pub path: Option<String>,
    /// `args[0]`.
    pub program: String,
}

/// A layer's folder, told apart from a later one of the same name: snapshot numbers start anew when
/// containerd's state is wiped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Seconds and nanoseconds of the folder's last change.
    pub changed: (i64, i64),
    /// The folder's inode.
    pub inode: u64,
    /// The folder.
    pub path: PathBuf,
}

type Look<T, E> = Shared<BoxFuture<'static, Result<T, Arc<E>>>>;

/// The memory.
#[derive(Debug)]
pub struct Verdicts<T, E>
where
    T: Clone,
{
    looks: Mutex<LruCache<Key, Look<T, E>>>,
}

impl<T, E> Default for Verdicts<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    fn default() -> Self {
        Self {
            looks: Mutex::new(LruCache::new(CAPACITY)),
        }
    }
}

impl<T, E> Verdicts<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// What is known, or what `look` finds. A failure is told to those who waited and then forgotten, and
    /// so is what `still_good` rejects.
    pub async fn find<F>(
        &self,
        key: Key,
        still_good: impl Fn(&T) -> bool,
        look: impl FnOnce() -> F,
    ) -> Result<T, Arc<E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let pending = {
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            match looks.get(&key) {
                Some(known) if usable(known, still_good) => known.clone(),
                _ => {
                    let started = in_background(look());
                    looks.put(key, started.clone());
                    started
                }
            }
        };
        pending.await
    }

    /// Forgets what was found in an image, by its digest.
    pub fn forget(&self, image: &str) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut looks, |key| key.image.as_deref() == Some(image));
    }
}

fn usable<T: Clone, E>(look: &Look<T, E>, still_good: impl Fn(&T) -> bool) -> bool {
    match look.peek() {
        None => true,
        Some(Ok(found)) => still_good(found),
        Some(Err(_)) => false,
    }
}

fn in_background<T, E>(look: impl Future<Output = Result<T, E>> + Send + 'static) -> Look<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    let task = tokio::spawn(look);
    let finished = async move {
        match task.await {
            Ok(result) => result.map_err(Arc::new),
            // The task is never cancelled, so it has panicked; there is no result to go on with.
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        }
    };
    finished.boxed().shared()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn key(program: &str) -> Key {
        Key {
            image: None,
            layers: Vec::new(),
            mounts: Vec::new(),
            path: None,
            program: program.into(),
        }
    }

    #[tokio::test]
    async fn one_look_serves_all_who_ask() {
        let verdicts = Arc::new(Verdicts::<u32, String>::default());
        let looks = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let (verdicts, looks) = (verdicts.clone(), looks.clone());
            async move {
                let look = || async move {
                    tokio::task::yield_now().await;
                    looks.fetch_add(1, Ordering::SeqCst);
                    Ok(7)
                };
                verdicts.find(key("a"), |_| true, look).await
            }
        };
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!((first, second, ask().await), (Ok(7), Ok(7), Ok(7)));
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn failures_and_what_went_stale_are_looked_at_again() {
        let verdicts = Verdicts::<u32, &str>::default();
        assert_eq!(
            verdicts.find(key("a"), |_| true, || async { Err("no") }).await,
            Err(Arc::new("no"))
        );
        assert_eq!(verdicts.find(key("a"), |_| true, || async { Ok(1) }).await, Ok(1));
        assert_eq!(verdicts.find(key("a"), |_| true, || async { Ok(2) }).await, Ok(1));
        assert_eq!(
            verdicts
                .find(key("a"), |found| *found == 2, || async { Ok(2) })
                .await,
            Ok(2)
        );
        assert_eq!(verdicts.find(key("b"), |_| true, || async { Ok(3) }).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_outlives_who_asked() {
        let verdicts = Verdicts::<u32, &str>::default();
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(1)
        };
        let asked = verdicts.find(key("a"), |_| true, slow);
        assert!(tokio::time::timeout(Duration::from_secs(1), asked).await.is_err());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(verdicts.find(key("a"), |_| true, || async { Ok(2) }).await, Ok(1));
    }
}

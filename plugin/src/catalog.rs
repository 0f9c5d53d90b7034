//! What is known of the node's images, so that a container of one that has arrived is decided upon without asking containerd.
//!
//! What a digest stands for never changes; what a name stands for does, and containerd tells ([`crate::arrivals`]). While it cannot
//! tell, no name is known here.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::io;
use std::num::NonZeroUsize;
use std::os::linux::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::containerd::Descriptor;
use crate::image::ImageFacts;
use crate::store::Module;
use crate::verdicts::Layer;

/// More images than a node holds.
const IMAGES: NonZeroUsize = NonZeroUsize::new(2048).expect("not zero");
/// More modules than a node's images hold.
const FILES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A state of the catalog's names: what was asked for in one must not be learned in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition(u64);

/// A file in an image's layer, of which nobody writes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Seconds and nanoseconds of its last change.
    pub changed: (i64, i64),
    /// Its file system.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl FileId {
    /// That of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let file = file.metadata()?;
        Ok(Self {
            changed: (file.st_ctime(), file.st_ctime_nsec()),
            device: file.st_dev(),
            inode: file.st_ino(),
            size: file.st_size(),
        })
    }
}

/// What is known.
#[derive(Debug)]
pub struct Catalog {
    blobs: Memory<String, Module>,
    facts: Memory<String, ImageFacts>,
    layers: Memory<(String, String), Vec<Layer>>,
    modules: Memory<FileId, Module>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    edition: u64,
    /// Whether containerd tells of changes.
    is_followed: bool,
    targets: HashMap<String, Descriptor>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            blobs: Memory::of(FILES),
            facts: Memory::of(IMAGES),
            layers: Memory::of(IMAGES),
            modules: Memory::of(FILES),
            names: Mutex::default(),
        }
    }
}

impl Catalog {
    /// What an image's name stands for.
    pub fn target(&self, name: &str) -> Option<Descriptor> {
        self.names().targets.get(name).cloned()
    }

    /// The state of the names at this moment.
    pub fn edition(&self) -> Edition {
        Edition(self.names().edition)
    }

    /// Takes note of what a name stood for in an edition, unless that is another by now.
    pub fn learn_target(&self, name: &str, target: &Descriptor, edition: Edition) {
        let mut names = self.names();
        if names.is_followed && names.edition == edition.0 && names.targets.len() < IMAGES.get() {
            names.targets.insert(name.to_owned(), target.clone());
        }
    }

    /// Forgets what a name stood for, which it returns: it has changed.
    pub fn forget_target(&self, name: &str) -> Option<Descriptor> {
        let mut names = self.names();
        names.edition += 1;
        names.targets.remove(name)
    }

    /// Forgets a name that is gone, and what it stood for if no other name does: then it returns that image's digest.
    pub fn forget_image(&self, name: &str) -> Option<String> {
        let digest = self.forget_target(name)?.digest;
        let is_named = |target: &Descriptor| target.digest == digest;
        if self.names().targets.values().any(is_named) {
            return None;
        }
        self.facts.forget(|known| *known == digest);
        self.layers.forget(|(_, known)| *known == digest);
        Some(digest)
    }

    /// From now on containerd tells of changes, or it no longer does.
    pub fn set_followed(&self, is_followed: bool) {
        let mut names = self.names();
        *names = Names {
            edition: names.edition + 1,
            is_followed,
            targets: HashMap::new(),
        };
    }

    /// The modules that layers of artifacts are, by the layers' digests.
    pub fn blobs(&self) -> &Memory<String, Module> {
        &self.blobs
    }

    /// What is known of the image behind a digest.
    pub fn facts(&self) -> &Memory<String, ImageFacts> {
        &self.facts
    }

    /// Into which layers a snapshotter has unpacked the image behind a digest.
    pub fn layers(&self) -> &Memory<(String, String), Vec<Layer>> {
        &self.layers
    }

    /// The modules that files in layers were found to be.
    pub fn modules(&self) -> &Memory<FileId, Module> {
        &self.modules
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was asked for of late.
#[derive(Debug)]
pub struct Memory<K: Eq + Hash, V>(Mutex<LruCache<K, V>>);

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn of(size: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(size)))
    }

    /// What is remembered.
    pub fn recall(&self, key: &K) -> Option<V> {
        self.lock().get(key).cloned()
    }

    /// Remembers.
    pub fn learn(&self, key: K, value: V) {
        self.lock().put(key, value);
    }

    fn forget(&self, is_gone: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        forget(&mut self.lock(), is_gone);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out of a memory what is gone.
pub fn forget<K: Clone + Eq + Hash, V>(known: &mut LruCache<K, V>, is_gone: impl Fn(&K) -> bool) {
    let keys = known.iter().map(|(key, _)| key);
    let gone: Vec<_> = keys.filter(|key| is_gone(key)).cloned().collect();
    for key in gone {
        known.pop(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(digest: &str) -> Descriptor {
        Descriptor {
            digest: digest.to_owned(),
            ..Descriptor::default()
        }
    }

    #[test]
    fn names_are_known_only_while_they_are_followed() {
        let catalog = Catalog::default();
        let learn = || catalog.learn_target("a", &descriptor("1"), catalog.edition());
        learn();
        assert_eq!(catalog.target("a"), None);
        catalog.set_followed(true);
        learn();
        assert_eq!(catalog.target("a"), Some(descriptor("1")));
        catalog.set_followed(false);
        assert_eq!(catalog.target("a"), None);
        learn();
        assert_eq!(catalog.target("a"), None);
    }

    #[test]
    fn what_no_name_stands_for_any_more_is_forgotten() {
        let catalog = Catalog::default();
        catalog.set_followed(true);
        for (name, digest) in [("a", "1"), ("b", "1"), ("c", "2")] {
            catalog.learn_target(name, &descriptor(digest), catalog.edition());
            catalog
                .layers()
                .learn(("overlayfs".to_owned(), digest.to_owned()), Vec::new());
        }
        let knows = |digest: &str| {
            let key = ("overlayfs".to_owned(), digest.to_owned());
            catalog.layers().recall(&key).is_some()
        };
        assert_eq!(catalog.forget_image("a"), None);
        assert!(knows("1") && knows("2"));
        assert_eq!(catalog.forget_image("b").as_deref(), Some("1"));
        assert!(!knows("1") && knows("2"));
        assert_eq!(catalog.forget_image("b"), None);
        assert_eq!(catalog.target("b"), None);
    }

    #[test]
    fn an_answer_that_was_overtaken_is_not_learned() {
        let catalog = Catalog::default();
        catalog.set_followed(true);
        let asked_in = catalog.edition();
        catalog.forget_target("a");
        catalog.learn_target("a", &descriptor("old"), asked_in);
        assert_eq!(catalog.target("a"), None);
        catalog.learn_target("a", &descriptor("new"), catalog.edition());
        assert_eq!(catalog.target("a"), Some(descriptor("new")));
    }
}

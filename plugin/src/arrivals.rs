//! Looks at images when they arrive, so that nothing about them is left to be found out when a container is created.
//!
//! containerd tells of every change of an image's name. Names are taken into the [`Catalog`], and the modules that images start
//! into the store. A node without these events works all the same: then it is looked when a container is created.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::catalog::Catalog;
use crate::compile::Compiler;
use crate::compile::queue::Need;
use crate::containerd::{self, Containerd, Descriptor};
use crate::entrypoint;
use crate::facts::Entrypoint;
use crate::inspect::blob;
use crate::inspect::documents::{self, Image, Target};
use crate::inspect::layered::{self, Layered};
use crate::inspect::stored::Stored;
use crate::layers::{self, Layers};
use crate::observe::{self, Finder, Observer, RootFs, image_facts};
use crate::store::{Kept, Module, Store};

/// How long after containerd has gone it is looked for again.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
/// How long after an image's name has changed it is looked whether the image is unpacked: a name comes first. An image of
/// which no container is made may never be.
const LOOK_AFTER: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Why an image that has arrived could not be looked at.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Blob(#[from] blob::Error),
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    #[error(transparent)]
    Document(#[from] documents::Error),
    #[error(transparent)]
    Layered(#[from] layered::Error),
    #[error(transparent)]
    Layers(#[from] layers::Error),
    #[error(transparent)]
    Observe(#[from] observe::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// What watches for images.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Where names, layers and modules are noted.
    pub catalog: Arc<Catalog>,
    /// What compiles the modules.
    pub compiler: Compiler,
    /// Who tells.
    pub containerd: Containerd,
    /// Where it is noted which entrypoints are modules, before a container has any.
    pub observer: Arc<Observer>,
    /// Where modules are kept.
    pub store: Arc<Store>,
}

/// What became of a look at an image.
enum Looked {
    /// Nothing is left to be found out: the modules, and the program that is one of them.
    Done(Vec<Module>, Option<String>),
    /// Its files are not there yet.
    NotUnpacked,
}

impl Arrivals {
    /// Watches for ever.
    pub async fn watch(self) {
        let mut is_known_to_fail = false;
        loop {
            let Err(error) = self.follow(&mut is_known_to_fail).await;
            self.catalog.set_followed(false);
            if !is_known_to_fail {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "containerd does not tell of its images; it is asked for each container until it does"
                );
            }
            is_known_to_fail = true;
            sleep(RECONNECT_AFTER).await;
        }
    }

    /// Looks at all images that are there, and at each that comes, until containerd ends.
    async fn follow(
        &self,
        is_known_to_fail: &mut bool,
    ) -> Result<std::convert::Infallible, containerd::Error> {
        let mut changes = self.containerd.image_changes().await?;
        self.catalog.set_followed(true);
        let edition = self.catalog.edition();
        let images = self.containerd.images().await?;
        *is_known_to_fail = false;
        info!(images = images.len(), "following containerd's images");
        let mut looks = Looks::default();
        for (name, target) in images {
            self.catalog.learn_target(&name, &target, edition);
            looks.start(self, name, Need::Arrived);
        }
        loop {
            let change = changes.next().await?;
            if change.is_removal {
                self.observer.forget_image(&change.name);
                looks.stop(&change.name);
            } else {
                self.catalog.forget_target(&change.name);
                // Pulled for a pod, as a rule.
                looks.start(self, change.name, Need::Scheduled);
            }
        }
    }

    /// Looks at an image until there is nothing more to be found out, or it is gone.
    async fn look(self, name: String, need: Need, turn: Arc<Semaphore>) {
        for delay in LOOK_AFTER {
            sleep(delay).await;
            let _turn = turn.acquire().await;
            match self.look_once(&name).await {
                Ok(Looked::Done(modules, program)) => {
                    if let Some(program) = program {
                        self.observer.note_module(&name, &program);
                    }
                    for module in modules {
                        info!(
                            image = name,
                            module = module.digest,
                            bytes = module.size,
                            "module found"
                        );
                        self.compiler.want(&module, need);
                    }
                    return;
                }
                Ok(Looked::NotUnpacked) => {}
                Err(error) => {
                    debug!(
                        image = name,
                        error = &error as &dyn std::error::Error,
                        "cannot look at the image"
                    );
                }
            }
        }
    }

    async fn look_once(&self, name: &str) -> Result<Looked, Error> {
        let edition = self.catalog.edition();
        let target = self.containerd.image(name).await?;
        self.catalog.learn_target(name, &target, edition);
        image_facts(&self.containerd, &self.catalog, &target).await?;
        let (arrivals, handle) = (self.clone(), Handle::current());
        match spawn_blocking(move || arrivals.look_inside(target, handle)).await {
            Ok(looked) => looked,
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        }
    }

    fn look_inside(&self, target: Descriptor, handle: Handle) -> Result<Looked, Error> {
        let stored = Stored::new(self.containerd.clone(), handle);
        let digest = target.digest.clone();
        let image = documents::read(
            &stored,
            Target {
                digest: target.digest,
                media_type: target.media_type,
            },
        )?;
        if image.facts.artifact.is_some() {
            return Ok(Looked::Done(self.look_at_artifact(&stored, &image)?, None));
        }
        if let Some((snapshotter, folders)) = stored.folders(&image)? {
            let root = Layers::open(&folders, Vec::new())?;
            let layers = observe::layers(folders)?;
            self.catalog.layers().learn((snapshotter, digest), layers);
            let finder = Finder::new(&root, &self.store).remembering(&self.catalog);
            return look_at_entrypoint(&finder, &image);
        }
        // Such an image may be unpacked only for its first container. Of others that would be a lot to read for nothing.
        if image.facts.says_wasm().is_some() && image.has_files() {
            let root = Layered::read(&stored, &image)?;
            return look_at_entrypoint(&Finder::new(&root, &self.store), &image);
        }
        Ok(Looked::NotUnpacked)
    }

    fn look_at_artifact(&self, stored: &Stored, image: &Image) -> Result<Vec<Module>, Error> {
        let mut modules = Vec::new();
        for layer in image.facts.artifact.iter().flatten() {
            if let Kept::Module(module) = self.store.keep(blob::open(stored, &layer.digest)?)? {
                self.catalog.blobs().learn(layer.digest.clone(), module.clone());
                modules.push(module);
            }
        }
        Ok(modules)
    }
}

/// What a pod gets that names no command of its own.
fn look_at_entrypoint(finder: &Finder<'_, impl RootFs>, image: &Image) -> Result<Looked, Error> {
    let Some(program) = image.entrypoint.iter().chain(&image.cmd).next() else {
        return Ok(Looked::Done(Vec::new(), None));
    };
    let search = entrypoint::search(program, &image.env, &image.facts.working_directory);
    Ok(match finder.search(&search)? {
        (Entrypoint::Module { module, .. }, _) => Looked::Done(vec![module], Some(program.clone())),
        _ => Looked::Done(Vec::new(), None),
    })
}

/// The looks that are under way, one at a time for each name, and one image at a time.
struct Looks {
    by_name: HashMap<String, AbortHandle>,
    turn: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.by_name.values().for_each(AbortHandle::abort);
    }
}

impl Looks {
    fn start(&mut self, arrivals: &Arrivals, name: String, need: Need) {
        self.by_name.retain(|_, look| !look.is_finished());
        let look = arrivals.clone().look(name.clone(), need, self.turn.clone());
        let started = tokio::spawn(look).abort_handle();
        if let Some(before) = self.by_name.insert(name, started) {
            before.abort();
        }
    }

    fn stop(&mut self, name: &str) {
        if let Some(look) = self.by_name.remove(name) {
            look.abort();
        }
    }
}

//! Turns a request into [`crate::facts`]: asks containerd, walks the layers, and brings modules into the store.
//!
//! All I/O of a decision is here. Nothing here is bounded in time by itself: who asks sets a deadline, and
//! the work goes on for the next one who asks the same (see [`crate::verdicts`]).

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::mpsc;
use tracing::error;

use crate::catalog::{Catalog, FileId};
use crate::containerd::{self, Containerd, Descriptor, Mount, SandboxRecord};
use crate::entrypoint::{self, Search};
use crate::facts::{Defect, Entrypoint, MountFact, Runtime};
use crate::image::{self, ImageFacts, WasmLayer};
use crate::layers::{self, Layers, MAX_LAYERS, Node, Resolved};
use crate::module::{self, Kind};
use crate::store::{self, Kept, Module, Store};
use crate::verdicts::{Key, Layer, Verdicts};

/// The shims that hand a container to a plain OCI runtime.
pub const OCI_SHIMS: [&str; 2] = ["io.containerd.runc.v1", "io.containerd.runc.v2"];
/// More pods than a node runs.
const SANDBOXES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Entrypoints that are remembered as modules for when they cannot be looked at in time.
const MODULES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Names of images that were confirmed of late.
const NAMES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// How often it is asked whether an image's name still stands for what it did.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// The snapshotter whose containers write into a folder of their own.
const OVERLAY: &str = "overlayfs";
/// Chunks of a blob that are under way between containerd and the store.
const CHUNKS_UNDER_WAY: usize = 4;

/// Why something could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer of the artifact is not what its digest promised.
    #[error("layer {expected} has other bytes, with digest sha256:{found}")]
    BlobDigest {
        /// What the manifest says.
        expected: String,
        /// What the bytes say.
        found: String,
    },
    /// containerd did not say.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The image's documents are malformed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A layer's folder could not be looked at.
    #[error("cannot look at layer {layer:?}")]
    Layer {
        /// The folder.
        layer: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The layers could not be walked.
    #[error(transparent)]
    Layers(#[from] layers::Error),
    /// There are more layers than can be mounted.
    #[error("it has {0} layers, more than the {MAX_LAYERS} that can be mounted")]
    ManyLayers(usize),
    /// The entrypoint could not be read.
    #[error("cannot read {path:?} in the image")]
    Read {
        /// Where it is.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The image's layers are not folders on this node.
    #[error("the snapshotter gives a {kind:?} mount, whose files cannot be looked at")]
    Snapshotter {
        /// The mount's type.
        kind: String,
    },
    /// The module could not be kept.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What a request says of a container, as far as it matters for what it runs.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The container's id, which is also its snapshot's key.
    pub container_id: String,
    /// The container's environment.
    pub env: Vec<String>,
    /// The image's name, empty where the runtime does not tell.
    pub image: String,
    /// The container's mounts.
    pub mounts: Vec<MountFact>,
    /// `args[0]`.
    pub program: String,
    /// The pod sandbox's id.
    pub sandbox_id: String,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What stands where `args[0]` leads.
    pub entrypoint: Entrypoint,
    /// What the image says of itself, where that could be read.
    pub image: Option<ImageFacts>,
    /// The container whose volumes were looked into, if any were: to another one this does not apply.
    pub in_volume_of: Option<String>,
}

/// What looks at containers.
#[derive(Debug)]
pub struct Observer {
    catalog: Arc<Catalog>,
    confirmed: Mutex<LruCache<String, Instant>>,
    containerd: Containerd,
    cruns: Mutex<HashMap<String, Result<(), String>>>,
    sandboxes: Mutex<LruCache<String, Arc<SandboxRecord>>>,
    store: Arc<Store>,
    modules: Arc<Modules>,
    verdicts: Verdicts<Arc<Observation>, Error>,
}

/// Images and programs whose first bytes were a module's. That is known long before a large module is in the store.
struct Modules {
    seen: Mutex<LruCache<(String, String), ()>>,
    tell: Box<Tell>,
}

/// What is told of an image and a program.
type Tell = dyn Fn(&str, &str) + Send + Sync;

impl fmt::Debug for Modules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Modules").field(&self.seen).finish()
    }
}

impl Modules {
    fn add(&self, image: &str, program: &str) {
        let key = (image.to_owned(), program.to_owned());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.put(key, ()).is_none() {
            (self.tell)(image, program);
        }
    }

    fn have(&self, subject: &Subject) -> bool {
        let key = (subject.image.clone(), subject.program.clone());
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&key)
    }
}

impl Observer {
    /// Looks through this containerd, keeps modules in this store, and asks nothing that this catalog knows. `tell` is told of each image
    /// and program whose first bytes are a module's, as soon as they are seen.
    pub fn new(
        containerd: Containerd,
        store: Arc<Store>,
        catalog: Arc<Catalog>,
        tell: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            catalog,
            confirmed: Mutex::new(LruCache::new(NAMES)),
            containerd,
            cruns: Mutex::default(),
            sandboxes: Mutex::new(LruCache::new(SANDBOXES)),
            modules: Arc::new(Modules {
                seen: Mutex::new(LruCache::new(MODULES)),
                tell: Box::new(tell),
            }),
            store,
            verdicts: Verdicts::default(),
        }
    }

    /// What runs the pod.
    pub async fn runtime(&self, sandbox_id: &str) -> Result<Runtime, Error> {
        let record = self.sandbox(sandbox_id).await?;
        Ok(if OCI_SHIMS.contains(&record.shim.as_str()) {
            Runtime::Oci {
                program: record.program.clone(),
            }
        } else {
            Runtime::Other {
                shim: record.shim.clone(),
            }
        })
    }

    /// Whether this crun runs modules, and if not, why. It is asked once.
    pub async fn crun_wasm(&self, program: &str) -> Result<(), String> {
        let known = self
            .cruns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(program)
            .cloned();
        if let Some(known) = known {
            return known;
        }
        let answer = ask_crun(program).await;
        self.cruns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(program.to_owned(), answer.clone());
        answer
    }

    /// Takes over that the entrypoint of an image was seen to begin as a module, from who saw it.
    pub fn remember_module(&self, image: String, program: String) {
        let mut seen = self.modules.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.put((image, program), ());
    }

    /// Notes, and tells, that the entrypoint of an image was seen to begin as a module.
    pub fn note_module(&self, image: &str, program: &str) {
        self.modules.add(image, program);
    }

    /// Whether the entrypoint of this image has been seen to begin as a module, even if it could not be looked at to its end.
    pub fn has_seen_module(&self, subject: &Subject) -> bool {
        self.modules.have(subject)
    }

    /// What stands at a container's entrypoint.
    pub async fn observe(&self, subject: &Subject) -> Result<Arc<Observation>, Arc<Error>> {
        let (layers, image) = self.identify(subject).await.map_err(Arc::new)?;
        let key = Key {
            image: image.as_ref().map(|image| image.digest.clone()),
            layers,
            mounts: subject
                .mounts
                .iter()
                .map(|mount| (mount.destination.clone(), mount.source.is_some()))
                .collect(),
            path: subject
                .env
                .iter()
                .rev()
                .find(|variable| variable.starts_with("PATH="))
                .cloned(),
            program: subject.program.clone(),
        };
        let look = || {
            let look = Look {
                catalog: self.catalog.clone(),
                containerd: self.containerd.clone(),
                modules: self.modules.clone(),
                store: self.store.clone(),
                subject: subject.clone(),
            };
            look.first(key.layers.clone(), image.clone())
        };
        let found = self
            .verdicts
            .find(key.clone(), |found| is_still_good(found), look)
            .await?;
        match &found.in_volume_of {
            Some(other) if *other != subject.container_id => look().await.map_err(Arc::new),
            _ => Ok(found),
        }
    }

    /// Which layers a container has and which image it comes from: what everything else depends on.
    async fn identify(&self, subject: &Subject) -> Result<(Vec<Layer>, Option<Descriptor>), Error> {
        let sandbox = self.sandbox(&subject.sandbox_id).await?;
        let remembered = self.catalog.target(&subject.image);
        if let Some(target) = &remembered
            && let Some(layers) = self.remembered_layers(&sandbox.snapshotter, target)
        {
            self.confirm(&subject.image, target);
            return Ok((layers, remembered));
        }
        let edition = self.catalog.edition();
        let (mounts, image) = tokio::try_join!(
            async {
                let mounts = self
                    .containerd
                    .mounts(&sandbox.snapshotter, &subject.container_id);
                mounts.await.map_err(Error::from)
            },
            self.image(&subject.image)
        )?;
        let layers = container_layers(&sandbox.snapshotter, &mounts)?;
        if let Some(target) = &image {
            self.catalog.learn_target(&subject.image, target, edition);
            if !layers.of_this_container {
                let key = (sandbox.snapshotter.clone(), target.digest.clone());
                self.catalog.layers().learn(key, layers.layers.clone());
            }
        }
        Ok((layers.layers, image))
    }

    /// The layers of an image, if all of them still are what they were.
    fn remembered_layers(&self, snapshotter: &str, target: &Descriptor) -> Option<Vec<Layer>> {
        let key = (snapshotter.to_owned(), target.digest.clone());
        let layers = self.catalog.layers().recall(&key)?;
        let is_same = |known: &Layer| layer(known.path.clone()).is_ok_and(|found| found == *known);
        layers.iter().all(is_same).then_some(layers)
    }

    /// Asks behind an answer from memory whether it was right. That an image's name changes is told by containerd before a
    /// container can have the new one, but by another way than the request for that container.
    fn confirm(&self, name: &str, target: &Descriptor) {
        if name.contains("@sha256:") || !self.is_to_be_confirmed(name) {
            return;
        }
        let (catalog, containerd) = (self.catalog.clone(), self.containerd.clone());
        let (name, target) = (name.to_owned(), target.digest.clone());
        tokio::spawn(async move {
            let edition = catalog.edition();
            if let Ok(found) = containerd.image(&name).await
                && found.digest != target
                && edition == catalog.edition()
            {
                catalog.forget_target(&name);
                error!(
                    image = name,
                    decided_on = target,
                    is = found.digest,
                    "an image has changed unnoticed; containers of it made just now may have been taken for what it was"
                );
            }
        });
    }

    fn is_to_be_confirmed(&self, name: &str) -> bool {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = confirmed
            .get(name)
            .is_none_or(|last| now.duration_since(*last) > CONFIRM_EVERY);
        if is_due {
            confirmed.put(name.to_owned(), now);
        }
        is_due
    }

    /// An image that was removed while its containers live on is no error: its layers are still there.
    async fn image(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        match self.containerd.image(name).await {
            Ok(target) => Ok(Some(target)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks about a pod's sandbox before the first container is created in it.
    pub fn expect(self: &Arc<Self>, sandbox_id: String) {
        let observer = self.clone();
        // A failure is met again, and told, by the container that needs it.
        tokio::spawn(async move { drop(observer.sandbox(&sandbox_id).await) });
    }

    /// Forgets what was found in an image of this name, which is gone: what is kept follows what the node has, and not all that it ever had.
    /// Only that its entrypoint was a module stays: a container of it may be under way.
    pub fn forget_image(&self, name: &str) {
        if let Some(digest) = self.catalog.forget_image(name) {
            self.verdicts.forget(&digest);
        }
    }

    /// Forgets a pod's sandbox, which is gone.
    pub fn forget(&self, sandbox_id: &str) {
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        sandboxes.pop(sandbox_id);
    }

    async fn sandbox(&self, id: &str) -> Result<Arc<SandboxRecord>, containerd::Error> {
        if let Some(known) = self
            .sandboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
        {
            return Ok(known.clone());
        }
        let record = Arc::new(self.containerd.sandbox(id).await?);
        self.sandboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(id.to_owned(), record.clone());
        Ok(record)
    }
}

/// Whether this crun runs modules, and if not, why. The program is the node's own, named in containerd's configuration.
pub async fn ask_crun(program: &str) -> Result<(), String> {
    // With a state folder that is there: it would make its own, which this process may not.
    let output = tokio::process::Command::new(program)
        .args(["--root", "/", "--version"])
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|error| format!("{program} cannot be asked: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{program} cannot be asked: {}: {}",
            output.status,
            said.trim()
        ));
    }
    let features = String::from_utf8_lossy(&output.stdout).into_owned();
    if features.contains("+WASM:wasmedge") {
        return Ok(());
    }
    Err(format!("{program} was built without WasmEdge"))
}

fn is_still_good(found: &Observation) -> bool {
    let is_there = match &found.entrypoint {
        Entrypoint::Module { module, .. } => module.is_there(),
        _ => true,
    };
    is_there && found.in_volume_of.is_none()
}

/// The folders of a snapshot, topmost first. A snapshot without parents is a bind mount of its own folder.
pub fn layer_folders(mounts: &[Mount]) -> Result<Vec<PathBuf>, Error> {
    let mut folders = Vec::new();
    for mount in mounts {
        match mount.r#type.as_str() {
            "bind" => folders.push(PathBuf::from(&mount.source)),
            "overlay" => folders.extend(overlay_folders(&mount.options)),
            kind => {
                return Err(Error::Snapshotter {
                    kind: kind.to_owned(),
                });
            }
        }
    }
    Ok(folders)
}

/// Only the committed layers: what a container writes into its own is not its image's.
fn overlay_folders(options: &[String]) -> Vec<PathBuf> {
    let lower = options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    lower
        .map(|lower| lower.split(':').map(PathBuf::from).collect())
        .unwrap_or_default()
}

/// The layers below a container's own.
struct ContainerLayers {
    layers: Vec<Layer>,
    /// Whether they are no other container's, as with snapshotters that copy.
    of_this_container: bool,
}

fn container_layers(snapshotter: &str, mounts: &[Mount]) -> Result<ContainerLayers, Error> {
    // Without any layer below, the container's own is all there is, and still empty.
    let is_empty = snapshotter == OVERLAY && mounts.iter().all(|mount| mount.r#type == "bind");
    let folders = if is_empty {
        Vec::new()
    } else {
        layer_folders(mounts)?
    };
    Ok(ContainerLayers {
        layers: layers(folders)?,
        of_this_container: !is_empty && mounts.iter().any(|mount| mount.r#type == "bind"),
    })
}

/// What tells these folders apart from later ones.
pub fn layers(folders: Vec<PathBuf>) -> Result<Vec<Layer>, Error> {
    if folders.len() > MAX_LAYERS {
        return Err(Error::ManyLayers(folders.len()));
    }
    folders.into_iter().map(layer).collect()
}

fn layer(path: PathBuf) -> Result<Layer, Error> {
    let folder = std::fs::metadata(&path).map_err(|source| Error::Layer {
        layer: path.clone(),
        source,
    })?;
    Ok(Layer {
        changed: (folder.st_ctime(), folder.st_ctime_nsec()),
        inode: folder.st_ino(),
        path,
    })
}

/// A first look at a container, which goes on when nobody waits for it any more.
struct Look {
    catalog: Arc<Catalog>,
    containerd: Containerd,
    modules: Arc<Modules>,
    store: Arc<Store>,
    subject: Subject,
}

impl Look {
    async fn first(self, layers: Vec<Layer>, image: Option<Descriptor>) -> Result<Arc<Observation>, Error> {
        let Self {
            catalog,
            containerd,
            modules,
            store,
            subject,
        } = self;
        let image = match image {
            Some(target) => Some(image_facts(&containerd, &catalog, &target).await?),
            None => None,
        };
        let working_directory = image
            .as_ref()
            .map_or(Path::new("/"), |image| &image.working_directory);
        let search = entrypoint::search(&subject.program, &subject.env, working_directory);
        let in_layers = {
            let (catalog, store) = (catalog.clone(), store.clone());
            let (search, subject, modules) = (search.clone(), subject.clone(), modules.clone());
            move || -> Result<_, Error> {
                let folders: Vec<_> = layers.iter().map(|layer| &layer.path).collect();
                let root = Layers::open(&folders, subject.mounts.clone())?;
                let is_module = || modules.add(&subject.image, &subject.program);
                let finder = Finder::new(&root, &store)
                    .remembering(&catalog)
                    .telling(&is_module);
                finder.search(&search)
            }
        };
        let (mut entrypoint, entered_volume) = blocking(in_layers).await?;
        if let (Entrypoint::Missing, Some(artifact)) = (
            &entrypoint,
            image.as_ref().and_then(|image| image.artifact.as_ref()),
        ) {
            entrypoint =
                in_artifact(&containerd, store, &catalog, artifact, &search, &subject.program).await?;
        }
        // However it was found. A module that was known since its image arrived was not looked into again.
        if let Entrypoint::Module { .. } = &entrypoint {
            modules.add(&subject.image, &subject.program);
        }
        let in_volume_of = entered_volume.then_some(subject.container_id);
        Ok(Arc::new(Observation {
            entrypoint,
            image,
            in_volume_of,
        }))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

/// What an image says of itself.
pub async fn image_facts(
    containerd: &Containerd,
    catalog: &Catalog,
    target: &Descriptor,
) -> Result<ImageFacts, Error> {
    if let Some(known) = catalog.facts().recall(&target.digest) {
        return Ok(known);
    }
    let facts = read_image_facts(containerd, target).await?;
    catalog.facts().learn(target.digest.clone(), facts.clone());
    Ok(facts)
}

/// Reads manifest and config. Of an index, the first manifest that was fetched counts.
async fn read_image_facts(containerd: &Containerd, target: &Descriptor) -> Result<ImageFacts, Error> {
    let mut manifest = containerd.document(&target.digest).await?;
    if image::is_index(&target.media_type) {
        for digest in image::manifests(&manifest)? {
            if containerd.has_blob(&digest).await? {
                manifest = containerd.document(&digest).await?;
                break;
            }
        }
    }
    let config = containerd.document(&image::config_digest(&manifest)?).await?;
    Ok(image::facts(&manifest, &config)?)
}

/// The files that a container will have.
pub trait RootFs {
    /// Follows a path to its end.
    fn resolve(&self, path: &Path) -> Result<Resolved, Error>;
}

impl RootFs for Layers {
    fn resolve(&self, path: &Path) -> Result<Resolved, Error> {
        Ok(Self::resolve(self, path)?)
    }
}

/// Looks for the entrypoint among a container's files.
pub struct Finder<'a, R> {
    catalog: Option<&'a Catalog>,
    entered_volume: Cell<bool>,
    is_module: &'a dyn Fn(),
    root: &'a R,
    store: &'a Store,
}

impl<'a, R: RootFs> Finder<'a, R> {
    /// One that looks among these files, and brings modules into this store.
    pub fn new(root: &'a R, store: &'a Store) -> Self {
        Self {
            catalog: None,
            entered_volume: Cell::new(false),
            is_module: &|| (),
            root,
            store,
        }
    }

    /// Of a file that was found to be a module before, no byte is read again.
    #[must_use]
    pub fn remembering(self, catalog: &'a Catalog) -> Self {
        let catalog = Some(catalog);
        Self { catalog, ..self }
    }

    /// Calls this as soon as the first bytes are seen to be a module's, before it is copied.
    #[must_use]
    pub fn telling(self, is_module: &'a dyn Fn()) -> Self {
        Self { is_module, ..self }
    }

    /// What stands at the entrypoint, and whether a volume was looked into.
    pub fn search(&self, search: &Search) -> Result<(Entrypoint, bool), Error> {
        Ok((self.find(search)?, self.entered_volume.get()))
    }

    fn find(&self, search: &Search) -> Result<Entrypoint, Error> {
        match search {
            Search::Path(path) => self.examine(self.resolve(path)?, None),
            Search::Name {
                on_path,
                in_working_directory,
            } => self.find_name(on_path, in_working_directory),
        }
    }

    fn resolve(&self, path: &Path) -> Result<Resolved, Error> {
        let resolved = self.root.resolve(path)?;
        self.entered_volume
            .set(self.entered_volume.get() || resolved.in_volume);
        Ok(resolved)
    }

    /// As a runtime does: the first executable file on `PATH`. What no runtime does comes after that: a
    /// module on `PATH` that nobody made executable, and one in the working directory, for which the
    /// engine is put where the runtime will look.
    fn find_name(&self, on_path: &[PathBuf], in_working_directory: &Path) -> Result<Entrypoint, Error> {
        let mut not_executable = None;
        for path in on_path {
            let resolved = self.resolve(path)?;
            match resolved.node {
                Node::File { executable: true, .. } | Node::Mounted { .. } => {
                    return self.examine(resolved, None);
                }
                Node::File { .. } if not_executable.is_none() => not_executable = Some(resolved),
                _ => {}
            }
        }
        if let Some(resolved) = not_executable {
            return self.examine(resolved, None);
        }
        let Some(cover) = on_path.first() else {
            return Ok(Entrypoint::Missing);
        };
        match self.resolve(in_working_directory)? {
            Resolved {
                node: Node::Missing | Node::Directory,
                ..
            } => Ok(Entrypoint::Missing),
            resolved => self.examine(resolved, Some(cover.clone())),
        }
    }

    /// Says what was found, having brought it into the store if it is a module.
    fn examine(&self, resolved: Resolved, cover: Option<PathBuf>) -> Result<Entrypoint, Error> {
        let Resolved {
            in_volume,
            path,
            node,
        } = resolved;
        let unusable = |defect| Entrypoint::Unusable {
            path: path.display().to_string(),
            defect,
        };
        let (file, size) = match node {
            Node::Directory => return Ok(unusable(Defect::NotAFile { kind: "directory" })),
            Node::File { file, size, .. } => (file, size),
            Node::Missing => return Ok(Entrypoint::Missing),
            Node::Mounted { destination } => return Ok(Entrypoint::Mounted { destination }),
            Node::Special { kind } => return Ok(unusable(Defect::NotAFile { kind })),
        };
        let failed = |source| Error::Read {
            path: path.clone(),
            source,
        };
        let id = FileId::of(&file).map_err(failed)?;
        let known = self.catalog.and_then(|catalog| catalog.modules().recall(&id));
        if let Some(module) = known.filter(Module::is_there) {
            // A volume's file may be written to at any time, so its bytes are asked, too. That is much less than to copy them, and so
            // the next try is in time where a slow disk made the first one late.
            if in_volume {
                (self.is_module)();
            }
            if !in_volume || module.has_the_bytes_of(&file).map_err(failed)? {
                let cover = cover.unwrap_or(path);
                return Ok(Entrypoint::Module { module, cover });
            }
        }
        let looked = module::kind(&file, size).map_err(failed)?;
        Ok(match looked {
            // What is too large is not copied only to find that out: in a volume it would be for each try.
            Kind::CoreModule(_) if size > self.store.limit() => unusable(Defect::TooLarge {
                limit: self.store.limit(),
            }),
            Kind::CoreModule(_) => {
                (self.is_module)();
                match kept(self.store.keep(file))? {
                    Ok(module) => {
                        if let Some(catalog) = self.catalog {
                            catalog.modules().learn(id, module.clone());
                        }
                        let cover = cover.unwrap_or(path);
                        Entrypoint::Module { module, cover }
                    }
                    Err(defect) => unusable(defect),
                }
            }
            Kind::Elf | Kind::Script => Entrypoint::Native { path },
            other => unusable(defect(other)),
        })
    }
}

/// Tells what is wrong with the bytes from what is wrong with the node.
fn kept(result: Result<Kept, store::Error>) -> Result<Result<Module, Defect>, Error> {
    match result {
        Ok(Kept::Module(module)) => Ok(Ok(module)),
        Ok(Kept::NotAModule(kind)) => Ok(Err(defect(kind))),
        Err(store::Error::TooLarge { limit }) => Ok(Err(Defect::TooLarge { limit })),
        Err(error) => Err(error.into()),
    }
}

fn defect(kind: Kind) -> Defect {
    match kind {
        Kind::Component => Defect::Component,
        Kind::Empty => Defect::Empty,
        Kind::Malformed { why } => Defect::Malformed { why },
        Kind::CoreModule(_) | Kind::Elf | Kind::Other | Kind::Script => Defect::NotAProgram,
    }
}

/// An artifact's module is a blob and no file: the engine goes where the container's command points.
async fn in_artifact(
    containerd: &Containerd,
    store: Arc<Store>,
    catalog: &Catalog,
    layers: &[WasmLayer],
    search: &Search,
    program: &str,
) -> Result<Entrypoint, Error> {
    let (layer, cover) = match meant(layers, search, program) {
        Ok(meant) => meant,
        Err(instead) => return Ok(*instead),
    };
    if let Some(module) = catalog.blobs().recall(&layer.digest).filter(Module::is_there) {
        return Ok(Entrypoint::Module { module, cover });
    }
    let found = in_layer(layer, cover, keep_blob(containerd, store, &layer.digest).await?)?;
    if let Entrypoint::Module { module, .. } = &found {
        catalog.blobs().learn(layer.digest.clone(), module.clone());
    }
    Ok(found)
}

/// The layer of an artifact that a command means, and where the engine goes; or what there is instead.
pub fn meant<'a>(
    layers: &'a [WasmLayer],
    search: &Search,
    program: &str,
) -> Result<(&'a WasmLayer, PathBuf), Box<Entrypoint>> {
    let cover = place(search).ok_or(Entrypoint::Missing)?;
    let Some(layer) = choose(layers, program) else {
        let titles = layers
            .iter()
            .map(|layer| layer.title.clone().unwrap_or_else(|| layer.digest.clone()))
            .collect();
        return Err(Box::new(Entrypoint::Unusable {
            path: "the artifact".to_owned(),
            defect: Defect::Ambiguous { titles },
        }));
    };
    Ok((layer, cover))
}

/// What an artifact's layer is, once its bytes were brought to the store.
pub fn in_layer(
    layer: &WasmLayer,
    cover: PathBuf,
    brought: Result<Kept, store::Error>,
) -> Result<Entrypoint, Error> {
    match kept(brought)? {
        Ok(module) if layer.digest == format!("sha256:{}", module.digest) => {
            Ok(Entrypoint::Module { module, cover })
        }
        Ok(module) => Err(Error::BlobDigest {
            expected: layer.digest.clone(),
            found: module.digest,
        }),
        Err(defect) => Ok(Entrypoint::Unusable {
            path: format!("layer {}", layer.digest),
            defect,
        }),
    }
}

/// Where to put the engine so that the runtime, given the unchanged command, starts it.
fn place(search: &Search) -> Option<PathBuf> {
    let place = match search {
        Search::Path(path) => path,
        Search::Name { on_path, .. } => on_path.first()?,
    };
    let plain = |component| {
        matches!(
            component,
            Component::Normal(_) | Component::RootDir | Component::CurDir
        )
    };
    let named = place.file_name().is_some();
    (named && place.components().all(plain)).then(|| place.components().collect())
}

/// The only module, or the one whose title is the program's name.
fn choose<'a>(layers: &'a [WasmLayer], program: &str) -> Option<&'a WasmLayer> {
    let name = Path::new(program).file_name()?;
    match layers {
        [only] => Some(only),
        several => several.iter().find(|layer| {
            layer
                .title
                .as_ref()
                .is_some_and(|title| Path::new(title).file_name() == Some(name))
        }),
    }
}

/// Streams a blob into the store, so that no more than a few chunks of it are ever in memory.
async fn keep_blob(
    containerd: &Containerd,
    store: Arc<Store>,
    digest: &str,
) -> Result<Result<Kept, store::Error>, Error> {
    let (sender, chunks) = mpsc::channel(CHUNKS_UNDER_WAY);
    let keeping = blocking(move || {
        store.keep(Chunks {
            chunks,
            current: io::Cursor::default(),
        })
    });
    let reading = containerd.read_blob(digest, sender);
    let (kept, read) = tokio::join!(keeping, reading);
    read?;
    Ok(kept)
}

/// A blob as it comes in, for a thread that may wait.
struct Chunks {
    chunks: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(buffer)? {
                0 => match self.chunks.blocking_recv() {
                    Some(chunk) => self.current = io::Cursor::new(chunk),
                    None => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_layers_as_can_be_mounted() {
        let folder = std::env::temp_dir();
        let folders = |count| vec![folder.clone(); count];
        assert_eq!(layers(folders(MAX_LAYERS)).unwrap().len(), MAX_LAYERS);
        let refused = layers(folders(MAX_LAYERS + 1)).unwrap_err();
        assert!(refused.to_string().starts_with("it has 513 layers"), "{refused}");
    }
}

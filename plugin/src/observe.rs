//! Turns a request into [`crate::facts`]: asks containerd, walks the layers, and brings modules into the store.
//!
//! All I/O of a decision is here. Nothing here is bounded in time by itself: who asks sets a deadline, and
//! the work goes on for the next one who asks the same (see [`crate::verdicts`]).

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::mpsc;

use crate::containerd::{self, Containerd, Mount, SandboxRecord};
use crate::entrypoint::{self, Search};
use crate::facts::{Defect, Entrypoint, MountFact, Runtime};
use crate::image::{self, ImageFacts, WasmLayer};
use crate::layers::{self, Layers, Node, Resolved};
use crate::module::{self, Kind};
use crate::store::{self, Kept, Store};
use crate::verdicts::{Key, Layer, Verdicts};

/// The shims that hand a container to a plain OCI runtime.
pub const OCI_SHIMS: [&str; 2] = ["io.containerd.runc.v1", "io.containerd.runc.v2"];
/// More pods than a node runs.
const SANDBOXES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Entrypoints that are remembered as modules for when they cannot be looked at in time.
const MODULES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
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
    containerd: Containerd,
    cruns: Mutex<HashMap<String, Result<(), String>>>,
    sandboxes: Mutex<LruCache<String, Arc<SandboxRecord>>>,
    store: Arc<Store>,
    modules: Arc<Modules>,
    verdicts: Verdicts<Arc<Observation>, Error>,
}

/// Images and programs whose first bytes were a module's. That is known long before a large module is in the store.
#[derive(Debug)]
struct Modules(Mutex<LruCache<(String, String), ()>>);

impl Modules {
    fn add(&self, subject: &Subject) {
        let key = (subject.image.clone(), subject.program.clone());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(key, ());
    }

    fn have(&self, subject: &Subject) -> bool {
        let key = (subject.image.clone(), subject.program.clone());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&key)
    }
}

impl Observer {
    /// Looks through this containerd, and keeps modules in this store.
    pub fn new(containerd: Containerd, store: Store) -> Self {
        Self {
            containerd,
            cruns: Mutex::default(),
            sandboxes: Mutex::new(LruCache::new(SANDBOXES)),
            modules: Arc::new(Modules(Mutex::new(LruCache::new(MODULES)))),
            store: Arc::new(store),
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
    async fn identify(
        &self,
        subject: &Subject,
    ) -> Result<(Vec<Layer>, Option<containerd::Descriptor>), Error> {
        let layers = async {
            let sandbox = self.sandbox(&subject.sandbox_id).await?;
            let mounts = self
                .containerd
                .mounts(&sandbox.snapshotter, &subject.container_id)
                .await?;
            layer_folders(&mounts)?
                .into_iter()
                .map(layer)
                .collect::<Result<Vec<_>, _>>()
        };
        tokio::try_join!(layers, self.image(&subject.image))
    }

    /// An image that was removed while its containers live on is no error: its layers are still there.
    async fn image(&self, name: &str) -> Result<Option<containerd::Descriptor>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        match self.containerd.image(name).await {
            Ok(target) => Ok(Some(target)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
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
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|error| format!("{program} cannot be asked: {error}"))?;
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
    containerd: Containerd,
    modules: Arc<Modules>,
    store: Arc<Store>,
    subject: Subject,
}

impl Look {
    async fn first(
        self,
        layers: Vec<Layer>,
        image: Option<containerd::Descriptor>,
    ) -> Result<Arc<Observation>, Error> {
        let Self {
            containerd,
            modules,
            store,
            subject,
        } = self;
        let image = match image {
            Some(target) => Some(image_facts(&containerd, target).await?),
            None => None,
        };
        let working_directory = image
            .as_ref()
            .map_or(Path::new("/"), |image| &image.working_directory);
        let search = entrypoint::search(&subject.program, &subject.env, working_directory);
        let in_layers = {
            let (store, search, subject) = (store.clone(), search.clone(), subject.clone());
            move || -> Result<_, Error> {
                let folders: Vec<_> = layers.iter().map(|layer| &layer.path).collect();
                let root = Layers::open(&folders, subject.mounts.clone())?;
                find_telling(&root, &store, &search, &|| modules.add(&subject))
            }
        };
        let (mut entrypoint, entered_volume) = blocking(in_layers).await?;
        if let (Entrypoint::Missing, Some(artifact)) = (
            &entrypoint,
            image.as_ref().and_then(|image| image.artifact.as_ref()),
        ) {
            entrypoint = in_artifact(&containerd, store, artifact, &search, &subject.program).await?;
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

/// Reads manifest and config. Of an index, the first manifest that was fetched counts.
async fn image_facts(containerd: &Containerd, target: containerd::Descriptor) -> Result<ImageFacts, Error> {
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

/// Looks for the entrypoint among a container's files, and says whether a volume was looked into.
pub fn find(root: &impl RootFs, store: &Store, search: &Search) -> Result<(Entrypoint, bool), Error> {
    find_telling(root, store, search, &|| ())
}

/// The same, calling `is_module` as soon as the first bytes tell, before the module is copied.
fn find_telling(
    root: &impl RootFs,
    store: &Store,
    search: &Search,
    is_module: &dyn Fn(),
) -> Result<(Entrypoint, bool), Error> {
    let finder = Finder {
        entered_volume: Cell::new(false),
        is_module,
        root,
        store,
    };
    Ok((finder.find(search)?, finder.entered_volume.get()))
}

struct Finder<'a, R> {
    entered_volume: Cell<bool>,
    is_module: &'a dyn Fn(),
    root: &'a R,
    store: &'a Store,
}

impl<R: RootFs> Finder<'_, R> {
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
        let Resolved { path, node, .. } = resolved;
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
        let looked = module::kind(&file, size).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        Ok(match looked {
            Kind::CoreModule(_) => {
                (self.is_module)();
                match kept(self.store.keep(file))? {
                    Ok(module) => Entrypoint::Module {
                        module,
                        cover: cover.unwrap_or(path),
                    },
                    Err(defect) => unusable(defect),
                }
            }
            Kind::Elf | Kind::Script => Entrypoint::Native { path },
            other => unusable(defect(other)),
        })
    }
}

/// Tells what is wrong with the bytes from what is wrong with the node.
fn kept(result: Result<Kept, store::Error>) -> Result<Result<store::Module, Defect>, Error> {
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
    layers: &[WasmLayer],
    search: &Search,
    program: &str,
) -> Result<Entrypoint, Error> {
    match meant(layers, search, program) {
        Ok((layer, cover)) => in_layer(layer, cover, keep_blob(containerd, store, &layer.digest).await?),
        Err(instead) => Ok(instead),
    }
}

/// The layer of an artifact that a command means, and where the engine goes; or what there is instead.
pub fn meant<'a>(
    layers: &'a [WasmLayer],
    search: &Search,
    program: &str,
) -> Result<(&'a WasmLayer, PathBuf), Entrypoint> {
    let cover = place(search).ok_or(Entrypoint::Missing)?;
    let Some(layer) = choose(layers, program) else {
        let titles = layers
            .iter()
            .map(|layer| layer.title.clone().unwrap_or_else(|| layer.digest.clone()))
            .collect();
        return Err(Entrypoint::Unusable {
            path: "the artifact".to_owned(),
            defect: Defect::Ambiguous { titles },
        });
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

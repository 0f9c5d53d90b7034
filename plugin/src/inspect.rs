//! `podwasm inspect`: what an image, archive or file is, and what podwasm would do with it.
//!
//! It looks with the daemon's own eyes ([`observe::Finder`]) and asks the daemon's own rules ([`decide::decide`]), so what it says
//! is what a node would do. Everything that it looks at is a stranger's. Nothing is run, and nothing stays behind.

pub mod archive;
pub mod blob;
pub mod documents;
pub mod imports;
pub mod layered;
pub mod report;
pub mod show;
pub mod stored;
pub mod tarball;
pub mod target;
#[cfg(test)]
mod tests;
pub mod tree;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nri::api::{Container, PodSandbox};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use crate::annotation::{self, Handler, Settings};
use crate::cache::Cache;
use crate::cache::files::Files;
use crate::compile;
use crate::compiled::Compiled;
use crate::containerd::{self, Containerd};
use crate::decide::{self, Decision, is_crun};
use crate::entrypoint::{self, Search};
use crate::facts::{Entrypoint, Facts, Limits, Runtime};
use crate::flags::Inspect;
use crate::layers::{self, Layers, Node, Resolved};
use crate::observe::{self, Finder, OCI_SHIMS, RootFs, ask_crun, in_layer, meant};
use crate::policy::Policy;
use crate::store::{self, MODULE_FILE, Module, Store};
use crate::{adjust, daemon, policy_file};
use blob::Blobs;
use documents::Image;
use imports::Imports;
use layered::Layered;
use report::{CommandSource, EntrypointReport, Findings, Report, Source};
use stored::Stored;
use target::Target;

/// The exit code of what cannot be inspected. Wrong flags have it too.
const UNREADABLE: u8 = 2;

/// Why something could not be inspected.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Blob(#[from] blob::Error),
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    #[error(transparent)]
    Document(#[from] documents::Error),
    #[error(transparent)]
    Layer(#[from] layered::Error),
    #[error(transparent)]
    Layers(#[from] layers::Error),
    #[error("it is no file here, and {0}")]
    NoImage(containerd::Error),
    #[error(transparent)]
    Observe(#[from] observe::Error),
    #[error("{0}")]
    Policy(String),
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Target(#[from] target::Error),
}

/// An image that is neither a file here nor in containerd.
pub struct Remote {
    /// Where its blobs are.
    pub blobs: Box<dyn Blobs + Send>,
    /// What its name stands for.
    pub target: documents::Target,
}

/// Inspects, tells, and says by the exit code whether a container would run.
pub async fn run(flags: Inspect) -> ExitCode {
    run_with(flags, None).await
}

/// The same for an image in a registry, if there is one.
pub async fn run_with(flags: Inspect, remote: Option<Remote>) -> ExitCode {
    let handle = Handle::current();
    let (name, as_json) = (flags.target.clone(), flags.json);
    let inspected = tokio::task::spawn_blocking(move || inspect(flags, handle, remote.as_ref()));
    match inspected.await {
        Ok(Ok(report)) => tell(&report, as_json),
        Ok(Err(error)) => tell_unreadable(&name, &with_causes(&error), as_json),
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

/// What it copies on the way is gone however that ends.
fn inspect(flags: Inspect, handle: Handle, remote: Option<&Remote>) -> Result<Report, Error> {
    let state = tempfile::Builder::new().prefix("podwasm-inspect-").tempdir()?;
    let store = |policy: &Policy| Ok(Store::open(state.path(), policy.max_module_size.to_units())?);
    let inspector = Inspector::new(flags, handle, store)?;
    let seen = match remote {
        Some(remote) => inspector.archived(&*remote.blobs, remote.target.clone(), Source::Registry)?,
        None => inspector.see()?,
    };
    inspector.conclude(&seen)
}

/// What there is to tell of a target, for others to judge.
pub fn report_of(flags: Inspect, handle: Handle) -> Result<Report, String> {
    inspect(flags, handle, None).map_err(|error| with_causes(&error))
}

/// The module that a container of the target would run, brought into the store of `cache`; or what it would do instead.
pub fn module(flags: Inspect, handle: Handle, cache: &Cache) -> Result<Module, String> {
    let found = || -> Result<_, Error> {
        let store = |policy: &Policy| Ok(Store::new(cache.clone(), policy.max_module_size.to_units()));
        let inspector = Inspector::new(flags, handle, store)?;
        let seen = inspector.see()?;
        Ok(match seen.module() {
            Some(module) => Ok(module.clone()),
            None => Err(inspector.conclude(&seen)?.reason),
        })
    };
    found().map_err(|error| with_causes(&error))?
}

fn tell(report: &Report, as_json: bool) -> ExitCode {
    let text = if as_json {
        serde_json::to_string_pretty(report).expect("a report has only string keys") + "\n"
    } else {
        show::show(report)
    };
    print(&text);
    if report.verdict.runs() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Tells why something cannot be inspected.
pub fn tell_unreadable(name: &str, reason: &str, as_json: bool) -> ExitCode {
    if as_json {
        let object = json!({"target": name, "verdict": "unreadable", "reason": reason});
        print(&format!("{object:#}\n"));
    }
    let line = show::printable(&format!("podwasm: cannot inspect {name}: {reason}"));
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::from(UNREADABLE)
}

/// A reader that has gone away has read enough.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// An error with what caused it, each thing once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        // What containerd answered is part of the text already.
        if !error.is::<tonic::Status>() && !text.ends_with(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source().filter(|_| !error.is::<tonic::Status>());
    }
    text
}

/// What inspects: the flags, and what they mean.
struct Inspector {
    flags: Inspect,
    handle: Handle,
    policy: Arc<Policy>,
    settings: Result<Settings, String>,
    store: Store,
    stored: Stored,
}

/// What was found at an entrypoint.
struct Looked {
    entrypoint: Entrypoint,
    /// Size and hash of what stands there.
    program: Option<(u64, String)>,
}

/// What the target was seen to be.
struct Seen {
    command: Command,
    image: Option<Image>,
    looked: Option<(Search, Looked)>,
    source: Source,
}

impl Seen {
    fn module(&self) -> Option<&Module> {
        match &self.looked {
            Some((
                _,
                Looked {
                    entrypoint: Entrypoint::Module { module, .. },
                    ..
                },
            )) => Some(module),
            _ => None,
        }
    }
}

/// What a container would start.
#[derive(Default)]
struct Command {
    from: CommandSource,
    words: Vec<String>,
}

impl Inspector {
    fn new(
        flags: Inspect,
        handle: Handle,
        store: impl FnOnce(&Policy) -> Result<Store, Error>,
    ) -> Result<Self, Error> {
        let file = policy_file::find(flags.config.clone(), policy_file::USUAL.0, policy_file::USUAL.1);
        let policy =
            policy_file::read(file.as_deref()).map_err(|error| Error::Policy(format!("{error:#}")))?;
        let policy = policy.borrow().clone();
        let annotations: HashMap<_, _> = flags.annotation.iter().cloned().collect();
        let settings = annotation::settings(&annotations, &flags.container);
        Ok(Self {
            settings: settings.map_err(|error| error.to_string()),
            store: store(&policy)?,
            stored: Stored::new(Containerd::at(&flags.containerd_socket), handle.clone()),
            flags,
            handle,
            policy,
        })
    }

    fn see(&self) -> Result<Seen, Error> {
        let name = &self.flags.target;
        match target::open(name, self.flags.r#as)? {
            Target::Archive(archive) => {
                let target = documents::of_layout(&archive.index()?, self.flags.r#ref.as_deref())?;
                self.archived(&archive, target, Source::Archive)
            }
            Target::File(file) => self.file(file),
            Target::Image => {
                let image = documents::read(&self.stored, self.named_image()?)?;
                let root: Box<dyn RootFs> = match self.stored.folders(&image) {
                    Ok(Some((_, folders))) if image.has_files() => {
                        Box::new(Layers::open(&folders, Vec::new())?)
                    }
                    Ok(_) => unpacked(&self.stored, &image)?,
                    Err(error) => return Err(error.into()),
                };
                let (command, looked) = self.image(&self.stored, &image, root)?;
                Ok(Seen {
                    command,
                    image: Some(image),
                    looked,
                    source: Source::Containerd,
                })
            }
        }
    }

    /// An image of which there are only blobs.
    fn archived(&self, blobs: &dyn Blobs, target: documents::Target, source: Source) -> Result<Seen, Error> {
        let image = documents::read(blobs, target)?;
        let (command, looked) = self.image(blobs, &image, unpacked(blobs, &image)?)?;
        Ok(Seen {
            command,
            image: Some(image),
            looked,
            source,
        })
    }

    fn named_image(&self) -> Result<documents::Target, Error> {
        self.stored
            .image(&self.flags.target)
            .map_err(|error| match self.flags.r#as {
                Some(_) => Error::Containerd(error),
                None => Error::NoImage(error),
            })
    }

    fn file(&self, file: File) -> Result<Seen, Error> {
        let name = Path::new(&self.flags.target).file_name().unwrap_or_default();
        let command = self.command().unwrap_or_else(|| Command {
            from: CommandSource::File,
            words: vec![format!("/{}", name.to_string_lossy())],
        });
        let search = entrypoint::search(&command.words[0], &[], Path::new("/"));
        let root: Box<dyn RootFs> = Box::new(OneFile(file));
        let looked = self.look(root, &search)?;
        Ok(Seen {
            command,
            image: None,
            looked: Some((search, looked)),
            source: Source::File,
        })
    }

    fn image(
        &self,
        blobs: &dyn Blobs,
        image: &Image,
        root: Box<dyn RootFs + '_>,
    ) -> Result<(Command, Option<(Search, Looked)>), Error> {
        let command = self.command().unwrap_or_else(|| of_image(image));
        let artifact = image.facts.artifact.as_deref();
        let program = match (command.words.first(), artifact) {
            (Some(program), _) => program.as_str(),
            // Whatever the pod will call it, it is this.
            (None, Some([_])) => "/module.wasm",
            (None, _) => return Ok((command, None)),
        };
        let search = entrypoint::search(program, &image.env, &image.facts.working_directory);
        let mut looked = self.look(root, &search)?;
        if let (Entrypoint::Missing, Some(layers)) = (&looked.entrypoint, artifact) {
            looked.entrypoint = match meant(layers, &search, program) {
                Ok((layer, cover)) => {
                    looked.program = layer
                        .digest
                        .strip_prefix("sha256:")
                        .map(|hash| (layer.size, hash.to_owned()));
                    in_layer(layer, cover, self.store.keep(blob::open(blobs, &layer.digest)?))?
                }
                Err(instead) => *instead,
            };
        }
        Ok((command, Some((search, looked))))
    }

    fn command(&self) -> Option<Command> {
        let words = self.flags.command.clone();
        (!words.is_empty()).then_some(Command {
            from: CommandSource::Flag,
            words,
        })
    }

    fn look(&self, root: Box<dyn RootFs + '_>, search: &Search) -> Result<Looked, Error> {
        let root = Watched {
            last: RefCell::new(None),
            root,
        };
        let (entrypoint, _) = Finder::new(&root, &self.store).search(search)?;
        let program = root.last.take().map(fingerprint).transpose()?;
        Ok(Looked { entrypoint, program })
    }

    fn conclude(&self, seen: &Seen) -> Result<Report, Error> {
        let (search, looked) = seen
            .looked
            .as_ref()
            .map(|(search, looked)| (search, looked))
            .unzip();
        let image = seen.image.as_ref();
        let facts = looked.map(|looked| self.facts(image, &seen.command, looked));
        let decision = facts.as_ref().map(|facts| decide::decide(facts, &self.policy));
        let imports = match seen.module() {
            Some(module) => imports::imports(&std::fs::read(module.folder.join(MODULE_FILE))?),
            None => Imports::default(),
        };
        Ok(report::report(Findings {
            compiled: facts.as_ref().map(|facts| &facts.compiled),
            decision: decision.as_ref(),
            entrypoint: EntrypointReport {
                command: seen.command.words.clone(),
                from: seen.command.from,
                searched: search.map(searched).unwrap_or_default(),
                path: None,
            },
            found: looked.map(|looked| &looked.entrypoint),
            image,
            imports,
            left_to_others: facts.as_ref().is_some_and(is_for_others),
            missing: self.missing(decision.as_ref(), seen.source),
            notes: self.notes(),
            program: looked.and_then(|looked| looked.program.clone()),
            source: seen.source,
            target: &self.flags.target,
        }))
    }

    fn facts(&self, image: Option<&Image>, command: &Command, looked: &Looked) -> Facts {
        let runtime = runtime(&self.flags.runtime);
        Facts {
            compiled: self.compiled(&looked.entrypoint),
            crun_wasm: self.crun_wasm(&runtime),
            entrypoint: looked.entrypoint.clone(),
            env: image.map(|image| image.env.clone()).unwrap_or_default(),
            image: image.map(|image| image.facts.clone()),
            limits: Limits::default(),
            mounts: Vec::new(),
            namespace: self.flags.namespace.clone(),
            program: command.words.first().cloned().unwrap_or_default(),
            runtime,
            settings: self.settings.clone(),
            wanted_by_crun: self.wanted_by_crun(),
        }
    }

    /// What this node has of the module's native code. A node that runs podwasm makes some of every module it is shown.
    fn compiled(&self, entrypoint: &Entrypoint) -> Compiled {
        let Entrypoint::Module { module, .. } = entrypoint else {
            return Compiled::Off {
                why: "it is no module".to_owned(),
            };
        };
        let found = daemon::engine_version(&self.flags.engine)
            .map_err(|error| format!("{error:#}"))
            .and_then(|engine| self.handle.block_on(compile::find(&self.flags.compiler, &engine)));
        match found {
            Ok((_, build)) => Files::at(&self.flags.state).compiled(&module.digest, &build),
            Err(why) => Compiled::Off { why },
        }
    }

    fn wanted_by_crun(&self) -> Option<String> {
        let pod = PodSandbox {
            annotations: self.flags.annotation.iter().cloned().collect(),
            ..PodSandbox::default()
        };
        adjust::wanted_by_crun(&pod, &Container::default())
    }

    fn crun_wasm(&self, runtime: &Runtime) -> Option<Result<(), String>> {
        let asked = self.settings.as_ref().ok().and_then(|settings| settings.handler);
        match runtime {
            Runtime::Oci { program }
                if asked.unwrap_or(self.policy.handler) == Handler::Crun && is_crun(program) =>
            {
                Some(self.handle.block_on(ask_crun(program)))
            }
            _ => None,
        }
    }

    /// What this machine would need to do what was decided.
    fn missing(&self, decision: Option<&Decision>, source: Source) -> Vec<String> {
        let mut missing = Vec::new();
        if let Some(Decision::Engine { plan, .. }) = decision {
            if let Some(part) = daemon::missing_part(&self.flags.engine) {
                missing.push(format!("the engine's bundle: {} is not there", part.display()));
            }
            let folders = plan
                .engine
                .plugins
                .iter()
                .map(|name| (name, self.flags.plugins.join(name)));
            let lacking = folders.filter(|(_, folder)| !folder.is_dir());
            missing.extend(
                lacking.map(|(name, folder)| {
                    format!("the plugin {name}: there is no folder {}", folder.display())
                }),
            );
        }
        if source != Source::Containerd
            && let Err(error) = self.stored.version()
        {
            missing.push(format!(
                "containerd at {}: {error}",
                self.flags.containerd_socket.display()
            ));
        }
        missing
    }

    /// An annotation that reaches no container is easily a mistake.
    fn notes(&self) -> Vec<String> {
        let prefix = format!("{}/container.", annotation::DOMAIN);
        let others = self.flags.annotation.iter().filter_map(|(key, _)| {
            let container = key.strip_prefix(&prefix)?;
            let note =
                || format!("{key} is for another container; --container {container} takes it into account");
            (container != self.flags.container).then(note)
        });
        others.collect()
    }
}

/// The files of an image whose layers have to be read for that. An artifact has none.
fn unpacked<'a>(blobs: &'a dyn Blobs, image: &'a Image) -> Result<Box<dyn RootFs + 'a>, Error> {
    Ok(if image.has_files() {
        Box::new(Layered::read(blobs, image)?)
    } else {
        Box::new(Layers::open::<PathBuf>(&[], Vec::new())?)
    })
}

fn of_image(image: &Image) -> Command {
    let words: Vec<_> = image.entrypoint.iter().chain(&image.cmd).cloned().collect();
    if words.is_empty() {
        return Command::default();
    }
    Command {
        from: CommandSource::Image,
        words,
    }
}

fn searched(search: &Search) -> Vec<String> {
    let places: Vec<&PathBuf> = match search {
        Search::Path(path) => vec![path],
        Search::Name {
            on_path,
            in_working_directory,
        } => on_path.iter().chain([in_working_directory]).collect(),
    };
    places
        .into_iter()
        .map(|path| path.display().to_string())
        .collect()
}

fn runtime(named: &str) -> Runtime {
    if named.starts_with("io.containerd.") && !OCI_SHIMS.contains(&named) {
        return Runtime::Other {
            shim: named.to_owned(),
        };
    }
    let program = if OCI_SHIMS.contains(&named) { "" } else { named };
    Runtime::Oci {
        program: program.to_owned(),
    }
}

/// Whether the pod has chosen, beside podwasm, something that runs Wasm or may do so.
fn is_for_others(facts: &Facts) -> bool {
    match &facts.runtime {
        Runtime::Oci { program } => is_crun(program) && facts.wanted_by_crun.is_some(),
        Runtime::Other { .. } => true,
    }
}

/// Size and hash of a file.
pub fn fingerprint(mut file: File) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    file.rewind()?;
    let size = io::copy(&mut file, &mut hash)?;
    Ok((size, format!("{:x}", hash.finalize())))
}

/// A file of this machine, in the place of an image's entrypoint.
struct OneFile(File);

impl RootFs for OneFile {
    fn resolve(&self, path: &Path) -> Result<Resolved, observe::Error> {
        let opened = self.0.try_clone().and_then(|mut file| {
            file.rewind()?;
            Ok((file.metadata()?.len(), file))
        });
        let (size, file) = opened.map_err(|source| observe::Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Resolved {
            in_volume: false,
            path: path.to_owned(),
            node: Node::File {
                file,
                executable: true,
                size,
            },
        })
    }
}

/// Remembers the file that was found last, to tell more of it than a decision needs.
struct Watched<'a> {
    last: RefCell<Option<File>>,
    root: Box<dyn RootFs + 'a>,
}

impl RootFs for Watched<'_> {
    fn resolve(&self, path: &Path) -> Result<Resolved, observe::Error> {
        let resolved = self.root.resolve(path)?;
        let file = match &resolved.node {
            Node::File { file, .. } => file.try_clone().ok(),
            _ => None,
        };
        self.last.replace(file);
        Ok(resolved)
    }
}

//! `podwasm image`: images from modules, without Docker and without a Dockerfile; and into and out of registries.
//!
//! [`recipe`] says what an image's documents are and [`fix`] what an index lacks, both without any I/O; the rest reads files, writes
//! layouts and talks to registries.

mod authorities;
mod bundle;
mod check;
mod credentials;
mod fix;
pub mod flags;
mod layer;
mod layout;
mod progress;
mod recipe;
mod registry;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use oci_client::{Reference, RegistryOperation};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::Serialize;
use serde_json::json;

use crate::flags::{Inspect, TargetKind};
use crate::image::{is_index, wasm_only_index_fixes};
use crate::inspect::archive::{self, Archive};
use crate::inspect::blob::{self, Blobs};
use crate::inspect::show::{printable, size};
use crate::inspect::{self, documents, target, with_causes};
use bundle::{Bundle, Item};
use flags::{Build, Fix, Form, ImageCommand, InspectImage, Push, RecipeFlags};
use layer::{Contents, Layer};
use layout::Name;
use progress::Progress;
use recipe::LayerFacts;
use registry::{Registry, Remote, Sent};

/// The time that builds pretend to be made at, which makes them the same whenever they are made:
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Exit codes, beside 0.
const BAD_IMAGE: u8 = 1;
const CANNOT: u8 = 2;
const REGISTRY: u8 = 3;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Blob(#[from] blob::Error),
    #[error("{}", path)]
    Check {
        path: String,
        #[source]
        source: check::Error,
    },
    #[error(transparent)]
    Document(#[from] documents::Error),
    #[error("{SOURCE_DATE_EPOCH} is not a number of seconds: {value:?}")]
    Epoch { value: String },
    #[error(transparent)]
    Fix(#[from] fix::Error),
    #[error(transparent)]
    Items(#[from] bundle::Error),
    #[error(transparent)]
    Layer(#[from] layer::Error),
    #[error(transparent)]
    Layout(#[from] layout::Error),
    #[error(transparent)]
    NoPlace(#[from] recipe::NoPlace),
    #[error("{path} is an image already, so {flag} says nothing of it")]
    NotBuilt { path: String, flag: &'static str },
    #[error("{name} names a digest, which cannot be moved: use --to TAG")]
    NoTag { name: String },
    #[error("cannot read {path}")]
    Open { path: String, source: target::Error },
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Check { source, .. } if !source.is_of_the_module() => CANNOT,
            Self::Archive(_)
            | Self::Blob(_)
            | Self::Check { .. }
            | Self::Document(_)
            | Self::Fix(_)
            | Self::Items(_)
            | Self::Registry(registry::Error::Blob(_)) => BAD_IMAGE,
            Self::Epoch { .. }
            | Self::Layer(_)
            | Self::Layout(_)
            | Self::NoPlace(_)
            | Self::NoTag { .. }
            | Self::NotBuilt { .. }
            | Self::Open { .. }
            | Self::Registry(
                registry::Error::Authorities(_)
                | registry::Error::Credentials(_)
                | registry::Error::Name { .. },
            ) => CANNOT,
            Self::Registry(_) => REGISTRY,
        }
    }
}

/// Does what was asked for, tells, and says by the exit code how that went.
pub async fn run(command: ImageCommand) -> ExitCode {
    let (done, as_json) = match command {
        ImageCommand::Build(flags) => (build(&flags), flags.json),
        ImageCommand::Fix(flags) => (self::fix(&flags).await, flags.json),
        ImageCommand::Inspect(flags) => return self::inspect(flags).await,
        ImageCommand::Push(flags) => (push(&flags).await, flags.json),
    };
    match done {
        Ok(done) => tell(&done, as_json),
        Err(error) => tell_failure(&error, as_json),
    }
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    /// What the image's name stands for.
    digest: String,
    /// `build`, and `push` of a module: the form.
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<&'static str>,
    /// The type of what the image's name stands for.
    media_type: String,
    /// What is worth knowing.
    notes: Vec<String>,
    /// `build`: where it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// What its index lists; empty where there is none.
    platforms: Vec<String>,
    /// `fix`: whether anything was, or would have been, pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<bool>,
    /// `push` and `fix`: the name with the digest, by which it can be pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// `push`: what was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<SentReport>,
    /// The bytes of all its parts.
    size_bytes: u64,
    /// Said to people instead of all this.
    #[serde(skip)]
    says: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SentReport {
    blobs_mounted: usize,
    blobs_present: usize,
    blobs_sent: usize,
    bytes_sent: u64,
}

fn tell(done: &Done, as_json: bool) -> ExitCode {
    let text = if as_json {
        serde_json::to_string_pretty(done).expect("a report has only string keys") + "\n"
    } else {
        let notes = done.notes.iter().map(|note| format!("note: {note}"));
        notes.for_each(|note| drop(writeln!(io::stderr(), "{}", printable(&note))));
        done.says
            .iter()
            .fold(String::new(), |text, line| text + &printable(line) + "\n")
    };
    // A reader that has gone away has read enough.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn tell_failure(error: &Error, as_json: bool) -> ExitCode {
    let reason = with_causes(error);
    if as_json {
        let _ = writeln!(io::stdout(), "{:#}", json!({"error": reason}));
    }
    for line in reason.lines().filter(|line| !line.is_empty()).take(1) {
        let _ = writeln!(io::stderr(), "podwasm: {}", escaped(line));
    }
    ExitCode::from(error.exit_code())
}

/// As long as it is, unlike what comes from strangers.
fn escaped(text: &str) -> String {
    let words: Vec<_> = text.split(' ').map(printable).collect();
    words.join(" ")
}

fn build(flags: &Build) -> Result<Done, Error> {
    let name = flags
        .tag
        .as_deref()
        .map(registry::reference)
        .transpose()?
        .map(|name| Name {
            full: name.whole(),
            tag: name.tag().unwrap_or("latest").to_owned(),
        });
    let (bundle, notes) = made(&flags.module, &flags.recipe)?;
    let items = bundle::items(&bundle, &bundle.target)?;
    layout::write(&bundle, &items, &bundle.target, name.as_ref(), &flags.output)?;
    let output = flags.output.display().to_string();
    let mut done = described(&bundle.target, &items, notes);
    done.form = Some(flags.recipe.form.as_str());
    done.says = vec![format!(
        "{output}: {} ({}), {}",
        done.digest,
        flags.recipe.form.as_str(),
        size(done.size_bytes)
    )];
    done.output = Some(output);
    Ok(done)
}

/// An image of a module, and what is worth knowing of it.
fn made(module: &Path, recipe: &RecipeFlags) -> Result<(Bundle, Vec<String>), Error> {
    recipe::check(recipe)?;
    let shown = module.display().to_string();
    let mut file = open_module(module, &shown)?;
    let checked = check::check(&mut file, recipe.force);
    let mut notes = checked.map_err(|source| Error::Check {
        path: shown.clone(),
        source,
    })?;
    let modified_seconds = epoch_seconds(std::env::var(SOURCE_DATE_EPOCH).ok())?;
    let created =
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(modified_seconds)).to_string();
    let path = recipe.path.clone().unwrap_or_else(|| place(module));
    let layer = match recipe.form {
        Form::Artifact => alone(file, &shown)?,
        Form::Compat | Form::Wasi => {
            let mut contents = Contents::default();
            contents.module(file, module, &path)?;
            for (from, to) in &recipe.file {
                contents.add(from, to)?;
            }
            contents.write(modified_seconds)?
        }
    };
    if recipe.form == Form::Artifact {
        notes.push(format!(
            "an artifact names no command, so a pod has to: command: [\"{path}\"]; --form compat needs none"
        ));
    }
    let facts = LayerFacts {
        diff_id: layer.diff_id,
        digest: layer.digest,
        size_bytes: layer.size_bytes,
    };
    let documents = recipe::documents(recipe, &path, &facts, &created);
    Ok((Bundle::new(documents, facts.digest, layer.file), notes))
}

/// Nothing but a regular file is waited for or read.
fn open_module(module: &Path, shown: &str) -> Result<File, Error> {
    let name = module.to_str().unwrap_or(shown);
    match target::open(name, Some(TargetKind::File)) {
        Ok(target::Target::File(file)) => Ok(file),
        Ok(_) => Err(Error::Open {
            path: shown.to_owned(),
            source: target::Error::NotAFile,
        }),
        Err(source) => Err(Error::Open {
            path: shown.to_owned(),
            source,
        }),
    }
}

/// Where a module is in an image unless it is said.
fn place(module: &Path) -> String {
    let name = module.file_name().unwrap_or_default().to_string_lossy();
    let suffix = if module.extension().is_some_and(|extension| extension == "wasm") {
        ""
    } else {
        ".wasm"
    };
    format!("/{name}{suffix}")
}

/// The module as the layer of an artifact, in a copy that nobody changes.
fn alone(mut file: File, shown: &str) -> Result<Layer, Error> {
    use std::io::Seek as _;
    let mut copied = || -> io::Result<Layer> {
        let mut copy = tempfile::tempfile()?;
        file.rewind()?;
        io::copy(&mut file, &mut copy)?;
        copy.rewind()?;
        let (size_bytes, hash) = inspect::fingerprint(copy.try_clone()?)?;
        let digest = format!("sha256:{hash}");
        Ok(Layer {
            diff_id: digest.clone(),
            digest,
            file: copy,
            size_bytes,
        })
    };
    let cannot = |source| layer::Error::Read {
        path: shown.into(),
        source,
    };
    Ok(copied().map_err(cannot)?)
}

fn epoch_seconds(value: Option<String>) -> Result<u64, Error> {
    // What a date can be written for.
    const MAX_SECONDS: u64 = 253_402_300_799;
    match value {
        None => Ok(0),
        Some(value) => match value.parse() {
            Ok(seconds) if seconds <= MAX_SECONDS => Ok(seconds),
            _ => Err(Error::Epoch { value }),
        },
    }
}

fn described(target: &Descriptor, items: &[Item], notes: Vec<String>) -> Done {
    Done {
        digest: target.digest().to_string(),
        media_type: target.media_type().to_string(),
        notes,
        platforms: platforms(items),
        size_bytes: items
            .iter()
            .fold(0, |sum: u64, item| sum.saturating_add(item.size_bytes)),
        ..Done::default()
    }
}

/// What the outermost index lists; attestations are no platform.
fn platforms(items: &[Item]) -> Vec<String> {
    let Some(index) = items.last().filter(|item| is_index(&item.media_type)) else {
        return Vec::new();
    };
    let index = index
        .document
        .as_deref()
        .and_then(|bytes| ImageIndex::from_reader(bytes).ok());
    let listed = index.iter().flat_map(ImageIndex::manifests);
    let platforms = listed.filter_map(|entry| entry.platform().as_ref());
    let platforms = platforms.map(|platform| format!("{}/{}", platform.os(), platform.architecture()));
    platforms
        .filter(|platform| platform != "unknown/unknown")
        .collect()
}

async fn push(flags: &Push) -> Result<Done, Error> {
    let image = registry::reference(&flags.name)?;
    let others = flags
        .mount_from
        .iter()
        .map(|name| other(&image, name))
        .collect::<Result<Vec<_>, _>>()?;
    let (blobs, target, form, mut notes) = source(flags)?;
    let items = bundle::items(&*blobs, &target)?;
    notes.extend(not_pulled(&items, &image)?);
    let registry = Registry::connect(image, &flags.registry, RegistryOperation::Push).await?;
    let sent = registry
        .push(
            &registry.image,
            &blobs,
            &items,
            &others,
            &Progress::new(flags.json),
        )
        .await?;
    let mut done = described(&target, &items, notes);
    done.form = form;
    done.reference = Some(pulled_by(&registry.image, &done.digest));
    done.sent = Some(sent.into());
    done.says.extend(done.reference.clone());
    Ok(done)
}

impl From<Sent> for SentReport {
    fn from(sent: Sent) -> Self {
        Self {
            blobs_mounted: sent.mounted,
            blobs_present: sent.present,
            blobs_sent: sent.uploaded,
            bytes_sent: sent.bytes,
        }
    }
}

/// A repository of the same registry; its registry need not be named.
fn other(image: &Reference, name: &str) -> Result<Reference, Error> {
    let registry = format!("{}/", image.registry());
    let name = name.strip_prefix(&registry).unwrap_or(name);
    Ok(registry::reference(&(registry + name))?)
}

fn pulled_by(image: &Reference, digest: &str) -> String {
    format!("{}@{digest}", image.whole())
}

type Source = (
    Arc<dyn Blobs + Send + Sync>,
    Descriptor,
    Option<&'static str>,
    Vec<String>,
);

/// What is pushed: an image that was built before, or one of a module.
fn source(flags: &Push) -> Result<Source, Error> {
    let shown = flags.source.display().to_string();
    let name = flags.source.to_str().unwrap_or(&shown);
    // Nothing that is not there is taken for an image's name.
    let kind = (!flags.source.exists()).then_some(TargetKind::File);
    let opened = target::open(name, kind);
    match opened {
        Ok(target::Target::Archive(archive)) => {
            if let Some(flag) = first_given(&flags.recipe) {
                return Err(Error::NotBuilt { path: shown, flag });
            }
            let target = of_layout(&archive, flags.r#ref.as_deref())?;
            Ok((Arc::new(archive), target, None, Vec::new()))
        }
        Ok(_) => {
            let (bundle, notes) = made(&flags.source, &flags.recipe)?;
            let target = bundle.target.clone();
            Ok((Arc::new(bundle), target, Some(flags.recipe.form.as_str()), notes))
        }
        Err(source) => Err(Error::Open { path: shown, source }),
    }
}

fn of_layout(archive: &Archive, name: Option<&str>) -> Result<Descriptor, Error> {
    let target = documents::of_layout(&archive.index()?, name)?;
    blob::hex(&target.digest)?;
    Ok(recipe::descriptor(
        target.media_type.as_str().into(),
        &target.digest,
        0,
    ))
}

/// A flag that says what a built image is like.
fn first_given(recipe: &RecipeFlags) -> Option<&'static str> {
    let given = [
        (recipe.form != Form::default(), "--form"),
        (recipe.path.is_some(), "--path"),
        (!recipe.entrypoint.is_empty(), "--entrypoint"),
        (!recipe.env.is_empty(), "--env"),
        (!recipe.label.is_empty(), "--label"),
        (!recipe.annotation.is_empty(), "--annotation"),
        (recipe.user.is_some(), "--user"),
        (recipe.workdir.is_some(), "--workdir"),
        (!recipe.file.is_empty(), "--file"),
        (recipe.force, "--force"),
        (!recipe.args.is_empty(), "what follows --"),
    ];
    given.into_iter().find_map(|(given, flag)| given.then_some(flag))
}

/// What to say of an image that Kubernetes will not pull.
fn not_pulled(items: &[Item], image: &Reference) -> Result<Vec<String>, Error> {
    let Some((top, bytes)) = items
        .last()
        .and_then(|item| Some((item, item.document.as_deref()?)))
    else {
        return Ok(Vec::new());
    };
    let repository = format!("{}/{}", image.registry(), image.repository());
    Ok(match fix::form(bytes, &top.media_type) {
        Ok(fix::Form::Pulled { .. }) => Vec::new(),
        Ok(fix::Form::WasmOnly { manifest }) => {
            let what = "Kubernetes does not pull this form, an index that lists only Wasm; the forms compat, wasi and artifact it does";
            let [fix, _, pod] = wasm_only_index_fixes(Some(&repository), &manifest);
            vec![what.to_owned(), fix, pod]
        }
        Err(fix::Error::NoWasm { platforms }) => vec![format!(
            "Kubernetes pulls this only on machines of {}; the form compat everywhere",
            platforms.join(", ")
        )],
        Err(error) => return Err(error.into()),
    })
}

async fn fix(flags: &Fix) -> Result<Done, Error> {
    let image = registry::reference(&flags.name)?;
    let tag = match (&flags.to, image.digest()) {
        (Some(tag), _) => tag.clone(),
        (None, None) => image.tag().unwrap_or("latest").to_owned(),
        (None, Some(_)) => {
            return Err(Error::NoTag {
                name: flags.name.clone(),
            });
        }
    };
    let to = registry::reference(&format!("{}/{}:{tag}", image.registry(), image.repository()))?;
    let operation = if flags.dry_run {
        RegistryOperation::Pull
    } else {
        RegistryOperation::Push
    };
    let registry = Registry::connect(image, &flags.registry, operation).await?;
    let remote = Arc::new(Remote::open(registry).await?);
    let found = fix::form(remote.bytes(), &remote.media_type)?;
    let fix::Form::WasmOnly { manifest } = found else {
        return Ok(nothing_to_fix(&remote, &found));
    };
    let (blobs, listed) = (Arc::clone(&remote), manifest.clone());
    let read = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let manifest = blob::document(&*blobs, &listed)?;
        let config = blob::document(
            &*blobs,
            &crate::image::config_digest(&manifest).map_err(bundle::Error::from)?,
        )?;
        Ok((manifest, config))
    });
    let (manifest_bytes, config) = match read.await {
        Ok(read) => read?,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    };
    let plan = fix::plan(remote.bytes(), &remote.media_type, &manifest_bytes, &config)?;
    if !flags.dry_run {
        pushed(&remote, &plan, &to, flags.json).await?;
    }
    Ok(fixed(&plan, &to, &manifest, flags.dry_run))
}

fn nothing_to_fix(remote: &Remote, found: &fix::Form) -> Done {
    let why = match found {
        fix::Form::Pulled { why } => why.as_str(),
        fix::Form::WasmOnly { .. } => "",
    };
    Done {
        digest: remote.digest().to_owned(),
        fixed: Some(false),
        media_type: remote.media_type.clone(),
        says: vec![format!("there is nothing to fix: {why}")],
        reference: Some(pulled_by(&remote.registry().image, remote.digest())),
        size_bytes: remote.bytes().len() as u64,
        ..Done::default()
    }
}

/// Configs first, then what names them. Layers are there already.
async fn pushed(remote: &Remote, plan: &fix::Push, to: &Reference, is_quiet: bool) -> Result<(), Error> {
    let item = |document: &recipe::Document, is_blob: bool| Item {
        digest: document.digest(),
        document: (!is_blob).then(|| document.bytes.clone()),
        media_type: document.media_type.to_string(),
        size_bytes: document.bytes.len() as u64,
    };
    let configs = plan.configs.iter().map(|document| item(document, true));
    let manifests = plan
        .manifests
        .iter()
        .chain([&plan.index])
        .map(|document| item(document, false));
    let items: Vec<_> = configs.chain(manifests).collect();
    let blobs: Arc<dyn Blobs + Send + Sync> = Arc::new(bundle::InMemory::new(&plan.configs));
    let registry = remote.registry();
    registry
        .push(to, &blobs, &items, &[], &Progress::new(is_quiet))
        .await?;
    Ok(())
}

fn fixed(plan: &fix::Push, to: &Reference, manifest: &str, is_dry: bool) -> Done {
    let digest = plan.index.digest();
    let reference = pulled_by(to, &digest);
    let did = if is_dry { "would point" } else { "points" };
    Done {
        fixed: Some(true),
        media_type: plan.index.media_type.to_string(),
        platforms: platforms(&[Item {
            digest: digest.clone(),
            document: Some(plan.index.bytes.clone()),
            media_type: plan.index.media_type.to_string(),
            size_bytes: 0,
        }]),
        says: vec![
            format!(
                "{} {did} to {digest}, which lists linux/amd64 and linux/arm64 beside {manifest}",
                to.whole()
            ),
            format!("no layer {}", if is_dry { "would be sent" } else { "was sent" }),
        ],
        reference: Some(reference),
        size_bytes: plan.index.bytes.len() as u64,
        digest,
        ..Done::default()
    }
}

/// Like `podwasm inspect`, with a registry in the place of containerd.
async fn inspect(flags: InspectImage) -> ExitCode {
    let is_here = Path::new(&flags.target).exists() || flags.target.starts_with(['/', '.']);
    let remote = if is_here {
        Ok(None)
    } else {
        remote(&flags).await.map(Some)
    };
    let (name, as_json) = (flags.target.clone(), flags.json);
    match remote {
        Ok(remote) => inspect::run_with(of_target(flags), remote).await,
        Err(error) => inspect::tell_unreadable(&name, &with_causes(&error), as_json),
    }
}

async fn remote(flags: &InspectImage) -> Result<inspect::Remote, Error> {
    let image = registry::reference(&flags.target)?;
    let registry = Registry::connect(image, &flags.registry, RegistryOperation::Pull).await?;
    let remote = Remote::open(registry).await?;
    let target = documents::Target {
        digest: remote.digest().to_owned(),
        media_type: remote.media_type.clone(),
    };
    Ok(inspect::Remote {
        blobs: Box::new(remote),
        target,
    })
}

fn of_target(flags: InspectImage) -> Inspect {
    use clap::Parser as _;
    let command = crate::flags::Flags::parse_from(["podwasm", "inspect", "target"]).command;
    let crate::flags::Command::Inspect(defaults) = command else {
        unreachable!("that is its name")
    };
    Inspect {
        target: flags.target,
        json: flags.json,
        command: flags.command,
        r#ref: flags.r#ref,
        ..defaults
    }
}

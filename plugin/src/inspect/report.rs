//! What was found, as it is told: the keys of the JSON output, and the verdict.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use serde::Serialize;

use super::documents::{Image, Layer, Listed};
use super::imports::{Import, Imports, Provider};
use crate::compiled::{Compiled, Runs};
use crate::decide::Decision;
use crate::facts::{Defect, Entrypoint, Limits};
use crate::image::{self as images, wasm_only_index_fixes};
use crate::plan::{CPU_PERIOD_MICROSECONDS, Plan};
use podwasm_engine::settings::PAGE_BYTES;

/// All that is told of a target.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked about.
    pub target: String,
    /// Where it was found.
    pub source: Source,
    /// The image, unless it is a file.
    pub image: Option<ImageReport>,
    /// What the container would start.
    pub entrypoint: EntrypointReport,
    /// What that is, where it could be taken out.
    pub program: Option<ProgramReport>,
    /// What podwasm would do.
    pub decision: Option<DecisionReport>,
    /// What this node lacks.
    pub missing: Vec<String>,
    /// What else a reader should know.
    pub notes: Vec<String>,
    /// The outcome.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

/// Where a target was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An OCI image layout.
    Archive,
    /// containerd's images.
    Containerd,
    /// A file.
    File,
    /// A registry.
    Registry,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It would be started, and end at once: a module that lacks an import, a program that is not there.
    Fails,
    /// It would run as it is; podwasm leaves it alone.
    Native,
    /// The pod has to name a command.
    NoCommand,
    /// Kubernetes would not pull it.
    NotPulled,
    /// podwasm would refuse it.
    Refused,
    /// It would run as Wasm.
    Wasm,
}

impl Verdict {
    /// Whether a container of it would run.
    pub fn runs(self) -> bool {
        matches!(self, Self::Native | Self::Wasm)
    }
}

/// The forms in which modules come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// An index without anything for this machine.
    ForeignIndex,
    /// An image with files, for Linux.
    LinuxImage,
    /// An artifact that is not about Wasm, or an image for another system.
    Other,
    /// An OCI Wasm artifact.
    WasmArtifact,
    /// An image with files, whose platform or annotation says Wasm.
    WasmImage,
    /// An index that holds only Wasm platforms.
    WasmOnlyIndex,
}

/// An image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    /// Its form.
    pub form: Form,
    /// What its name stands for.
    pub digest: String,
    /// The type of that.
    pub media_type: String,
    /// The manifest that was looked at.
    pub manifest: String,
    /// The type of its config.
    pub config_media_type: String,
    /// `os/architecture` of its config, empty where that says nothing.
    pub platform: String,
    /// All manifests of the index, if it is one.
    pub index: Option<Vec<Listed>>,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// The layers' sizes together, as they are stored.
    pub size_bytes: u64,
    /// Whether Kubernetes would pull it.
    pub pulled: bool,
    /// What to do if not.
    pub fix: Option<String>,
    /// The same, one by one.
    #[serde(skip)]
    pub fixes: Vec<String>,
}

/// What a container would start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EntrypointReport {
    /// The command's words.
    pub command: Vec<String>,
    /// Who says so.
    pub from: CommandSource,
    /// Where it was looked for, in this order.
    pub searched: Vec<String>,
    /// Where it was found, free of links; for an artifact, where the engine goes.
    pub path: Option<String>,
}

/// Who names the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandSource {
    /// `--command`.
    Flag,
    /// The file itself, as if it were the entrypoint of an image.
    File,
    /// The image's config.
    Image,
    /// Nobody.
    #[default]
    Nobody,
}

/// A program or module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramReport {
    /// What its bytes say it is.
    pub kind: &'static str,
    /// Its size in bytes.
    pub size_bytes: Option<u64>,
    /// The hash of its bytes, in hexadecimal.
    pub sha256: Option<String>,
    /// What a module needs and offers.
    pub module: Option<ModuleReport>,
}

/// What a module needs and offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleReport {
    /// What it imports, by namespace.
    pub imports: Vec<Import>,
    /// Whether it opens sockets.
    pub sockets: bool,
    /// The memory it has from the start.
    pub minimum_memory_bytes: u64,
    /// Whether it exports `_start`.
    pub exports_start: bool,
}

/// What podwasm would do.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionReport {
    /// Who runs the container, `none` where it is left alone, or `refused`.
    pub handler: &'static str,
    /// The rule, or the refusal as the pod's events show it.
    pub why: String,
    /// The refusal's label in podwasm's metrics.
    pub refusal: Option<&'static str>,
    /// The memory limit that the container would get.
    pub added_memory_bytes: Option<u64>,
    /// The CPU limit that it would get, in thousandths of a core.
    pub added_cpu_millis: Option<u64>,
    /// What the engine is told beyond its defaults.
    pub settings: Vec<String>,
    /// What it would run now: `fast` or `optimised` native code, `waiting` for that, or `interpreted`.
    pub tier: Option<&'static str>,
    /// Why there is no native code, if there is none and none is coming.
    pub tier_reason: Option<String>,
}

/// All that a report is made of.
pub struct Findings<'a> {
    pub compiled: Option<&'a Compiled>,
    pub decision: Option<&'a Decision>,
    pub entrypoint: EntrypointReport,
    pub found: Option<&'a Entrypoint>,
    pub image: Option<&'a Image>,
    pub imports: Imports,
    /// Whether what podwasm leaves alone may be run as Wasm by something else.
    pub left_to_others: bool,
    pub missing: Vec<String>,
    pub notes: Vec<String>,
    /// Size and hash of what stands at the entrypoint.
    pub program: Option<(u64, String)>,
    pub source: Source,
    pub target: &'a str,
}

/// Draws the conclusion.
pub fn report(findings: Findings<'_>) -> Report {
    let image = findings
        .image
        .map(|image| image_report(image, repository(&findings)));
    let program = findings
        .found
        .and_then(|found| program(found, findings.program.clone(), &findings.imports));
    let (verdict, reason) = verdict(&findings, image.as_ref());
    let mut entrypoint = findings.entrypoint;
    entrypoint.path = findings.found.and_then(path);
    Report {
        target: findings.target.to_owned(),
        source: findings.source,
        image,
        entrypoint,
        program,
        decision: findings.decision.map(|made| decision(made, findings.compiled)),
        missing: findings.missing,
        notes: findings.notes,
        verdict,
        reason,
    }
}

/// What an image's name has before its tag and digest. Only a name in containerd or in a registry has one.
fn repository<'a>(findings: &Findings<'a>) -> Option<&'a str> {
    match findings.source {
        Source::Archive | Source::File => None,
        Source::Containerd | Source::Registry => Some(images::repository(findings.target)),
    }
}

fn image_report(image: &Image, repository: Option<&str>) -> ImageReport {
    let form = form(image);
    let pulled = !matches!(form, Form::ForeignIndex | Form::WasmOnlyIndex);
    let fixes = match form {
        Form::WasmOnlyIndex => wasm_only_index_fixes(repository, &image.manifest).to_vec(),
        _ => Vec::new(),
    };
    ImageReport {
        form,
        digest: image.target.digest.clone(),
        media_type: image.target.media_type.clone(),
        manifest: image.manifest.clone(),
        config_media_type: image.config_type.clone(),
        platform: image.facts.platform.clone(),
        index: image.listed.clone(),
        size_bytes: image
            .layers
            .iter()
            .fold(0, |size: u64, layer| size.saturating_add(layer.size_bytes)),
        layers: image.layers.clone(),
        pulled,
        fix: (!fixes.is_empty()).then(|| fixes.join("; or ")),
        fixes,
    }
}

fn form(image: &Image) -> Form {
    if let Some(listed) = &image.listed
        && !listed.iter().any(|entry| entry.for_this_machine)
    {
        let mut images = listed.iter().filter(|entry| !entry.is_attestation()).peekable();
        let any = images.peek().is_some();
        let wasm = images.all(|entry| entry.platform.as_deref().is_some_and(is_wasm_platform));
        return if any && wasm {
            Form::WasmOnlyIndex
        } else {
            Form::ForeignIndex
        };
    }
    let linux = image.facts.platform.starts_with("linux/");
    match image.facts.says_wasm() {
        _ if image.facts.artifact.is_some() => Form::WasmArtifact,
        Some(_) => Form::WasmImage,
        None if linux && image.has_files() => Form::LinuxImage,
        None => Form::Other,
    }
}

fn is_wasm_platform(platform: &str) -> bool {
    let (os, architecture) = platform.split_once('/').unwrap_or((platform, ""));
    os.starts_with("wasi") || architecture.starts_with("wasm")
}

fn program(found: &Entrypoint, bytes: Option<(u64, String)>, imports: &Imports) -> Option<ProgramReport> {
    let kind = match found {
        Entrypoint::Missing | Entrypoint::Mounted { .. } => return None,
        Entrypoint::Module { .. } => "module",
        Entrypoint::Native { .. } => "native",
        Entrypoint::Unusable { defect, .. } => match defect {
            Defect::Ambiguous { .. } => "ambiguous",
            Defect::Component => "component",
            Defect::Empty => "empty",
            Defect::Malformed { .. } => "malformed",
            Defect::NotAFile { .. } => "not_a_file",
            Defect::NotAProgram => "unknown",
            Defect::TooLarge { .. } => "too_large",
        },
    };
    let (size_bytes, sha256) = bytes.unzip();
    let (size_bytes, sha256, module) = match found {
        Entrypoint::Module { module, .. } => {
            let report = ModuleReport {
                imports: imports.namespaces.clone(),
                sockets: imports.sockets,
                minimum_memory_bytes: module.outline.minimum_pages.saturating_mul(PAGE_BYTES),
                exports_start: module.outline.is_command,
            };
            (Some(module.size), Some(module.digest.clone()), Some(report))
        }
        _ => (size_bytes, sha256, None),
    };
    Some(ProgramReport {
        kind,
        size_bytes,
        sha256,
        module,
    })
}

fn path(found: &Entrypoint) -> Option<String> {
    match found {
        Entrypoint::Missing => None,
        Entrypoint::Module { cover, .. } => Some(cover.display().to_string()),
        Entrypoint::Mounted { destination } => Some(destination.display().to_string()),
        Entrypoint::Native { path } => Some(path.display().to_string()),
        Entrypoint::Unusable { path, .. } => Some(path.clone()),
    }
}

fn decision(decision: &Decision, compiled: Option<&Compiled>) -> DecisionReport {
    let (handler, why, added, settings) = match decision {
        Decision::Crun { added, why } => ("crun", why, *added, String::new()),
        Decision::Engine { plan, why, .. } => ("engine", why, plan.added, plan.engine.to_string()),
        Decision::Native { why } => ("none", why, Limits::default(), String::new()),
        Decision::Refuse { reason, .. } => ("refused", reason, Limits::default(), String::new()),
        Decision::Runtime { added, why } => ("runtime", why, *added, String::new()),
    };
    let runs = match decision {
        Decision::Engine { plan, .. } => Some(plan.runs),
        _ => None,
    };
    let refusal = match decision {
        Decision::Refuse { kind, .. } => Some(kind.as_str()),
        _ => None,
    };
    DecisionReport {
        handler,
        why: why.clone(),
        refusal,
        added_memory_bytes: added.memory,
        added_cpu_millis: added
            .cpu_quota
            .map(|quota| quota.saturating_mul(1000) / CPU_PERIOD_MICROSECONDS),
        settings: settings.lines().map(str::to_owned).collect(),
        tier: runs.map(Runs::as_str),
        tier_reason: match compiled {
            Some(Compiled::Failed { why } | Compiled::Off { why }) if runs == Some(Runs::Interpreted) => {
                Some(why.clone())
            }
            _ => None,
        },
    }
}

/// The first thing that a pod would meet on its way.
fn verdict(findings: &Findings<'_>, image: Option<&ImageReport>) -> (Verdict, String) {
    if let Some(image) = image.filter(|image| !image.pulled) {
        return (Verdict::NotPulled, not_pulled(image));
    }
    let (Some(found), Some(decision)) = (findings.found, findings.decision) else {
        return (
            Verdict::NoCommand,
            "the image names no command, so the pod has to".to_owned(),
        );
    };
    if findings.entrypoint.from == CommandSource::Nobody {
        let reason = "the image names no command, so the pod has to; any path or name will do";
        return (Verdict::NoCommand, reason.to_owned());
    }
    match decision {
        Decision::Crun { why, .. } | Decision::Runtime { why, .. } => (Verdict::Wasm, why.clone()),
        Decision::Engine { plan, why, .. } => match cannot_start(found, &findings.imports, plan) {
            Some(reason) => (Verdict::Fails, reason),
            None => (Verdict::Wasm, why.clone()),
        },
        Decision::Native { why } if findings.left_to_others => (Verdict::Native, why.clone()),
        Decision::Native { why } => left_alone(found, &findings.entrypoint.command, why),
        Decision::Refuse { reason, .. } => (Verdict::Refused, reason.clone()),
    }
}

fn not_pulled(image: &ImageReport) -> String {
    let listed = image
        .index
        .iter()
        .flatten()
        .filter(|entry| !entry.is_attestation());
    let platforms: Vec<_> = listed
        .map(|entry| entry.platform.as_deref().unwrap_or("no platform"))
        .take(10)
        .collect();
    let only = match platforms.as_slice() {
        [] => "holds no image".to_owned(),
        platforms => format!("lists only {}", platforms.join(", ")),
    };
    format!(
        "the index {only}, so pulling it ends with \"{}\"",
        images::NOT_PULLED
    )
}

/// What is neither program nor module is left to the runtime, which cannot run it either.
fn left_alone(found: &Entrypoint, command: &[String], why: &str) -> (Verdict, String) {
    let program = command.first().map(String::as_str).unwrap_or_default();
    match found {
        Entrypoint::Missing => (
            Verdict::Fails,
            format!("{why}, and there is no '{program}' in the image for the runtime to start"),
        ),
        Entrypoint::Unusable { path, .. } => (
            Verdict::Fails,
            format!("{why}, and {path} is no program that the runtime could start"),
        ),
        Entrypoint::Module { .. } => (
            Verdict::Fails,
            format!("{why}, so the runtime starts it, and the kernel cannot"),
        ),
        Entrypoint::Mounted { .. } | Entrypoint::Native { .. } => (Verdict::Native, why.to_owned()),
    }
}

/// Why the engine would end with 126 instead of running it.
fn cannot_start(found: &Entrypoint, imports: &Imports, plan: &Plan) -> Option<String> {
    let Entrypoint::Module { module, .. } = found else {
        return None;
    };
    if !module.outline.is_command {
        return Some("it exports no function _start, so it is a library and not a program".to_owned());
    }
    imports
        .namespaces
        .iter()
        .find_map(|import| lacks(import, &plan.engine.plugins))
}

/// A plugin may bring namespaces that are not known here.
fn lacks(import: &Import, plugins: &[String]) -> Option<String> {
    let namespace = &import.namespace;
    match &import.provider {
        Provider::Engine => import
            .lacking
            .first()
            .map(|name| format!("it imports {name} from {namespace}, which the engine does not have")),
        Provider::Nobody if plugins.is_empty() => Some(format!(
            "it imports from {namespace}, which the engine does not have"
        )),
        Provider::Plugin(plugin) if !plugins.contains(plugin) => Some(format!(
            "it imports from {namespace}, which the plugin {plugin} has; an annotation has to ask for plugins: [{plugin}]"
        )),
        Provider::Nobody | Provider::Plugin(_) => None,
    }
}

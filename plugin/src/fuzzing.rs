//! What is fuzzed: each function takes any bytes, and panics where a promise is broken.
#![allow(
    clippy::missing_panics_doc,
    reason = "each panics where its promise is broken, and nowhere else"
)]
#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "a path that broke a promise may be no text"
)]

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use nri::api::CreateContainerRequest;
use prost::Message as _;

use crate::annotation::{self, Limit};
use crate::cache::record::{About, Attempt};
use crate::compiled::{Compiled, Tier};
use crate::decide::{self, Decision};
use crate::entrypoint::{self, Search};
use crate::facts::{Entrypoint, Facts, Runtime};
use crate::image::{self, ImageFacts};
use crate::inspect::archive::{self, Archive};
use crate::inspect::blob::{self, Blobs as _, Bounded};
use crate::inspect::tarball::{self, Entry, Kind};
use crate::inspect::tree::{self, Tree};
use crate::inspect::{documents, imports};
use crate::layers::{self, Layers, Node};
use crate::module::{self, ReadAt as _};
use crate::policy::Policy;
use crate::quantity::Quantity;
use crate::store::Module;
use crate::{adjust, plan};

/// Far more than any input unpacks to that is not a bomb.
const MAX_UNPACKED_BYTES: u64 = 1 << 20;

/// A pod's annotations: what is accepted is bounded, and more than one reading gives the same.
pub fn annotations(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (of_pod, of_container) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let annotations = HashMap::from([
        (format!("{}/pod", annotation::DOMAIN), of_pod.to_owned()),
        (
            format!("{}/container.c", annotation::DOMAIN),
            of_container.to_owned(),
        ),
    ]);
    let settings = annotation::settings(&annotations, "c");
    match &settings {
        Ok(settings) => {
            assert!(
                settings
                    .plugins
                    .as_ref()
                    .is_none_or(|plugins| plugins.len() <= 16)
            );
            let again = annotation::settings(&annotations, "c");
            assert_eq!(again.ok().as_ref(), Some(settings));
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains('\n'), "a pod's events have lines: {said:?}");
        }
    }
}

/// A layout's archive: nothing in it leads out, and every file lies within it.
pub fn archive(input: &[u8]) {
    let mut file = tempfile::tempfile().expect("there is room");
    file.write_all(input).expect("there is room");
    let is_archive = archive::is_archive(&file);
    let Ok(opened) = Archive::open(Path::new("/nonexistent"), &file) else {
        return;
    };
    assert!(is_archive, "what can be opened is one");
    let Archive::Tar { files, .. } = &opened else {
        panic!("a file is no folder");
    };
    for (path, (at, size)) in files {
        assert!(at + size <= input.len() as u64, "{path:?} is cut off");
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        assert!(is_plain, "{path:?} leads elsewhere");
    }
    let index = opened.index().expect("it was there");
    if let Ok(target) = documents::of_layout(&index, None) {
        drop(documents::read(&opened, target));
    }
    drop(opened.open(&format!("sha256:{}", "0".repeat(64))));
}

/// A request to create a container: whatever a pod says is decided upon, and what the engine is told is what was planned.
pub fn create(input: &[u8]) {
    let (&chosen, request) = input.split_first().unwrap_or((&0, &[]));
    let Ok(request) = CreateContainerRequest::decode(request) else {
        return;
    };
    let (pod, container) = (
        request.pod.unwrap_or_default(),
        request.container.unwrap_or_default(),
    );
    let annotations: HashMap<_, _> = pod.annotations.clone().into_iter().collect();
    let module = Module {
        digest: "0".repeat(64),
        folder: "/var/lib/podwasm/modules/0".into(),
        outline: module::Outline {
            minimum_pages: u64::from(chosen) << (chosen % 32),
            ..module::Outline::default()
        },
        size: u64::from(chosen) << (chosen % 40),
    };
    let cover = match entrypoint::search(
        container.args.first().map_or("", String::as_str),
        &container.env,
        Path::new("/"),
    ) {
        Search::Path(path) => path,
        Search::Name {
            in_working_directory, ..
        } => in_working_directory,
    };
    let facts = Facts {
        compiled: match chosen % 3 {
            0 => Compiled::Off { why: String::new() },
            1 => Compiled::Coming {
                build: "0123456789abcdef".to_owned(),
            },
            _ => Compiled::Ready {
                bytes: 1 << 20,
                build: "0123456789abcdef".to_owned(),
                tier: Tier::Fast,
            },
        },
        crun_wasm: None,
        entrypoint: Entrypoint::Module { module, cover },
        env: container.env.clone(),
        image: Some(ImageFacts::default()),
        limits: adjust::limits(&container),
        mounts: adjust::mounts(&container),
        namespace: pod.namespace.clone(),
        program: container.args.first().cloned().unwrap_or_default(),
        runtime: Runtime::Oci {
            program: String::new(),
        },
        settings: annotation::settings(&annotations, &container.name).map_err(|error| error.to_string()),
        wanted_by_crun: adjust::wanted_by_crun(&pod, &container),
    };
    let policy = Policy {
        plugins: vec!["wasi_nn".to_owned()],
        ..Policy::default()
    };
    let Decision::Engine {
        cover, module, plan, ..
    } = decide::decide(&facts, &policy)
    else {
        return;
    };
    let told = plan.engine.to_string();
    assert_eq!(told.parse().as_ref(), Ok(&plan.engine), "{told:?}");
    assert!(
        plan.engine
            .plugins
            .iter()
            .all(|name| policy.plugins.contains(name))
    );
    assert!(plan.engine.drain <= policy.max_drain && plan.engine.wait <= policy.max_wait);
    assert!(plan.added.cpu_quota.is_none() || facts.limits.cpu_quota.is_none());
    assert!(plan.added.memory.is_none() || facts.limits.memory.is_none());
    let bundle = adjust::Bundle {
        folder: "/opt/podwasm/engine".into(),
        plugins: "/opt/podwasm/plugins".into(),
        version: "v".into(),
    };
    let adjustment = adjust::engine(&bundle, &module, &cover, &plan, &container);
    for mount in adjustment.mounts.iter().filter(|mount| !mount.source.is_empty()) {
        let ours = ["/opt/podwasm/", "/var/lib/podwasm/modules/"];
        assert!(
            ours.iter().any(|folder| mount.source.starts_with(folder)),
            "{mount:?}"
        );
        assert!(mount.options.iter().any(|option| option == "ro"), "{mount:?}");
    }
}

/// An index, a manifest or a config of a layout, in memory.
struct InMemory(HashMap<String, Vec<u8>>);

impl blob::Blobs for InMemory {
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, blob::Error> {
        let blob = self.0.get(digest).ok_or_else(|| blob::Error::Missing {
            digest: digest.to_owned(),
        })?;
        Ok(Box::new(blob.as_slice()))
    }
}

/// Documents of an image, one in each line, that may name each other by `{NUMBER}`: they lead to an image, or to an error.
pub fn documents(input: &[u8]) {
    use sha2::Digest as _;
    let text = String::from_utf8_lossy(input);
    let mut blobs = InMemory(HashMap::new());
    let mut digests: Vec<String> = Vec::new();
    for line in text.lines().take(9) {
        let mut document = line.to_owned();
        for (number, digest) in digests.iter().enumerate() {
            document = document.replace(&format!("{{{number}}}"), digest);
        }
        let digest = format!("sha256:{:x}", sha2::Sha256::digest(&document));
        blobs.0.insert(digest.clone(), document.into_bytes());
        digests.push(digest);
    }
    let Some(last) = digests.last() else {
        return;
    };
    let Ok(target) = documents::of_layout(&blobs.0[last], None) else {
        return;
    };
    if let Ok(image) = documents::read(&blobs, target) {
        assert!(image.layers.len() <= 512);
        assert!(!image.has_files() || image.layers.len() == image.diff_ids.len());
        assert!(image.facts.working_directory.is_absolute());
        image.chain_id();
    }
}

/// Where a program may stand: only at absolute paths.
pub fn entrypoint(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let program = lines.next().unwrap_or_default();
    let working_directory = Path::new("/").join(lines.next().unwrap_or_default());
    let env: Vec<_> = lines.map(str::to_owned).collect();
    entrypoint::is_named_as_wasm(program);
    match entrypoint::search(program, &env, &working_directory) {
        Search::Path(path) => assert!(path.is_absolute(), "{path:?}"),
        Search::Name {
            on_path,
            in_working_directory,
        } => {
            assert!(on_path.iter().all(|path| path.is_absolute()), "{on_path:?}");
            assert!(in_working_directory.is_absolute());
        }
    }
}

/// One document, read as whatever it could be.
pub fn image(input: &[u8]) {
    let split = input
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(input.len());
    let (manifest, config) = (&input[..split], input.get(split + 1..).unwrap_or(b"{}"));
    drop(image::manifests(manifest));
    drop(image::config_digest(manifest));
    drop(documents::of_layout(manifest, Some("latest")));
    if let Ok(facts) = image::facts(manifest, config) {
        assert!(facts.working_directory.is_absolute());
        assert!(facts.artifact.is_none() || facts.says_wasm().is_some());
    }
}

/// A layer's archive: its entries make a tree in which every path ends somewhere.
pub fn layer(input: &[u8]) {
    let mut tree = Tree::default();
    let mut paths = vec![PathBuf::from("/a"), PathBuf::from("../b/./c")];
    let halves = input.split_at(input.len() / 1024 * 512);
    for (layer, archive) in [halves.0, halves.1].into_iter().enumerate() {
        let walked = tarball::walk(archive, |number, entry, content| {
            paths.push(entry.path.clone());
            let read = io::copy(content, &mut io::sink())?;
            if let Kind::File { size, .. } = entry.kind {
                assert!(read <= size);
            }
            tree.add(layer, number, &entry).map_err(io::Error::other)
        });
        drop(walked);
    }
    for path in &paths {
        if let Ok((end, _)) = tree.resolve(path) {
            assert!(end.is_absolute());
        }
    }
}

/// A program's bytes: what the validator takes for a module is one here, and what is one here has that header.
pub fn module(input: &[u8]) {
    let kind = module::kind(input, input.len() as u64).expect("memory can be read");
    let is_core = matches!(kind, module::Kind::CoreModule(_));
    let is_valid = wasmparser::Validator::new().validate_all(input).is_ok();
    let is_component = matches!(kind, module::Kind::Component);
    assert!(!is_valid || is_core || is_component, "{kind:?}");
    if is_core {
        assert!(podwasm_engine::header::check_header(input).is_ok());
        let imports = imports::imports(input);
        assert!(imports.namespaces.iter().all(|import| import.functions > 0));
    }
    let mut byte = [0];
    assert_eq!(input.read_at(&mut byte, u64::MAX).ok(), Some(0));
}

/// The node's policy.
pub fn policy(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Policy::parse(&text) {
        Ok(policy) => {
            assert!(policy.compile.fast.nice <= 19 && policy.compile.optimised.nice <= 19);
            let is_plain = |name: &String| !name.is_empty() && !name.contains(['/', '.', '\n']);
            assert!(policy.plugins.iter().all(is_plain));
            let limits = plan::limits(
                &annotation::Settings::default(),
                &policy,
                &crate::facts::Limits::default(),
                1 << 40,
            );
            assert!(limits.memory.is_none_or(|memory| memory >= 1 << 40));
            assert!(matches!(policy.default_cpu, Limit::None) || limits.cpu_quota >= Some(1000));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Quantities: near what a floating-point number makes of the same text, and never below it.
pub fn quantity(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(quantity) = text.parse::<Quantity>() else {
        return;
    };
    assert!(u128::from(quantity.to_thousandths()) >= u128::from(quantity.to_units().saturating_sub(1)));
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "Ki" => 1024.0,
        "M" => 1e6,
        "Mi" => 1_048_576.0,
        _ => return,
    };
    let number: f64 = if number == "." {
        return;
    } else {
        number.parse().expect("it was a number")
    };
    #[allow(clippy::cast_precision_loss, reason = "near is near enough")]
    let (expected, found) = (number * factor, quantity.to_thousandths() as f64 / 1000.0);
    if expected < 1e15 {
        assert!(
            found >= expected * (1.0 - 1e-12) && found <= expected * (1.0 + 1e-12) + 0.001,
            "{text}: {found} instead of {expected}"
        );
    }
}

/// Records beside a module: what is read is written again, and means the same.
pub fn record(input: &[u8]) {
    if let Ok(attempt) = serde_json::from_slice::<Attempt>(input) {
        let text = serde_json::to_string(&attempt).expect("it was JSON");
        let again: Attempt = serde_json::from_str(&text).expect("it was written here");
        assert_eq!(again, attempt);
    }
    if let Ok(about) = serde_json::from_slice::<About>(input) {
        let text = serde_json::to_string(&about).expect("it was JSON");
        assert_eq!(serde_json::from_str::<About>(&text).ok(), Some(about));
    }
}

/// A compressed layer: it unpacks, or fails, within bounds.
pub fn unpack(input: &[u8]) {
    let left = Cell::new(MAX_UNPACKED_BYTES);
    let unpacked = blob::unpacked(input).expect("memory can be read");
    let copied = io::copy(&mut Bounded::new(unpacked, &left), &mut io::sink());
    if let Ok(bytes) = copied {
        assert_eq!(bytes, MAX_UNPACKED_BYTES - left.get());
    }
}

/// What stands at the end of a path, as far as different views of the same layers have to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// A directory.
    Directory,
    /// A file with this content.
    File(Vec<u8>),
    /// Too many links.
    Loop,
    /// Nothing.
    Missing,
    /// A FIFO, socket or device.
    Special,
}

/// What a layer has at a path.
#[derive(Clone, Debug)]
pub enum Put {
    /// A directory.
    Directory,
    /// A file with this content.
    File(Vec<u8>),
    /// A symbolic link.
    Link(PathBuf),
    /// A FIFO.
    Special,
}

/// Looks a path up in layers that are folders, topmost first, as a node does.
///
/// # Panics
///
/// If a layer cannot be looked at.
pub fn on_disk(layers: &[PathBuf], path: &Path) -> (PathBuf, Stands) {
    let layers = Layers::open(layers, Vec::new()).expect("layers are there");
    match layers.resolve(path) {
        Err(layers::Error::Links { .. }) => (PathBuf::new(), Stands::Loop),
        Err(error) => panic!("{path:?}: {error}"),
        Ok(resolved) => {
            let stands = match resolved.node {
                Node::Directory => Stands::Directory,
                Node::File { mut file, size, .. } => {
                    let mut content = Vec::new();
                    file.read_to_end(&mut content).expect("it is open");
                    assert_eq!(content.len() as u64, size);
                    Stands::File(content)
                }
                Node::Missing => Stands::Missing,
                Node::Mounted { .. } => panic!("there are no mounts"),
                Node::Special { .. } => Stands::Special,
            };
            (resolved.path, stands)
        }
    }
}

/// Looks a path up in layers as archives hold them, the lowest first, as `podwasm inspect` does.
///
/// # Panics
///
/// If a layer is no layer.
pub fn in_archives(layers: &[Vec<(PathBuf, Put)>], path: &Path) -> (PathBuf, Stands) {
    let mut tree = Tree::default();
    for (layer, entries) in layers.iter().enumerate() {
        for (number, (path, put)) in (0..).zip(entries) {
            let kind = match put {
                Put::Directory => Kind::Directory,
                Put::File(content) => Kind::File {
                    executable: false,
                    size: content.len() as u64,
                },
                Put::Link(target) => Kind::Link(target.clone()),
                Put::Special => Kind::Special("FIFO"),
            };
            let path = path.clone();
            tree.add(layer, number, &Entry { kind, path })
                .expect("it is a tree");
        }
    }
    match tree.resolve(path) {
        Err(layers::Error::Links { .. }) => (PathBuf::new(), Stands::Loop),
        Err(error) => panic!("{path:?}: {error}"),
        Ok((end, found)) => {
            let stands = match found {
                tree::Found::Directory => Stands::Directory,
                tree::Found::File { place, .. } => {
                    let at = usize::try_from(place.number).expect("layers are small");
                    match &layers[place.layer][at].1 {
                        Put::File(content) => Stands::File(content.clone()),
                        other => panic!("{other:?} is no file"),
                    }
                }
                tree::Found::Missing => Stands::Missing,
                tree::Found::Special(_) => Stands::Special,
            };
            (end, stands)
        }
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, replay};
    use super::*;

    #[test]
    fn what_is_kept_of_fuzzing_keeps_all_promises() {
        let targets: [(&str, Target); 12] = [
            ("annotations", annotations),
            ("archive", archive),
            ("create", create),
            ("documents", documents),
            ("entrypoint", entrypoint),
            ("image", image),
            ("layer", layer),
            ("module", module),
            ("policy", policy),
            ("quantity", quantity),
            ("record", record),
            ("unpack", unpack),
        ];
        replay(&targets);
    }
}

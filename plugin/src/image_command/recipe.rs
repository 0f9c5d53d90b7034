//! The documents of an image: configs, manifests and index, from what was asked for and what the layer is.
//!
//! The same recipe gives the same bytes: keys are sorted, and the only time is the caller's.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::HashMap;

use oci_spec::image::{
    Config, Descriptor, DescriptorBuilder, Digest, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, PlatformBuilder, RootFsBuilder,
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::flags::{Form, RecipeFlags};

/// What the compat form lists. The architectures that Kubernetes' nodes have; the layer is the same for both.
const LINUX: [(&str, &str); 2] = [("linux", "amd64"), ("linux", "arm64")];
const WASI: (&str, &str) = ("wasi", "wasm");
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const WASM_LAYER: &str = "application/wasm";
const TITLE: &str = "org.opencontainers.image.title";
/// By this, Podman and CRI-O hand an image to crun's Wasm handler where there is one. Only an entrypoint that ends with .wasm
/// or .wat is then taken for a module.
const CRUN_VARIANT: (&str, &str) = ("module.wasm.image/variant", "compat-smart");

/// Something that a form has no place for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an artifact holds the module alone and no {what}; leave {flag} away, or use --form compat")]
pub struct NoPlace {
    flag: &'static str,
    what: &'static str,
}

/// A layer, or the module of an artifact.
#[derive(Clone, Debug)]
pub struct LayerFacts {
    /// Digest of what it unpacks to; for a module the same as its digest.
    pub diff_id: String,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A config, manifest or index.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its type.
    pub media_type: MediaType,
}

/// All documents of an image.
#[derive(Debug)]
pub struct Documents {
    /// In no order.
    pub all: Vec<Document>,
    /// What the image's name stands for.
    pub target: Descriptor,
}

/// Whether the form has a place for all that was asked for.
pub fn check(recipe: &RecipeFlags) -> Result<(), NoPlace> {
    if recipe.form != Form::Artifact {
        return Ok(());
    }
    let given = [
        (recipe.path.is_some(), "--path", "paths"),
        (!recipe.entrypoint.is_empty(), "--entrypoint", "entrypoint"),
        (!recipe.args.is_empty(), "the arguments", "arguments"),
        (!recipe.env.is_empty(), "--env", "environment"),
        (!recipe.label.is_empty(), "--label", "labels"),
        (recipe.user.is_some(), "--user", "user"),
        (recipe.workdir.is_some(), "--workdir", "working directory"),
        (!recipe.file.is_empty(), "--file", "other files"),
    ];
    match given.into_iter().find(|(given, ..)| *given) {
        Some((_, flag, what)) => Err(NoPlace { flag, what }),
        None => Ok(()),
    }
}

/// The documents of an image whose module is at `path` in it, made at the time `created`.
pub fn documents(recipe: &RecipeFlags, path: &str, layer: &LayerFacts, created: &str) -> Documents {
    let mut all = Vec::new();
    let target = match recipe.form {
        Form::Artifact => artifact(&mut all, recipe, path, layer, created),
        Form::Compat => {
            let entries = LINUX.map(|platform| image(&mut all, recipe, path, layer, created, platform));
            index(&mut all, recipe, &entries)
        }
        Form::Wasi => {
            let mut manifest = image(&mut all, recipe, path, layer, created, WASI);
            manifest.set_platform(None);
            manifest
        }
    };
    Documents { all, target }
}

impl Document {
    /// A document with its keys sorted.
    pub fn json(media_type: MediaType, document: &impl Serialize) -> Self {
        let value = serde_json::to_value(document).expect("an OCI document is JSON");
        Self {
            bytes: serde_json::to_vec(&value).expect("a JSON value can be written"),
            media_type,
        }
    }

    /// Its digest.
    pub fn digest(&self) -> String {
        format!("sha256:{:x}", Sha256::digest(&self.bytes))
    }

    /// What others name it by.
    pub fn descriptor(&self) -> Descriptor {
        descriptor(self.media_type.clone(), &self.digest(), self.bytes.len() as u64)
    }
}

/// Names something by its digest, which has to be one.
pub fn descriptor(media_type: MediaType, digest: &str, size_bytes: u64) -> Descriptor {
    DescriptorBuilder::default()
        .media_type(media_type)
        .size(size_bytes)
        .digest(digest.parse::<Digest>().expect("it is a digest"))
        .build()
        .expect("all fields are set")
}

fn keep(all: &mut Vec<Document>, document: Document) -> Descriptor {
    let descriptor = document.descriptor();
    all.push(document);
    descriptor
}

fn image(
    all: &mut Vec<Document>,
    recipe: &RecipeFlags,
    path: &str,
    layer: &LayerFacts,
    created: &str,
    (os, architecture): (&str, &str),
) -> Descriptor {
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids([layer.diff_id.clone()])
        .build()
        .expect("all fields are set");
    let configuration = ImageConfigurationBuilder::default()
        .created(created)
        .os(os)
        .architecture(architecture)
        .config(process(recipe, path))
        .rootfs(rootfs)
        .build()
        .expect("all fields are set");
    let config = keep(all, Document::json(MediaType::ImageConfig, &configuration));
    let layer = descriptor(MediaType::ImageLayerGzip, &layer.digest, layer.size_bytes);
    let mut annotations: HashMap<_, _> = [(CRUN_VARIANT.0.to_owned(), CRUN_VARIANT.1.to_owned())].into();
    annotations.extend(recipe.annotation.iter().cloned());
    let mut named = manifest(all, config, layer, annotations);
    let platform = PlatformBuilder::default()
        .os(os)
        .architecture(architecture)
        .build();
    named.set_platform(Some(platform.expect("all fields are set")));
    named
}

fn process(recipe: &RecipeFlags, path: &str) -> Config {
    let mut process = Config::default();
    let entrypoint = match recipe.entrypoint.as_slice() {
        [] => vec![path.to_owned()],
        words => words.to_vec(),
    };
    process.set_entrypoint(Some(entrypoint));
    if !recipe.args.is_empty() {
        process.set_cmd(Some(recipe.args.clone()));
    }
    if !recipe.env.is_empty() {
        let env = recipe.env.iter().map(|(name, value)| format!("{name}={value}"));
        process.set_env(Some(env.collect()));
    }
    if !recipe.label.is_empty() {
        process.set_labels(Some(recipe.label.iter().cloned().collect()));
    }
    process.set_user(recipe.user.clone());
    process.set_working_dir(recipe.workdir.clone());
    process
}

fn artifact(
    all: &mut Vec<Document>,
    recipe: &RecipeFlags,
    path: &str,
    layer: &LayerFacts,
    created: &str,
) -> Descriptor {
    let config = json!({
        "architecture": "wasm",
        "created": created,
        "layerDigests": [layer.digest],
        "os": "wasip1",
    });
    let config = keep(
        all,
        Document::json(MediaType::Other(WASM_CONFIG.to_owned()), &config),
    );
    let mut module = descriptor(
        MediaType::Other(WASM_LAYER.to_owned()),
        &layer.digest,
        layer.size_bytes,
    );
    let title = path.rsplit('/').next().unwrap_or(path).to_owned();
    module.set_annotations(Some([(TITLE.to_owned(), title)].into()));
    manifest(all, config, module, recipe.annotation.iter().cloned().collect())
}

fn manifest(
    all: &mut Vec<Document>,
    config: Descriptor,
    layer: Descriptor,
    annotations: HashMap<String, String>,
) -> Descriptor {
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer])
        .build()
        .expect("all fields are set");
    manifest.set_annotations((!annotations.is_empty()).then_some(annotations));
    keep(all, Document::json(MediaType::ImageManifest, &manifest))
}

fn index(all: &mut Vec<Document>, recipe: &RecipeFlags, entries: &[Descriptor]) -> Descriptor {
    let mut index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(entries)
        .build()
        .expect("all fields are set");
    let annotations: HashMap<_, _> = recipe.annotation.iter().cloned().collect();
    index.set_annotations((!annotations.is_empty()).then_some(annotations));
    keep(all, Document::json(MediaType::ImageIndex, &index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Command, Flags};
    use crate::image_command::flags::ImageCommand;
    use clap::Parser as _;
    use serde_json::Value;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn recipe(words: &[&str]) -> RecipeFlags {
        let words = ["podwasm", "image", "build", "app.wasm", "-o", "x"]
            .iter()
            .chain(words);
        match Flags::parse_from(words).command {
            Command::Image(image) => match image.command {
                ImageCommand::Build(build) => build.recipe,
                other => unreachable!("{other:?}"),
            },
            other => unreachable!("{other:?}"),
        }
    }

    fn made(words: &[&str]) -> (Value, Vec<Value>, Documents) {
        let layer = LayerFacts {
            diff_id: DIGEST.into(),
            digest: DIGEST.into(),
            size_bytes: 7,
        };
        let documents = documents(&recipe(words), "/app.wasm", &layer, "1970-01-01T00:00:00Z");
        let parsed = |document: &Document| serde_json::from_slice(&document.bytes).unwrap();
        let all: Vec<Value> = documents.all.iter().map(parsed).collect();
        let target = documents.target.digest().to_string();
        let at = documents
            .all
            .iter()
            .position(|document| document.digest() == target)
            .unwrap();
        (all[at].clone(), all, documents)
    }

    #[test]
    fn a_compat_image_is_for_both_architectures_with_one_layer() {
        let words = [
            "--user",
            "7:8",
            "--env",
            "A=1",
            "--label",
            "l=v",
            "--workdir",
            "/w",
            "--",
            "x",
            "y",
        ];
        let (index, all, _) = made(&words);
        assert_eq!(
            index["manifests"][0]["platform"],
            json!({"os": "linux", "architecture": "amd64"})
        );
        assert_eq!(
            index["manifests"][1]["platform"],
            json!({"os": "linux", "architecture": "arm64"})
        );
        let configs: Vec<_> = all
            .iter()
            .filter(|document| document["rootfs"].is_object())
            .collect();
        assert_eq!(configs.len(), 2);
        assert_eq!(
            configs[0]["config"],
            json!({"Cmd": ["x", "y"], "Entrypoint": ["/app.wasm"], "Env": ["A=1"], "Labels": {"l": "v"}, "User": "7:8",
                "WorkingDir": "/w"})
        );
        assert_eq!(
            configs[0]["rootfs"],
            json!({"type": "layers", "diff_ids": [DIGEST]})
        );
        let manifests: Vec<_> = all
            .iter()
            .filter(|document| document["layers"].is_array())
            .collect();
        assert_eq!(manifests[0]["layers"], manifests[1]["layers"]);
        assert_eq!(manifests[0]["annotations"][CRUN_VARIANT.0], CRUN_VARIANT.1);
    }

    #[test]
    fn a_wasi_image_is_one_manifest() {
        let (manifest, all, documents) =
            made(&["--form", "wasi", "--entrypoint", "/app.wasm", "--entrypoint", "s"]);
        assert_eq!(documents.target.media_type(), &MediaType::ImageManifest);
        assert_eq!(documents.target.platform(), &None);
        let config = all.iter().find(|document| document["os"].is_string()).unwrap();
        assert_eq!(
            (&config["os"], &config["architecture"]),
            (&json!("wasi"), &json!("wasm"))
        );
        assert_eq!(config["config"]["Entrypoint"], json!(["/app.wasm", "s"]));
        assert_eq!(
            manifest["layers"][0]["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
    }

    #[test]
    fn an_artifact_is_what_the_guidance_says() {
        let (manifest, all, _) = made(&["--form", "artifact", "--annotation", "k=v"]);
        assert_eq!(manifest["config"]["mediaType"], WASM_CONFIG);
        assert_eq!(manifest["layers"][0]["mediaType"], WASM_LAYER);
        assert_eq!(manifest["layers"][0]["annotations"][TITLE], "app.wasm");
        assert_eq!(manifest["annotations"], json!({"k": "v"}));
        let config = all.iter().find(|document| document["os"].is_string()).unwrap();
        assert_eq!(config["layerDigests"], json!([DIGEST]));
    }

    #[test]
    fn same_recipe_same_digest() {
        let words = [
            "--annotation",
            "b=1",
            "--annotation",
            "a=2",
            "--label",
            "d=3",
            "--label",
            "c=4",
        ];
        let digest = |words: &[&str]| made(words).2.target.digest().to_string();
        for _ in 0..8 {
            assert_eq!(digest(&words), digest(&words));
        }
        assert_ne!(digest(&words), digest(&words[2..]));
    }

    #[test]
    fn an_artifact_has_no_place_for_most_things() {
        for words in [
            &["--env", "A=1"][..],
            &["--user", "1"],
            &["--entrypoint", "x"],
            &["--", "x"],
        ] {
            let words = [&["--form", "artifact"], words].concat();
            let error = check(&recipe(&words)).unwrap_err().to_string();
            assert!(error.contains("--form compat"), "{error}");
        }
        assert_eq!(check(&recipe(&["--form", "wasi", "--env", "A=1"])), Ok(()));
    }
}

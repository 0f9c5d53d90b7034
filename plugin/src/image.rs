//! What an image says of itself: platform, artifact type, working directory.
//!
//! Pure: manifests and configs come as bytes, [`crate::observe`] fetches them. Formats are those of the
//! [OCI image specification](https://github.com/opencontainers/image-spec) and the
//! [Wasm artifact guidance](https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/).
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

/// Config types of Wasm artifacts: the CNCF's, and the older one of `wasm-to-oci`.
const WASM_CONFIGS: [&str; 2] = [
    "application/vnd.wasm.config.v0+json",
    "application/vnd.wasm.config.v1+json",
];
/// Layer types whose blob is the module itself.
const WASM_LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The annotation by which images for crun's Wasm handler say what they are.
const CRUN_VARIANT: &str = "module.wasm.image/variant";
const TITLE: &str = "org.opencontainers.image.title";

/// What containerd says of an index without anything for the node's platform.
pub const NOT_PULLED: &str = "no match for platform in manifest";

/// What to do about an image whose index lists only Wasm platforms, as `docker buildx` makes it with provenance: by its owner without
/// a new build, by its owner with one, or by a pod's author alone. The `repository` is what the image's name has before its tag, the
/// `manifest` is the digest of the index' entry for Wasm.
pub fn wasm_only_index_fixes(repository: Option<&str>, manifest: &str) -> [String; 3] {
    let repository = repository.unwrap_or("NAME");
    [
        format!("podwasm image fix {repository}:TAG lists it for Linux too, in the registry and without copying a layer"),
        "build it with --provenance=false, or with --platform linux/amd64,linux/arm64: a module does not care".to_owned(),
        format!("name in the pod what the index lists, image: {repository}@{manifest}"),
    ]
}

/// What an image's name has before its tag and digest.
pub fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// A document that is not what its type says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image config could not be read.
    #[error("the image's config is malformed")]
    Config(#[source] serde_json::Error),
    /// An index could not be read.
    #[error("the image's index is malformed")]
    Index(#[source] oci_spec::OciSpecError),
    /// A manifest could not be read.
    #[error("the image's manifest is malformed")]
    Manifest(#[source] oci_spec::OciSpecError),
}

/// A layer that is a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmLayer {
    /// The blob's digest, with its algorithm.
    pub digest: String,
    /// The blob's size in bytes.
    pub size: u64,
    /// The file's name, where the artifact tells.
    pub title: Option<String>,
}

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// The layers of a Wasm artifact, which become no files of the root file system.
    pub artifact: Option<Vec<WasmLayer>>,
    /// The value of crun's variant annotation.
    pub crun_variant: Option<String>,
    /// `os/architecture` of the image's config, empty where it says nothing.
    pub platform: String,
    /// Where the image wants to be started.
    pub working_directory: PathBuf,
}

impl ImageFacts {
    /// Why this image should be expected to hold a module, if it should.
    pub fn says_wasm(&self) -> Option<String> {
        if self.artifact.is_some() {
            return Some("the image is an OCI Wasm artifact".to_owned());
        }
        if let Some(variant) = self
            .crun_variant
            .as_deref()
            .filter(|variant| is_wasm_variant(variant))
        {
            return Some(format!("the image carries {CRUN_VARIANT}={variant}"));
        }
        let (os, architecture) = self.platform.split_once('/')?;
        let wasm = architecture.starts_with("wasm") || os.starts_with("wasi");
        wasm.then(|| format!("the image's platform is {}", self.platform))
    }
}

fn is_wasm_variant(variant: &str) -> bool {
    matches!(variant, "compat" | "compat-smart")
}

/// Whether a descriptor of this type is an index, as against a manifest.
pub fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

/// The manifests of an index, those for this machine first, as containerd would choose.
pub fn manifests(index: &[u8]) -> Result<Vec<String>, Error> {
    let index = ImageIndex::from_reader(index).map_err(Error::Index)?;
    let mut manifests: Vec<_> = index.manifests().iter().collect();
    manifests.sort_by_key(|manifest| !is_for_this_machine(manifest));
    Ok(manifests
        .into_iter()
        .map(|manifest| manifest.digest().to_string())
        .collect())
}

fn is_for_this_machine(manifest: &Descriptor) -> bool {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    };
    manifest.platform().as_ref().is_some_and(|platform| {
        platform.os().to_string() == "linux" && platform.architecture().to_string() == architecture
    })
}

/// The digest of a manifest's config.
pub fn config_digest(manifest: &[u8]) -> Result<String, Error> {
    let manifest = ImageManifest::from_reader(manifest).map_err(Error::Manifest)?;
    Ok(manifest.config().digest().to_string())
}

/// The parts of an image config that matter here. Wasm artifacts have configs of other shapes, so
/// nothing is required.
#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(rename = "config")]
    process: Option<Process>,
}

#[derive(Default, Deserialize)]
struct Process {
    #[serde(default, rename = "WorkingDir")]
    working_directory: String,
}

/// Puts a manifest and its config together.
pub fn facts(manifest: &[u8], config: &[u8]) -> Result<ImageFacts, Error> {
    let manifest = ImageManifest::from_reader(manifest).map_err(Error::Manifest)?;
    let config: Config = serde_json::from_slice(config).map_err(Error::Config)?;
    let platform = match (config.os.as_str(), config.architecture.as_str()) {
        ("", "") => String::new(),
        (os, architecture) => format!("{os}/{architecture}"),
    };
    let working_directory = config.process.unwrap_or_default().working_directory;
    Ok(ImageFacts {
        artifact: artifact(&manifest),
        crun_variant: manifest
            .annotations()
            .as_ref()
            .and_then(|annotations| annotations.get(CRUN_VARIANT).cloned()),
        platform,
        working_directory: PathBuf::from("/").join(working_directory),
    })
}

/// An image is an artifact when its config's type says so, or when a layer is a module as it is.
fn artifact(manifest: &ImageManifest) -> Option<Vec<WasmLayer>> {
    let is_wasm = |layer: &&Descriptor| WASM_LAYERS.contains(&layer.media_type().to_string().as_str());
    let layers: Vec<_> = manifest.layers().iter().filter(is_wasm).map(wasm_layer).collect();
    let config = manifest.config().media_type().to_string();
    (!layers.is_empty() || WASM_CONFIGS.contains(&config.as_str())).then_some(layers)
}

fn wasm_layer(layer: &Descriptor) -> WasmLayer {
    let title = |annotations: &HashMap<String, String>| annotations.get(TITLE).cloned();
    WasmLayer {
        digest: layer.digest().to_string(),
        size: layer.size(),
        title: layer.annotations().as_ref().and_then(title),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn manifest(config_type: &str, layer_type: &str) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"{DIGEST}","size":2}},
            "layers":[{{"mediaType":"{layer_type}","digest":"{DIGEST}","size":7,
            "annotations":{{"{TITLE}":"app.wasm"}}}}],"annotations":{{"{CRUN_VARIANT}":"compat-smart"}}}}"#
        )
        .into_bytes()
    }

    fn image(config: &str) -> ImageFacts {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let facts = facts(
            &manifest("application/vnd.oci.image.config.v1+json", layer),
            config.as_bytes(),
        )
        .unwrap();
        ImageFacts {
            crun_variant: None,
            ..facts
        }
    }

    #[test]
    fn platforms_that_say_wasm() {
        let check = |platform: &str, expected: bool| {
            let (os, architecture) = platform.split_once('/').unwrap();
            let facts = image(&format!(r#"{{"os":"{os}","architecture":"{architecture}"}}"#));
            assert_eq!(facts.platform, platform);
            assert_eq!(facts.says_wasm().is_some(), expected, "{platform}");
        };
        for platform in [
            "wasi/wasm",
            "wasi/wasm32",
            "wasip1/wasm",
            "wasip2/wasm",
            "linux/wasm",
        ] {
            check(platform, true);
        }
        check("linux/amd64", false);
        check("linux/arm64", false);
    }

    #[test]
    fn artifacts_of_every_known_type() {
        for config in WASM_CONFIGS {
            for layer in WASM_LAYERS {
                let facts = facts(&manifest(config, layer), b"{}").unwrap();
                let expected = WasmLayer {
                    digest: DIGEST.into(),
                    size: 7,
                    title: Some("app.wasm".into()),
                };
                assert_eq!(facts.artifact, Some(vec![expected]));
                assert_eq!(facts.says_wasm().unwrap(), "the image is an OCI Wasm artifact");
            }
        }
    }

    #[test]
    fn an_artifacts_own_config_may_hold_anything() {
        let config =
            br#"{"created":"2024-01-01","author":"x","architecture":"wasm","os":"wasip1","component":null}"#;
        assert_eq!(
            facts(&manifest(WASM_CONFIGS[0], WASM_LAYERS[0]), config)
                .unwrap()
                .platform,
            "wasip1/wasm"
        );
    }

    #[test]
    fn the_working_directory_is_absolute() {
        let check = |written: &str, expected: &str| {
            let facts = image(&format!(r#"{{"config":{{"WorkingDir":"{written}"}}}}"#));
            assert_eq!(facts.working_directory, PathBuf::from(expected));
        };
        check("", "/");
        check("/srv/app", "/srv/app");
        check("srv", "/srv");
        assert_eq!(image("{}").working_directory, PathBuf::from("/"));
    }

    #[test]
    fn crun_variants_say_wasm() {
        let facts = ImageFacts {
            crun_variant: Some("compat".into()),
            ..ImageFacts::default()
        };
        assert!(facts.says_wasm().unwrap().contains("variant=compat"));
        let facts = ImageFacts {
            crun_variant: Some("other".into()),
            ..ImageFacts::default()
        };
        assert_eq!(facts.says_wasm(), None);
    }

    #[test]
    fn a_repository_is_a_name_without_tag_and_digest() {
        for (name, expected) in [
            ("app", "app"),
            ("app:1", "app"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("localhost:5000/team/app:1", "localhost:5000/team/app"),
            ("ghcr.io/team/app:1@sha256:00", "ghcr.io/team/app"),
        ] {
            assert_eq!(repository(name), expected);
        }
    }

    #[test]
    fn what_to_do_about_an_index_of_wasm_alone_can_be_copied() {
        let [fix, _, pod] = wasm_only_index_fixes(Some("ghcr.io/team/app"), DIGEST);
        assert!(
            fix.starts_with("podwasm image fix ghcr.io/team/app:TAG "),
            "{fix}"
        );
        assert!(
            pod.ends_with(&format!("image: ghcr.io/team/app@{DIGEST}")),
            "{pod}"
        );
    }

    #[test]
    fn malformed_documents_are_errors() {
        assert!(matches!(facts(b"{", b"{}"), Err(Error::Manifest(_))));
        assert!(matches!(
            facts(&manifest("x", "y"), b"[1]"),
            Err(Error::Config(_))
        ));
        assert!(matches!(manifests(b"[]"), Err(Error::Index(_))));
    }

    #[test]
    fn this_machines_manifest_comes_first() {
        let entry = |digit: char, os: &str, architecture: &str| {
            let digest = format!("sha256:{}", digit.to_string().repeat(64));
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":1,
                "platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#
            )
        };
        let entries = [
            entry('a', "wasi", "wasm"),
            entry('b', "linux", "amd64"),
            entry('c', "linux", "arm64"),
        ];
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let first = manifests(index.as_bytes()).unwrap()[0].chars().nth(7).unwrap();
        assert_eq!(first, if cfg!(target_arch = "aarch64") { 'c' } else { 'b' });
    }
}

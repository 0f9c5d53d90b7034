//! An image's documents: which manifest of an index counts, what Kubernetes makes of that, and what the config says to start.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, Platform};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blob::{self, Blobs, document};
use crate::image::{self, ImageFacts, is_index};
use crate::layers::MAX_LAYERS;

/// An index in an index in an index is more than any tool makes.
const MAX_NESTING: usize = 4;
/// By which layouts name their images: the specification's, and containerd's.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// Why an image's documents could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Several images, and nothing says which.
    #[error("it holds several images; choose one with --ref: {}", names.join(", "))]
    Ambiguous {
        /// Their names.
        names: Vec<String>,
    },
    /// A blob could not be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// The config could not be read.
    #[error("the image's config is malformed")]
    Config(#[source] serde_json::Error),
    /// An index without manifests.
    #[error("the index {digest} holds no manifest")]
    Empty {
        /// The index' digest.
        digest: String,
    },
    /// A document is malformed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Config and manifest do not belong together.
    #[error("the manifest has {layers} layers, and the config has {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// More layers than can be mounted.
    #[error("it has {layers} layers, more than the {MAX_LAYERS} that can be mounted")]
    ManyLayers {
        /// So many.
        layers: usize,
    },
    /// Indices in indices without end.
    #[error("its indices are nested more than {MAX_NESTING} deep")]
    Nested,
    /// No image has that name.
    #[error("it holds no image {name:?}; it holds: {}", names.join(", "))]
    NoSuchRef {
        /// The name asked for.
        name: String,
        /// The names there are.
        names: Vec<String>,
    },
}

/// A document by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its digest.
    pub digest: String,
    /// Its type.
    pub media_type: String,
}

/// A layer as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its digest.
    pub digest: String,
    /// Its type.
    pub media_type: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A manifest in an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its digest.
    pub digest: String,
    /// Whether a node of this machine's kind would pull it.
    pub for_this_machine: bool,
    /// Its platform, where the index tells.
    pub platform: Option<String>,
}

impl Listed {
    /// Manifests that tell how an image was built stand beside it under this platform.
    pub fn is_attestation(&self) -> bool {
        self.platform.as_deref() == Some("unknown/unknown")
    }
}

/// What an image's documents say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The config's `Cmd`.
    pub cmd: Vec<String>,
    /// The config's digest.
    pub config_digest: String,
    /// The config's type.
    pub config_type: String,
    /// Digests of the layers as they are unpacked, the lowest first.
    pub diff_ids: Vec<String>,
    /// The config's `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// The config's `Env`.
    pub env: Vec<String>,
    /// What podwasm itself takes from the documents.
    pub facts: ImageFacts,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
    /// What the index lists, if the image's name stands for one.
    pub listed: Option<Vec<Listed>>,
    /// The manifest's digest.
    pub manifest: String,
    /// What the image's name stands for.
    pub target: Target,
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(rename = "config")]
    process: Option<Process>,
    rootfs: Option<RootFs>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Process {
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    env: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// The image of a layout that is meant.
pub fn of_layout(index: &[u8], name: Option<&str>) -> Result<Target, Error> {
    let index = ImageIndex::from_reader(index).map_err(image::Error::Index)?;
    let images = index.manifests();
    let names = || {
        images
            .iter()
            .map(|image| named(image).unwrap_or(image.digest().as_ref()).to_owned())
            .collect()
    };
    if let Some(name) = name {
        let found = images
            .iter()
            .find(|image| named(image) == Some(name) || image.digest().as_ref() == name);
        return found.map(target).ok_or_else(|| Error::NoSuchRef {
            name: name.to_owned(),
            names: names(),
        });
    }
    match images.as_slice() {
        [] => Err(Error::Empty {
            digest: "index.json".to_owned(),
        }),
        [only] => Ok(target(only)),
        _ => Err(Error::Ambiguous { names: names() }),
    }
}

fn named(image: &Descriptor) -> Option<&str> {
    let annotations = image.annotations().as_ref()?;
    NAMES
        .iter()
        .find_map(|name| annotations.get(*name))
        .map(String::as_str)
}

fn target(descriptor: &Descriptor) -> Target {
    Target {
        digest: descriptor.digest().to_string(),
        media_type: descriptor.media_type().to_string(),
    }
}

/// Reads index, manifest and config.
pub fn read(blobs: &dyn Blobs, target: Target) -> Result<Image, Error> {
    let mut listed = None;
    let mut at = target.clone();
    for _ in 0..MAX_NESTING {
        let bytes = document(blobs, &at.digest)?;
        if !is_index(&at.media_type) {
            return image(blobs, target, at.digest, &bytes, listed);
        }
        let index = ImageIndex::from_reader(bytes.as_slice()).map_err(image::Error::Index)?;
        let entries: Vec<_> = index.manifests().iter().map(entry).collect();
        let chosen = choose(&entries).ok_or(Error::Empty { digest: at.digest })?;
        at = self::target(&index.manifests()[chosen]);
        listed.get_or_insert(entries);
    }
    Err(Error::Nested)
}

/// Where nothing would be pulled, what would be if it could.
fn choose(entries: &[Listed]) -> Option<usize> {
    let first = |wanted: &dyn Fn(&Listed) -> bool| entries.iter().position(wanted);
    first(&|entry| entry.for_this_machine)
        .or_else(|| first(&|entry| !entry.is_attestation()))
        .or_else(|| first(&|_| true))
}

fn entry(descriptor: &Descriptor) -> Listed {
    let platform = descriptor.platform().as_ref();
    Listed {
        digest: descriptor.digest().to_string(),
        for_this_machine: platform.is_none_or(is_for_this_machine),
        platform: platform.map(|platform| format!("{}/{}", platform.os(), platform.architecture())),
    }
}

/// As containerd's default matcher says; it takes programs of the machine's 32-bit sibling too.
fn is_for_this_machine(platform: &Platform) -> bool {
    let architectures: &[&str] = match std::env::consts::ARCH {
        "aarch64" => &["arm64", "arm"],
        "x86_64" => &["amd64", "386"],
        other => &[other],
    };
    platform.os().to_string() == "linux"
        && architectures.contains(&platform.architecture().to_string().as_str())
}

fn image(
    blobs: &dyn Blobs,
    target: Target,
    manifest_digest: String,
    bytes: &[u8],
    listed: Option<Vec<Listed>>,
) -> Result<Image, Error> {
    let manifest = ImageManifest::from_reader(bytes).map_err(image::Error::Manifest)?;
    let config_digest = manifest.config().digest().to_string();
    let config_bytes = document(blobs, &config_digest)?;
    let config: Config = serde_json::from_slice(&config_bytes).map_err(Error::Config)?;
    let process = config.process.unwrap_or_default();
    let image = Image {
        cmd: process.cmd.unwrap_or_default(),
        config_digest,
        config_type: manifest.config().media_type().to_string(),
        diff_ids: config
            .rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default(),
        entrypoint: process.entrypoint.unwrap_or_default(),
        env: process.env.unwrap_or_default(),
        facts: image::facts(bytes, &config_bytes)?,
        layers: manifest.layers().iter().map(layer).collect(),
        listed,
        manifest: manifest_digest,
        target,
    };
    match (image.layers.len(), image.diff_ids.len()) {
        (layers, _) if layers > MAX_LAYERS => Err(Error::ManyLayers { layers }),
        (layers, diff_ids) if image.has_files() && layers != diff_ids => {
            Err(Error::Layers { layers, diff_ids })
        }
        _ => Ok(image),
    }
}

fn layer(descriptor: &Descriptor) -> Layer {
    Layer {
        digest: descriptor.digest().to_string(),
        media_type: descriptor.media_type().to_string(),
        size_bytes: descriptor.size(),
    }
}

impl Image {
    /// Whether the layers are archives of files, as against what they are by themselves.
    pub fn has_files(&self) -> bool {
        self.facts.artifact.is_none() && self.layers.iter().all(|layer| layer.media_type.contains(".tar"))
    }

    /// What containerd calls the snapshot of all layers; nothing where there are none.
    pub fn chain_id(&self) -> Option<String> {
        chain_id(&self.diff_ids)
    }
}

fn chain_id(diff_ids: &[String]) -> Option<String> {
    let (lowest, above) = diff_ids.split_first()?;
    Some(above.iter().fold(lowest.clone(), |below, id| {
        format!("sha256:{:x}", Sha256::digest(format!("{below} {id}")))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(platforms: &[&str]) -> Vec<Listed> {
        let entries: Vec<_> = platforms
            .iter()
            .map(|platform| {
                let (os, architecture) = platform.split_once('/').unwrap();
                format!(
                    r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,
                    "digest":"sha256:{:x}","platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#,
                    Sha256::digest(platform)
                )
            })
            .collect();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let index = ImageIndex::from_reader(index.as_bytes()).unwrap();
        index.manifests().iter().map(entry).collect()
    }

    #[test]
    fn what_would_be_pulled_is_chosen() {
        let native = if cfg!(target_arch = "aarch64") {
            "linux/arm64"
        } else {
            "linux/amd64"
        };
        let check = |platforms: &[&str], expected: usize| {
            assert_eq!(choose(&listed(platforms)), Some(expected), "{platforms:?}");
        };
        check(&["wasi/wasm", native, "linux/s390x"], 1);
        check(&["unknown/unknown", "wasi/wasm"], 1);
        check(&["unknown/unknown"], 0);
        assert_eq!(choose(&[]), None);
        assert!(!listed(&["wasi/wasm"])[0].for_this_machine);
    }

    /// An image of three layers, and what containerd calls its snapshots.
    #[test]
    fn chain_ids_are_containerds() {
        let ids = [
            "d8d2266c68dc1730d420b125be05d70610c9845cc9291ad223d42922fa1d6eb5",
            "aea83d50db586f616ea7c202111662f45ecd177e23d3373f66cfb6fd9dda460d",
            "4526c8a8c1029f0e23f8236572f3b9b3ee92ab6e3aeab31620732abc57101c7e",
        ];
        let check = |layers: usize, expected: Option<&str>| {
            let ids: Vec<_> = ids[..layers].iter().map(|id| format!("sha256:{id}")).collect();
            assert_eq!(chain_id(&ids), expected.map(|id| format!("sha256:{id}")));
        };
        check(0, None);
        check(1, Some(ids[0]));
        check(
            2,
            Some("4b750a7101709708563620e442508bb7a5c863e3609d497eb7396709ec41a100"),
        );
        check(
            3,
            Some("fb85f5d5996d7afa0485248ba3a0a3eb3fe2a3d83c3d9b93852b088b3ca957af"),
        );
    }

    #[test]
    fn a_layouts_images_are_told_apart_by_name() {
        let image = |name: &str, digit: char| {
            let digest = digit.to_string().repeat(64);
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:{digest}",
                "annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#
            )
        };
        let index =
            |images: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, images.join(","));
        let (one, two) = (image("one", 'a'), image("two", 'b'));
        let both = index(&[one.clone(), two]);
        assert!(
            of_layout(index(&[one]).as_bytes(), None)
                .unwrap()
                .digest
                .ends_with("aaa")
        );
        assert!(
            of_layout(both.as_bytes(), Some("two"))
                .unwrap()
                .digest
                .ends_with("bbb")
        );
        let error = of_layout(both.as_bytes(), None).unwrap_err().to_string();
        assert!(error.contains("one, two"), "{error}");
        let error = of_layout(both.as_bytes(), Some("three")).unwrap_err().to_string();
        assert!(error.contains("no image \"three\""), "{error}");
        assert!(matches!(of_layout(b"{}", None), Err(Error::Image(_))));
    }
}

//! Images of every form that reaches a node, made in memory and pushed to the node's registry.
//!
//! The same image always has the same digest: times are zero, owners are root, JSON keys are sorted.

mod layer;
mod registry;

use anyhow::Result;
pub use layer::Layer;
use oci_spec::image::{
    Config, Descriptor, DescriptorBuilder, Digest, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, PlatformBuilder, RootFsBuilder,
};
pub(crate) use registry::push;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// The config type of an OCI Wasm artifact.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The layer type that goes with it.
pub const WASM_LAYER: &str = "application/wasm";
/// The config type that `wasm-to-oci` writes.
pub const WASM_TO_OCI_CONFIG: &str = "application/vnd.wasm.config.v1+json";
/// The layer type that `wasm-to-oci` writes.
pub const WASM_TO_OCI_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// A layer that holds a component.
pub const COMPONENT_LAYER: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";

/// Something with a digest: a layer, a config, a manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blob {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: impl ToString, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_string(),
            bytes,
        }
    }

    /// A JSON document with its keys sorted.
    fn json(media_type: impl ToString, document: &impl Serialize) -> Self {
        let value = serde_json::to_value(document).expect("an OCI document is JSON");
        Self::new(
            media_type,
            serde_json::to_vec(&value).expect("a JSON value can be written"),
        )
    }

    /// `sha256:` and the digest in hexadecimal.
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    fn descriptor(&self) -> Descriptor {
        DescriptorBuilder::default()
            .media_type(self.media_type.as_str())
            .size(self.bytes.len() as u64)
            .digest(self.digest().parse::<Digest>().expect("it is a digest"))
            .build()
            .expect("all fields are set")
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A manifest or an index with all it names, as a registry stores it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// The manifest or the index.
    pub manifest: Blob,
    /// The config and the layers of a manifest.
    pub blobs: Vec<Blob>,
    /// The manifests of an index.
    pub children: Vec<Stored>,
}

/// What can be pushed.
pub trait Content {
    /// All of it as a registry stores it.
    fn stored(&self) -> Stored;
}

/// An image with a root file system for one platform, by default `linux` and this machine's architecture.
#[derive(Clone, Debug)]
pub struct Image {
    os: String,
    architecture: String,
    config: Config,
    layers: Vec<Layer>,
    annotations: HashMap<String, String>,
}

impl Image {
    /// An image for `linux` and this machine's architecture.
    pub fn linux() -> Self {
        Self::platform("linux", native_architecture())
    }

    /// An image for a platform such as `wasi`, `wasm`.
    pub fn platform(os: &str, architecture: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            config: Config::default(),
            layers: Vec::new(),
            annotations: HashMap::new(),
        }
    }

    /// The image of busybox from a node's root, with all applets in `/bin`.
    pub(crate) fn busybox(root: &Path) -> Result<Self> {
        let program = std::fs::read(root.join("bin/busybox"))?;
        let mut layer = Layer::new()
            .directory("/tmp", 0o1777)
            .file(
                "/etc/passwd",
                "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
                0o644,
            )
            .file("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
            .file("/bin/busybox", program, 0o755);
        for applet in APPLETS {
            layer = layer.symlink(&format!("/bin/{applet}"), "busybox");
        }
        Ok(Self::linux().env("PATH", "/bin").cmd(["sh"]).layer(layer))
    }

    /// The image of a pod's first container, which only holds its namespaces and reaps.
    pub(crate) fn pause(root: &Path) -> Result<Self> {
        let program = std::fs::read(root.join("usr/bin/catatonit"))?;
        Ok(Self::linux()
            .entrypoint(["/catatonit", "-P"])
            .layer(Layer::new().file("/catatonit", program, 0o755)))
    }

    /// Adds a layer above those there are.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Adds a layer with one file of mode 0755: `Image::linux().program("/app.wasm", bytes)`.
    #[must_use]
    pub fn program(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.layer(Layer::new().file(path, bytes, 0o755))
    }

    /// Sets the config's Entrypoint.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.config
            .set_entrypoint(Some(words.into_iter().map(Into::into).collect()));
        self
    }

    /// Sets the config's Cmd.
    #[must_use]
    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.config
            .set_cmd(Some(words.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds an environment variable to the config.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let mut env = self.config.env().clone().unwrap_or_default();
        env.push(format!("{name}={value}"));
        self.config.set_env(Some(env));
        self
    }

    /// Sets the config's `WorkingDir`.
    #[must_use]
    pub fn working_dir(mut self, path: &str) -> Self {
        self.config.set_working_dir(Some(path.to_owned()));
        self
    }

    /// Sets the config's User.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.config.set_user(Some(user.to_owned()));
        self
    }

    /// Adds an annotation to the manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }
}

impl Content for Image {
    fn stored(&self) -> Stored {
        let tars: Vec<_> = self.layers.iter().map(Layer::tar).collect();
        let configuration = ImageConfigurationBuilder::default()
            .os(self.os.as_str())
            .architecture(self.architecture.as_str())
            .config(self.config.clone())
            .rootfs(
                RootFsBuilder::default()
                    .typ("layers")
                    .diff_ids(tars.iter().map(|tar| digest(tar)).collect::<Vec<_>>())
                    .build()
                    .expect("all fields are set"),
            )
            .build()
            .expect("all fields are set");
        let config = Blob::json(MediaType::ImageConfig, &configuration);
        let layers = tars
            .iter()
            .map(|tar| Blob::new(MediaType::ImageLayerGzip, layer::gzip(tar)))
            .collect();
        manifest(config, layers, &self.annotations)
    }
}

/// An OCI artifact: a config of some type, and layers that are files and not archives.
#[derive(Clone, Debug)]
pub struct Artifact {
    config: Blob,
    layers: Vec<Blob>,
    annotations: HashMap<String, String>,
}

impl Artifact {
    /// An artifact with a config; nothing but its type matters to containerd.
    pub fn new(config_type: &str, config: impl Into<Vec<u8>>) -> Self {
        Self {
            config: Blob::new(config_type, config.into()),
            layers: Vec::new(),
            annotations: HashMap::new(),
        }
    }

    /// An OCI Wasm artifact as the CNCF's guidance has it, with one module.
    pub fn wasm(module: impl Into<Vec<u8>>) -> Self {
        Self::new(
            WASM_CONFIG,
            r#"{"architecture":"wasm","os":"wasip1","layerDigests":[]}"#,
        )
        .blob(WASM_LAYER, module)
    }

    /// What `wasm-to-oci` pushes.
    pub fn wasm_to_oci(module: impl Into<Vec<u8>>) -> Self {
        Self::new(WASM_TO_OCI_CONFIG, "{}").blob(WASM_TO_OCI_LAYER, module)
    }

    /// Adds a layer of a media type.
    #[must_use]
    pub fn blob(mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.layers.push(Blob::new(media_type, bytes.into()));
        self
    }

    /// Adds an annotation to the manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }
}

impl Content for Artifact {
    fn stored(&self) -> Stored {
        manifest(self.config.clone(), self.layers.clone(), &self.annotations)
    }
}

/// An index of images by platform.
#[derive(Clone, Debug, Default)]
pub struct Index {
    entries: Vec<(Descriptor, Stored)>,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image under the platform it was made for.
    #[must_use]
    pub fn image(self, image: &Image) -> Self {
        self.entry(&image.os, &image.architecture, image, &[])
    }

    /// Adds what `docker buildx` puts beside an image to tell how it was built.
    #[must_use]
    pub fn provenance(self, image: &Image) -> Self {
        let subject = image.stored().manifest.digest();
        let statement = Artifact::new(&MediaType::ImageConfig.to_string(), "{}")
            .blob("application/vnd.in-toto+json", "{}");
        let annotations = [
            ("vnd.docker.reference.type", "attestation-manifest"),
            ("vnd.docker.reference.digest", &subject),
        ];
        self.entry("unknown", "unknown", &statement, &annotations)
    }

    fn entry(
        mut self,
        os: &str,
        architecture: &str,
        content: &impl Content,
        annotations: &[(&str, &str)],
    ) -> Self {
        let stored = content.stored();
        let platform = PlatformBuilder::default()
            .os(os)
            .architecture(architecture)
            .build();
        let mut descriptor = stored.manifest.descriptor();
        descriptor.set_platform(Some(platform.expect("all fields are set")));
        if !annotations.is_empty() {
            let pairs = annotations
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()));
            descriptor.set_annotations(Some(pairs.collect()));
        }
        self.entries.push((descriptor, stored));
        self
    }
}

impl Content for Index {
    fn stored(&self) -> Stored {
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(
                self.entries
                    .iter()
                    .map(|(descriptor, _)| descriptor.clone())
                    .collect::<Vec<_>>(),
            )
            .build()
            .expect("all fields are set");
        Stored {
            manifest: Blob::json(MediaType::ImageIndex, &index),
            blobs: Vec::new(),
            children: self.entries.iter().map(|(_, stored)| stored.clone()).collect(),
        }
    }
}

fn manifest(config: Blob, layers: Vec<Blob>, annotations: &HashMap<String, String>) -> Stored {
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor())
        .layers(layers.iter().map(Blob::descriptor).collect::<Vec<_>>());
    if !annotations.is_empty() {
        manifest = manifest.annotations(annotations.clone());
    }
    let manifest = Blob::json(
        MediaType::ImageManifest,
        &manifest.build().expect("all fields are set"),
    );
    Stored {
        manifest,
        blobs: std::iter::once(config).chain(layers).collect(),
        children: Vec::new(),
    }
}

/// This machine's architecture as images name it.
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

const APPLETS: [&str; 40] = [
    "awk", "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "free", "grep",
    "head", "hostname", "httpd", "id", "ip", "kill", "ln", "ls", "mkdir", "mount", "nc", "nslookup",
    "printf", "ps", "pwd", "rm", "sed", "seq", "sh", "sleep", "stat", "tail", "true", "uname", "wc", "wget",
];

//! Images of every form that reaches a node, made in memory and pushed to the node's registry.
//!
//! The same image always has the same digest: times are zero, owners are root, JSON keys are sorted.

mod artifact;
mod index;
mod layer;
pub(crate) mod registry;
mod rootfs;

pub use artifact::{
    Artifact, COMPONENT_LAYER, WASM_CONFIG, WASM_LAYER, WASM_TO_OCI_CONFIG, WASM_TO_OCI_LAYER,
};
pub use index::Index;
pub use layer::Layer;
use oci_spec::image::{Descriptor, DescriptorBuilder, Digest, ImageManifestBuilder, MediaType};
pub use rootfs::{Image, native_architecture};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Something with a digest: a layer, a config, a manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blob {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.into(),
            bytes,
        }
    }

    /// A JSON document with its keys sorted.
    fn json(media_type: &MediaType, document: &impl Serialize) -> Self {
        let value = serde_json::to_value(document).expect("an OCI document is JSON");
        Self::new(
            media_type.as_ref(),
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
        &MediaType::ImageManifest,
        &manifest.build().expect("all fields are set"),
    );
    Stored {
        manifest,
        blobs: std::iter::once(config).chain(layers).collect(),
        children: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(blob: &Blob) -> Value {
        serde_json::from_slice(&blob.bytes).unwrap()
    }

    #[test]
    fn same_image_same_digest() {
        let image = || {
            let image = Image::linux()
                .program("/app.wasm", "\0asm")
                .env("B", "2")
                .env("A", "1");
            ["c", "a", "d", "b"]
                .iter()
                .fold(image, |image, key| image.annotation(key, "x"))
        };
        assert_eq!(image().stored(), image().stored());
        assert_ne!(image().stored(), image().env("C", "3").stored());
    }

    #[test]
    fn config_says_what_was_set() {
        let image = Image::platform("wasi", "wasm")
            .entrypoint(["/app.wasm"])
            .cmd(["x", "y"])
            .env("A", "1")
            .working_dir("/w")
            .user("7:8")
            .program("/app.wasm", "\0asm");
        let stored = image.stored();
        let config = parsed(&stored.blobs[0]);
        assert_eq!(
            (&config["os"], &config["architecture"]),
            (&json!("wasi"), &json!("wasm"))
        );
        assert_eq!(
            config["config"],
            json!({"Entrypoint": ["/app.wasm"], "Cmd": ["x", "y"], "Env": ["A=1"], "WorkingDir": "/w", "User": "7:8"})
        );
        // The config names layers as they are unpacked, the manifest as they are sent.
        let layer = &stored.blobs[1];
        let manifest = parsed(&stored.manifest);
        assert_eq!(manifest["layers"][0]["digest"], layer.digest());
        assert_ne!(config["rootfs"]["diff_ids"][0], layer.digest());
    }

    #[test]
    fn artifact_keeps_its_media_types() {
        let stored = Artifact::wasm("\0asm").annotation("k", "v").stored();
        let manifest = parsed(&stored.manifest);
        assert_eq!(manifest["config"]["mediaType"], WASM_CONFIG);
        assert_eq!(manifest["layers"][0]["mediaType"], WASM_LAYER);
        assert_eq!(manifest["annotations"], json!({"k": "v"}));
        assert_eq!(stored.blobs[1].bytes, b"\0asm");
    }

    #[test]
    fn index_names_its_manifests_by_platform() {
        let wasm = Image::platform("wasi", "wasm");
        let stored = Index::new().image(&wasm).provenance(&wasm).stored();
        let manifests = &parsed(&stored.manifest)["manifests"];
        assert_eq!(
            manifests[0]["platform"],
            json!({"os": "wasi", "architecture": "wasm"})
        );
        assert_eq!(
            manifests[1]["platform"],
            json!({"os": "unknown", "architecture": "unknown"})
        );
        assert_eq!(
            manifests[1]["annotations"]["vnd.docker.reference.digest"],
            manifests[0]["digest"]
        );
        let children: Vec<_> = stored
            .children
            .iter()
            .map(|child| child.manifest.digest())
            .collect();
        assert_eq!(manifests[0]["digest"], children[0]);
        assert_eq!(manifests[1]["digest"], children[1]);
    }
}

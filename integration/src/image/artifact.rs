//! Images without a root file system: OCI artifacts.

use super::{Blob, Content, Stored, manifest};
use std::collections::HashMap;

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

//! Images with a root file system.

use super::{Blob, Content, Layer, Stored, digest, layer, manifest};
use anyhow::Result;
use oci_spec::image::{Config, ImageConfigurationBuilder, MediaType, RootFsBuilder};
use std::collections::HashMap;
use std::path::Path;

/// An image with a root file system for one platform, by default `linux` and this machine's architecture.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) os: String,
    pub(super) architecture: String,
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

    /// Sets the config's `StopSignal`.
    #[must_use]
    pub fn stop_signal(mut self, signal: &str) -> Self {
        self.config.set_stop_signal(Some(signal.to_owned()));
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
        let config = Blob::json(&MediaType::ImageConfig, &configuration);
        let layers = tars
            .iter()
            .map(|tar| Blob::new(MediaType::ImageLayerGzip.as_ref(), layer::gzip(tar)))
            .collect();
        manifest(config, layers, &self.annotations)
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

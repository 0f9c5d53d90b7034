//! What is compared: a hello world as a native program and as a module, by the ways that a node can run it.

use crate::cache;
use anyhow::{Context as _, Result};
use podwasm_integration::cri::PodBuilder;
use podwasm_integration::node::{Node, Runtime, target};
use podwasm_integration::prelude::{ContainerHandle, Image, PodHandle};
use serde::Serialize;

/// One way to run the hello world.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Variant {
    pub handler: Handler,
    #[serde(serialize_with = "as_name")]
    pub runtime: Runtime,
}

/// What executes the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handler {
    /// crun itself, with the `WasmEdge` it is linked to: needs crun, a line in containerd's config and an annotation.
    CrunWasmedge,
    /// The kernel: busybox.
    Native,
    /// podwasm's engine, over the entrypoint.
    Podwasm,
}

/// All of them; a native one comes before those it is the measure of.
pub const VARIANTS: [Variant; 5] = [
    Variant::new(Handler::Native, Runtime::Runc),
    Variant::new(Handler::Podwasm, Runtime::Runc),
    Variant::new(Handler::Native, Runtime::Crun),
    Variant::new(Handler::Podwasm, Runtime::Crun),
    Variant::new(Handler::CrunWasmedge, Runtime::Crun),
];

impl Variant {
    pub const PEER: Self = Self::new(Handler::CrunWasmedge, Runtime::Crun);
    pub const PODWASM_ON_CRUN: Self = Self::new(Handler::Podwasm, Runtime::Crun);

    const fn new(handler: Handler, runtime: Runtime) -> Self {
        Self { handler, runtime }
    }

    /// What it is measured against: the native program on the same runtime.
    pub const fn native(self) -> Self {
        Self::new(Handler::Native, self.runtime)
    }

    /// The handler's name in tables.
    pub fn name(self) -> &'static str {
        match self.handler {
            Handler::CrunWasmedge => "crun's WasmEdge handler",
            Handler::Native => "native",
            Handler::Podwasm => "podwasm",
        }
    }

    /// A pod that is run this way.
    pub fn pod(self, node: &Node) -> PodBuilder<'_> {
        let pod = node.pod("bench").runtime_handler(self.runtime.name());
        match self.handler {
            Handler::CrunWasmedge => pod
                .annotation("module.wasm.image/variant", "compat-smart")
                .annotation("wasm.noderesource.dev/pod", "handler: none"),
            Handler::Native | Handler::Podwasm => pod,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_name<S: serde::Serializer>(runtime: &Runtime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(runtime.name())
}

/// The images, on a node.
#[derive(Debug)]
pub struct Images {
    native: String,
    wasm: String,
}

impl Images {
    /// Pulls both, and waits until podwasm has compiled the module, where it runs.
    pub async fn on(node: &Node) -> Result<Self> {
        let module = read_guest("guest.wasm")?;
        let image = Image::linux().program("/app.wasm", module.clone());
        let wasm = node.push("wasm", &image.entrypoint(["/app.wasm"])).await?;
        let native = node.busybox().to_owned();
        for image in [&native, &wasm] {
            node.cri().pull(image).await?;
        }
        cache::wait_optimised(node, &module).await?;
        Ok(Self { native, wasm })
    }

    /// The image of the native program.
    pub fn native(&self) -> &str {
        &self.native
    }

    /// The image of the module.
    pub fn wasm(&self) -> &str {
        &self.wasm
    }

    /// Creates the container of a pod.
    pub async fn create<'a>(&self, variant: Variant, pod: &PodHandle<'a>) -> Result<ContainerHandle<'a>> {
        let container = pod.container("hello").without_pull();
        let container = match variant.handler {
            Handler::Native => container
                .image(&self.native)
                .command(["echo", "hello from busybox"]),
            Handler::CrunWasmedge | Handler::Podwasm => container.image(&self.wasm),
        };
        container.create().await
    }
}

/// A file that `integration/guests/build.sh` has made.
pub fn read_guest(name: &str) -> Result<Vec<u8>> {
    let path = target().join("guests").join(name);
    std::fs::read(&path).with_context(|| format!("read {}: run `make guests`", path.display()))
}

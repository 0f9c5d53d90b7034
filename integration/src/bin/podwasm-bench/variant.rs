//! What is compared: the same hello world as a native program and as a module, by the ways that a node can run it.

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
    /// The kernel: a static C program.
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
    /// Pushes both and pulls them.
    pub async fn on(node: &Node) -> Result<Self> {
        let image = |path, guest| {
            anyhow::Ok(
                Image::linux()
                    .program(path, read_guest(guest)?)
                    .entrypoint([path]),
            )
        };
        let images = Self {
            native: node.push("native", &image("/app", "native")?).await?,
            wasm: node.push("wasm", &image("/app.wasm", "guest.wasm")?).await?,
        };
        for image in [&images.native, &images.wasm] {
            node.cri().pull(image).await?;
        }
        Ok(images)
    }

    /// The image of the native program.
    pub fn native(&self) -> &str {
        &self.native
    }

    /// Creates the container of a pod.
    pub async fn create<'a>(&self, variant: Variant, pod: &PodHandle<'a>) -> Result<ContainerHandle<'a>> {
        let image = match variant.handler {
            Handler::Native => &self.native,
            Handler::CrunWasmedge | Handler::Podwasm => &self.wasm,
        };
        pod.container("hello").image(image).without_pull().create().await
    }
}

fn read_guest(name: &str) -> Result<Vec<u8>> {
    let path = target().join("guests").join(name);
    std::fs::read(&path).with_context(|| format!("read {}: run `make guests`", path.display()))
}

//! Another plugin wants what podwasm wants.

use std::sync::Mutex;

use crate::with_log;
use anyhow::{Context as _, Result, ensure};
use nri::api::{Adjustment, Container, ContainerUpdate, Mount, PodSandbox};
use nri::{Call, Creation, Identity, PluginError, Runner};
use podwasm_integration::prelude::*;
use tokio::sync::{mpsc, oneshot};

/// A module on the node that ends with 0.
const OTHER: &str = "/srv/other.wasm";

/// Mounts another module over the module, as podwasm mounts its engine. Says once that it is registered.
struct Covers(Mutex<Option<mpsc::Sender<()>>>);

#[nri::plugin]
impl nri::Plugin for Covers {
    async fn synchronize(
        &self,
        _call: Call,
        _pods: Vec<PodSandbox>,
        _containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        self.0.lock().expect("nothing panics with it").take();
        Ok(Vec::new())
    }

    async fn create_container(
        &self,
        _call: Call,
        _pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, PluginError> {
        let Some(program) = container.args.first().filter(|program| *program == "/app.wasm") else {
            return Ok(Creation::default());
        };
        let cover = Mount::bind(OTHER, program).read_only();
        Ok(Creation::from(Adjustment::new().mount(cover)))
    }
}

/// Both at the same path. Before podwasm, the other's file is what the container would execute, so it is what podwasm looks at: the other's
/// module is run. After podwasm, containerd refuses the container, and names both. A native container is nobody's business either way.
async fn another_plugin_on_the_same_path_is_replaced_or_told(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    std::fs::create_dir_all(node.path("/srv"))?;
    std::fs::write(node.path(OTHER), guest("hello.wasm"))?;
    let image = node.push("wanted", &exits_with_42("/app.wasm")).await?;
    for index in ["05", "20"] {
        let (registered, mut wait) = mpsc::channel(1);
        let other = Covers(Mutex::new(Some(registered)));
        let other =
            Runner::external(other, Identity::new("other", index)?).socket(node.path("/run/nri/nri.sock"));
        let (end, ended) = oneshot::channel::<()>();
        let running = tokio::spawn(other.run(async { _ = ended.await }));
        wait.recv().await; // which ends when the other side is dropped

        let pod = node.pod("wanted").run().await?;
        pod.runs_native().await?;
        let started = pod.container("wasm").image(&image).start().await;
        if index == "05" {
            with_log(&plugin, async { started }).await?.ends_with(0).await?;
        } else {
            let error = format!("{:#}", started.err().context("it started")?);
            println!("{flavor:?}: {error}");
            ensure!(error.contains("other") && error.contains("podwasm"), "{error}");
        }
        pod.remove().await?;
        drop(end);
        running.await??;
    }
    node.stop().await
}

on_both! {
    another_plugin_on_the_same_path_is_replaced_or_told
}

//! podwasm on a node as a cluster has it: its images are loaded, what the chart renders runs as pods, and all of it is taken away
//! again.
//!
//! ```no_run
//! use podwasm_integration::prelude::*;
//! use podwasm_integration::release::{self, Release};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let node = release::bare_node(Flavor::Forky).await?;
//! let release = Release::read("k8s")?;
//! let installed = release.install(&node).await?;
//! // ... pods run, are counted, and KEDA is answered ...
//! installed.delete().await?;
//! release.clean_up(&node).await?;
//! # Ok(())
//! # }
//! ```

mod tree;

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
pub use tree::Tree;

use crate::cri::ContainerHandle;
use crate::manifest::{Manifest, RunningPod};
use crate::node::{Flavor, Node, Runtime};

/// The images that the chart names.
pub const IMAGES: [&str; 3] = ["podwasm", "podwasm-exporter", "podwasm-scaler"];

const PLUGIN_PORT: u16 = 9465;
const EXPORTER_PORT: u16 = 9466;
const SCALER_PORT: u16 = 9468;
const EXPORTERS: &str = "podwasm-exporter.podwasm.svc.cluster.local";
const CLEANERS: &str = "podwasm-cleanup.podwasm.svc.cluster.local";

/// A node on which nothing of podwasm is but its images.
pub async fn bare_node(flavor: Flavor) -> Result<Node> {
    let node = Node::start_bare(flavor, Runtime::Runc).await?;
    load_images(&node).await?;
    Ok(node)
}

/// Makes of a node of [`Node::start_bare`] one that has a kubelet's folder and podwasm's images.
pub async fn load_images(node: &Node) -> Result<()> {
    fs::create_dir_all(node.path("/var/lib/kubelet"))?;
    for name in IMAGES {
        node.load_image(name).await?;
    }
    Ok(())
}

/// What is applied to install podwasm, and what to clean up behind it.
#[derive(Clone, Debug)]
pub struct Release {
    installed: Manifest,
    cleanup: Manifest,
}

impl Release {
    /// What the chart renders for a distribution.
    pub fn read(distribution: &str) -> Result<Self> {
        Ok(Self {
            installed: Manifest::read(format!("deploy/rendered/{distribution}.yaml"))?,
            cleanup: Manifest::read(format!("deploy/rendered/{distribution}-cleanup.yaml"))?,
        })
    }

    /// The same with another log level for the plugin, as the chart's `plugin.logLevel` sets it.
    pub fn with_plugin_log_level(mut self, level: &str) -> Result<Self> {
        self.installed
            .set_variable("DaemonSet", "podwasm", "RUST_LOG", level)?;
        Ok(self)
    }

    /// Starts everything, each part when the one before is ready.
    pub async fn install<'a>(&self, node: &'a Node) -> Result<Installed<'a>> {
        Ok(Installed {
            plugin: self.start_plugin(node).await?,
            exporter: self.start_exporter(node).await?,
            scalers: self.start_scalers(node).await?,
        })
    }

    /// The plugin's pod of this node.
    pub async fn start_plugin<'a>(&self, node: &'a Node) -> Result<RunningPod<'a>> {
        only(&self.installed, node, "podwasm").await
    }

    /// The exporter's pod of this node, where scalers find it by name.
    pub async fn start_exporter<'a>(&self, node: &'a Node) -> Result<RunningPod<'a>> {
        let exporter = only(&self.installed, node, "podwasm-exporter").await?;
        node.publish(EXPORTERS, exporter.handle().ip().await?).await?;
        Ok(exporter)
    }

    /// The replicas of the scaler.
    pub async fn start_scalers<'a>(&self, node: &'a Node) -> Result<Vec<RunningPod<'a>>> {
        let scalers = self.installed.only("Deployment", "podwasm-scaler");
        let scalers = scalers.run(node).await?;
        ensure!(scalers.len() == 2, "there are {} scalers", scalers.len());
        Ok(scalers)
    }

    /// Cleans up as `helm uninstall` does, by a `DaemonSet`. Returns what its pod said.
    pub async fn clean_up(&self, node: &Node) -> Result<String> {
        let pod = only(&self.cleanup, node, "podwasm-cleanup").await?;
        let said = pod.container("uninstall")?.logs()?.stderr;
        pod.delete().await?;
        Ok(said)
    }

    /// The same with the Job that waits for it. Names are never forgotten by the node's name server, so this is done once.
    pub async fn clean_up_and_await(&self, node: &Node) -> Result<String> {
        let pod = only(&self.cleanup, node, "podwasm-cleanup").await?;
        node.publish(CLEANERS, pod.handle().ip().await?).await?;
        let (end, tries) = self.cleanup.run_job(node, "podwasm-cleanup-await").await?;
        ensure!(end.complete, "the Job failed: {end:?}");
        let said = pod.container("uninstall")?.logs()?.stderr;
        for pod in tries.iter().chain([&pod]) {
            pod.delete().await?;
        }
        Ok(said)
    }
}

/// The pod of a `DaemonSet` on this node.
async fn only<'a>(manifest: &Manifest, node: &'a Node, name: &str) -> Result<RunningPod<'a>> {
    let pods = manifest.only("DaemonSet", name).run(node).await?;
    pods.into_iter()
        .next()
        .with_context(|| format!("DaemonSet {name} has no pods"))
}

/// Everything of podwasm that runs on a node.
#[derive(Debug)]
pub struct Installed<'a> {
    /// The daemon.
    pub plugin: RunningPod<'a>,
    /// What counts.
    pub exporter: RunningPod<'a>,
    /// What answers KEDA.
    pub scalers: Vec<RunningPod<'a>>,
}

impl<'a> Installed<'a> {
    /// Where the plugin serves its metrics.
    pub async fn plugin_http(&self) -> Result<SocketAddr> {
        address(&self.plugin, PLUGIN_PORT).await
    }

    /// Where the exporter serves its metrics.
    pub async fn exporter_http(&self) -> Result<SocketAddr> {
        address(&self.exporter, EXPORTER_PORT).await
    }

    /// Where each replica of the scaler answers KEDA.
    pub async fn scalers_grpc(&self) -> Result<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        for scaler in &self.scalers {
            addresses.push(address(scaler, SCALER_PORT).await?);
        }
        Ok(addresses)
    }

    /// The daemon's container, for what it logs.
    pub fn daemon(&self) -> Result<&ContainerHandle<'a>> {
        self.plugin.container("podwasm")
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &RunningPod<'a>> {
        [&self.plugin, &self.exporter].into_iter().chain(&self.scalers)
    }

    /// Deletes all pods. What they have put on the node stays.
    pub async fn delete(self) -> Result<()> {
        for pod in self.pods() {
            pod.delete().await?;
        }
        Ok(())
    }
}

async fn address(pod: &RunningPod<'_>, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(pod.handle().ip().await?, port))
}

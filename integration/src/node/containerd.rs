//! The programs of a node: containerd, which tests may stop and start, and the registry.

use super::namespaces::Namespaces;
use super::{Node, Owned, Process, REGISTRY, Signal};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;

pub(super) fn spawn(namespaces: &Namespaces, folder: &Path) -> Result<Process> {
    let mut command = Command::new("containerd");
    command.args(["--config", "/etc/containerd/config.toml", "--log-level", "debug"]);
    Process::spawn(namespaces, "containerd", command, &folder.join("log"))
}

pub(super) fn spawn_registry(namespaces: &Namespaces, folder: &Path) -> Result<Process> {
    let mut command = Command::new("docker-registry");
    command.args(["serve", "/etc/docker/registry/config.yml"]);
    Process::spawn(namespaces, "registry", command, &folder.join("log"))
}

impl Node {
    /// Stops containerd and starts it again. Pods go on running.
    pub async fn restart_containerd(&self) -> Result<()> {
        self.kill_containerd(Signal::SIGTERM).await?;
        self.start_containerd().await
    }

    /// Sends containerd a signal that does not end it.
    pub async fn signal_containerd(&self, signal: Signal) -> Result<()> {
        self.owned()?.containerd.lock().await.signal(signal)
    }

    /// Sends containerd a signal and waits until it is gone. Pods go on running.
    pub async fn kill_containerd(&self, signal: Signal) -> Result<()> {
        let containerd = self.owned()?.containerd.lock().await;
        containerd.signal(signal)?;
        containerd.wait(PATIENCE).await.context("containerd ends")?;
        Ok(())
    }

    /// Starts containerd after [`Node::kill_containerd`] and waits until it is ready.
    pub async fn start_containerd(&self) -> Result<()> {
        *self.owned()?.containerd.lock().await = spawn(&self.namespaces, &self.folder)?;
        self.wait_ready().await.with_context(|| self.log_tails())
    }

    pub(super) async fn wait_ready(&self) -> Result<()> {
        let owned = self.owned()?;
        until("containerd is ready", PATIENCE, async || {
            if let Some(status) = owned.containerd.lock().await.exited() {
                bail!("containerd ended: {status}");
            }
            Ok(self.cri.ready().await.then_some(()))
        })
        .await
    }

    pub(super) async fn wait_for_registry(&self) -> Result<()> {
        let owned = self.owned()?;
        until("the registry answers", PATIENCE, async || {
            if let Some(status) = owned.registry.exited() {
                bail!("the registry ended: {status}");
            }
            Ok(self.connect(REGISTRY.parse()?).await.ok())
        })
        .await
        .map(drop)
    }

    fn owned(&self) -> Result<&Owned> {
        self.owned
            .as_ref()
            .with_context(|| format!("{} was started by another process", self.name))
    }
}

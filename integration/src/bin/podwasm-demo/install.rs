//! podwasm comes onto the node as pods of its images, and goes again.

use std::time::Instant;

use anyhow::Result;
use podwasm_integration::manifest::RunningPod;
use podwasm_integration::prelude::*;
use podwasm_integration::release::{self, Installed, Release, Tree};

use crate::show::{note, step, table};
use crate::summary::Summary;

/// The chart's logs have what podwasm changes; the demo shows what it leaves alone too.
const LOG_LEVEL: &str = "info,podwasm=debug";

/// What is needed to take podwasm away again, and to tell whether anything is left.
#[derive(Debug)]
pub struct Installation {
    release: Release,
    before: Tree,
}

/// Installs podwasm as `helm install` or `kubectl apply -k` does.
pub async fn install(node: &Node) -> Result<(Installation, Installed<'_>)> {
    step("Installing podwasm: its images, and what `kubectl apply -k deploy/kustomize/k8s` applies");
    let start = Instant::now();
    release::load_images(node).await?;
    note(&format!(
        "images loaded: {}, after {} s",
        release::IMAGES.join(", "),
        start.elapsed().as_secs()
    ));
    let installation = Installation {
        release: Release::read("k8s")?.with_plugin_log_level(LOG_LEVEL)?,
        before: Tree::of(node)?,
    };
    let installed = installation.release.install(node).await?;
    println!();
    let row = |pod: &RunningPod<'_>| {
        let images: Vec<_> = pod.images().collect();
        vec![pod.owner().to_owned(), pod.name().to_owned(), images.join(", ")]
    };
    table(
        &["of", "pod", "image"],
        &installed.pods().map(row).collect::<Vec<_>>(),
    );
    note(&format!("all ready after {} s", start.elapsed().as_secs()));
    Ok((installation, installed))
}

impl Installation {
    /// Takes podwasm away as `helm uninstall` does, and looks for what is left of it.
    pub async fn uninstall(self, node: &Node, installed: Installed<'_>, summary: &mut Summary) -> Result<()> {
        step("Uninstalling podwasm, as `helm uninstall` does");
        installed.delete().await?;
        note("its pods are gone; a DaemonSet cleans the node, and a Job waits for it");
        self.release.clean_up_and_await(node).await?;
        let after = Tree::of(node)?;
        let left = self.before.differences(&after);
        note(&format!(
            "{} files and folders of the node were compared with what they were before",
            after.len()
        ));
        for name in &left {
            note(&format!("left or changed: /{name}"));
        }
        summary.add(
            "files left or changed on the node after uninstalling",
            left.len().to_string(),
            left.is_empty(),
        );
        Ok(())
    }
}

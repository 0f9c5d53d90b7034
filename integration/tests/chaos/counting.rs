//! Pods vanish while the exporter attaches to them.

use std::fs;

use crate::kills;
use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use podwasm_integration::load;
use podwasm_integration::prelude::*;
use podwasm_integration::servers::Server;
use podwasm_integration::wait::{PATIENCE, until};
use std::time::Duration;

/// Pods that come and go at the same moment.
const AT_ONCE: usize = 4;

/// The namespace is gone before or while it is attached to. Nothing of such a pod stays, and the next one is counted exactly.
async fn pods_that_vanish_while_they_are_attached_leave_nothing(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let exporter = node.start_exporter([]).await?;
    let count = |of: &str| {
        let folder = format!("/proc/{}/{of}", exporter.process().pid());
        anyhow::Ok(fs::read_dir(folder)?.count())
    };
    let (descriptors, threads) = (|| count("fd"), || count("task"));
    come_and_go(&node).await?; // what is opened once is open from here on
    let before: (usize, usize) = (settled(descriptors).await?, threads()?);
    for _ in 0..kills().div_ceil(AT_ONCE) {
        come_and_go(&node).await?;
    }
    until("all descriptors are closed", PATIENCE, async || {
        let now: (usize, usize) = (descriptors()?, threads()?);
        Ok((now.0 <= before.0 && now.1 <= before.1).then_some(()))
    })
    .await
    .with_context(|| {
        format!(
            "{before:?} before, {:?} after: {}",
            descriptors(),
            exporter.process().log_tail()
        )
    })?;
    let server = Server::nginx(&node).await?;
    let sent = load::send(&node, server.address, 50, Duration::from_secs(1)).await?;
    let counted = node
        .settled_metric(&exporter, "podwasm_requests_total", &["pod=\"nginx"])
        .await?;
    ensure!(
        (counted - f64::from(sent)).abs() < 0.5,
        "{counted} of {sent} were counted"
    );
    node.stop().await
}

/// Pods that are removed as soon as they are there.
async fn come_and_go(node: &Node) -> Result<()> {
    let pods = (0..AT_ONCE).map(async |_| {
        let pod = node
            .pod("gone")
            .annotation("requests.noderesource.dev/count", "true");
        pod.run().await?.remove().await
    });
    join_all(pods).await.into_iter().collect()
}

/// A number of descriptors that no longer changes.
async fn settled(now: impl Fn() -> Result<usize>) -> Result<usize> {
    let before = std::cell::Cell::new(None);
    until("descriptors settle", PATIENCE, async || {
        let now = now()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok((before.replace(Some(now)) == Some(now)).then_some(now))
    })
    .await
}

on_both! {
    pods_that_vanish_while_they_are_attached_leave_nothing
}

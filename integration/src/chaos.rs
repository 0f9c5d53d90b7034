//! Creating containers by the dozen while something goes wrong, and telling what became of each.
//!
//! Containers are created and removed without being started: whether one was adjusted is decided when it is created.

use crate::cri::PodHandle;
use crate::guests::exits_with_42;
use crate::node::{Node, PLUGIN_HTTP};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, stream};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Pods that the containers are spread over.
const PODS: usize = 4;

/// What is created: images of every sort that is told apart.
#[derive(Debug)]
pub struct Field<'a> {
    images: Vec<(String, bool)>,
    node: &'a Node,
    pods: Vec<PodHandle<'a>>,
    /// Containers that were created, whatever became of them.
    pub created: AtomicUsize,
}

/// What became of containers.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Native ones that were created as they are.
    pub native: usize,
    /// Wasm ones that were created for the engine.
    pub wasm: usize,
    /// Wasm ones that nobody adjusted although the plugin was connected all the time, by their ids.
    pub unadjusted: Vec<String>,
    /// Wasm ones that nobody adjusted while the plugin was not connected, by their ids.
    pub meanwhile: Vec<String>,
    /// Native ones that were changed.
    pub changed: usize,
    /// Errors of podwasm's own over native containers.
    pub failed: Vec<String>,
    /// Errors of podwasm's own over Wasm containers, which were then tried again, as the kubelet does.
    pub refused: Vec<String>,
    /// Attempts that failed because the runtime was away.
    pub away: usize,
    /// How long each creation took that succeeded at once, in milliseconds.
    pub milliseconds: Vec<f64>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index of a short list"
            )]
            let index = (sorted.len() as f64 * share) as usize;
            sorted.get(index.min(sorted.len().saturating_sub(1))).copied()
        };
        write!(
            f,
            "{} native, {} Wasm, {} unadjusted, {} while not connected, {} native changed, {} native failed, {} Wasm refused and tried again, {} attempts while the runtime was away; \
             median {:.1} ms, p99 {:.1} ms",
            self.native,
            self.wasm,
            self.unadjusted.len(),
            self.meanwhile.len(),
            self.changed,
            self.failed.len(),
            self.refused.len(),
            self.away,
            at(0.5).unwrap_or_default(),
            at(0.99).unwrap_or_default(),
        )
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.native += other.native;
        self.wasm += other.wasm;
        self.unadjusted.extend(other.unadjusted);
        self.meanwhile.extend(other.meanwhile);
        self.changed += other.changed;
        self.failed.extend(other.failed);
        self.refused.extend(other.refused);
        self.away += other.away;
        self.milliseconds.extend(other.milliseconds);
    }

    /// An error unless every container came out as it should, at once.
    pub fn check(&self, wanted: usize) -> Result<()> {
        ensure!(
            self.refused.is_empty(),
            "of {wanted} containers: {self}; {:?}",
            self.refused.first()
        );
        self.check_under_faults(wanted)
    }

    /// An error unless every container came out as it should. Where nobody could look at it in time, a Wasm container may have been refused
    /// with a reason before.
    pub fn check_under_faults(&self, wanted: usize) -> Result<()> {
        ensure!(
            self.native + self.wasm + self.meanwhile.len() == wanted
                && self.unadjusted.is_empty()
                && self.changed == 0
                && self.failed.is_empty(),
            "of {wanted} containers: {self}; {:?}",
            self.failed.first()
        );
        Ok(())
    }
}

/// Which of its connections with NRI the plugin has at this moment; none while it has none. A container was created under the plugin's
/// eyes if this was the same before and after.
pub async fn connection(node: &Node) -> Option<String> {
    let text = node
        .http(PLUGIN_HTTP.parse().ok()?, "/metrics")
        .await
        .ok()?
        .text();
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    let connected = value("podwasm_nri_connected")? > 0.5;
    let (process, number) = (
        value("process_start_time_seconds")?,
        value("podwasm_nri_connections_total")?,
    );
    connected.then(|| format!("connection {number} of process {process}"))
}

impl<'a> Field<'a> {
    /// Pushes and pulls the images and starts the pods.
    pub async fn open(node: &'a Node) -> Result<Self> {
        let named = node.push("chaos-named", &exits_with_42("/app.wasm")).await?;
        let plain = node.push("chaos-plain", &exits_with_42("/app")).await?;
        let images = vec![
            (node.busybox().to_owned(), false),
            (named, true),
            (node.busybox().to_owned(), false),
            (plain, true),
        ];
        for (image, _) in &images {
            node.cri().ensure_image(image).await?;
        }
        let mut pods = Vec::new();
        for _ in 0..PODS {
            pods.push(node.pod("chaos").run().await?);
        }
        let field = Self {
            images,
            node,
            pods,
            created: AtomicUsize::new(0),
        };
        Ok(field)
    }

    /// Creates containers one after the other, `at_once` of these rows side by side, until `is_over` says so of the number of those
    /// created.
    pub async fn create(&self, at_once: usize, is_over: impl Fn(usize) -> bool) -> Result<Tally> {
        let number = AtomicUsize::new(0);
        let tally = Mutex::new(Tally::default());
        let add = |one| tally.lock().unwrap_or_else(PoisonError::into_inner).add(one);
        let rows = stream::iter(0..at_once).map(async |_| {
            loop {
                let number = number.fetch_add(1, Ordering::SeqCst);
                if is_over(number) {
                    return anyhow::Ok(());
                }
                let one = self.one(number).await?;
                add(one);
                self.created.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut rows = rows.buffer_unordered(at_once);
        while let Some(row) = rows.next().await {
            row?;
        }
        drop(rows);
        Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Creates one container, as often as that takes, and looks at it. An unadjusted one stays.
    async fn one(&self, number: usize) -> Result<Tally> {
        let (image, is_wasm) = &self.images[number % self.images.len()];
        let pod = &self.pods[number % self.pods.len()];
        let attempts = AtomicUsize::new(0);
        let refused = Mutex::new(Vec::new());
        let tally = until("a container is created", PATIENCE, async || {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst);
            let name = format!("c{number}-{attempt}");
            let container = pod.container(&name).image(image).without_pull();
            let before = connection(self.node).await;
            let start = Instant::now();
            let mut tally = Tally::default();
            let container = match container.create().await {
                Ok(container) => container,
                Err(error) => {
                    let error = format!("{error:#}");
                    match (error.contains("podwasm:"), is_wasm) {
                        (true, true) => refused.lock().unwrap_or_else(PoisonError::into_inner).push(error),
                        (true, false) => {
                            tally.failed.push(error);
                            return Ok(Some(tally));
                        }
                        (false, _) => {}
                    }
                    return Ok(None);
                }
            };
            let took = start.elapsed();
            let was_connected = before.is_some() && before == connection(self.node).await;
            let look = async || Ok(container.info().await.ok());
            let info = until("a container can be looked at", PATIENCE, look).await?;
            let spec = info["runtimeSpec"].to_string();
            let is_adjusted = spec.contains("/.podwasm");
            match (is_wasm, is_adjusted) {
                (false, false) => tally.native = 1,
                (true, true) => tally.wasm = 1,
                (false, true) => tally.changed = 1,
                (true, false) if was_connected => tally.unadjusted.push(container.id().to_owned()),
                (true, false) => tally.meanwhile.push(container.id().to_owned()),
            }
            if attempt == 0 {
                tally.milliseconds.push(took.as_secs_f64() * 1e3);
            }
            tally.away = attempt;
            if tally.unadjusted.is_empty() && tally.meanwhile.is_empty() {
                let remove = async || Ok(container.remove().await.ok());
                until("a container is removed", PATIENCE, remove).await?;
            }
            Ok(Some(tally))
        })
        .await
        .with_context(|| format!("container {number}"));
        let mut tally = tally?;
        tally.refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
        tally.away -= tally.refused.len().min(tally.away);
        Ok(tally)
    }

    /// Waits until so many more containers have been created.
    pub async fn wait_for(&self, more: usize) -> Result<()> {
        let wanted = self.created.load(Ordering::SeqCst) + more;
        until("containers are created", PATIENCE, async || {
            Ok((self.created.load(Ordering::SeqCst) >= wanted).then_some(()))
        })
        .await
    }

    /// Removes the pods.
    pub async fn close(self) -> Result<()> {
        for pod in &self.pods {
            pod.remove().await?;
        }
        Ok(())
    }

    /// The node.
    pub fn node(&self) -> &'a Node {
        self.node
    }
}

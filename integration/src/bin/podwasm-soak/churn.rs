//! What comes and goes: rows of work side by side, each at a pace of its own.

use crate::Parts;
use crate::pods;
use anyhow::Result;
use podwasm_integration::prelude::*;
use std::cell::RefCell;
use std::fmt;
use std::time::Duration;
use tokio::sync::RwLock;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Rows of pods that run to their end.
const ROWS: usize = 2;
/// A row begins no more often: the machine is to be busy, not full.
const POD_EVERY: Duration = Duration::from_secs(4);
const IMAGE_EVERY: Duration = Duration::from_secs(10);
/// How many failures are kept with their words.
const KEPT: usize = 10;

/// The work, and what became of it.
pub struct Churn<'a> {
    pub parts: &'a Parts<'a>,
    /// Closed while containerd is away.
    pub gate: RwLock<()>,
    /// Images by what they hold.
    pub guest: String,
    pub server: String,
    tally: RefCell<Tally>,
}

/// How much was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub pods: usize,
    pub containers: usize,
    pub images: usize,
    pub requests: usize,
    pub failures: usize,
    /// The first failures.
    pub failed: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pods,
            containers,
            images,
            requests,
            failures,
            ..
        } = self;
        write!(
            f,
            "{pods} pods, {containers} containers, {images} images, {requests} requests, {failures} failures"
        )
    }
}

impl<'a> Churn<'a> {
    pub async fn prepare(parts: &'a Parts<'a>) -> Result<Self> {
        let node = parts.node;
        let guest = node.push("soak-guest", &guest_image("guest")).await?;
        let server = node.push("soak-server", &guest_image("server")).await?;
        for image in [&guest, &server, node.busybox()] {
            node.cri().ensure_image(image).await?;
        }
        Ok(Self {
            parts,
            gate: RwLock::new(()),
            guest,
            server,
            tally: RefCell::default(),
        })
    }

    /// All of it, until it is over. What fails is counted and goes on; only what cannot be gone on from is an error.
    pub async fn run(&self, end: Instant) -> Result<()> {
        let rows = (0..ROWS).map(|_| {
            self.again(end, POD_EVERY, async |number| {
                pods::run_to_end(self, number).await
            })
        });
        let rows = futures_util::future::join_all(rows);
        let images = self.again(end, IMAGE_EVERY, async |number| {
            pods::run_new_image(self, number).await
        });
        let servers = self.again(end, Duration::ZERO, async |_| pods::serve(self, end).await);
        tokio::join!(rows, images, servers);
        Ok(())
    }

    async fn again(&self, end: Instant, every: Duration, step: impl AsyncFn(usize) -> Result<()>) {
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0.. {
            ticks.tick().await;
            if Instant::now() >= end {
                return;
            }
            if let Err(error) = step(number).await {
                self.failed(&error);
            }
        }
    }

    /// Notes what was done.
    pub fn did(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.borrow_mut());
    }

    fn failed(&self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        eprintln!("failed: {error}");
        self.did(|tally| {
            tally.failures += 1;
            if tally.failed.len() < KEPT {
                tally.failed.push(error);
            }
        });
    }

    pub fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }
}

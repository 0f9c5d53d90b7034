//! The parts of the benchmarks, each of which can be measured alone, and how much of each.

use crate::bare::Bench;
use crate::cpu::Meter;
use crate::pods::{self, Ground, Row};
use crate::section::Section;
use crate::variant::Images;
use crate::{arrival, compute, density, http, latency, memory, module, start};
use anyhow::Result;
use clap::{Args, ValueEnum};
use podwasm_integration::node::{Node, Podwasm, Runtime};
use std::process::Command;
use std::time::Duration;
use tokio::sync::OnceCell;

/// What can be measured, in the order of measuring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Part {
    /// Start and end of a process in an empty root folder.
    EngineStart,
    /// Memory of a process that sleeps.
    Memory,
    /// Start and memory of a module of a megabyte.
    #[value(name = "module-1mb")]
    Module1Mb,
    /// Guests that compute, beside the same source as native code.
    Compute,
    /// One pod after another.
    OneByOne,
    /// Many pods started together.
    AtOnce,
    /// Memory of pods, by who keeps it.
    Density,
    /// Requests per second of a server.
    Http,
    /// The latency that the plugin adds to the creation of a container.
    Latency,
    /// From an image's arrival to native code.
    Arrival,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    starts: usize,
    sleepers: usize,
    copies: usize,
    compute: compute::Sizes,
    warm_up: usize,
    rounds: usize,
    pods: usize,
    bursts: usize,
    density: usize,
    http: http::Sizes,
    latency: latency::Sizes,
    arrival: arrival::Sizes,
}

/// Sizes that were asked for, instead of those by default.
#[derive(Args, Clone, Copy, Debug)]
pub struct Asked {
    /// Few rounds: whether the benchmarks work, not what they measure.
    #[arg(long)]
    pub quick: bool,
    /// Pods of each variant, one by one.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Pods at once.
    #[arg(long)]
    pub pods: Option<usize>,
    /// How often each variant has that many pods at once.
    #[arg(long)]
    pub bursts: Option<usize>,
    /// Native containers created with the plugin, and as many without.
    #[arg(long)]
    pub creations: Option<usize>,
    /// Seconds for which modules that arrived are waited for until they are optimised.
    #[arg(long)]
    pub patience: Option<u64>,
}

impl Asked {
    pub fn has_zero(&self) -> bool {
        [self.rounds, self.pods, self.bursts, self.creations].contains(&Some(0))
    }
}

impl Sizes {
    pub fn of(asked: &Asked) -> Self {
        let quick = asked.quick;
        let choose = |full, small| if quick { small } else { full };
        Self {
            starts: choose(300, 10),
            sleepers: choose(5, 1),
            copies: choose(50, 5),
            compute: compute::Sizes {
                rounds: choose(3, 1),
                divisor: choose(1, 10),
            },
            warm_up: choose(2, 1),
            rounds: asked.rounds.unwrap_or(choose(30, 2)),
            pods: asked.pods.unwrap_or(choose(100, 5)),
            bursts: asked.bursts.unwrap_or(choose(2, 1)),
            density: choose(25, 2),
            http: http::Sizes {
                rounds: choose(3, 1),
                seconds: choose(2, 1),
            },
            latency: latency::Sizes {
                creations: asked.creations.unwrap_or(choose(400, 10)),
                containers: asked.pods.unwrap_or(choose(100, 5)),
                bursts: asked.bursts.unwrap_or(choose(2, 1)),
            },
            arrival: arrival::Sizes {
                modules: choose(4, 2),
                patience: Duration::from_secs(asked.patience.unwrap_or(if quick { 5 } else { 240 })),
            },
        }
    }
}

/// A run of some parts, on one node or beside it.
pub struct Run<'a> {
    node: &'a Node,
    /// On which the plugin's latency is measured.
    runtime: Runtime,
    sizes: Sizes,
    bench: Bench,
    // What several parts need is made by the first.
    plugin: OnceCell<Podwasm>,
    images: OnceCell<Images>,
    meter: OnceCell<Meter>,
}

impl<'a> Run<'a> {
    pub fn new(node: &'a Node, runtime: Runtime, sizes: Sizes) -> Result<Self> {
        Ok(Self {
            node,
            runtime,
            sizes,
            bench: Bench::new()?,
            plugin: OnceCell::new(),
            images: OnceCell::new(),
            meter: OnceCell::new(),
        })
    }

    /// Measures one part.
    pub async fn measure(&self, part: Part) -> Result<Section> {
        let Self {
            node, sizes, bench, ..
        } = self;
        match part {
            Part::EngineStart => start::measure(bench, sizes.starts).await,
            Part::Memory => memory::measure(bench, sizes.sleepers).await,
            Part::Module1Mb => module::measure(bench, sizes.starts / 3, sizes.copies).await,
            Part::Compute => compute::measure(bench, sizes.compute).await,
            Part::OneByOne => {
                let rows = self.pods(sizes.rounds, 1, "one by one").await?;
                pods::one_by_one(&rows, self.meter().await?.idle())
            }
            Part::AtOnce => {
                let progress = format!("{} at once", sizes.pods);
                let rows = self.pods(sizes.bursts, sizes.pods, &progress).await?;
                pods::at_once(&rows, sizes.pods, self.meter().await?.idle())
            }
            Part::Density => density::measure(node, self.images().await?, sizes.density).await,
            Part::Http => {
                self.plugin().await?;
                http::measure(node, sizes.http).await
            }
            Part::Latency => Box::pin(latency::measure(node.flavor(), self.runtime, sizes.latency)).await,
            Part::Arrival => {
                self.plugin().await?;
                arrival::measure(node, sizes.arrival).await
            }
        }
    }

    async fn pods(&self, rounds: usize, many: usize, progress: &str) -> Result<Vec<Row>> {
        let ground = Ground {
            node: self.node,
            images: self.images().await?,
            meter: self.meter().await?,
        };
        ground.rounds(self.sizes.warm_up, 1, "warm-up").await?;
        ground.rounds(rounds, many, progress).await
    }

    async fn plugin(&self) -> Result<&Podwasm> {
        let start = || {
            let quietly = |command: &mut Command| _ = command.env("RUST_LOG", "info");
            self.node.start_podwasm_as(quietly)
        };
        self.plugin.get_or_try_init(start).await
    }

    async fn images(&self) -> Result<&Images> {
        self.plugin().await?;
        self.images.get_or_try_init(|| Images::on(self.node)).await
    }

    async fn meter(&self) -> Result<&Meter> {
        self.images().await?; // the node is idle again
        self.meter.get_or_try_init(|| Meter::of(self.node)).await
    }
}

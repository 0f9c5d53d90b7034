//! What the plugin costs containers that it does not touch: creations on two equal nodes, of which one has the plugin.

use crate::stats::{Values, milliseconds};
use crate::variant::Images;
use anyhow::{Context as _, Result};
use podwasm_integration::node::{Flavor, Node, PLUGIN_HTTP, Runtime};
use podwasm_integration::prelude::PodHandle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// busybox's programs: each is an entrypoint that the plugin has not seen before.
const APPLETS: [&str; 30] = [
    "awk", "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "free", "grep",
    "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mount", "nc", "printf", "ps", "pwd", "rm", "sed",
    "seq", "sleep",
];
const WARM_UP: usize = 5;

/// What was measured of one kind of creation.
#[derive(Debug, Default, Serialize)]
pub struct Overhead {
    /// Duration of `CreateContainer` requests with the plugin registered.
    pub with_milliseconds: Values,
    /// The same without.
    pub without_milliseconds: Values,
    /// What the plugin itself says: from the request's arrival to its answer.
    pub plugin: OwnFigure,
}

/// The plugin's histogram of native containers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OwnFigure {
    pub count: f64,
    pub sum_seconds: f64,
    /// How many took at most so many microseconds.
    pub at_most_microseconds: BTreeMap<u64, f64>,
}

/// Both kinds.
#[derive(Debug, Default, Serialize)]
pub struct Overheads {
    /// The same image and entrypoint again and again.
    pub known: Overhead,
    /// An entrypoint that the plugin sees for the first time.
    pub new: Overhead,
}

/// Creates `count` native containers with the plugin and as many without, in turns. After half of them the nodes change
/// roles, so that a difference between the nodes is none of the result.
pub async fn measure(flavor: Flavor, runtime: Runtime, count: usize) -> Result<Overheads> {
    let nodes = [
        Node::start(flavor, runtime).await?,
        Node::start(flavor, runtime).await?,
    ];
    let images = [Images::on(&nodes[0]).await?, Images::on(&nodes[1]).await?];
    for node in &nodes {
        node.cri().pull(node.busybox()).await?;
    }
    let mut overheads = Overheads::default();
    for (half, [with, without]) in [[0, 1], [1, 0]].into_iter().enumerate() {
        eprintln!("plugin's latency: half {} of 2", half + 1);
        let plugin = nodes[with]
            .start_podwasm_as(|command| _ = command.env("RUST_LOG", "info"))
            .await?;
        let mut pair = Pair {
            with: Creator::on(&nodes[with], images[with].native()).await?,
            without: Creator::on(&nodes[without], images[without].native()).await?,
            turn: 0,
        };
        pair.create(&mut Overhead::default(), WARM_UP, |_| None).await?;
        pair.create(&mut overheads.known, count.div_ceil(2), |_| None)
            .await?;
        pair.create(&mut overheads.new, APPLETS.len(), |number| Some(APPLETS[number]))
            .await?;
        pair.end().await?;
        drop(plugin);
    }
    for node in nodes {
        node.stop().await?;
    }
    Ok(overheads)
}

/// The two nodes for one half.
struct Pair<'a> {
    with: Creator<'a>,
    without: Creator<'a>,
    turn: usize,
}

impl Pair<'_> {
    async fn create(
        &mut self,
        overhead: &mut Overhead,
        count: usize,
        applet: impl Fn(usize) -> Option<&'static str>,
    ) -> Result<()> {
        let before = OwnFigure::read(self.with.node).await?;
        for number in 0..count {
            let applet = applet(number);
            // Who is first takes turns, too.
            self.turn += 1;
            if self.turn.is_multiple_of(2) {
                overhead.with_milliseconds.push(self.with.create(applet).await?);
                overhead
                    .without_milliseconds
                    .push(self.without.create(applet).await?);
            } else {
                overhead
                    .without_milliseconds
                    .push(self.without.create(applet).await?);
                overhead.with_milliseconds.push(self.with.create(applet).await?);
            }
        }
        let after = OwnFigure::read(self.with.node).await?;
        overhead.plugin.add(&after, &before);
        Ok(())
    }

    async fn end(self) -> Result<()> {
        self.with.pod.remove().await?;
        self.without.pod.remove().await
    }
}

/// A pod to create containers in.
struct Creator<'a> {
    node: &'a Node,
    pod: PodHandle<'a>,
    image: &'a str,
}

impl<'a> Creator<'a> {
    async fn on(node: &'a Node, image: &'a str) -> Result<Self> {
        let pod = node.pod("native").run().await?;
        Ok(Self { node, pod, image })
    }

    /// Creates a container, removes it, and says how long the first took in milliseconds.
    async fn create(&self, applet: Option<&str>) -> Result<f64> {
        let image = if applet.is_some() {
            self.node.busybox()
        } else {
            self.image
        };
        let container = self
            .pod
            .container("c")
            .image(image)
            .command(applet)
            .without_pull();
        let start = Instant::now();
        let container = container.create().await?;
        let took = start.elapsed();
        container.remove().await?;
        Ok(milliseconds(took))
    }
}

impl OwnFigure {
    async fn read(node: &Node) -> Result<Self> {
        let answer = node.http(PLUGIN_HTTP.parse()?, "/metrics").await?;
        Self::parse(&answer.text()).context("read the plugin's metrics")
    }

    /// Nothing of native containers means that there was none.
    fn parse(text: &str) -> Option<Self> {
        let mut figure = Self::default();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("podwasm_create_seconds_"));
        for line in lines.filter(|line| line.contains("outcome=\"native\"")) {
            let (series, rest) = line.split_once('{')?;
            let (labels, value) = rest.split_once("} ")?;
            let value = value.split(' ').next()?.parse().ok()?;
            match series {
                "count" => figure.count = value,
                "sum" => figure.sum_seconds = value,
                "bucket" => {
                    let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
                    if bound != "+Inf" {
                        figure.at_most_microseconds.insert(microseconds(bound)?, value);
                    }
                }
                _ => {}
            }
        }
        Some(figure)
    }

    /// Adds what came between two readings.
    fn add(&mut self, after: &Self, before: &Self) {
        self.count += after.count - before.count;
        self.sum_seconds += after.sum_seconds - before.sum_seconds;
        for (bound, count) in &after.at_most_microseconds {
            let earlier = before.at_most_microseconds.get(bound).unwrap_or(&0.0);
            *self.at_most_microseconds.entry(*bound).or_default() += count - earlier;
        }
    }

    /// The mean in microseconds.
    pub fn mean_microseconds(&self) -> f64 {
        self.sum_seconds / self.count * 1e6
    }

    /// The smallest bound of the histogram, in microseconds, that so many percent kept.
    pub fn percentile_microseconds(&self, percent: f64) -> Option<u64> {
        let wanted = self.count * percent / 100.0;
        let mut bounds = self.at_most_microseconds.iter();
        bounds
            .find(|&(_, &count)| count >= wanted)
            .map(|(&bound, _)| bound)
    }
}

/// A histogram's bound, which is in seconds.
fn microseconds(bound: &str) -> Option<u64> {
    let seconds: f64 = bound.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bound is a small number"
    )]
    Some((seconds * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE podwasm_create_seconds histogram
podwasm_create_seconds_sum{outcome=\"native\"} 0.004
podwasm_create_seconds_count{outcome=\"native\"} 4
podwasm_create_seconds_bucket{le=\"0.00005\",outcome=\"native\"} 3
podwasm_create_seconds_bucket{le=\"0.005\",outcome=\"native\"} 4
podwasm_create_seconds_bucket{le=\"+Inf\",outcome=\"native\"} 4
podwasm_create_seconds_count{outcome=\"routed\"} 9
";

    #[test]
    fn native_containers_are_read_from_the_metrics() {
        let mut figure = OwnFigure::default();
        figure.add(&OwnFigure::parse(METRICS).unwrap(), &OwnFigure::default());
        assert!((figure.mean_microseconds() - 1000.0).abs() < 1e-6);
        assert_eq!(figure.percentile_microseconds(50.0), Some(50));
        assert_eq!(figure.percentile_microseconds(99.0), Some(5000));
    }

    #[test]
    fn no_native_container_is_no_error() {
        assert!(OwnFigure::parse("podwasm_nri_connected 1\n").unwrap().count.abs() < f64::EPSILON);
    }
}

//! What the plugin adds to the creation of containers: on three equal nodes, of which one has the plugin, and one a plugin that does
//! nothing.

use crate::bar::Check;
use crate::histogram::Histogram;
use crate::idle::Idle;
use crate::section::Section;
use crate::stats::{Values, milliseconds, ratio_of_medians};
use crate::table::Table;
use crate::variant::Images;
use anyhow::Result;
use futures_util::future::join_all;
use podwasm_integration::measure::digits;
use podwasm_integration::node::{Flavor, Node, Runtime};
use podwasm_integration::prelude::{ContainerHandle, PodHandle};
use serde::Serialize;
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
pub struct Latency {
    /// Duration of `CreateContainer` requests with the plugin registered.
    pub with_milliseconds: Values,
    /// The same with a plugin that does nothing.
    pub idle_milliseconds: Values,
    /// The same without any.
    pub without_milliseconds: Values,
    /// What the plugin itself says: from the request's arrival to its answer.
    pub plugin: Histogram,
}

/// All kinds.
#[derive(Debug, Default, Serialize)]
struct Measured {
    /// Native, the same image and entrypoint again and again.
    known: Latency,
    /// Native, an entrypoint that the plugin sees for the first time.
    new: Latency,
    /// Native, many at once.
    at_once: Latency,
    /// A module whose image is known, many at once; only with the plugin.
    wasm: Latency,
}

/// How much is created.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// One after another, with the plugin; as many without.
    pub creations: usize,
    /// At once.
    pub containers: usize,
    /// How often so many.
    pub bursts: usize,
}

/// Creates native containers with the plugin and as many with another and with none, in turns, and Wasm containers. The nodes change roles,
/// so that a difference between them is none of the result.
pub async fn measure(flavor: Flavor, runtime: Runtime, sizes: Sizes) -> Result<Section> {
    let nodes = [
        Node::start(flavor, runtime).await?,
        Node::start(flavor, runtime).await?,
        Node::start(flavor, runtime).await?,
    ];
    let mut measured = Measured::default();
    for roles in 0..nodes.len() {
        eprintln!("plugin's latency: part {} of {}", roles + 1, nodes.len());
        let [with, idle, without] = [0, 1, 2].map(|role| &nodes[(roles + role) % nodes.len()]);
        let plugin = with
            .start_podwasm_as(|command| _ = command.env("RUST_LOG", "info"))
            .await?;
        let other = Idle::on(idle).await?;
        let images = Images::on(with).await?;
        for node in [idle, without] {
            node.cri().pull(node.busybox()).await?;
        }
        let mut trio = Trio {
            all: [
                Creator::on(with).await?,
                Creator::on(idle).await?,
                Creator::on(without).await?,
            ],
            turn: 0,
        };
        trio.measure(&mut measured, sizes).await?;
        trio.all[0].wasm(&mut measured.wasm, &images, sizes).await?;
        trio.end().await?;
        drop((plugin, other));
    }
    for node in nodes {
        node.stop().await?;
    }
    section(&measured, sizes)
}

impl Latency {
    fn values(&mut self, role: usize) -> &mut Values {
        [
            &mut self.with_milliseconds,
            &mut self.idle_milliseconds,
            &mut self.without_milliseconds,
        ]
        .into_iter()
        .nth(role)
        .expect("there are three roles")
    }
}

/// The nodes for one part: with the plugin, with one that does nothing, with none.
struct Trio<'a> {
    all: [Creator<'a>; 3],
    turn: usize,
}

impl Trio<'_> {
    async fn measure(&mut self, measured: &mut Measured, sizes: Sizes) -> Result<()> {
        let part = sizes.creations.div_ceil(self.all.len());
        self.create(&mut Latency::default(), WARM_UP, |_| "true").await?;
        self.create(&mut measured.known, part, |_| "true").await?;
        self.create(&mut measured.new, APPLETS.len(), |number| APPLETS[number])
            .await?;
        self.at_once(&mut measured.at_once, sizes).await
    }

    async fn create(
        &mut self,
        latency: &mut Latency,
        count: usize,
        applet: impl Fn(usize) -> &'static str,
    ) -> Result<()> {
        let before = Histogram::of(self.all[0].node, "native").await?;
        for number in 0..count {
            for role in self.order() {
                let took = self.all[role].create(applet(number)).await?;
                latency.values(role).push(took);
            }
        }
        let after = Histogram::of(self.all[0].node, "native").await?;
        latency.plugin.add(&after, &before);
        Ok(())
    }

    async fn at_once(&mut self, latency: &mut Latency, sizes: Sizes) -> Result<()> {
        let before = Histogram::of(self.all[0].node, "native").await?;
        for _ in 0..sizes.bursts {
            for role in self.order() {
                let took = self.all[role].burst(sizes.containers).await?;
                latency.values(role).extend(took);
            }
        }
        let after = Histogram::of(self.all[0].node, "native").await?;
        latency.plugin.add(&after, &before);
        Ok(())
    }

    /// Who is first takes turns, too.
    fn order(&mut self) -> [usize; 3] {
        self.turn += 1;
        [0, 1, 2].map(|place| (self.turn + place) % 3)
    }

    async fn end(self) -> Result<()> {
        for creator in self.all {
            creator.pod.remove().await?;
        }
        Ok(())
    }
}

/// A pod to create containers in.
struct Creator<'a> {
    node: &'a Node,
    pod: PodHandle<'a>,
}

impl<'a> Creator<'a> {
    async fn on(node: &'a Node) -> Result<Self> {
        let pod = node.pod("latency").run().await?;
        Ok(Self { node, pod })
    }

    /// Creates a container, removes it, and says how long the first took in milliseconds.
    async fn create(&self, applet: &'static str) -> Result<f64> {
        let (container, took) = self.timed("c", self.node.busybox(), Some(applet)).await?;
        container.remove().await?;
        Ok(took)
    }

    /// The same for many at once.
    async fn burst(&self, count: usize) -> Result<Vec<f64>> {
        self.many(self.node.busybox(), Some("true"), count).await
    }

    async fn wasm(&self, latency: &mut Latency, images: &Images, sizes: Sizes) -> Result<()> {
        self.many(images.wasm(), None, 1).await?; // from then on it is known
        let before = Histogram::of(self.node, "routed").await?;
        for _ in 0..sizes.bursts {
            let took = self.many(images.wasm(), None, sizes.containers).await?;
            latency.with_milliseconds.extend(took);
        }
        let after = Histogram::of(self.node, "routed").await?;
        latency.plugin.add(&after, &before);
        Ok(())
    }

    async fn many(&self, image: &str, applet: Option<&str>, count: usize) -> Result<Vec<f64>> {
        let names: Vec<_> = (0..count).map(|number| format!("c{number}")).collect();
        let created = join_all(names.iter().map(|name| self.timed(name, image, applet))).await;
        let created = created.into_iter().collect::<Result<Vec<_>>>()?;
        let removed = join_all(created.iter().map(|(container, _)| container.remove())).await;
        removed.into_iter().collect::<Result<()>>()?;
        Ok(created.into_iter().map(|(_, took)| took).collect())
    }

    async fn timed(
        &self,
        name: &str,
        image: &str,
        applet: Option<&str>,
    ) -> Result<(ContainerHandle<'a>, f64)> {
        let container = self.pod.container(name).image(image).command(applet);
        let start = Instant::now();
        let container = container.without_pull().create().await?;
        Ok((container, milliseconds(start.elapsed())))
    }
}

fn section(measured: &Measured, sizes: Sizes) -> Result<Section> {
    let mut table = Table::new([
        "container",
        "N each",
        "with ms",
        "idle plugin ms",
        "without ms",
        "difference ms",
        "p99 with",
        "p99 without",
        "the plugin's own figure",
    ]);
    let many = sizes.containers;
    for (name, latency) in [
        ("native, seen before".to_owned(), &measured.known),
        ("native, new".to_owned(), &measured.new),
        (format!("native, {many} at once"), &measured.at_once),
        (format!("Wasm, {many} at once"), &measured.wasm),
    ] {
        let (with, without) = (&latency.with_milliseconds, &latency.without_milliseconds);
        table.row([
            name,
            with.count().to_string(),
            digits(with.median()),
            or_dash(latency.idle_milliseconds.median(), digits),
            or_dash(without.median(), digits),
            or_dash(with.median() - without.median(), |value| format!("{value:+.2}")),
            p99(with),
            p99(without),
            own_figure(&latency.plugin),
        ]);
    }
    let mut section = Section::new("The plugin's latency", measured)?;
    section.tables.push(table);
    let at_once = &measured.at_once;
    let with = &at_once.with_milliseconds;
    let ratio = ratio_of_medians(with, &at_once.without_milliseconds);
    let over_idle = ratio_of_medians(with, &at_once.idle_milliseconds);
    for (ratio, what) in [(&ratio, "none"), (&over_idle, "a plugin that does nothing")] {
        section.notes.push(format!(
            "Creating {many} native containers at once takes × {:.2} of the time that it takes with {what}; 94 of a hundred such \
             ratios lie between {:.2} and {:.2}.",
            ratio.median, ratio.from, ratio.to
        ));
    }
    let milliseconds = |histogram: &Histogram| histogram.percentile_milliseconds(99.0);
    section.checks = vec![
        Check::at_most(
            0.5,
            " ms",
            format!("the plugin's p99, native containers, {many} at once"),
            milliseconds(&at_once.plugin),
        ),
        Check::at_most(
            1.0,
            " ×",
            format!("creating {many} native containers at once, with over without, lower bound"),
            ratio.from,
        ),
        Check::at_most(
            1.0,
            " ×",
            format!(
                "creating {many} native containers at once, over a plugin that does nothing, lower bound"
            ),
            over_idle.from,
        ),
        Check::at_most(
            1.0,
            " ms",
            format!("the plugin's p99, Wasm containers of a known image, {many} at once"),
            milliseconds(&measured.wasm.plugin),
        ),
    ];
    Ok(section)
}

/// With less than a hundred values there is no hundredth.
fn p99(values: &Values) -> String {
    match values.count() {
        0..100 => "–".to_owned(),
        _ => digits(values.percentile(99)),
    }
}

fn or_dash(value: f64, show: impl Fn(f64) -> String) -> String {
    if value.is_nan() {
        "–".to_owned()
    } else {
        show(value)
    }
}

/// Mean, and the bounds of the plugin's histogram that half and 99 of a hundred keep.
fn own_figure(histogram: &Histogram) -> String {
    format!(
        "mean {:.0} µs, half ≤ {} ms, 99 % ≤ {} ms",
        histogram.mean_microseconds(),
        histogram.percentile_milliseconds(50.0),
        histogram.percentile_milliseconds(99.0)
    )
}

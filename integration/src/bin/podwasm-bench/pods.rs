//! Pods with one container that says hello: one by one, and many at once.

use crate::bar::Check;
use crate::cpu::{Meter, Reading};
use crate::output::{self, Moment};
use crate::section::{Better, Panel, Section, Who};
use crate::stats::{Values, milliseconds};
use crate::table::Table;
use crate::variant::{Handler, Images, VARIANTS, Variant};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use podwasm_integration::node::Node;
use podwasm_integration::prelude::{ContainerHandle, PodHandle};
use serde::Serialize;
use std::time::Duration;

/// How often a log file is looked at while a container starts; the time that counts is the one in the log.
const PAUSE_ALONE: Duration = Duration::from_millis(2);
const PAUSE_AMONG_MANY: Duration = Duration::from_millis(50);

const SANDBOX_TRIES: usize = 5;

/// What was measured of one variant.
#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub variant: Variant,
    /// From before the `CreateContainer` request to the time in the log of the first line, for each container.
    pub first_output_milliseconds: Values,
    /// From the first request to the last first line, for each time that many were created at once.
    pub all_output_milliseconds: Values,
    /// CPU time of the node for a container: create, start, run, exit, remove.
    pub container_cpu_milliseconds: Values,
    /// CPU time of the node for a pod: the same, and the sandbox with its network.
    pub pod_cpu_milliseconds: Values,
}

impl Row {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            first_output_milliseconds: Values::default(),
            all_output_milliseconds: Values::default(),
            container_cpu_milliseconds: Values::default(),
            pod_cpu_milliseconds: Values::default(),
        }
    }
}

/// Where and what pods are run.
pub struct Ground<'a> {
    pub node: &'a Node,
    pub images: &'a Images,
    pub meter: &'a Meter,
}

impl Ground<'_> {
    /// Rounds of `many` pods of each variant; those of a variant are created at once. Each round goes through the variants
    /// the other way round, so that none always comes after the same one.
    pub async fn rounds(&self, rounds: usize, many: usize, progress: &str) -> Result<Vec<Row>> {
        let mut rows = VARIANTS.map(Row::new);
        for round in 1..=rounds {
            eprintln!("{progress}: round {round} of {rounds}");
            for row in &mut rows {
                let variant = row.variant;
                let what = || format!("{} on {}", variant.name(), variant.runtime);
                self.batch(row, many).await.with_context(what)?;
            }
            rows.reverse();
        }
        if rounds % 2 == 1 {
            rows.reverse();
        }
        Ok(rows.into())
    }

    /// Runs pods at once, each step of all of them before the next step of any.
    async fn batch(&self, row: &mut Row, many: usize) -> Result<()> {
        let variant = row.variant;
        let start = self.meter.read()?;
        let pods = all((0..many).map(|_| self.sandbox(variant))).await?;
        let ready = self.meter.read()?;

        let pause = if many == 1 { PAUSE_ALONE } else { PAUSE_AMONG_MANY };
        let asked = Moment::now();
        let ran = all(pods.iter().map(|pod| self.say_hello(variant, pod, pause))).await?;
        all(ran.iter().map(|ran| finish(&ran.container))).await?;
        let removed = self.meter.read()?;
        all(pods.iter().map(PodHandle::remove)).await?;
        let end = self.meter.read()?;

        let outputs = ran.iter().map(|ran| milliseconds(ran.said.since(ran.asked)));
        row.first_output_milliseconds.extend(outputs);
        let last = ran.iter().map(|ran| milliseconds(ran.said.since(asked)));
        row.all_output_milliseconds.push(last.fold(0.0, f64::max));
        row.container_cpu_milliseconds
            .push(self.cpu_each(&ready, &removed, many));
        row.pod_cpu_milliseconds.push(self.cpu_each(&start, &end, many));
        Ok(())
    }

    /// Runs a pod's sandbox, again when that fails, as a kubelet does: network plugins trip over each other when there are
    /// many at once.
    async fn sandbox(&self, variant: Variant) -> Result<PodHandle<'_>> {
        for _ in 1..SANDBOX_TRIES {
            match variant.pod(self.node).run().await {
                Ok(pod) => return Ok(pod),
                Err(error) => eprintln!("a sandbox failed and is tried again: {error:#}"),
            }
        }
        variant.pod(self.node).run().await
    }

    async fn say_hello<'a>(&self, variant: Variant, pod: &PodHandle<'a>, pause: Duration) -> Result<Ran<'a>> {
        let asked = Moment::now();
        let container = self.images.create(variant, pod).await?;
        container.start().await?;
        let said = output::wait(&container, pause).await?;
        Ok(Ran {
            container,
            asked,
            said,
        })
    }

    fn cpu_each(&self, start: &Reading, end: &Reading, many: usize) -> f64 {
        let many = u32::try_from(many).expect("a node does not run so many pods");
        milliseconds(self.meter.between(start, end) / many)
    }
}

/// Waits for all of them, even when one fails: a request that is dropped would leave the runtime's work half done.
async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    join_all(futures).await.into_iter().collect()
}

/// A container that said hello.
struct Ran<'a> {
    container: ContainerHandle<'a>,
    asked: Moment,
    said: Moment,
}

async fn finish(container: &ContainerHandle<'_>) -> Result<()> {
    let code = container.wait_exit().await?;
    ensure!(code == 0, "hello ended with {code}");
    container.remove().await
}

/// One pod after another: what counts is the time to the first output.
pub fn one_by_one(rows: &[Row], idle: f64) -> Result<Section> {
    let pods = rows.first().map_or(0, |row| row.pod_cpu_milliseconds.count());
    let mut section = Section::new(format!("One by one, {pods} pods each"), &rows)?;
    section.notes.push(how_to_read(idle));
    let mut table = Table::new([
        "",
        "runtime",
        "create → output ms",
        "p10–p90",
        "CPU/container ms",
        "CPU/pod ms",
    ]);
    for row in rows {
        let output = &row.first_output_milliseconds;
        table.row([
            row.variant.name().to_owned(),
            row.variant.runtime.to_string(),
            relative(rows, row, |row| &row.first_output_milliseconds),
            format!("{:.1}–{:.1}", output.percentile(10), output.percentile(90)),
            relative(rows, row, |row| &row.container_cpu_milliseconds),
            relative(rows, row, |row| &row.pod_cpu_milliseconds),
        ]);
    }
    section.tables.push(table);
    section.checks = checks(rows, "create → first output", [1.03, 0.75], |row| {
        &row.first_output_milliseconds
    });
    section.panels.push(panel(
        rows,
        "Create → first output, one by one, on crun",
        |row| &row.first_output_milliseconds,
    ));
    Ok(section)
}

/// Many pods at once: what counts is the CPU time of each.
pub fn at_once(rows: &[Row], pods: usize, idle: f64) -> Result<Section> {
    let bursts = rows.first().map_or(0, |row| row.pod_cpu_milliseconds.count());
    let mut section = Section::new(format!("{pods} pods at once, {bursts} times each"), &rows)?;
    section.notes.push(how_to_read(idle));
    let mut table = Table::new([
        "",
        "runtime",
        "create → output ms",
        "p90",
        "until the last ms",
        "CPU/container ms",
        "CPU/pod ms",
    ]);
    for row in rows {
        table.row([
            row.variant.name().to_owned(),
            row.variant.runtime.to_string(),
            relative(rows, row, |row| &row.first_output_milliseconds),
            format!("{:.0}", row.first_output_milliseconds.percentile(90)),
            relative(rows, row, |row| &row.all_output_milliseconds),
            relative(rows, row, |row| &row.container_cpu_milliseconds),
            relative(rows, row, |row| &row.pod_cpu_milliseconds),
        ]);
    }
    section.tables.push(table);
    let what = format!("CPU per pod, {pods} at once");
    section.checks = checks(rows, &what, [1.05, 0.9], |row| &row.pod_cpu_milliseconds);
    section
        .panels
        .push(panel(rows, &format!("{what}, on crun"), |row| {
            &row.pod_cpu_milliseconds
        }));
    Ok(section)
}

fn how_to_read(idle: f64) -> String {
    format!(
        "Medians (× native on the same runtime). CPU time is the whole node's, less the {:.1} ms/s that it uses when idle.",
        idle * 1e3
    )
}

/// podwasm against native on each runtime, and against the peer on the one that has it.
fn checks(rows: &[Row], what: &str, [native, peer]: [f64; 2], of: fn(&Row) -> &Values) -> Vec<Check> {
    let podwasm = rows.iter().filter(|row| row.variant.handler == Handler::Podwasm);
    let against_native = podwasm.map(|row| {
        let what = format!("{what} on {}, against native", row.variant.runtime);
        let ratio = of(row).median() / median(rows, row.variant.native(), of);
        Check::at_most(native, " ×", what, ratio)
    });
    let [ours, peers] = [Variant::PODWASM_ON_CRUN, Variant::PEER].map(|variant| median(rows, variant, of));
    let against_peer = Check::at_most(
        peer,
        " ×",
        format!("{what} on crun, against the peer"),
        ours / peers,
    );
    against_native.chain([against_peer]).collect()
}

fn panel(rows: &[Row], title: &str, of: fn(&Row) -> &Values) -> Panel {
    let bars = [
        (Who::Native, Variant::PODWASM_ON_CRUN.native()),
        (Who::Podwasm, Variant::PODWASM_ON_CRUN),
        (Who::Peer, Variant::PEER),
    ];
    Panel {
        title: title.to_owned(),
        unit: " ms",
        better: Better::Less,
        bars: bars.map(|(who, variant)| (who, median(rows, variant, of))).into(),
    }
}

fn median(rows: &[Row], variant: Variant, of: fn(&Row) -> &Values) -> f64 {
    let row = rows.iter().find(|row| row.variant == variant);
    row.map_or(f64::NAN, |row| of(row).median())
}

/// A median, and how many times the native one on the same runtime it is.
fn relative(rows: &[Row], row: &Row, of: fn(&Row) -> &Values) -> String {
    let mine = of(row).median();
    match row.variant.handler {
        Handler::Native => format!("{mine:.1}"),
        _ => format!(
            "{mine:.1} (× {:.2})",
            mine / median(rows, row.variant.native(), of)
        ),
    }
}

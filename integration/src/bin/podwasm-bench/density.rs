//! How many pods fit into a gibibyte: what a sleeping pod keeps in memory, by who keeps it.

use crate::mappings::{self, Rollup};
use crate::section::{Better, Panel, Section, Who};
use crate::stats::Values;
use crate::table::Table;
use crate::variant::{Handler, Images, Variant};
use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use podwasm_integration::measure::digits;
use podwasm_integration::node::Node;
use podwasm_integration::prelude::{ContainerHandle, PodHandle};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

const VARIANTS: [Variant; 3] = [
    Variant::PODWASM_ON_CRUN.native(),
    Variant::PODWASM_ON_CRUN,
    Variant::PEER,
];
const GIBIBYTE_MEGABYTES: f64 = 1_073.741_824;

/// What the pods of a variant keep, a value for each of them.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    variant: Variant,
    container_private_dirty_megabytes: Values,
    container_pss_megabytes: Values,
    pause_pss_megabytes: Values,
    shim_pss_megabytes: Values,
}

/// Runs so many sleeping pods of each variant, one variant after the other.
pub async fn measure(node: &Node, images: &Images, pods: usize) -> Result<Section> {
    let mut rows = Vec::new();
    for variant in VARIANTS {
        eprintln!("density: {pods} pods of {}", variant.name());
        rows.push(
            row(node, images, variant, pods)
                .await
                .with_context(|| variant.name())?,
        );
    }
    section(&rows, pods)
}

async fn row(node: &Node, images: &Images, variant: Variant, count: usize) -> Result<Row> {
    let mut pods = Vec::new();
    for _ in 0..count {
        pods.push(sleeper(node, images, variant).await?);
    }
    let mut row = Row {
        variant,
        container_private_dirty_megabytes: Values::default(),
        container_pss_megabytes: Values::default(),
        pause_pss_megabytes: Values::default(),
        shim_pss_megabytes: Values::default(),
    };
    for (_, container) in &pods {
        let process = process(node, container).await?;
        let rollup = mappings::of_sleeping(&process).await?;
        row.container_private_dirty_megabytes
            .push(rollup.private_dirty_megabytes);
        row.container_pss_megabytes.push(rollup.pss_megabytes);
        let shim = parent(&process)?;
        row.shim_pss_megabytes.push(Rollup::of(&shim)?.pss_megabytes);
        let children = children(&shim)?;
        let pause = children.iter().find(|&child| *child != process);
        let pause = pause.context("the shim has no other child")?;
        row.pause_pss_megabytes.push(Rollup::of(pause)?.pss_megabytes);
    }
    let removed = join_all(pods.iter().map(|(pod, _)| pod.remove())).await;
    removed.into_iter().collect::<Result<()>>()?;
    Ok(row)
}

async fn sleeper<'a>(
    node: &'a Node,
    images: &Images,
    variant: Variant,
) -> Result<(PodHandle<'a>, ContainerHandle<'a>)> {
    let pod = variant.pod(node).run().await?;
    let container = pod.container("sleeper").without_pull();
    let container = match variant.handler {
        Handler::Native => container.image(images.native()).command(["sleep", "3600"]),
        Handler::CrunWasmedge | Handler::Podwasm => container.image(images.wasm()).args(["sleep"]),
    };
    let container = container.start().await?;
    Ok((pod, container))
}

/// The folder in `/proc` of a container's first process, as the node has it.
async fn process(node: &Node, container: &ContainerHandle<'_>) -> Result<PathBuf> {
    let info = container.info().await?;
    let pid = info["pid"].as_u64().context("containerd names no process")?;
    Ok(node.path(format!("/proc/{pid}")))
}

fn parent(process: &Path) -> Result<PathBuf> {
    let status = fs::read_to_string(process.join("status"))?;
    let pid = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(process.with_file_name(pid.context("a process without a parent")?.trim()))
}

fn children(process: &Path) -> Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for task in fs::read_dir(process.join("task"))? {
        let pids = fs::read_to_string(task?.path().join("children"))?;
        children.extend(pids.split_whitespace().map(|pid| process.with_file_name(pid)));
    }
    Ok(children)
}

impl Row {
    /// The container, then with the pod's sandbox, then with the shim as well.
    fn sums(&self) -> [f64; 3] {
        let container = self.container_pss_megabytes.median();
        let pod = container + self.pause_pss_megabytes.median();
        [container, pod, pod + self.shim_pss_megabytes.median()]
    }
}

fn section(rows: &[Row], pods: usize) -> Result<Section> {
    let mut table = Table::new([
        "",
        "container private dirty MB",
        "container PSS MB",
        "pause PSS MB",
        "shim PSS MB",
        "containers per GiB",
        "pods per GiB, without shim",
        "pods per GiB",
    ]);
    for row in rows {
        let per_gibibyte = row.sums().map(|sum| format!("{:.0}", GIBIBYTE_MEGABYTES / sum));
        let [containers, without_shim, pods] = per_gibibyte;
        table.row([
            row.variant.name().to_owned(),
            digits(row.container_private_dirty_megabytes.median()),
            digits(row.container_pss_megabytes.median()),
            digits(row.pause_pss_megabytes.median()),
            digits(row.shim_pss_megabytes.median()),
            containers,
            without_shim,
            pods,
        ]);
    }
    let mut section = Section::new("Density", &rows)?;
    section.notes.push(format!(
        "{pods} sleeping pods of each on crun; medians. PSS counts a page that n processes share as 1/n. What the kernel keeps \
         for namespaces, sockets and cgroups comes on top, the same for all."
    ));
    section.tables.push(table);
    let who = [Who::Native, Who::Podwasm, Who::Peer];
    let bars = who
        .into_iter()
        .zip(rows)
        .map(|(who, row)| (who, GIBIBYTE_MEGABYTES / row.sums()[2]));
    section.panels.push(Panel {
        title: "Pods per GiB, with sandbox and shim".to_owned(),
        unit: "",
        better: Better::More,
        bars: bars.collect(),
    });
    Ok(section)
}

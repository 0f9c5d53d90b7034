//! Every cell of the table in `docs/compatibility.md`, on the kind of node that is its column.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::prelude::*;

/// What became of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Crun,
    Native,
    NotPulled,
    Refused,
    /// It ended well, and its output was lost. No row expects that.
    Silent,
    Wasm,
}

impl Fate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Native => "native",
            Self::NotPulled => "not pulled",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Wasm => "Wasm",
        }
    }
}

/// A row: its name in the table, the image, the pod's command and its annotation.
struct Row {
    name: &'static str,
    image: String,
    command: &'static [&'static str],
    annotation: Option<&'static str>,
}

const MODULE: &str = "/guest.wasm";

async fn push(node: &Node, name: &str, image: &impl Content) -> Result<String> {
    node.push(&format!("compatibility/{name}"), image).await
}

#[allow(clippy::too_many_lines, reason = "it is a table")]
async fn rows(node: &Node) -> Result<Vec<Row>> {
    let module = guest("guest.wasm");
    let on = |os, architecture| {
        Image::platform(os, architecture)
            .program(MODULE, module.clone())
            .entrypoint([MODULE])
    };
    let wasi = on("wasi", "wasm");
    let both = Index::new()
        .image(&on("linux", "amd64"))
        .image(&on("linux", "arm64"));
    let component = Image::linux()
        .program(MODULE, guest("component.wasm"))
        .entrypoint([MODULE]);
    let hollow = Image::platform("wasi", "wasm")
        .program(MODULE, "not a module")
        .entrypoint([MODULE]);
    let annotated = guest_image("guest").annotation("module.wasm.image/variant", "compat");
    let old = Artifact::wasm_to_oci(module.clone());
    let alone = Index::new().image(&wasi).provenance(&wasi);
    let row = |name, image, command, annotation| Row {
        name,
        image,
        command,
        annotation,
    };
    Ok(vec![
        row(
            "native program",
            node.busybox().to_owned(),
            &["echo", "hello from busybox"][..],
            None,
        ),
        row(
            "`linux/<arch>` with a module",
            push(node, "linux", &guest_image("guest")).await?,
            &[],
            None,
        ),
        row(
            "index of `linux/amd64` and `linux/arm64` with a module",
            push(node, "both", &both).await?,
            &[],
            None,
        ),
        row(
            "manifest of `wasi/wasm`",
            push(node, "wasi", &wasi).await?,
            &[],
            None,
        ),
        row(
            "manifest of `wasip1/wasm`",
            push(node, "wasip1", &on("wasip1", "wasm")).await?,
            &[],
            None,
        ),
        row(
            "OCI Wasm artifact, with a `command` in the pod",
            push(node, "artifact", &Artifact::wasm(module.clone())).await?,
            &[MODULE],
            None,
        ),
        row(
            "artifact of `wasm-to-oci`, with a `command` in the pod",
            push(node, "wasm-to-oci", &old).await?,
            &[MODULE],
            None,
        ),
        row(
            "crun's `module.wasm.image/variant: compat`",
            push(node, "variant", &annotated).await?,
            &[],
            None,
        ),
        row(
            "index of `wasi/wasm` alone",
            push(node, "alone", &alone).await?,
            &[],
            None,
        ),
        row(
            "`linux/<arch>` with a component",
            push(node, "component", &component).await?,
            &[],
            None,
        ),
        row(
            "`wasi/wasm` without a module",
            push(node, "hollow", &hollow).await?,
            &[],
            None,
        ),
        row(
            "module, and `handler: crun` in the pod",
            push(node, "linux", &guest_image("guest")).await?,
            &[],
            Some("handler: crun"),
        ),
    ])
}

/// Pulls the image, runs a pod of it, and says what became of that.
async fn fate(node: &Node, row: &Row) -> Result<Fate> {
    if let Err(error) = node.cri().ensure_image(&row.image).await {
        let said = format!("{error:#}");
        ensure!(
            said.contains("no match for platform in manifest"),
            "{}: {said}",
            row.name
        );
        return Ok(Fate::NotPulled);
    }
    let mut pod = node.pod("compatibility");
    if let Some(annotation) = row.annotation {
        // crun's handler takes more memory than the default limit.
        pod = pod.annotation(
            "wasm.noderesource.dev/pod",
            &format!("{annotation}\nmemory: none"),
        );
    }
    let pod = pod.run().await?;
    let mut fate = fate_in(&pod, row, "c").await;
    if let Ok(Fate::Silent) = fate {
        // Seen once in a thousand runs, of one stream of two, on a machine that was busy with other builds; containerd gives up a stream
        // that it has not yet opened when the container ends. What is asked here is who ran it.
        println!("{}: nothing came of its output, so it runs once more", row.name);
        fate = fate_in(&pod, row, "again").await;
    }
    pod.remove().await?;
    fate
}

async fn fate_in(pod: &PodHandle<'_>, row: &Row, name: &str) -> Result<Fate> {
    let container = pod
        .container(name)
        .image(&row.image)
        .command(row.command.iter().copied());
    let container = match container.create().await {
        Ok(container) => container,
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains("podwasm"), "{}: {said}", row.name);
            return Ok(Fate::Refused);
        }
    };
    container.start().await?;
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    assert_eq!(code, 0, "{}: {logs:?}", row.name);
    if logs.stdout.is_empty() {
        return Ok(Fate::Silent);
    }
    ensure!(logs.stdout.starts_with("hello from"), "{}: {logs:?}", row.name);
    let info = container.info().await?;
    let handler = &info["runtimeSpec"]["annotations"]["wasm.noderesource.dev/routed"];
    Ok(match handler.as_str() {
        None => Fate::Native,
        Some("engine") => Fate::Wasm,
        Some("crun") => Fate::Crun,
        Some(other) => bail!("{}: handler {other}", row.name),
    })
}

/// The table's cells for a kind of node, by their rows.
async fn column(node: &Node) -> Result<Vec<(String, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md");
    let text = std::fs::read_to_string(path)?;
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let lines: Vec<_> = text
        .lines()
        .skip_while(|line| !line.starts_with("| image |"))
        .take_while(|line| line.starts_with('|'))
        .collect();
    let version = node.cri().version().await?;
    let version = version
        .split(['~', '+', '-'])
        .next()
        .unwrap_or_default()
        .replace("containerd v", "containerd ");
    let wanted = format!("{version}, {}", node.runtime());
    let head = cells(lines.first().context("there is a table")?);
    let at = head.iter().position(|cell| *cell == wanted);
    let at = at.with_context(|| format!("no column {wanted}, only {head:?}"))?;
    Ok(lines[2..]
        .iter()
        .map(|line| cells(line))
        .map(|row| (row[0].clone(), row[at].clone()))
        .collect())
}

on_all_nodes! {
    async fn each_cell_is_what_happens(node: &Node) {
        node.podwasm().await?;
        let mut seen = Vec::new();
        for row in rows(node).await? {
            seen.push((row.name.to_owned(), fate(node, &row).await?.as_str().to_owned()));
        }
        assert_eq!(seen, column(node).await?);
    }
}

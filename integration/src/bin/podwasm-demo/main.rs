//! Installs podwasm on a throw-away node, as pods of its images. Runs a pod of native and Wasm containers there, and shows what was
//! decided for each container and why; then sends load to a Wasm server, and shows what is counted and what KEDA would ask for.
//! At the end podwasm is uninstalled, and what is left of it looked for.

mod install;
mod scaling;
mod show;
mod summary;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podwasm_integration::node::target;
use podwasm_integration::prelude::*;
use podwasm_integration::release::Installed;
use serde_json::Value;
use show::{note, red, step, table, wrapped};
use summary::Summary;
use tokio::signal::unix::{SignalKind, signal};

const COLUMNS: usize = 100;
/// Ending a Wasm container may take this long here; natively it is a signal and its delivery.
const PROMPT: Duration = Duration::from_secs(2);

/// What the pod consists of.
struct Part {
    name: &'static str,
    what: &'static str,
    image: String,
    command: Vec<&'static str>,
    /// What should be decided, and the exit code, if it ends by itself.
    decided: &'static str,
    code: Option<i32>,
}

/// One line of the plugin's log.
struct Decision {
    decided: &'static str,
    why: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Whatever ends first, all that the demo has started is dropped, and with it taken down, before anything is said of it.
    let done = tokio::select! {
        done = demo() => Some(done),
        () = interrupted() => None,
    };
    match done {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("\n{} {error:#}", red("The demo failed:"));
            eprintln!(
                "The node is gone, its logs are below {}.",
                podwasm_integration::node::nodes().display()
            );
            ExitCode::FAILURE
        }
        None => {
            eprintln!("\nInterrupted: the node is gone, nothing is left running.");
            ExitCode::from(130)
        }
    }
}

/// Returns when somebody wants the demo to end.
async fn interrupted() {
    let of = |kind| signal(kind).expect("signals can be waited for");
    let (mut interrupt, mut terminate, mut hangup) = (
        of(SignalKind::interrupt()),
        of(SignalKind::terminate()),
        of(SignalKind::hangup()),
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

async fn demo() -> Result<()> {
    let start = Instant::now();
    let mut summary = Summary::default();
    step("Starting a node: Debian's containerd and runc, untouched, in namespaces of its own");
    let node = Node::start_bare(Flavor::Forky, Runtime::Runc).await?;
    let version = node.cri().version().await?;
    note(&format!("{version}: no RuntimeClass, no shim, no annotation"));

    let (installation, installed) = install::install(&node).await?;

    step("Building images and pushing them to the node's registry");
    let parts = parts(&node).await?;
    for part in &parts {
        note(&format!("{:<9} {}", part.name, part.what));
    }

    step("Running one pod with all of them");
    let pod = node.pod("shop").run().await?;
    let running = run(&pod, &parts).await;
    show_pod(&parts, &running, &installed, &mut summary).await?;
    show_end(&running, &mut summary).await?;

    scaling::show(&node, &installed, &mut summary).await?;
    pod.remove().await?;

    Box::pin(installation.uninstall(&node, installed, &mut summary)).await?;

    step("Stopping the node");
    node.stop().await?;
    note("no process, mount or cgroup is left");
    summary.show()?;
    println!(
        "\n  {} s in all. Next: `make node` gives you a shell on such a node; docs/README.md leads to all else.",
        start.elapsed().as_secs()
    );
    Ok(())
}

async fn run<'a>(pod: &PodHandle<'a>, parts: &[Part]) -> Vec<Result<ContainerHandle<'a>>> {
    let mut running = Vec::new();
    for part in parts {
        let container = pod
            .container(part.name)
            .image(&part.image)
            .command(part.command.iter().copied());
        running.push(container.start().await);
    }
    running
}

/// Shows what became of each container, and what was decided of it.
async fn show_pod(
    parts: &[Part],
    running: &[Result<ContainerHandle<'_>>],
    installed: &Installed<'_>,
    summary: &mut Summary,
) -> Result<()> {
    let mut rows = Vec::new();
    let mut ends = Vec::new();
    for (part, container) in parts.iter().zip(running) {
        let (code, output) = match container {
            Err(_) => (None, "not created".to_owned()),
            Ok(container) if part.code.is_none() => {
                container.wait_stdout("sleeping").await?;
                (None, last_line(&container.logs()?.stdout))
            }
            Ok(container) => {
                let code = container.wait_exit().await?;
                let logs = container.logs()?;
                let output = if logs.stdout.is_empty() {
                    &logs.stderr
                } else {
                    &logs.stdout
                };
                (Some(code), last_line(output))
            }
        };
        let exit = match (&container, code) {
            (Err(_), _) => "-".to_owned(),
            (Ok(_), None) => "runs".to_owned(),
            (Ok(_), Some(code)) => code.to_string(),
        };
        ends.push(code);
        rows.push(vec![part.name.to_owned(), exit, output]);
    }

    let decisions = decisions(installed)?;
    for row in &mut rows {
        let decision = decisions
            .get(row[0].as_str())
            .context("podwasm did not log a decision")?;
        row.insert(1, decision.decided.to_owned());
        row.push(decision.why.clone());
    }
    println!();
    table(
        &["container", "decided", "exit", "last line of output", "why"],
        &rows,
    );

    if let Some(Err(error)) = running.iter().find(|container| container.is_err()) {
        println!("\n  The one that was refused, as `kubectl describe pod` would show it:");
        let status = error.downcast_ref::<tonic::Status>();
        let message = status.map_or_else(|| format!("{error:#}"), |status| status.message().to_owned());
        for line in wrapped(&message, COLUMNS) {
            println!("    {}", red(&line));
        }
    }

    let decided = parts
        .iter()
        .filter(|part| decisions[part.name].decided == part.decided);
    let decided = decided.count();
    summary.add(
        "containers decided upon as they should be",
        format!("{decided} of {}", parts.len()),
        decided == parts.len(),
    );
    let ended = parts.iter().zip(&ends).filter(|(part, code)| part.code == **code);
    let ended = ended.count();
    summary.add(
        "exit codes that are the program's own",
        format!("{ended} of {}", parts.len()),
        ended == parts.len(),
    );
    Ok(())
}

async fn show_end(running: &[Result<ContainerHandle<'_>>], summary: &mut Summary) -> Result<()> {
    step("Asking the Wasm container that still runs to end, as `kubectl delete pod` would");
    let waiter = running.iter().flatten().next_back().context("the waiter runs")?;
    let asked = Instant::now();
    waiter.stop(Duration::from_secs(30)).await?;
    let took = asked.elapsed();
    let code = waiter.wait_exit().await?;
    note(&format!(
        "SIGTERM, exit code {code} after {} ms, of a grace period of 30 s",
        took.as_millis()
    ));
    summary.add(
        "from SIGTERM to the end of a Wasm container",
        format!("{} ms", took.as_millis()),
        code == 143 && took < PROMPT,
    );
    Ok(())
}

async fn parts(node: &Node) -> Result<Vec<Part>> {
    let c = guest("guest.wasm")?;
    let rust = guest("wordcount.wasm")?;
    let orders = "{\"item\": \"tea\", \"for\": \"the hatter\"}\n{\"item\": \"tea\", \"for\": \"the hare\"}\n";
    let linux = node
        .push("demo/greeter", &Image::linux().program("/app.wasm", c.clone()))
        .await?;
    let wasi = Image::platform("wasi", "wasm")
        .layer(Layer::new().file("/usr/bin/wordcount", rust, 0o755))
        .layer(Layer::new().file("/data/orders", orders, 0o644));
    let component = Image::linux().program("/new.wasm", guest("component.wasm")?);
    let mut parts = Vec::new();
    let mut part = |name, what, image: String, command: &[&'static str], (decided, code)| {
        parts.push(Part {
            name,
            what,
            image,
            command: command.to_vec(),
            decided,
            code,
        });
    };
    part(
        "sidecar",
        "native: busybox in a linux image",
        node.busybox().to_owned(),
        &["echo", "a native container"],
        ("native", Some(0)),
    );
    part(
        "greeter",
        "Wasm, from C: /app.wasm in a linux/amd64 scratch image",
        linux.clone(),
        &["/app.wasm"],
        ("Wasm", Some(0)),
    );
    part(
        "counter",
        "Wasm, from Rust: `wordcount` on PATH in a wasi/wasm image",
        node.push("demo/counter", &wasi).await?,
        &["wordcount", "/data/orders"],
        ("Wasm", Some(0)),
    );
    part(
        "failing",
        "Wasm, exits with 42: an OCI Wasm artifact",
        node.push("demo/failing", &Artifact::wasm(c)).await?,
        &["/app.wasm", "exit", "42"],
        ("Wasm", Some(42)),
    );
    part(
        "trapping",
        "Wasm, runs into `unreachable`",
        linux.clone(),
        &["/app.wasm", "trap"],
        ("Wasm", Some(134)),
    );
    part(
        "broken",
        "Wasm, but a component, which this engine does not run",
        node.push("demo/broken", &component).await?,
        &["/new.wasm"],
        ("refused", None),
    );
    part(
        "waiter",
        "Wasm, sleeps until it is told to end",
        linux,
        &["/app.wasm", "sleep"],
        ("Wasm", None),
    );
    Ok(parts)
}

fn guest(name: &str) -> Result<Vec<u8>> {
    std::fs::read(target().join("guests").join(name)).context("the guests are not built: make guests")
}

/// What the plugin logged of each container.
fn decisions(installed: &Installed<'_>) -> Result<BTreeMap<String, Decision>> {
    let mut decisions = BTreeMap::new();
    for line in installed.daemon()?.logs()?.stderr.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let (decided, why) = match text("message").as_str() {
            "left alone" => ("native", text("why")),
            "refused" => ("refused", "see below".to_owned()),
            "routed" => ("Wasm", text("why")),
            _ => continue,
        };
        decisions.insert(text("container"), Decision { decided, why });
    }
    Ok(decisions)
}

fn last_line(text: &str) -> String {
    let line = text.lines().next_back().unwrap_or("-");
    if line.chars().count() <= 40 {
        line.to_owned()
    } else {
        line.chars().take(39).chain(['…']).collect()
    }
}

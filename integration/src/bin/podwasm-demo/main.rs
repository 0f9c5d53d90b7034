//! Runs a pod of native and Wasm containers on a throw-away node, and shows what was decided for each container and why; then
//! sends load to a Wasm server, and shows what is counted and what KEDA would ask for.

mod scaling;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podwasm_integration::node::{Podwasm, target};
use podwasm_integration::prelude::*;
use serde_json::Value;

/// What the pod consists of.
struct Part {
    name: &'static str,
    what: &'static str,
    image: String,
    command: Vec<&'static str>,
}

/// One line of the plugin's log.
struct Decision {
    decided: &'static str,
    why: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    tokio::select! {
        done = demo() => done,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\ninterrupted: the node is gone, nothing is left running");
            std::process::exit(130)
        }
    }
}

async fn demo() -> Result<()> {
    let start = Instant::now();
    step("Starting a node: Debian's containerd and runc, untouched, in namespaces of its own");
    let node = Node::start(Flavor::Forky, Runtime::Runc).await?;
    let version = node.cri().version().await?;
    note(&format!("{version}: no RuntimeClass, no shim, no annotation"));

    step("Starting podwasm on it");
    let plugin = node.start_podwasm_with(["--log-format", "json"]).await?;
    note("registered with NRI, containerd reachable");

    step("Building images and pushing them to the node's registry");
    let parts = parts(&node).await?;
    for part in &parts {
        note(&format!("{:<9} {}", part.name, part.what));
    }

    step("Running one pod with all of them");
    let pod = node.pod("shop").run().await?;
    let mut running = Vec::new();
    for part in &parts {
        let container = pod
            .container(part.name)
            .image(&part.image)
            .command(part.command.iter().copied())
            .start()
            .await;
        running.push(container);
    }
    let mut rows = Vec::new();
    for (part, container) in parts.iter().zip(&running) {
        rows.push(match container {
            Err(_) => vec![part.name.to_owned(), "-".to_owned(), "not created".to_owned()],
            Ok(container) if part.name == "waiter" => {
                container.wait_stdout("sleeping").await?;
                vec![
                    part.name.to_owned(),
                    "runs".to_owned(),
                    last_line(&container.logs()?.stdout),
                ]
            }
            Ok(container) => {
                let code = container.wait_exit().await?;
                let logs = container.logs()?;
                let output = if logs.stdout.is_empty() {
                    &logs.stderr
                } else {
                    &logs.stdout
                };
                vec![part.name.to_owned(), code.to_string(), last_line(output)]
            }
        });
    }

    let decisions = decisions(&plugin)?;
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
        println!("    {}", red(&message));
    }

    step("Asking the Wasm container that still runs to end, as `kubectl delete pod` would");
    let waiter = running.iter().flatten().next_back().context("the waiter runs")?;
    let asked = Instant::now();
    waiter.stop(Duration::from_secs(30)).await?;
    let took = asked.elapsed();
    note(&format!(
        "SIGTERM, exit code {} after {} ms, of a grace period of 30 s",
        waiter.wait_exit().await?,
        took.as_millis()
    ));

    scaling::show(&node).await?;

    step("Cleaning up");
    pod.remove().await?;
    drop(plugin);
    node.stop().await?;
    note(&format!(
        "no process, mount or cgroup is left; {} s in all",
        start.elapsed().as_secs()
    ));
    println!(
        "\nNext: `make node` gives you a shell on such a node; docs/running.md says how to run podwasm on yours."
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
    let mut part = |name, what, image: String, command: &[&'static str]| {
        parts.push(Part {
            name,
            what,
            image,
            command: command.to_vec(),
        });
    };
    part(
        "sidecar",
        "native: busybox in a linux image",
        node.busybox().to_owned(),
        &["echo", "a native container"],
    );
    part(
        "greeter",
        "Wasm, from C: /app.wasm in a linux/amd64 scratch image",
        linux.clone(),
        &["/app.wasm"],
    );
    part(
        "counter",
        "Wasm, from Rust: `wordcount` on PATH in a wasi/wasm image",
        node.push("demo/counter", &wasi).await?,
        &["wordcount", "/data/orders"],
    );
    part(
        "failing",
        "Wasm, exits with 42: an OCI Wasm artifact",
        node.push("demo/failing", &Artifact::wasm(c)).await?,
        &["/app.wasm", "exit", "42"],
    );
    part(
        "trapping",
        "Wasm, runs into `unreachable`",
        linux.clone(),
        &["/app.wasm", "trap"],
    );
    part(
        "broken",
        "Wasm, but a component, which this engine does not run",
        node.push("demo/broken", &component).await?,
        &["/new.wasm"],
    );
    part(
        "waiter",
        "Wasm, sleeps until it is told to end",
        linux,
        &["/app.wasm", "sleep"],
    );
    Ok(parts)
}

fn guest(name: &str) -> Result<Vec<u8>> {
    std::fs::read(target().join("guests").join(name)).context("the guests are not built: make guests")
}

/// What the plugin logged of each container.
fn decisions(plugin: &Podwasm) -> Result<BTreeMap<String, Decision>> {
    let mut decisions = BTreeMap::new();
    for line in std::fs::read_to_string(plugin.process().log())?.lines() {
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
    if line.chars().count() <= 44 {
        line.to_owned()
    } else {
        line.chars().take(43).chain(['…']).collect()
    }
}

fn step(text: &str) {
    println!("\n{}", paint("1;36", &format!("==> {text}")));
}

fn note(text: &str) {
    println!("    {text}");
    let _ = std::io::stdout().flush();
}

fn red(text: &str) -> String {
    paint("31", text)
}

fn paint(colour: &str, text: &str) -> String {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wanted {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn table(head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        rows.iter()
            .chain([&head])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let mut line = String::from("  ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        line.trim_end().to_owned()
    };
    println!("{}", paint("1", &line(&head)));
    for row in rows {
        println!("{}", line(row));
    }
}

//! What counting costs: CPU time of the exporter for each request, what it takes from the server, and its memory.
//!
//! Rounds with and without the exporter take turns, so that what else goes on in the machine weighs on both alike.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use nri::api::{LinuxNamespace, LinuxPodSandbox, PodSandbox};
use nri::testing::FakeRuntime;
use podwasm_integration::node::Exporter;
use podwasm_integration::prelude::*;
use podwasm_integration::servers::{Server, tool};
use podwasm_integration::wait::{PATIENCE, until};

/// Measures what counting costs.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// CPU for each request, and the server's throughput with and without, against nginx in a pod.
    Cpu {
        /// How many rounds with and without take turns.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How long each load lasts, in seconds.
        #[arg(long, default_value_t = 4)]
        seconds: u32,
        /// Only the loads whose names contain this.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// The exporter's memory with so many pods. Makes that many network namespaces on this machine, and removes them.
    Memory {
        /// How many pods.
        #[arg(long, default_value_t = 1_000)]
        pods: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Flags::parse().part {
        Part::Cpu {
            rounds,
            seconds,
            only,
        } => cpu(rounds, seconds, &only).await,
        Part::Memory { pods } => memory(pods).await,
    }
}

/// One kind of load: h2load's arguments.
struct Load {
    name: &'static str,
    arguments: &'static [&'static str],
}

const LOADS: [Load; 4] = [
    Load {
        name: "1,000/s",
        arguments: &["--h1", "-c", "10", "--rps", "100"],
    },
    Load {
        name: "10,000/s",
        arguments: &["--h1", "-c", "50", "--rps", "200"],
    },
    Load {
        name: "as many as go, 50 connections",
        arguments: &["--h1", "-c", "50"],
    },
    Load {
        name: "as many as go, 16 at once on each",
        arguments: &["--h1", "-c", "10", "-m", "16"],
    },
];

async fn cpu(rounds: usize, seconds: u32, only: &str) -> Result<()> {
    let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let server = Server::nginx(&node).await?;
    println!("| load | requests/s with | without | ratio of medians | CPU µs per request | counted / sent |");
    println!("|---|---|---|---|---|---|");
    for load in LOADS.iter().filter(|load| load.name.contains(only)) {
        let (mut with, mut without, mut costs, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Each goes first in every other round.
            if round % 2 == 0 {
                without.push(run(&node, &server, load, seconds).await? / f64::from(seconds));
            }
            let exporter = node.start_exporter([]).await?;
            node.settled_metric(&exporter, "podwasm_requests_total", &[])
                .await?;
            let before = cpu_seconds(&exporter)?;
            let sent = run(&node, &server, load, seconds).await?;
            let used = cpu_seconds(&exporter)? - before;
            let counted = node
                .settled_metric(&exporter, "podwasm_requests_total", &[])
                .await?;
            with.push(sent / f64::from(seconds));
            costs.push(used * 1e6 / counted);
            shares.push(counted / sent);
            drop(exporter);
            if round % 2 == 1 {
                without.push(run(&node, &server, load, seconds).await? / f64::from(seconds));
            }
        }
        let (with, without) = (median(with), median(without));
        println!(
            "| {} | {with:.0} | {without:.0} | {:.3} | {:.2} | {:.4} |",
            load.name,
            with / without,
            median(costs),
            median(shares)
        );
    }
    node.stop().await
}

/// Sends the load and returns how many requests were answered.
async fn run(node: &Node, server: &Server<'_>, load: &Load, seconds: u32) -> Result<f64> {
    let (duration, url) = (seconds.to_string(), server.url("/"));
    let arguments = [load.arguments, &["-D", &duration, &url]].concat();
    let output = tool(node, "h2load", &arguments).await?;
    let line = output
        .lines()
        .find(|line| line.starts_with("requests:"))
        .context("h2load says how many")?;
    let done = line.split(", ").find_map(|part| part.strip_suffix(" succeeded"));
    Ok(done.context("h2load says how many succeeded")?.parse()?)
}

/// The CPU time that a program has used, in all its threads.
fn cpu_seconds(exporter: &Exporter) -> Result<f64> {
    let tasks = format!("/proc/{}/task", exporter.process().pid());
    let mut nanoseconds = 0_u64;
    for task in fs::read_dir(tasks)? {
        let times = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += times.split(' ').next().context("a time")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn memory(pods: usize) -> Result<()> {
    let folder = Path::new("/run/podwasm-counting-bench");
    fs::create_dir_all(folder)?;
    let namespaces = Namespaces::make(folder, pods)?;
    let fake = FakeRuntime::listen(folder.join("nri.sock"))?;
    let (small, slab) = exporter_memory(folder, &fake, &[]).await?;
    let sandboxes: Vec<_> = namespaces
        .0
        .iter()
        .enumerate()
        .map(|(number, path)| sandbox(number, path))
        .collect();
    let (large, slab_after) = exporter_memory(folder, &fake, &sandboxes).await?;
    println!("| pods | resident kB | kernel's slabs, more by kB |");
    println!("|---|---|---|");
    println!("| 0 | {small} | |");
    println!("| {pods} | {large} | {} |", slab_after.saturating_sub(slab));
    drop(namespaces);
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// The resident memory of an exporter that is told of these pods, and the kernel's slabs meanwhile, in kB.
async fn exporter_memory(folder: &Path, fake: &FakeRuntime, pods: &[PodSandbox]) -> Result<(u64, u64)> {
    let program = std::env::current_exe()?.with_file_name("podwasm-exporter");
    let mut exporter = Killed(
        Command::new(program)
            .args(["--nri-socket"])
            .arg(folder.join("nri.sock"))
            .args(["--http", "127.0.0.1:9590", "--grpc", "127.0.0.1:9591"])
            .stderr(Stdio::null())
            .spawn()?,
    );
    let _connection = fake.admit(pods.to_vec(), Vec::new()).await?;
    let attached = || async {
        let address = ("127.0.0.1", 9590);
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let mut answer = String::new();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await?;
        Ok(answer
            .contains(&format!("podwasm_pods{{state=\"attached\"}} {}\n", pods.len()))
            .then_some(()))
    };
    until("all pods are attached", PATIENCE * 4, attached).await?;
    tokio::time::sleep(Duration::from_secs(5)).await; // a few readings of all numbers
    ensure!(exporter.0.try_wait()?.is_none(), "the exporter ended");
    let status = format!("/proc/{}/status", exporter.0.id());
    Ok((
        kilobytes(&status, "VmRSS:")?,
        kilobytes("/proc/meminfo", "Slab:")?,
    ))
}

fn kilobytes(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context("no such line")?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

fn sandbox(number: usize, path: &str) -> PodSandbox {
    let name = format!("bench-{number}");
    PodSandbox {
        id: name.clone(),
        uid: name.clone(),
        name,
        namespace: "bench".to_owned(),
        annotations: [("requests.noderesource.dev/count".to_owned(), "true".to_owned())].into(),
        linux: Some(LinuxPodSandbox {
            namespaces: vec![LinuxNamespace::new("network", path)],
            ..LinuxPodSandbox::default()
        }),
        ..PodSandbox::default()
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait()); // it may have ended by itself
    }
}

/// Network namespaces with their loopback up, removed when this is dropped.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn make(folder: &Path, count: usize) -> Result<Self> {
        let mut made = Self(Vec::new());
        for number in 0..count {
            let path = folder.join(number.to_string()).display().to_string();
            fs::write(&path, "")?;
            let status = Command::new("unshare")
                .arg(format!("--net={path}"))
                .args(["ip", "link", "set", "lo", "up"])
                .status()?;
            ensure!(status.success(), "unshare: {status}");
            made.0.push(path);
        }
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = Command::new("umount").arg(path).status(); // what stays is seen by the next who looks
        }
    }
}

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
    /// CPU for each request, the server's throughput and latency with and without, and the filter's cost for each packet, against
    /// nginx in a pod. Takes some four minutes.
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
        /// More arguments for the exporter, as `--filter=classic`.
        #[arg(last = true)]
        exporter: Vec<String>,
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
            exporter,
        } => {
            let bench = Bench {
                rounds,
                seconds,
                exporter,
            };
            bench.cpu(&only).await
        }
        Part::Memory { pods } => memory(pods).await,
    }
}

/// One kind of load: h2load's arguments.
struct Load {
    name: &'static str,
    path: &'static str,
    arguments: &'static [&'static str],
    /// How many requests are under way at most, as h2load leaves them when its time is over.
    under_way: f64,
}

const LOADS: [Load; 4] = [
    Load {
        name: "1,000/s",
        path: "/",
        arguments: &["--h1", "-c", "10", "--rps", "100"],
        under_way: 10.0,
    },
    Load {
        name: "10,000/s",
        path: "/",
        arguments: &["--h1", "-c", "50", "--rps", "200"],
        under_way: 50.0,
    },
    Load {
        name: "as many as go, 50 connections",
        path: "/",
        arguments: &["--h1", "-c", "50"],
        under_way: 50.0,
    },
    Load {
        name: "as many as go, 16 at once on each",
        path: "/",
        arguments: &["--h1", "-c", "10", "-m", "16"],
        under_way: 160.0,
    },
];

/// How it is measured.
struct Bench {
    rounds: usize,
    seconds: u32,
    exporter: Vec<String>,
}

/// What a load gave.
#[derive(Default)]
struct Outcome {
    answered: f64,
    /// The time to an answer that half of them took at most, and the one that 99 % did.
    half_us: f64,
    most_us: f64,
}

/// What the rounds of a load gave.
#[derive(Default)]
struct Rounds {
    with: Vec<Outcome>,
    without: Vec<Outcome>,
    costs_us: Vec<f64>,
    /// Rounds in which something else was counted than what was sent.
    wrong: usize,
}

impl Bench {
    async fn cpu(&self, only: &str) -> Result<()> {
        let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
        let server = Server::nginx(&node).await?;
        println!(
            "{} rounds of {} s with and without, which took turns in going first.\n",
            self.rounds, self.seconds
        );
        println!(
            "| load | CPU µs per request | requests/s with, without | ratio (of each round) | half answered within µs with, without | ratio \
             | 99 % within µs with, without | rounds with all counted |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for load in LOADS.iter().filter(|load| load.name.contains(only)) {
            let rounds = self.rounds_of(&node, &server, load).await?;
            println!("| {} | {}", load.name, self.row(&rounds));
        }
        println!("\n| | |\n|---|---|");
        println!(
            "| CPU of the exporter without load | {:.2} ms/s |",
            self.idle(&node).await? * 1e3
        );
        let filters = self.filter(&node, &server).await?;
        for (name, cost) in filters {
            println!("| filter, {name} | {cost} |");
        }
        node.stop().await
    }

    async fn rounds_of(&self, node: &Node, server: &Server<'_>, load: &Load) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        for round in 0..self.rounds {
            // Each goes first in every other round.
            if round % 2 == 0 {
                rounds.without.push(self.run(node, server, load).await?);
            }
            let exporter = self.start(node).await?;
            let before = cpu_seconds(&exporter)?;
            let outcome = self.run(node, server, load).await?;
            let used = cpu_seconds(&exporter)? - before;
            let found = node
                .settled_metric(&exporter, "podwasm_requests_total", &[])
                .await?;
            rounds.costs_us.push(used * 1e6 / found);
            let sent = outcome.answered..=outcome.answered + load.under_way;
            rounds.wrong += usize::from(!sent.contains(&found));
            rounds.with.push(outcome);
            drop(exporter);
            if round % 2 == 1 {
                rounds.without.push(self.run(node, server, load).await?);
            }
        }
        Ok(rounds)
    }

    fn row(&self, rounds: &Rounds) -> String {
        let seconds = f64::from(self.seconds);
        let of =
            |outcomes: &[Outcome], value: fn(&Outcome) -> f64| median(outcomes.iter().map(value).collect());
        let ratios = |value: fn(&Outcome) -> f64| {
            let pairs = rounds.with.iter().zip(&rounds.without);
            pairs
                .map(|(with, without)| value(with) / value(without))
                .collect::<Vec<_>>()
        };
        let (with, without) = (&rounds.with, &rounds.without);
        let throughput = ratios(|outcome| outcome.answered);
        format!(
            "{:.2} | {:.0}, {:.0} | {:.3} ({}) | {:.0}, {:.0} | {:.3} | {:.0}, {:.0} | {} of {} |",
            median(rounds.costs_us.clone()),
            of(with, |outcome| outcome.answered) / seconds,
            of(without, |outcome| outcome.answered) / seconds,
            median(throughput.clone()),
            spread(throughput),
            of(with, |outcome| outcome.half_us),
            of(without, |outcome| outcome.half_us),
            median(ratios(|outcome| outcome.half_us)),
            of(with, |outcome| outcome.most_us),
            of(without, |outcome| outcome.most_us),
            with.len() - rounds.wrong,
            with.len(),
        )
    }

    /// An exporter that counts, and has nothing to do yet.
    async fn start(&self, node: &Node) -> Result<Exporter> {
        let exporter = node.start_exporter_with(&self.exporter).await?;
        node.settled_metric(&exporter, "podwasm_requests_total", &[])
            .await?;
        Ok(exporter)
    }

    /// The CPU time that an exporter uses in each second in which nothing comes.
    async fn idle(&self, node: &Node) -> Result<f64> {
        let exporter = self.start(node).await?;
        let before = cpu_seconds(&exporter)?;
        tokio::time::sleep(Duration::from_secs(self.seconds.into())).await;
        Ok((cpu_seconds(&exporter)? - before) / f64::from(self.seconds))
    }

    /// What the program in the kernel takes, as the kernel itself measures it.
    async fn filter(&self, node: &Node, server: &Server<'_>) -> Result<Vec<(&'static str, String)>> {
        let exporter = self.start(node).await?;
        let _statistics = Statistics::on()?;
        let mut found = Vec::new();
        for load in &FILTERED {
            let before = FilterRuns::of(&exporter)?;
            let answered = self.run(node, server, load).await?.answered;
            let after = FilterRuns::of(&exporter)?;
            let (runs, nanoseconds) = (after.runs - before.runs, after.nanoseconds - before.nanoseconds);
            let text = if runs > 0.0 {
                let (each, packets) = (nanoseconds / runs, runs / answered);
                format!(
                    "{each:.0} ns per packet, {packets:.1} packets per request: {:.2} µs per request",
                    each * packets / 1e3
                )
            } else {
                "is not a program".to_owned()
            };
            found.push((load.name, text));
        }
        Ok(found)
    }

    /// Sends the load and returns what came of it.
    async fn run(&self, node: &Node, server: &Server<'_>, load: &Load) -> Result<Outcome> {
        let (duration, url) = (self.seconds.to_string(), server.url(load.path));
        let script = "h2load --log-file=/tmp/log \"$@\" >/tmp/out && cat /tmp/out /tmp/log";
        let ends = [
            &["-c", script, "sh"][..],
            load.arguments,
            &["-D", &duration, &url],
        ];
        let output = tool(node, "sh", &ends.concat()).await?;
        let line = output
            .lines()
            .find(|line| line.starts_with("requests:"))
            .context("h2load says how many")?;
        let done = line.split(", ").find_map(|part| part.strip_suffix(" succeeded"));
        // Lines of the log: when, which status, how many microseconds.
        let times = output
            .lines()
            .filter_map(|line| line.split('\t').nth(2)?.parse::<f64>().ok());
        let mut times: Vec<_> = times.collect();
        times.sort_by(f64::total_cmp);
        ensure!(!times.is_empty(), "h2load has logged nothing:\n{output}");
        Ok(Outcome {
            answered: done.context("h2load says how many succeeded")?.parse()?,
            half_us: times[times.len() / 2],
            most_us: times[times.len() * 99 / 100],
        })
    }
}

/// Loads for the filter: plain requests, and bodies that it skips or leaves to the socket.
const FILTERED: [Load; 3] = [
    Load {
        name: "1 request at a time",
        path: "/",
        arguments: &["--h1", "-c", "50", "--rps", "200"],
        under_way: 50.0,
    },
    Load {
        name: "16 requests at once",
        path: "/",
        arguments: &["--h1", "-c", "10", "-m", "16"],
        under_way: 160.0,
    },
    Load {
        name: "uploads of 1 MiB",
        path: "/discard",
        arguments: &["--h1", "-c", "4", "-d", "/tmp/megabyte"],
        under_way: 4.0,
    },
];

/// The kernel's statistics of programs, switched off again when this is dropped.
struct Statistics;

impl Statistics {
    const FILE: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn on() -> Result<Self> {
        fs::write(Self::FILE, "1").context("switch the kernel's statistics on")?;
        Ok(Self)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, "0"); // they cost some nanoseconds, no more
    }
}

/// How often an exporter's programs have run, and for how long.
struct FilterRuns {
    runs: f64,
    nanoseconds: f64,
}

impl FilterRuns {
    fn of(exporter: &Exporter) -> Result<Self> {
        let mut sum = Self {
            runs: 0.0,
            nanoseconds: 0.0,
        };
        for descriptor in fs::read_dir(format!("/proc/{}/fdinfo", exporter.process().pid()))? {
            let text = fs::read_to_string(descriptor?.path()).unwrap_or_default(); // it may be closed already
            let number = |name| {
                let value = text.lines().find_map(|line| line.strip_prefix(name))?;
                value.trim().parse::<f64>().ok()
            };
            sum.runs += number("run_cnt:").unwrap_or_default();
            sum.nanoseconds += number("run_time_ns:").unwrap_or_default();
        }
        Ok(sum)
    }
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

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.3} to {:.3}", values[0], values[values.len() - 1])
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

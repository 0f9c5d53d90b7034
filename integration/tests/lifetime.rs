//! A node leaves nothing behind, however it ends, and outlives its containerd.

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What tells a node's remains: its name, and the inodes of its namespaces.
#[derive(Debug)]
struct Traces {
    name: String,
    namespaces: HashSet<u64>,
}

impl Traces {
    fn of(node: &Node) -> Result<Self> {
        let inode = |name: &str| Ok(fs::metadata(format!("/proc/{}/ns/{name}", node.init()))?.ino());
        let namespaces = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
            .into_iter()
            .map(inode)
            .collect::<Result<_>>()?;
        let traces = Self {
            name: node.name().to_owned(),
            namespaces,
        };
        ensure!(!traces.processes().is_empty(), "a running node has processes");
        ensure!(!traces.cgroups().is_empty(), "a running node has cgroups");
        Ok(traces)
    }

    /// Processes in one of its namespaces.
    fn processes(&self) -> Vec<PathBuf> {
        let inside = |process: &Path| {
            let namespaces = fs::read_dir(process.join("ns")).into_iter().flatten().flatten();
            namespaces.into_iter().any(|entry| {
                fs::metadata(entry.path()).is_ok_and(|namespace| self.namespaces.contains(&namespace.ino()))
            })
        };
        let entries = fs::read_dir("/proc")
            .expect("/proc is mounted")
            .flatten()
            .map(|entry| entry.path());
        entries.filter(|process| inside(process)).collect()
    }

    /// Folders of its name in any hierarchy of cgroups.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_name() == format!("podwasm-{}", self.name).as_str() {
                    found.push(entry.path());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        found
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        mounts
            .lines()
            .filter(|mount| mount.contains(&self.name))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until there is nothing but logs. The kernel takes a namespace apart after its last process is gone.
    async fn vanish(&self) -> Result<()> {
        let folder = podwasm_integration::node::nodes().join(&self.name);
        let gone = async || {
            let left: Vec<_> = fs::read_dir(&folder)?
                .flatten()
                .map(|entry| entry.file_name())
                .collect();
            let gone = left == ["log"]
                && self.processes().is_empty()
                && self.cgroups().is_empty()
                && self.mounts().is_empty();
            Ok(gone.then_some(()))
        };
        until("the node is gone without a trace", PATIENCE, gone)
            .await
            .with_context(|| {
                format!(
                    "left: {:?} {:?} {:?}",
                    self.processes(),
                    self.cgroups(),
                    self.mounts()
                )
            })
    }
}

/// A pod with a container that would run on for long.
async fn busy(node: &Node) -> Result<()> {
    let pod = node.pod("busy").run().await?;
    pod.container("c")
        .image(node.busybox())
        .command(["sleep", "600"])
        .start()
        .await?;
    Ok(())
}

async fn stop_leaves_nothing(flavor: Flavor, runtime: Runtime) -> Result<()> {
    let node = Node::start(flavor, runtime).await?;
    busy(&node).await?;
    let traces = Traces::of(&node)?;
    node.stop().await?;
    traces.vanish().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn stop_leaves_nothing_behind() -> Result<()> {
    stop_leaves_nothing(Flavor::Trixie, Runtime::Runc).await?;
    stop_leaves_nothing(Flavor::Forky, Runtime::Crun).await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn panic_leaves_nothing_behind() -> Result<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let test = tokio::spawn(async {
        let node = Node::start(Flavor::Trixie, Runtime::Crun).await.unwrap();
        busy(&node).await.unwrap();
        tell.send(Traces::of(&node).unwrap()).unwrap();
        panic!("as a failed assertion does");
    });
    let traces = told.await?;
    assert!(test.await.unwrap_err().is_panic());
    traces.vanish().await
}

/// The pipe that a node hangs on closes even when its starter is killed.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn kill_of_the_starter_leaves_nothing_behind() -> Result<()> {
    let name = format!("orphan-{}", std::process::id());
    let mut starter = Command::new(env!("CARGO_BIN_EXE_podwasm-node"))
        .args(["--name", &name, "start", "--no-shell"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let mut stderr = BufReader::new(starter.stderr.take().context("a pipe")?);
    stderr.read_line(&mut said)?;
    let node = Node::attach(&name).with_context(|| said)?;
    busy(&node).await?;
    let traces = Traces::of(&node)?;
    starter.kill()?;
    starter.wait()?;
    traces.vanish().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn containers_outlive_containerd() -> Result<()> {
    for flavor in [Flavor::Trixie, Flavor::Forky, Flavor::Upstream] {
        let node = Node::start(flavor, Runtime::Runc).await?;
        let pod = node.pod("steady").run().await?;
        let script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.05; done";
        let container = pod
            .container("c")
            .image(node.busybox())
            .shell(script)
            .start()
            .await?;
        container.wait_stdout("ready").await?;
        node.restart_containerd().await?;
        node.kill_containerd(Signal::SIGKILL).await?;
        node.start_containerd().await?;
        assert_eq!(
            container.exec(["echo", "still here"]).await?.stdout,
            "still here\n"
        );
        container.stop(PATIENCE).await?;
        assert_eq!(container.wait_exit().await?, 9);
        node.stop().await?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn programs_run_in_the_node() -> Result<()> {
    let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let output = node.exec("sh", ["-c", "hostname; echo $$; exit 4"]).await?;
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stdout)?;
    let (host, pid) = said.trim().split_once('\n').context("two lines")?;
    assert_eq!(host, node.name());
    assert!(
        pid.parse::<u32>()? < 10_000,
        "a pid of the node's own namespace: {pid}"
    );

    let mut command = Command::new("sh");
    command.args(["-c", "echo started; sleep 600"]);
    let sleeper = node.spawn("sleeper", command)?;
    until("the sleeper speaks", PATIENCE, async || {
        Ok(sleeper.log_tail().contains("started").then_some(()))
    })
    .await?;
    sleeper.signal(Signal::SIGTERM)?;
    let status = sleeper.wait(PATIENCE).await?;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    node.stop().await
}

//! A node: containerd, its runtimes, a registry and pod networking, in namespaces of their own.

mod files;
mod http;
mod namespaces;
mod podwasm;
mod process;
pub mod shared;
mod supervisor;
mod sweep;

use crate::cri::{self, Cri};
use crate::image::{Image, push};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, ensure};
pub use http::Answer;
use namespaces::Namespaces;
pub use nix::sys::signal::Signal;
pub use podwasm::Podwasm;
pub use process::Process;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use supervisor::Supervisor;
use tokio::sync::Mutex;

/// Where the node's registry listens, inside the node.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Whose containerd a node runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Flavor {
    /// Debian forky's: containerd 2.1, NRI on by default, runc 1.3.
    Forky,
    /// Debian trixie's: containerd 1.7, NRI switched on by configuration, runc 1.1.
    Trixie,
}

/// Which runtime a pod without a RuntimeClass gets. The other one is there under its name as a runtime handler.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Runtime {
    /// crun with WasmEdge, trixie's on both kinds of node: forky's is built without.
    Crun,
    /// Stock runc.
    Runc,
}

impl Runtime {
    /// The name as a runtime handler.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forky => "forky",
            Self::Trixie => "trixie",
        })
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A running node. Dropping it stops it and waits until nothing of it is left.
#[derive(Debug)]
pub struct Node {
    name: String,
    flavor: Flavor,
    runtime: Runtime,
    folder: PathBuf,
    namespaces: Namespaces,
    cri: Cri,
    busybox: String,
    pods: AtomicU32,
    // In this order on drop: a process that is killed is reaped before the supervisor waits for the node to empty.
    containerd: Mutex<Process>,
    registry: Process,
    supervisor: Supervisor,
}

impl Node {
    /// Starts a node and waits until containerd calls itself and the network ready. Needs root and the root folders
    /// that `integration/node/root.sh` makes.
    pub async fn start(flavor: Flavor, runtime: Runtime) -> Result<Self> {
        static NODES: AtomicU32 = AtomicU32::new(1);
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        Self::start_named(
            &format!("{flavor}-{runtime}-{}-{number}", std::process::id()),
            flavor,
            runtime,
        )
        .await
    }

    /// The same under a name of the caller's choice: the folder's below `target/nodes`, and the node's host name.
    pub async fn start_named(name: &str, flavor: Flavor, runtime: Runtime) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a node needs root");
        let folder = nodes().join(name);
        sweep::dead_nodes(&nodes());
        ensure!(
            !folder.exists(),
            "{} exists: a node of that name runs, or did",
            folder.display()
        );
        files::write(&folder, runtime).with_context(|| format!("write the files of {}", folder.display()))?;

        let supervisor = Supervisor::start(&folder, &roots(flavor)?, &binds())?;
        let namespaces = Namespaces::of(supervisor.init());
        std::fs::write(folder.join("init.pid"), supervisor.init().to_string())?;
        let spawn = |name: &str, command| Process::spawn(&namespaces, name, command, &folder.join("log"));
        let containerd = Mutex::new(spawn("containerd", containerd())?);
        let registry = spawn("registry", registry())?;
        let cri = Cri::over(&format!(
            "/proc/{}/root/run/containerd/containerd.sock",
            supervisor.init()
        ));
        let mut node = Self {
            name: name.to_owned(),
            flavor,
            runtime,
            folder,
            namespaces,
            cri,
            busybox: String::new(),
            pods: AtomicU32::new(0),
            containerd,
            registry,
            supervisor,
        };
        node.prepare()
            .await
            .with_context(|| format!("start node {name}\n{}", node.log_tails()))?;
        Ok(node)
    }

    async fn prepare(&mut self) -> Result<()> {
        let images = async {
            self.wait_for_registry().await?;
            let root = self.path("/");
            push(self, "pause", &Image::pause(&root)?, Some("latest")).await?;
            push(self, "busybox", &Image::busybox(&root)?, None).await
        };
        let (busybox, ready) = tokio::join!(images, self.wait_ready());
        self.busybox = busybox.context("fill the registry")?;
        ready
    }

    /// The node's name, which is its host name too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose containerd it runs.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its default runtime.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// The pid, in the host's count, of the node's init.
    pub fn init(&self) -> u32 {
        self.supervisor.init()
    }

    /// The folder for the node's logs, on the host and, as `/var/log`, in the node.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Where the host sees a path of the node.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new("/proc")
            .join(self.init().to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// The image of Debian's static busybox, with its applets on PATH; in the node's registry from the start.
    pub fn busybox(&self) -> &str {
        &self.busybox
    }

    /// The container runtime interface, for what the builders do not cover.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// A pod to be. Names need not be unique.
    pub fn pod(&self, name: &str) -> cri::PodBuilder<'_> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        cri::PodBuilder::new(self, name, &format!("{name}-{number}"))
    }

    /// Pushes an image to the node's registry and returns what to pull it by. The tag is made of the image's digest, so
    /// that images of one name do not mix.
    pub async fn push(&self, name: &str, image: &Image) -> Result<String> {
        push(self, name, image, None)
            .await
            .with_context(|| format!("push image {name}"))
    }

    /// Starts a program in the node; its output goes to a file of that name among the node's logs. It ends with the node
    /// or when the handle is dropped.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn(&self.namespaces, name, command, &self.logs())
    }

    /// Runs a program in the node to its end.
    pub async fn exec<I>(&self, program: &str, args: I) -> Result<Output>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        let mut command = Command::new(program);
        command.args(args);
        let child = self.namespaces.output(command)?;
        tokio::task::spawn_blocking(move || child.wait_with_output())
            .await?
            .with_context(|| format!("run {program}"))
    }

    /// A command that will run in the node, attached to this process's terminal; for a shell.
    pub fn attach(&self, command: Command) -> Result<std::process::Child> {
        self.namespaces.spawn(command)
    }

    /// A TCP connection to something in the node: a pod, or what listens on the node's loopback.
    pub async fn connect(&self, address: SocketAddr) -> Result<tokio::net::TcpStream> {
        self.namespaces.connect(address).await
    }

    /// Stops containerd and starts it again. Pods go on running.
    pub async fn restart_containerd(&self) -> Result<()> {
        self.kill_containerd(Signal::SIGTERM).await?;
        self.start_containerd().await
    }

    /// Sends containerd a signal and waits until it is gone. Pods go on running.
    pub async fn kill_containerd(&self, signal: Signal) -> Result<()> {
        let containerd = self.containerd.lock().await;
        containerd.signal(signal)?;
        containerd.wait(PATIENCE).await.context("containerd ends")?;
        Ok(())
    }

    /// Starts containerd after [`Node::kill_containerd`] and waits until it is ready.
    pub async fn start_containerd(&self) -> Result<()> {
        *self.containerd.lock().await = self.spawn("containerd", containerd())?;
        self.wait_ready().await.with_context(|| self.log_tails())
    }

    /// Stops the node and waits until nothing of it is left. The logs stay for a while.
    pub async fn stop(self) -> Result<()> {
        tokio::task::spawn_blocking(move || drop(self)).await?;
        Ok(())
    }

    /// The ends of all logs of the node's own programs, for a failure's message.
    pub fn log_tails(&self) -> String {
        process::log_tails(&self.logs())
    }

    async fn wait_ready(&self) -> Result<()> {
        until("containerd is ready", PATIENCE, async || {
            if let Some(status) = self.containerd.lock().await.exited() {
                anyhow::bail!("containerd ended: {status}");
            }
            Ok(self.cri.ready().await.then_some(()))
        })
        .await
    }

    async fn wait_for_registry(&self) -> Result<()> {
        until("the registry answers", PATIENCE, async || {
            if let Some(status) = self.registry.exited() {
                anyhow::bail!("the registry ended: {status}");
            }
            Ok(self.connect(REGISTRY.parse()?).await.ok())
        })
        .await
        .map(drop)
    }
}

fn containerd() -> Command {
    let mut command = Command::new("containerd");
    command.args(["--config", "/etc/containerd/config.toml", "--log-level", "debug"]);
    command
}

fn registry() -> Command {
    let mut command = Command::new("docker-registry");
    command.args(["serve", "/etc/docker/registry/config.yml"]);
    command
}

/// Where everything is made: `target` at the project's top, wherever cargo puts its own.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the project")
        .join("target")
}

/// Where the nodes' folders are.
pub fn nodes() -> PathBuf {
    target().join("nodes")
}

/// The root folders of a flavor, topmost first.
fn roots(flavor: Flavor) -> Result<Vec<PathBuf>> {
    let names: &[&str] = match flavor {
        Flavor::Forky => &["forky", "trixie"],
        Flavor::Trixie => &["trixie"],
    };
    names
        .iter()
        .map(|name| {
            let root = target().join("roots").join(name);
            root.canonicalize()
                .with_context(|| format!("no {}: run integration/node/root.sh", root.display()))
        })
        .collect()
}

/// What of the project a node sees, under `/opt/podwasm`: the programs of this build, and the engine if it is built.
fn binds() -> Vec<(&'static str, PathBuf)> {
    let program = std::env::current_exe().expect("a program has a path");
    let folder = program.parent().expect("a program lies in a folder");
    let programs = if folder.ends_with("deps") {
        folder.parent().expect("deps lies in a folder")
    } else {
        folder
    };
    let mut binds = vec![("/opt/podwasm/bin", programs.to_owned())];
    let engine = target().join("engine/bundle");
    if engine.is_dir() {
        binds.push(("/opt/podwasm/engine", engine));
    }
    binds
}

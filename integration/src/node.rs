//! A node: containerd, its runtimes, a registry and pod networking, in namespaces of their own.

mod containerd;
mod dns;
mod exporter;
mod files;
mod http;
mod layout;
mod namespaces;
mod podwasm;
mod process;
mod scaler;
pub mod shared;
mod supervisor;
mod sweep;

use crate::cri::{self, Cri};
use crate::image::{Content, Image, registry};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, ensure};
pub use dns::DNS_SERVER;
pub use exporter::Exporter;
pub use http::Answer;
use layout::{bare_binds, binds, roots};
pub use layout::{nodes, target};
use namespaces::Namespaces;
pub use nix::sys::signal::Signal;
use nix::unistd::Pid;
pub use podwasm::{PLUGIN_HTTP, Podwasm};
pub use process::Process;
pub use scaler::{Keda, Scaler, lines, scaled_object};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use supervisor::Supervisor;
use tokio::sync::Mutex;
use tokio::sync::OnceCell;

/// Where the node's registry listens, inside the node.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Whose containerd a node runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, clap::ValueEnum)]
pub enum Flavor {
    /// Debian forky's: containerd 2.1, NRI on by default, runc 1.3.
    Forky,
    /// Debian trixie's: containerd 1.7, NRI switched on by configuration, runc 1.1.
    Trixie,
    /// containerd 2.2 of `integration/upstream/build.sh`, its default validator switched on, and forky's runc 1.3.
    Upstream,
}

/// Which runtime a pod without a `RuntimeClass` gets. The other one is there under its name as a runtime handler.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, clap::ValueEnum)]
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
            Self::Upstream => "upstream",
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
    init: u32,
    namespaces: Namespaces,
    cri: Cri,
    busybox: String,
    pods: AtomicU32,
    exporter: OnceCell<Exporter>,
    podwasm: OnceCell<Podwasm>,
    dns: OnceCell<Process>,
    owned: Option<Owned>,
}

/// What only the one who started a node has, dropped in this order: a process that is killed is reaped before the
/// supervisor waits for the node to empty.
#[derive(Debug)]
struct Owned {
    containerd: Mutex<Process>,
    registry: Process,
    _supervisor: Supervisor,
}

impl Node {
    /// Starts a node and waits until containerd calls itself and the network ready. Needs root and the root folders
    /// that `integration/node/root.sh` makes.
    pub async fn start(flavor: Flavor, runtime: Runtime) -> Result<Self> {
        Self::start_named(&next_name(flavor, runtime), flavor, runtime).await
    }

    /// Starts a node on which nothing of podwasm is installed. What is to be installed is below `/srv`.
    pub async fn start_bare(flavor: Flavor, runtime: Runtime) -> Result<Self> {
        let name = format!("bare-{}", next_name(flavor, runtime));
        Self::start_with(&name, flavor, runtime, &bare_binds()).await
    }

    /// The same as [`Node::start`] under a name of the caller's choice: the folder's below `target/nodes`, and the node's host name.
    pub async fn start_named(name: &str, flavor: Flavor, runtime: Runtime) -> Result<Self> {
        Self::start_with(name, flavor, runtime, &binds()).await
    }

    async fn start_with(
        name: &str,
        flavor: Flavor,
        runtime: Runtime,
        binds: &[(&'static str, PathBuf)],
    ) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a node needs root");
        let folder = nodes().join(name);
        sweep::old_nodes(&nodes());
        sweep::make_room(&folder)?;
        files::write(&folder, flavor, runtime)
            .with_context(|| format!("write the files of {}", folder.display()))?;

        let supervisor = Supervisor::start(&folder, &roots(flavor)?, binds)?;
        let namespaces = Namespaces::of(supervisor.init());
        let containerd = Mutex::new(containerd::spawn(&namespaces, &folder)?);
        let registry = containerd::spawn_registry(&namespaces, &folder)?;
        let mut node = Self::with(folder, flavor, runtime, supervisor.init());
        node.owned = Some(Owned {
            containerd,
            registry,
            _supervisor: supervisor,
        });
        node.prepare()
            .await
            .with_context(|| format!("start node {name}\n{}", node.log_tails()))?;
        Ok(node)
    }

    /// A node that another process started and keeps.
    pub fn attach(name: &str) -> Result<Self> {
        let folder = nodes().join(name);
        let init = sweep::init(&folder).with_context(|| format!("no node {name} runs"))?;
        let (flavor, runtime) = files::read(&folder)?;
        let mut node = Self::with(folder, flavor, runtime, init);
        node.busybox = registry::reference("busybox", &Image::busybox(&node.path("/"))?);
        Ok(node)
    }

    fn with(folder: PathBuf, flavor: Flavor, runtime: Runtime, init: u32) -> Self {
        Self {
            name: folder.file_name().unwrap_or_default().display().to_string(),
            flavor,
            runtime,
            folder,
            init,
            namespaces: Namespaces::of(init),
            cri: Cri::over(&format!("/proc/{init}/root/run/containerd/containerd.sock")),
            busybox: String::new(),
            pods: AtomicU32::new(0),
            exporter: OnceCell::new(),
            podwasm: OnceCell::new(),
            dns: OnceCell::new(),
            owned: None,
        }
    }

    /// Fills the registry with what every test needs while containerd starts.
    async fn prepare(&mut self) -> Result<()> {
        let images = async {
            self.wait_for_registry().await?;
            let root = self.path("/");
            registry::push(self, "pause", &Image::pause(&root)?, "latest").await?;
            self.push("busybox", &Image::busybox(&root)?).await
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
        self.init
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
        // Another process may have run pods on the same node.
        cri::PodBuilder::new(self, name, &format!("{name}-{}-{number}", std::process::id()))
    }

    /// Pushes an image to the node's registry and returns what to pull it by. The tag is made of the image's digest, so
    /// that images of one name do not mix.
    pub async fn push(&self, name: &str, image: &impl Content) -> Result<String> {
        registry::push_by_digest(self, name, image)
            .await
            .with_context(|| format!("push image {name}"))
    }

    /// Pushes an image under a tag, which may have stood for another one, and returns what to pull it by.
    pub async fn push_as(&self, name: &str, tag: &str, image: &impl Content) -> Result<String> {
        registry::push(self, name, image, tag)
            .await
            .with_context(|| format!("push image {name}:{tag}"))?;
        Ok(format!("{REGISTRY}/{name}:{tag}"))
    }

    /// Loads an image of `make images` into containerd, as an air-gapped cluster's nodes get theirs.
    pub async fn load_image(&self, name: &str) -> Result<()> {
        let archive = format!("/srv/images/{name}.tar");
        ensure!(
            self.path(&archive).exists(),
            "{archive} is not in the node: run deploy/images/build.sh"
        );
        let import = [
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--base-name",
            "ghcr.io/podwasm",
            &archive,
        ];
        let output = self.exec("ctr", import).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "import {archive}: {said}");
        Ok(())
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
        self.output_of(command).await
    }

    /// Runs a command in the node to its end.
    pub async fn output_of(&self, command: Command) -> Result<Output> {
        let program = command.get_program().display().to_string();
        let child = self.namespaces.output(command)?;
        tokio::task::spawn_blocking(move || child.wait_with_output())
            .await?
            .with_context(|| format!("run {program}"))
    }

    /// A command that will run in the node, attached to this process's terminal; for a shell.
    pub fn attach_terminal(&self, command: Command) -> Result<std::process::Child> {
        self.namespaces.spawn(command)
    }

    /// A TCP connection to something in the node: a pod, or what listens on the node's loopback.
    pub async fn connect(&self, address: SocketAddr) -> Result<tokio::net::TcpStream> {
        self.namespaces.connect(address).await
    }

    /// Stops the node and waits until nothing of it is left, whoever started it. The logs stay for a while.
    pub async fn stop(self) -> Result<()> {
        if self.owned.is_none() {
            nix::sys::signal::kill(Pid::from_raw(self.init.cast_signed()), Signal::SIGKILL)
                .context("kill the node's init")?;
            let gone = async || Ok(sweep::init(&self.folder).is_none().then_some(()));
            return until("the node is gone", PATIENCE, gone).await;
        }
        tokio::task::spawn_blocking(move || drop(self)).await?;
        Ok(())
    }

    /// Waits until the node ends because someone stopped it.
    pub async fn ended(&self) {
        while sweep::init(&self.folder).is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The ends of all logs of the node's own programs, for a failure's message.
    pub fn log_tails(&self) -> String {
        process::log_tails(&self.logs())
    }
}

fn next_name(flavor: Flavor, runtime: Runtime) -> String {
    static NODES: AtomicU32 = AtomicU32::new(1);
    let number = NODES.fetch_add(1, Ordering::Relaxed);
    format!("{flavor}-{runtime}-{}-{number}", std::process::id())
}

//! All that the doctor knows of a node: plain values, gathered before anything is said of them.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::net::IpAddr;
use std::path::PathBuf;

use super::distribution::{ConfigFile, Distribution};
use crate::policy::Policy;

/// Something, or why it could not be learnt.
pub type Learnt<T> = Result<T, String>;

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What runs.
    pub cgroups: Learnt<Cgroups>,
    /// Whether the clock is earlier than this program.
    pub clock_is_behind: bool,
    /// The compiler, tried.
    pub compiler: Compiler,
    /// containerd, asked.
    pub containerd: Containerd,
    /// containerd's CRI, asked; `None` where containerd does not answer at all.
    pub cri: Option<Learnt<Cri>>,
    /// The daemons on this node.
    pub daemons: Learnt<Vec<Daemon>>,
    /// Disks that matter, by a folder on each.
    pub disks: Vec<Disk>,
    /// Whose containerd it is.
    pub distribution: Distribution,
    /// What pods resolve names with.
    pub dns: Dns,
    /// The engine, tried.
    pub engine: Engine,
    /// What counting requests needs.
    pub exporter: Exporter,
    /// The image that was asked about.
    pub image: Option<Image>,
    /// Whether this process may look at everything.
    pub is_root: bool,
    /// NRI's socket and settings.
    pub nri: Nri,
    /// The pod or container that was asked about.
    pub pod: Vec<Container>,
    /// The policy that the daemon has, or would have.
    pub policy: PolicyFile,
    /// The runtimes of containerd's configuration.
    pub runtimes: Vec<Runtime>,
    /// What a snapshot of this node's snapshotter was seen to be; `None` without an image to look at.
    pub snapshot: Option<Learnt<()>>,
    /// The state folder.
    pub state: State,
    /// This program's version.
    pub version: String,
}

/// Control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Whether the memory controller can be used.
    pub has_memory: bool,
    /// Controllers of version 1 that the kernel has and nobody has mounted.
    pub unmounted: Vec<String>,
    /// `v1`, `v2` or `hybrid`.
    pub version: &'static str,
}

/// What came of trying the compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Its folder.
    pub folder: PathBuf,
    /// What names its native code; or why there is no compiler.
    pub build: Learnt<String>,
    /// What it said when it compiled, empty as a rule; or why it did not.
    pub compiled: Learnt<String>,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answers, with its version.
    Answers(String),
    /// This process may not.
    Denied,
    /// Something else went wrong.
    Failed(String),
    /// There is no such socket.
    Missing,
    /// Nobody listens.
    Refused,
    /// No answer in time.
    Silent,
}

/// containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containerd {
    /// Its configuration.
    pub config: ConfigFile,
    /// What the configuration says of NRI; or why it could not be read.
    pub nri: Learnt<NriConfig>,
    /// Whether it answers.
    pub reach: Reach,
    /// Where it was looked for.
    pub socket: PathBuf,
}

/// What containerd's configuration says of NRI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NriConfig {
    /// Whether it is off.
    pub is_off: bool,
    /// Where its socket is to be.
    pub socket: PathBuf,
}

/// What containerd's CRI says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cri {
    /// What does not hold, each with the reason.
    pub unready: Vec<String>,
    /// The runtime of pods that choose none.
    pub default_runtime: String,
    /// The runtimes by their names: the shim, and the program behind it.
    pub runtimes: Vec<(String, String, String)>,
    /// The snapshotter.
    pub snapshotter: String,
    /// Where it keeps images and containers; empty where it does not say.
    pub root: PathBuf,
}

/// A running `podwasm run`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// The engine that it knows.
    pub engine: String,
    /// Where it is asked.
    pub http: String,
    /// Its process.
    pub pid: u32,
    /// `ok`, or what it lacks; or why it did not say.
    pub ready: Option<Learnt<String>>,
    /// Containers started without a look.
    pub unobserved: u64,
    /// Its version.
    pub version: String,
}

/// Room on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A folder on it.
    pub folder: PathBuf,
    /// What is free, in bytes.
    pub free_bytes: u64,
    /// How much of it is free, in percent.
    pub free_percent: u64,
    /// How many of its inodes are free, in percent; 100 where there is no such number.
    pub free_inodes_percent: u64,
}

/// Name resolution.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Of the node itself.
    pub node: Resolver,
    /// Of its pods; or why that could not be learnt.
    pub pods: Option<Learnt<Vec<PodResolver>>>,
}

/// A resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers, in their order.
    pub servers: Vec<IpAddr>,
}

/// What one pod resolves names with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodResolver {
    /// The pod, as NAMESPACE/NAME.
    pub pod: String,
    /// What its containers read.
    pub resolver: Resolver,
    /// Whether it uses the node's own network.
    pub on_host_network: bool,
    /// Whether each server answered from the pod's network; servers that nobody asked are missing.
    pub answers: Vec<(IpAddr, Learnt<()>)>,
}

/// What came of trying the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Its folder.
    pub folder: PathBuf,
    /// Its version; or what is missing.
    pub version: Learnt<String>,
    /// Whether its files are those that were built; `None` where it was not looked at.
    pub is_whole: Option<bool>,
    /// Whether it lies on a `noexec` mount.
    pub noexec: bool,
    /// A module that prints and ends with 7.
    pub ran: Trial,
    /// A module that traps.
    pub trapped: Trial,
    /// The first one, compiled on this node.
    pub native: Trial,
}

/// What came of running a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It ended.
    Ended {
        /// The exit code; `None` for a signal.
        code: Option<i32>,
        /// What it wrote.
        stdout: String,
        /// What the engine wrote.
        stderr: String,
    },
    /// It could not be tried here.
    NotTried(String),
    /// It could not be started.
    Unstartable(String),
}

/// What counting requests needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exporter {
    /// The kernel's release.
    pub kernel: String,
    /// Whether a BPF program was taken as a socket's filter.
    pub bpf: Learnt<()>,
    /// Whether packet sockets can be opened.
    pub packet_socket: Learnt<()>,
    /// Whether it runs, and what it lacks.
    pub ready: Option<Learnt<String>>,
}

/// An image that was asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// What it is.
    pub found: Learnt<ImageForm>,
}

/// What an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageForm {
    /// A container of it would run as it is.
    Native,
    /// An index of Wasm platforms only.
    OnlyWasmIndex,
    /// An index with nothing for this machine.
    OtherMachine,
    /// A container of it would be refused, for this reason.
    Refused(String),
    /// A container of it would run as Wasm.
    Wasm,
}

/// NRI's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nri {
    /// Where podwasm looks for it.
    pub socket: PathBuf,
    /// Whether there is a socket; `None` where this process may not see.
    pub is_there: Option<bool>,
}

/// The policy.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Its file, if there is one.
    pub path: Option<PathBuf>,
    /// What it says; or what is wrong with it.
    pub policy: Result<Policy, PolicyProblem>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyProblem {
    /// It cannot be followed.
    Invalid(String),
    /// It cannot be read.
    Missing(String),
}

/// A runtime of containerd's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its name as a handler.
    pub name: String,
    /// The shim.
    pub shim: String,
    /// The program.
    pub program: String,
    /// Whether pods that choose none get it.
    pub is_default: bool,
    /// What it says of its version; or why not.
    pub version: Learnt<String>,
    /// Whether the program is there.
    pub is_there: bool,
}

/// The state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it is.
    pub folder: PathBuf,
    /// What is known of it; `None` if it is not there.
    pub found: Option<Learnt<StateFolder>>,
}

/// A state folder that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateFolder {
    /// Whose it is.
    pub owner: u32,
    /// Its permissions.
    pub mode: u32,
    /// Whether its disk is mounted without execution.
    pub noexec: bool,
    /// Whether something could be written.
    pub write: Option<Learnt<()>>,
    /// Room, in bytes.
    pub free_bytes: u64,
    /// What the cache takes, in bytes.
    pub used_bytes: u64,
    /// Modules in it.
    pub modules: usize,
    /// Files that are not what was put there.
    pub damaged: Vec<String>,
    /// How many files could not be read in time.
    pub unread: usize,
}

/// A container that was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its command.
    pub command: Vec<String>,
    /// The handler that podwasm chose, if it did.
    pub routed: Option<String>,
    /// What it ran as: `optimised`, `fast`, `waiting` or `interpreted`.
    pub tier: Option<String>,
    /// `running`, `exited` and so on; empty where the runtime did not say.
    pub state: String,
    /// How it ended.
    pub exit_code: i32,
    /// What the runtime says of that, such as `OOMKilled`.
    pub reason: String,
    /// What the image would be said to be now; or why that is not known.
    pub would: Option<Learnt<ImageForm>>,
}

#[cfg(test)]
impl Facts {
    /// A node without any problem, to be broken by tests.
    #[expect(clippy::too_many_lines, reason = "it is one plain value")]
    pub fn healthy() -> Self {
        let ended = |code, stdout: &str| Trial::Ended {
            code: Some(code),
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        Self {
            cgroups: Ok(Cgroups {
                has_memory: true,
                unmounted: Vec::new(),
                version: "v2",
            }),
            clock_is_behind: false,
            compiler: Compiler {
                folder: "/opt/podwasm/compiler".into(),
                build: Ok("b1".to_owned()),
                compiled: Ok(String::new()),
            },
            containerd: Containerd {
                config: ConfigFile {
                    path: "/etc/containerd/config.toml".into(),
                    exists: true,
                    ..ConfigFile::default()
                },
                nri: Ok(NriConfig {
                    is_off: false,
                    socket: "/var/run/nri/nri.sock".into(),
                }),
                reach: Reach::Answers("2.1.9".to_owned()),
                socket: "/run/containerd/containerd.sock".into(),
            },
            cri: Some(Ok(Cri {
                unready: Vec::new(),
                default_runtime: "runc".to_owned(),
                runtimes: Vec::new(),
                snapshotter: "overlayfs".to_owned(),
                root: "/var/lib/containerd".into(),
            })),
            daemons: Ok(vec![Daemon {
                engine: "e1".to_owned(),
                http: "127.0.0.1:9465".to_owned(),
                pid: 7,
                ready: Some(Ok("ok".to_owned())),
                unobserved: 0,
                version: "0.1.0".to_owned(),
            }]),
            disks: vec![Disk {
                folder: "/var/lib/containerd".into(),
                free_bytes: 50 << 30,
                free_percent: 50,
                free_inodes_percent: 90,
            }],
            distribution: Distribution::Plain,
            dns: Dns {
                node: Resolver {
                    servers: vec![IpAddr::from([10, 0, 0, 2])],
                },
                pods: Some(Ok(Vec::new())),
            },
            engine: Engine {
                folder: "/opt/podwasm/engine".into(),
                version: Ok("e1".to_owned()),
                is_whole: Some(true),
                noexec: false,
                ran: ended(7, "podwasm\n"),
                trapped: ended(134, ""),
                native: ended(7, "podwasm\n"),
            },
            exporter: Exporter {
                kernel: "6.18.0".to_owned(),
                bpf: Ok(()),
                packet_socket: Ok(()),
                ready: None,
            },
            image: None,
            is_root: true,
            nri: Nri {
                socket: "/var/run/nri/nri.sock".into(),
                is_there: Some(true),
            },
            pod: Vec::new(),
            policy: PolicyFile {
                path: None,
                policy: Ok(Policy::default()),
            },
            runtimes: vec![Runtime {
                name: "runc".to_owned(),
                shim: "io.containerd.runc.v2".to_owned(),
                program: "runc".to_owned(),
                is_default: true,
                version: Ok("runc version 1.3.6".to_owned()),
                is_there: true,
            }],
            snapshot: Some(Ok(())),
            state: State {
                folder: "/var/lib/podwasm".into(),
                found: Some(Ok(StateFolder {
                    mode: 0o700,
                    write: Some(Ok(())),
                    free_bytes: 50 << 30,
                    ..StateFolder::default()
                })),
            },
            version: "0.1.0".to_owned(),
        }
    }
}

//! Everything that is known about a container before it is decided what becomes of it.

use std::path::PathBuf;

use crate::annotation::Settings;
use crate::compiled::Compiled;
use crate::image::ImageFacts;
use crate::store::Module;

/// All that [`crate::decide`] may look at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What there is of the module's native code, where the entrypoint is one.
    pub compiled: Compiled,
    /// Whether the pod's crun runs modules, and if not, why. Asked only where crun is to run one.
    pub crun_wasm: Option<Result<(), String>>,
    /// What stands where `args[0]` leads.
    pub entrypoint: Entrypoint,
    /// The container's environment.
    pub env: Vec<String>,
    /// What the image says of itself. Not asked for when the entrypoint is a native program.
    pub image: Option<ImageFacts>,
    /// The limits that the container sets itself.
    pub limits: Limits,
    /// The container's mounts.
    pub mounts: Vec<MountFact>,
    /// The pod's namespace.
    pub namespace: String,
    /// `args[0]` as the container names it.
    pub program: String,
    /// What runs the pod.
    pub runtime: Runtime,
    /// What the pod asks for, or what is wrong with how it asks.
    pub settings: Result<Settings, String>,
    /// The annotation by which the pod asks crun's Wasm handler, if it does.
    pub wanted_by_crun: Option<String>,
}

/// What a container may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<u64>,
    /// The weight that stands for a CPU request; 1024 for a core.
    pub cpu_shares: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MountFact {
    /// Where it is in the container, without slashes at the end and in a row.
    pub destination: PathBuf,
    /// Whether it may only be read.
    pub read_only: bool,
    /// What is mounted, if it is a file or folder of the host.
    pub source: Option<PathBuf>,
}

/// What stands where `args[0]` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrypoint {
    /// Nothing.
    Missing,
    /// A core module, already in the module store.
    Module {
        /// The copy in the store.
        module: Module,
        /// The path that the engine has to cover, so that the runtime starts it.
        cover: PathBuf,
    },
    /// Something in a file system that only the container will have, such as a tmpfs.
    Mounted {
        /// Where that is mounted.
        destination: PathBuf,
    },
    /// An ELF program or a script.
    Native {
        /// Where it is.
        path: PathBuf,
    },
    /// Something that neither the kernel nor the engine can run.
    Unusable {
        /// Where it is, or which blob.
        path: String,
        /// What it is.
        defect: Defect,
    },
}

/// Why something cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Several modules, and nothing that says which.
    Ambiguous {
        /// Their names.
        titles: Vec<String>,
    },
    /// A component of the component model.
    Component,
    /// No byte at all.
    Empty,
    /// It begins as a module does, but is not a whole one.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// A directory, FIFO, socket or device.
    NotAFile {
        /// Which of them.
        kind: &'static str,
    },
    /// Bytes that are no program of any kind.
    NotAProgram,
    /// Larger than the node allows.
    TooLarge {
        /// The node's limit in bytes.
        limit: u64,
    },
}

/// What runs the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// A plain OCI runtime, runc or crun.
    Oci {
        /// Its program, empty for the node's default.
        program: String,
    },
    /// A shim that is something else: a Wasm shim, Kata, gVisor.
    Other {
        /// The shim's name.
        shim: String,
    },
}

//! Everything that is known about a container before it is decided what becomes of it.

use std::path::PathBuf;

use crate::annotation::Settings;
use crate::image::ImageFacts;
use crate::store::Module;

/// All that [`crate::decide`] may look at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What stands where `args[0]` leads.
    pub entrypoint: Entrypoint,
    /// What the image says of itself. Not asked for when the entrypoint is a native program.
    pub image: Option<ImageFacts>,
    /// A mount of the pod's own in the engine's place, if there is one.
    pub intruder: Option<PathBuf>,
    /// `args[0]` as the container names it.
    pub program: String,
    /// What runs the pod.
    pub runtime: Runtime,
    /// What the pod asks for, or what is wrong with how it asks.
    pub settings: Result<Settings, String>,
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
    /// Something in a volume of the pod, which the image's layers do not show.
    Mounted {
        /// Where the volume is mounted.
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

//! What a daemon keeps of its privileges once it has started: the capabilities that it names, the system calls that its work is made of,
//! and the files that it writes. All else is dropped before it reads a byte from anyone, and cannot be had again.
//!
//! Both daemons on a node are started as root, because the kernel asks for it in a few places. A bug in what reads images, annotations or
//! packets should not be worth more than those few.

mod calls;
mod capabilities;
pub mod daemons;
mod files;

use std::io;
use std::path::PathBuf;

pub use rustix::thread::CapabilitySet;
use tracing::{info, warn};

pub use calls::Calls;
pub use files::Files;

/// What a program goes on needing.
#[derive(Clone, Debug)]
pub struct Needs {
    /// What it makes of the kernel.
    pub calls: Calls,
    /// The capabilities that it has from now on, of those that it was started with.
    pub capabilities: CapabilitySet,
    /// Whether these are in effect. If not, they are for programs that it starts.
    pub in_effect: bool,
    /// What it writes, and whom it connects to.
    pub files: Files,
}

/// Why privileges cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not change the sets of capabilities.
    #[error("capabilities cannot be dropped")]
    Capabilities(#[source] io::Error),
    /// The filter cannot be made.
    #[error("the filter for system calls cannot be made")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take the filter.
    #[error("the filter for system calls cannot be installed")]
    Install(#[from] seccompiler::Error),
    /// The kernel has Landlock, and does not take the rules.
    #[error("Landlock cannot be set up")]
    Landlock(#[from] landlock::RulesetError),
    /// The kernel does not promise that programs gain nothing.
    #[error("no_new_privs cannot be set")]
    NoNewPrivs(#[source] io::Error),
    /// A file to be written cannot be opened.
    #[error("{path} cannot be opened")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: landlock::PathFdError,
    },
    /// Each thread has privileges of its own, and only the calling one drops them.
    #[error("there are {0} threads already")]
    Threads(usize),
}

/// What was kept.
#[derive(Clone, Debug)]
pub struct Kept {
    are_files_restricted: bool,
    capabilities: CapabilitySet,
}

impl Kept {
    /// Says so, once there is a log.
    pub fn say(&self) {
        info!(
            capabilities = capabilities::names(self.capabilities),
            "privileges dropped"
        );
        if !self.are_files_restricted {
            warn!(
                "this kernel has no Landlock that allows renaming (Linux 5.19), so files are kept from this program by its user's rights alone"
            );
        }
    }
}

/// Drops all that is not needed, for this process and all that it starts. Has to be called before there is a second thread, and so before
/// logging starts.
pub fn keep_only(needs: &Needs) -> Result<Kept, Error> {
    if let Ok(threads) = std::fs::read_dir("/proc/self/task").map(Iterator::count)
        && threads != 1
    {
        return Err(Error::Threads(threads));
    }
    // Only who has CAP_SETPCAP can do this. For who has not, the next step makes it count for nothing.
    capabilities::bound(needs.capabilities);
    rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivs(errno.into()))?;
    let are_files_restricted = files::restrict(&needs.files, needs.calls.starts_programs)?;
    let capabilities = capabilities::keep(needs.capabilities, needs.in_effect)
        .map_err(|errno| Error::Capabilities(errno.into()))?;
    calls::restrict(needs.calls)?;
    Ok(Kept {
        are_files_restricted,
        capabilities,
    })
}

//! Running a plugin.
use std::path::PathBuf;

use crate::identity::Identity;
use crate::plugin::Plugin;
use crate::preinstalled::Preinstalled;
use crate::runtime::Runtime;
use crate::session::SessionError;

/// Where runtimes listen unless they are configured otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/nri/nri.sock";

/// Runs a plugin.
#[derive(Debug)]
pub struct Runner<P> {
    plugin: P,
    identity: Identity,
    socket: PathBuf,
}

/// Why a runner gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The only connection there was to be has ended.
    #[error("NRI session ended")]
    Session(#[from] SessionError),
}

impl<P: Plugin> Runner<P> {
    /// A plugin that connects to the runtime's socket.
    pub fn external(plugin: P, identity: Identity) -> Self {
        Self {
            plugin,
            identity,
            socket: DEFAULT_SOCKET.into(),
        }
    }

    /// A plugin that the runtime has started.
    pub fn preinstalled(plugin: P, preinstalled: Preinstalled) -> Self {
        Self::external(plugin, preinstalled.identity)
    }

    /// Sets the runtime's socket.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = path.into();
        self
    }

    /// Ends with the first connection, or failure to connect, instead of trying again.
    #[must_use]
    pub fn once(self) -> Self {
        self
    }

    /// A handle for unsolicited updates.
    pub fn runtime(&self) -> Runtime {
        Runtime {}
    }

    /// The plugin.
    pub fn plugin(&self) -> &P {
        &self.plugin
    }

    /// Runs until `shutdown` is ready.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let _ = (self.plugin, self.identity, self.socket);
        shutdown.await;
        Ok(())
    }
}

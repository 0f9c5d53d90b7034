//! Why a connection ended, in words for whoever runs the plugin.

use std::io;
use std::path::PathBuf;

use super::REGISTRATION_PATIENCE;
use crate::mux::MuxError;

/// How far a connection had come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// The runtime had not answered the registration.
    Registering,
    /// It had, and had not yet configured the plugin.
    Configuring,
    /// It had, and had not yet synchronized the plugin.
    Synchronizing,
    /// The plugin was in service.
    Running,
}

/// Why a connection ended, or did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The runtime closed the connection.
    #[error("the runtime closed the connection{}", hint(*.0))]
    Closed(Phase),
    /// The socket cannot be connected to.
    #[error("cannot connect to the NRI socket {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Connecting is not allowed.
    #[error("no permission to connect to the NRI socket {}: it takes root", .path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The runtime sent something that makes no sense, or the socket failed.
    #[error(transparent)]
    Mux(#[from] MuxError),
    /// There is no socket.
    #[error("there is no NRI socket {}: is NRI enabled in the runtime?", .path.display())]
    NoSocket {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is a socket without a runtime.
    #[error("nobody listens on the NRI socket {}: is the runtime running?", .path.display())]
    NotListening {
        /// The socket.
        path: PathBuf,
    },
    /// The runtime does not want this plugin.
    #[error("the runtime refused to register the plugin: {0}")]
    Refused(String),
    /// The runtime accepted the connection and said nothing.
    #[error("the runtime did not answer the registration within {REGISTRATION_PATIENCE:?}")]
    RegistrationTimeout,
    /// The plugin itself is stopping.
    #[error("the plugin is stopping")]
    Stopped,
    /// The socket cannot be written to.
    #[error("cannot write to the NRI socket")]
    Write(#[source] io::Error),
}

impl SessionError {
    pub(crate) fn connect(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NoSocket { path },
            io::ErrorKind::ConnectionRefused => Self::NotListening { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            _ => Self::Connect { path, source },
        }
    }

    /// Whether a runtime was there to talk to.
    pub(crate) fn is_reachable(&self) -> bool {
        !matches!(
            self,
            Self::Connect { .. } | Self::Denied { .. } | Self::NoSocket { .. } | Self::NotListening { .. }
        )
    }
}

fn hint(phase: Phase) -> &'static str {
    match phase {
        Phase::Registering => " before it answered the registration: does it allow external plugins?",
        Phase::Configuring => " before it configured the plugin",
        Phase::Synchronizing => " before the plugin was synchronized: its log says why",
        Phase::Running => "",
    }
}

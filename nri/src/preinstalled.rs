//! Plugins that the runtime starts itself.
//!
//! A program in the runtime's plugin folder (`/opt/nri/plugins/10-name`) is started with an open socket
//! and told its number in the environment. It runs as long as that socket is open; nobody starts it
//! again.

use std::env;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::identity::{Identity, IdentityError};

const SOCKET: &str = "NRI_PLUGIN_SOCKET";
const NAME: &str = "NRI_PLUGIN_NAME";
const INDEX: &str = "NRI_PLUGIN_IDX";

/// Whether the socket of this process has been taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What the runtime gave a plugin that it started: a socket, a name and an index.
#[derive(Debug)]
pub struct Preinstalled {
    pub(crate) identity: Identity,
    pub(crate) socket: OwnedFd,
}

/// Why the environment of a pre-installed plugin makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreinstalledError {
    /// The name or the index is missing or no good.
    #[error("{NAME} and {INDEX} do not name a plugin")]
    Identity(#[from] IdentityError),
    /// What should be a socket is none.
    #[error("{SOCKET}={0} is not an open Unix socket")]
    NotASocket(RawFd),
    /// What should be a number is none.
    #[error("{SOCKET}={0:?} is not the number of an open file")]
    Number(String),
    /// The socket could not be set up.
    #[error("cannot set up the socket {SOCKET}={fd}")]
    Setup {
        /// Its number.
        fd: RawFd,
        /// The cause.
        source: Errno,
    },
    /// The socket was taken before.
    #[error("the socket {SOCKET} has been taken before in this process")]
    Taken,
}

impl Preinstalled {
    /// Takes what the runtime has left in the environment, or `None` if it has not started this
    /// process. Can succeed once in a process.
    pub fn from_env() -> Result<Option<Self>, PreinstalledError> {
        let Some(number) = env::var_os(SOCKET).filter(|number| !number.is_empty()) else {
            return Ok(None);
        };
        let number = number.to_string_lossy().into_owned();
        let fd = parse_fd(&number).ok_or(PreinstalledError::Number(number))?;
        let identity = Identity::new(variable(NAME), variable(INDEX))?;
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(PreinstalledError::Taken);
        }
        Ok(Some(Self {
            identity,
            socket: adopt(fd)?,
        }))
    }

    /// The name and index the runtime gave this plugin.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Descriptors 0 to 2 are the standard streams.
fn parse_fd(number: &str) -> Option<RawFd> {
    number.parse().ok().filter(|fd| *fd > 2)
}

fn variable(name: &str) -> String {
    env::var_os(name)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn adopt(fd: RawFd) -> Result<OwnedFd, PreinstalledError> {
    // `/proc` is asked first, because owning a descriptor that is not open is not allowed.
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    if !link.to_string_lossy().starts_with("socket:") {
        return Err(PreinstalledError::NotASocket(fd));
    }
    // SAFETY: it is open, and `TAKEN` makes sure that this happens once. That nothing else in this
    // process owns it is the runtime's promise: it was opened before the process was started, and the
    // variable that names it says whom it is for.
    #[allow(unsafe_code)]
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let is_unix = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
    if !is_unix || sockopt::socket_type(&socket) != Ok(SocketType::STREAM) {
        // It is somebody's, after all.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
        return Err(PreinstalledError::NotASocket(fd));
    }
    // Programs that the plugin starts must not keep the socket open.
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)
        .map_err(|source| PreinstalledError::Setup { fd, source })?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_streams_and_nonsense_are_no_sockets() {
        for number in ["0", "2", "-1", "", "three", "99999999999"] {
            assert_eq!(parse_fd(number), None, "{number:?}");
        }
        assert_eq!(parse_fd("3"), Some(3));
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_refused() {
        assert!(matches!(
            adopt(987_654),
            Err(PreinstalledError::NotASocket(987_654))
        ));
    }

    #[test]
    fn a_file_is_no_socket() {
        let file = std::os::fd::AsRawFd::as_raw_fd(&std::io::stdin());
        assert!(matches!(adopt(file), Err(PreinstalledError::NotASocket(_))));
    }
}

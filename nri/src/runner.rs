//! Running a plugin: connecting, and connecting again.
//!
//! Containers that are created while a plugin is away are created without it, so an external plugin
//! never gives up, and is back within milliseconds of the runtime's socket. A pre-installed plugin
//! belongs to one process of the runtime, and ends with it.

use std::error::Error;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::identity::Identity;
use crate::link::Link;
use crate::plugin::Plugin;
use crate::preinstalled::Preinstalled;
use crate::runtime::Runtime;
use crate::session::{Phase, Session, SessionError};
use crate::thread;

/// Where runtimes listen unless they are configured otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/nri/nri.sock";

/// A connection that lasted this long has worked, so the next attempt comes at once.
const WORKING: Duration = Duration::from_secs(1);

/// The same complaint is not repeated more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Runs a plugin.
///
/// ```no_run
/// # struct Logger;
/// # #[nri::plugin]
/// # impl nri::Plugin for Logger {}
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use nri::{Identity, Preinstalled, Runner};
///
/// // Started by the runtime, or by somebody else: serve either way.
/// let runner = match Preinstalled::from_env()? {
///     Some(preinstalled) => Runner::preinstalled(Logger, preinstalled),
///     None => Runner::external(Logger, Identity::new("logger", "10")?).socket("/run/nri/nri.sock"),
/// };
/// runner.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Runner<P> {
    plugin: Arc<P>,
    identity: Identity,
    source: Source,
    once: bool,
    runtime: Runtime,
}

#[derive(Debug)]
enum Source {
    /// To be connected to.
    Path(PathBuf),
    /// Open from the start, and used once.
    Inherited(Option<StdUnixStream>),
}

/// Why a runner gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The only connection there was to be has ended.
    #[error("the NRI plugin has lost its runtime")]
    Session(#[from] SessionError),
    /// The connection's thread could not be started.
    #[error("cannot start a thread for the NRI connection")]
    Thread(#[source] io::Error),
}

impl<P: Plugin> Runner<P> {
    /// A plugin that connects to the runtime's socket, again and again.
    pub fn external(plugin: P, identity: Identity) -> Self {
        Self::new(plugin, identity, Source::Path(DEFAULT_SOCKET.into()))
    }

    /// A plugin that the runtime has started. It ends when the runtime closes the socket.
    pub fn preinstalled(plugin: P, preinstalled: Preinstalled) -> Self {
        let Preinstalled { identity, socket } = preinstalled;
        Self::new(plugin, identity, Source::Inherited(Some(socket.into())))
    }

    fn new(plugin: P, identity: Identity, source: Source) -> Self {
        Self {
            plugin: Arc::new(plugin),
            identity,
            source,
            once: false,
            runtime: Runtime::new(),
        }
    }

    /// Sets the runtime's socket. A pre-installed plugin keeps the one it has.
    ///
    /// In a container, mount the folder that holds the socket, not the socket: the runtime makes a new
    /// one each time it starts.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        if let Source::Path(socket) = &mut self.source {
            *socket = path.into();
        }
        self
    }

    /// Ends with the first connection, or with failing to connect, instead of trying again.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// A handle for unsolicited updates, and for waiting until the plugin is in service.
    pub fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }

    /// The plugin.
    pub fn plugin(&self) -> &Arc<P> {
        &self.plugin
    }

    /// Runs until `shutdown` is ready, then answers what has been asked and ends without error.
    ///
    /// Handlers run in the tokio runtime this is called in, and hooks on a thread that is the
    /// connection's own, so that no handler, however busy, keeps another call from being answered.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, and if a hook ([`Plugin::connected`], [`Plugin::disconnected`]) does.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let handlers = Handle::current();
        let serve = async move |stopped: oneshot::Receiver<()>| {
            let stopped = async {
                // Dropped without a word, it is this future that is dropped next.
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            self.serve(handlers, stopped).await
        };
        thread::run(serve, shutdown).await.map_err(RunError::Thread)?
    }

    /// The same, but connection, handlers and hooks all run in the tokio runtime this is called in. It saves each call two changes of
    /// thread, and is for a plugin that never blocks one: while it does, no other call is answered, and no deadline kept.
    pub async fn run_here(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        self.serve(Handle::current(), shutdown).await
    }

    async fn serve(mut self, handlers: Handle, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let _disconnected = DisconnectOnDrop(self.runtime.clone());
        let mut shutdown = std::pin::pin!(shutdown);
        let (mut backoff, mut complaints): (Backoff, Complaints) = Default::default();
        loop {
            let start = Instant::now();
            let error = match self.attempt(&handlers, shutdown.as_mut()).await {
                SessionError::Stopped => return Ok(()),
                SessionError::Closed(Phase::Running) if self.is_inherited() => return Ok(()),
                error if self.once || self.is_inherited() => return Err(error.into()),
                error => error,
            };
            if error.is_reachable() && start.elapsed() >= WORKING {
                (backoff, complaints) = Default::default();
            }
            let wait = backoff.next(error.is_reachable(), fastrand::f64());
            complaints.log(&self.identity, &error, wait);
            tokio::select! {
                () = shutdown.as_mut() => return Ok(()),
                () = sleep(wait) => {}
            }
        }
    }

    async fn attempt(
        &mut self,
        handlers: &Handle,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> SessionError {
        let socket = match self.connect().await {
            Ok(socket) => socket,
            Err(error) => return error,
        };
        let link = Link::new(self.plugin.clone(), self.runtime.clone(), handlers.clone());
        Session::new(link, socket, self.is_inherited())
            .run(&self.identity, shutdown)
            .await
    }

    async fn connect(&mut self) -> Result<UnixStream, SessionError> {
        match &mut self.source {
            Source::Path(path) => UnixStream::connect(&path)
                .await
                .map_err(|error| SessionError::connect(path.clone(), error)),
            Source::Inherited(socket) => {
                adopt(socket.take()).map_err(|error| SessionError::connect("(inherited)".into(), error))
            }
        }
    }

    fn is_inherited(&self) -> bool {
        matches!(self.source, Source::Inherited(_))
    }
}

/// Whatever becomes of a runner, no handle says that it is connected when it is gone.
struct DisconnectOnDrop(Runtime);

impl Drop for DisconnectOnDrop {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}

fn adopt(socket: Option<StdUnixStream>) -> io::Result<UnixStream> {
    let socket = socket.ok_or(io::ErrorKind::NotConnected)?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Warns of each new trouble, and reminds of one that lasts.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<(String, Instant)>,
}

impl Complaints {
    fn log(&mut self, identity: &Identity, error: &SessionError, wait: Duration) {
        let text = error.to_string();
        let is_old =
            |(last, since): &(String, Instant)| *last == text && since.elapsed() < COMPLAINT_INTERVAL;
        let is_old = self.last.as_ref().is_some_and(is_old);
        let cause = error as &dyn Error;
        match error {
            _ if is_old => {
                debug!(plugin = %identity, error = cause, ?wait, "no NRI connection, trying again");
            }
            SessionError::Closed(Phase::Running) => {
                info!(plugin = %identity, error = cause, ?wait, "NRI connection lost, connecting again");
            }
            _ => warn!(plugin = %identity, error = cause, ?wait, "no NRI connection, trying again"),
        }
        if !is_old {
            self.last = Some((text, Instant::now()));
        }
    }
}

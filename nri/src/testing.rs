//! A runtime to test plugins against, without a node.
//!
//! It speaks the protocol over a real socket, as awkwardly as real runtimes do, and is as strict a
//! reader as they are: a plugin that breaks the multiplexer's unwritten rules loses its connection.
//!
//! ```
//! use nri::testing::FakeRuntime;
//! use nri::api::{Adjustment, Container, PodSandbox};
//! use nri::{Call, Creation, Identity, Plugin, PluginError, Runner};
//!
//! struct Greeter;
//!
//! #[nri::plugin]
//! impl Plugin for Greeter {
//!     async fn create_container(&self, _: Call, _: PodSandbox, _: Container) -> Result<Creation, PluginError> {
//!         Ok(Adjustment::new().env("HELLO", "world").into())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let runtime = FakeRuntime::listen(dir.path().join("nri.sock"))?;
//! let runner = Runner::external(Greeter, Identity::new("greeter", "10")?).socket(runtime.path());
//! tokio::spawn(runner.run(std::future::pending()));
//!
//! let plugin = runtime.admit(vec![], vec![]).await?;
//! let creation = plugin.create_container(PodSandbox::default(), Container::default()).await?;
//! assert_eq!(creation.adjust.unwrap().env[0].key, "HELLO");
//! # Ok(())
//! # }
//! ```

mod relay;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

pub use relay::Manners;

use crate::api::{
    ConfigureRequest, ConfigureResponse, Container, CreateContainerRequest, CreateContainerResponse, Empty,
    Event, LinuxResources, PodSandbox, RegisterPluginRequest, StateChangeEvent, StopContainerRequest,
    StopContainerResponse, SynchronizeRequest, SynchronizeResponse, UpdateContainerRequest,
    UpdateContainerResponse, UpdateContainersRequest, UpdateContainersResponse,
};
use crate::dispatch::PLUGIN_SERVICE_NAME;
use crate::event::Events;
use crate::frame::{PLUGIN_SERVICE, RUNTIME_SERVICE};
use crate::mux::{self, Incoming, Outgoing};
use crate::ttrpc::{CallError, Client, Code, Message, Request, Status};

/// How long a fake waits for anything before it calls the test failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A runtime that does what a test says.
#[derive(Debug)]
pub struct FakeRuntime {
    listener: UnixListener,
    path: PathBuf,
    manners: Manners,
    terms: ConfigureRequest,
}

/// Why something did not go as a test expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FakeError {
    /// The plugin's answer, or its call, is not what was expected.
    #[error("unexpected: {0}")]
    Unexpected(String),
    /// The plugin answered with an error.
    #[error("the plugin answered with code {code}: {message}")]
    Answer {
        /// One of gRPC's codes.
        code: i32,
        /// The message.
        message: String,
    },
    /// The connection has ended.
    #[error("the plugin's connection ended")]
    Closed,
    /// The socket failed.
    #[error("the fake runtime's socket failed")]
    Io(#[from] io::Error),
    /// The plugin did not answer in time: a real runtime would drop it now.
    #[error("the plugin did not answer in time")]
    Timeout,
}

impl FakeRuntime {
    /// Listens on a socket, in place of any that was there before.
    pub fn listen(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        Ok(Self {
            listener,
            path,
            manners: Manners::default(),
            terms: default_terms(),
        })
    }

    /// Sets how the runtime writes.
    #[must_use]
    pub fn manners(mut self, manners: Manners) -> Self {
        self.manners = manners;
        self
    }

    /// Sets what the runtime says of itself, and its terms.
    #[must_use]
    pub fn terms(mut self, terms: ConfigureRequest) -> Self {
        self.terms = terms;
        self
    }

    /// Sets how long a plugin has for a call.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.terms.request_timeout = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a plugin to connect, and says nothing to it.
    pub async fn accept(&self) -> Result<FakeConnection, FakeError> {
        let (socket, _) = in_time(self.listener.accept()).await??;
        FakeConnection::new(socket, self.manners, self.terms.clone())
    }

    /// Waits for a plugin, and takes it through registration, configuration and synchronization.
    pub async fn admit(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<FakeConnection, FakeError> {
        let plugin = self.accept().await?;
        plugin.register().await?;
        plugin.configure().await?;
        plugin.synchronize(pods, containers).await?;
        Ok(plugin)
    }
}

fn default_terms() -> ConfigureRequest {
    ConfigureRequest {
        runtime_name: "fake".to_owned(),
        runtime_version: "v1.0.0".to_owned(),
        registration_timeout: 5000,
        request_timeout: 2000,
        nri_version: "v0.12.0".to_owned(),
        ..ConfigureRequest::default()
    }
}

/// A plugin, seen from the runtime.
#[derive(Debug)]
pub struct FakeConnection {
    client: Client,
    outgoing: Outgoing,
    requests: Mutex<mpsc::Receiver<(u32, Request)>>,
    raw: mpsc::Sender<Vec<u8>>,
    relay: AbortHandle,
    terms: ConfigureRequest,
    _tasks: JoinSet<()>,
}

impl FakeConnection {
    /// A plugin at the other end of `socket`, as when a runtime has started it.
    pub fn over(socket: UnixStream) -> Result<Self, FakeError> {
        Self::new(socket, Manners::default(), default_terms())
    }

    fn new(socket: UnixStream, manners: Manners, terms: ConfigureRequest) -> Result<Self, FakeError> {
        let (inner, outer) = UnixStream::pair()?;
        let (incoming, outgoing, _) = mux::open(inner);
        let client = Client::new(PLUGIN_SERVICE_NAME, PLUGIN_SERVICE, outgoing.clone());
        let (raw, raw_receiver) = mpsc::channel(16);
        let (sender, requests) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        let relay = tasks.spawn(relay::run(socket, outer, manners, raw_receiver));
        tasks.spawn(read(incoming, client.clone(), sender));
        let requests = Mutex::new(requests);
        Ok(Self {
            client,
            outgoing,
            requests,
            raw,
            relay,
            terms,
            _tasks: tasks,
        })
    }

    /// Waits for the plugin to register, and accepts it.
    pub async fn register(&self) -> Result<RegisterPluginRequest, FakeError> {
        self.take("RegisterPlugin", Ok(Empty {}.encode_to_vec())).await
    }

    /// Waits for the plugin to register, and refuses it.
    pub async fn refuse(&self, message: &str) -> Result<RegisterPluginRequest, FakeError> {
        self.take("RegisterPlugin", Err(Status::new(Code::Unknown, message)))
            .await
    }

    /// Configures the plugin, and returns its subscription.
    pub async fn configure(&self) -> Result<Events, FakeError> {
        let response: ConfigureResponse = self.call("Configure", &self.terms).await?;
        Ok(Events::from_bits(response.events))
    }

    /// Synchronizes the plugin.
    pub async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<SynchronizeResponse, FakeError> {
        self.call(
            "Synchronize",
            &SynchronizeRequest {
                pods,
                containers,
                more: false,
            },
        )
        .await
    }

    /// Creates a container.
    pub async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<CreateContainerResponse, FakeError> {
        let (pod, container) = (Some(pod), Some(container));
        self.call("CreateContainer", &CreateContainerRequest { pod, container })
            .await
    }

    /// Updates a container.
    pub async fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<UpdateContainerResponse, FakeError> {
        let (pod, container, linux_resources) = (Some(pod), Some(container), Some(resources));
        self.call(
            "UpdateContainer",
            &UpdateContainerRequest {
                pod,
                container,
                linux_resources,
            },
        )
        .await
    }

    /// Stops a container.
    pub async fn stop_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<StopContainerResponse, FakeError> {
        let (pod, container) = (Some(pod), Some(container));
        self.call("StopContainer", &StopContainerRequest { pod, container })
            .await
    }

    /// Tells of an event that needs no answer, as runtimes before NRI 0.12 do.
    pub async fn state_change(
        &self,
        event: Event,
        pod: PodSandbox,
        container: Option<Container>,
    ) -> Result<(), FakeError> {
        let change = StateChangeEvent {
            event: event.into(),
            pod: Some(pod),
            container,
        };
        self.call::<_, Empty>("StateChange", &change).await.map(drop)
    }

    /// Waits for the plugin to ask for updates, and answers that `failed` could not be applied.
    pub async fn unsolicited(
        &self,
        failed: UpdateContainersResponse,
    ) -> Result<UpdateContainersRequest, FakeError> {
        self.take("UpdateContainers", Ok(failed.encode_to_vec())).await
    }

    /// Waits for the plugin to ask for updates, and refuses.
    pub async fn refuse_unsolicited(&self, message: &str) -> Result<UpdateContainersRequest, FakeError> {
        self.take("UpdateContainers", Err(Status::new(Code::Unknown, message)))
            .await
    }

    /// Calls any method, and waits as long as the runtime's terms say.
    pub async fn call<Q: prost::Message, A: prost::Message + Default>(
        &self,
        method: &str,
        argument: &Q,
    ) -> Result<A, FakeError> {
        let patience = Duration::from_millis(self.terms.request_timeout.try_into().unwrap_or(2000));
        let patience = if patience.is_zero() {
            Duration::from_secs(2)
        } else {
            patience
        };
        match timeout(patience, self.client.call(method, argument, Some(patience))).await {
            Err(_) => Err(FakeError::Timeout),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(CallError::Closed)) => Err(FakeError::Closed),
            Ok(Err(CallError::Status(Status { code, message }))) => Err(FakeError::Answer { code, message }),
            Ok(Err(error)) => Err(FakeError::Unexpected(error.to_string())),
        }
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&self, bytes: Vec<u8>) -> Result<(), FakeError> {
        self.raw.send(bytes).await.map_err(|_| FakeError::Closed)
    }

    /// Ends the connection at once, whatever is under way.
    pub fn close(&self) {
        self.relay.abort();
    }

    /// Waits until the plugin has ended the connection.
    pub async fn closed(&self) -> Result<(), FakeError> {
        match in_time(self.requests.lock().await.recv()).await? {
            None => Ok(()),
            Some((_, request)) => Err(FakeError::Unexpected(format!(
                "the plugin called {}",
                request.method
            ))),
        }
    }

    /// Waits for one call of the plugin and answers it.
    async fn take<Q: prost::Message + Default>(
        &self,
        method: &str,
        answer: Result<Vec<u8>, Status>,
    ) -> Result<Q, FakeError> {
        let (stream, request) = in_time(self.requests.lock().await.recv())
            .await?
            .ok_or(FakeError::Closed)?;
        if request.method != method {
            return Err(FakeError::Unexpected(format!(
                "the plugin called {}, not {method}",
                request.method
            )));
        }
        let message = Message::response(stream, answer);
        self.outgoing
            .send(RUNTIME_SERVICE, &message)
            .await
            .map_err(|_| FakeError::Closed)?;
        Q::decode(request.payload.as_slice()).map_err(|error| FakeError::Unexpected(error.to_string()))
    }
}

async fn read(mut incoming: Incoming, client: Client, requests: mpsc::Sender<(u32, Request)>) {
    while let Ok(Some((connection, message))) = incoming.next().await {
        if connection == PLUGIN_SERVICE {
            client.answered(&message);
        } else if let Ok(request) = Request::decode(message.payload.as_slice()) {
            let _ = requests.send((message.stream, request)).await;
        }
    }
    client.close();
}

async fn in_time<T>(future: impl Future<Output = T>) -> Result<T, FakeError> {
    timeout(PATIENCE, future).await.map_err(|_| FakeError::Timeout)
}

//! One connection to a runtime, from registration to its end.
//!
//! Both ends call each other at once: the runtime may send `Configure` before it answers
//! `RegisterPlugin`, and goes on with `Synchronize` when nothing else holds its lock.

mod error;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

pub use error::{Phase, SessionError};

use crate::api;
use crate::call::{Call, RuntimeInfo};
use crate::dispatch::{self, Argument};
use crate::frame::{PLUGIN_SERVICE, RUNTIME_SERVICE};
use crate::identity::Identity;
use crate::link::Link;
use crate::mux::{self, Incoming, Outgoing};
use crate::plugin::{Configuration, Plugin};
use crate::serve;
use crate::synchronize::{self, Parts};
use crate::ttrpc::message::{self, Kind};
use crate::ttrpc::{CallError, Client, Code, Message, Request, Status};

/// The protocol version this crate was written for.
const NRI_VERSION: &str = "v0.12.0";

/// How long a runtime may take to accept a plugin. It accepts one after another and synchronizes each
/// before the next, so there may be a queue; giving up early would only make it longer.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(60);

/// How long a plugin has for a call if nobody has said otherwise.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a plugin has to register if nobody has said otherwise.
const DEFAULT_REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

/// What a call may ask for at most, so that no clock overflows.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Calls that may be worked on at once.
const MAX_CALLS: usize = 1024;

/// How long the last answers may take once the plugin is stopping.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The state of one connection. All of it belongs to one task; handlers run in tasks of their own.
pub(crate) struct Session<P> {
    link: Arc<Link<P>>,
    incoming: Incoming,
    outgoing: Outgoing,
    writer: JoinHandle<io::Result<()>>,
    client: Client,
    calls: JoinSet<()>,
    registered: bool,
    info: Option<Arc<RuntimeInfo>>,
    request_timeout: Duration,
    parts: Parts,
    in_service_after: &'static str,
}

impl<P: Plugin> Session<P> {
    /// `is_preinstalled` says that the runtime has started the plugin. Such a plugin is in service as
    /// soon as it is configured: it comes before any pod, and NRI before 0.7 never synchronizes it.
    pub(crate) fn new(link: Link<P>, socket: UnixStream, is_preinstalled: bool) -> Self {
        let (incoming, outgoing, writer) = mux::open(socket);
        let client = Client::new(dispatch::RUNTIME_SERVICE_NAME, RUNTIME_SERVICE, outgoing.clone());
        Self {
            link: Arc::new(link),
            incoming,
            outgoing,
            writer,
            client,
            calls: JoinSet::new(),
            registered: false,
            info: None,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            parts: Parts::default(),
            in_service_after: if is_preinstalled {
                "Configure"
            } else {
                "Synchronize"
            },
        }
    }

    /// Registers and serves until the connection ends or `shutdown` is ready, for which the error is
    /// [`SessionError::Stopped`].
    pub(crate) async fn run(
        mut self,
        identity: &Identity,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> SessionError {
        let error = match self.serve(identity, shutdown).await {
            Ok(()) => SessionError::Stopped,
            Err(error) => error,
        };
        self.end(&error).await;
        error
    }

    async fn serve(
        &mut self,
        identity: &Identity,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), SessionError> {
        let client = self.client.clone();
        let mut registration = std::pin::pin!(register(&client, identity));
        loop {
            tokio::select! {
                // Finished calls first, so that they do not pile up.
                biased;
                Some(call) = self.calls.join_next() => rethrow(call),
                () = &mut shutdown => return Ok(()),
                result = &mut registration, if !self.registered => {
                    result?;
                    debug!(plugin = %identity, "registered");
                    self.registered = true;
                }
                message = self.incoming.next() => match message? {
                    Some((connection, message)) => self.take(connection, &message),
                    None => return Err(SessionError::Closed(self.phase())),
                },
                written = &mut self.writer => return Err(self.write_failed(written)),
            }
        }
    }

    fn phase(&self) -> Phase {
        match (self.link.is_up(), &self.info, self.registered) {
            (true, _, _) => Phase::Running,
            (false, Some(_), _) => Phase::Synchronizing,
            (false, None, true) => Phase::Configuring,
            (false, None, false) => Phase::Registering,
        }
    }

    fn take(&mut self, connection: u32, message: &Message) {
        if connection == RUNTIME_SERVICE {
            return self.client.answered(message);
        }
        if message.kind != Kind::Request {
            debug!(kind = ?message.kind, "not a call, ignored");
            return;
        }
        let stream = message.stream;
        if let Err(status) = self.call(message) {
            debug!(stream, message = status.message, "call refused");
            self.reply(stream, Err(status));
        }
    }

    /// Starts to work on a call.
    fn call(&mut self, message: &Message) -> Result<(), Status> {
        let arrival = Instant::now();
        let Request {
            service,
            method,
            payload,
            timeout_nano,
        } = dispatch::decode("ttrpc", &message.payload)?;
        if self.calls.len() >= MAX_CALLS {
            let text = format!("the plugin already works on {MAX_CALLS} calls");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        let method = dispatch::method(&service, &method)?;
        let Some(argument) = self.argument(method, payload)? else {
            self.reply(message.stream, Ok(synchronize::more()));
            return Ok(());
        };
        let deadline = serve::deadline(arrival, self.timeout(timeout_nano));
        let call = Call::new(method, deadline, self.info.clone().unwrap_or_default());
        self.work(message.stream, call, argument);
        Ok(())
    }

    /// Looks into what is not for the plugin alone. `None` if there is more to come.
    fn argument(&mut self, method: &str, payload: Vec<u8>) -> Result<Option<Argument>, Status> {
        match method {
            "Configure" => {
                let configuration = self.configured(dispatch::decode(method, &payload)?);
                Ok(Some(Argument::Configure(configuration)))
            }
            "Synchronize" => {
                let part = dispatch::decode(method, &payload)?;
                Ok(self.parts.add(part, payload.len())?.map(Argument::Synchronize))
            }
            _ => Ok(Some(Argument::Encoded(payload))),
        }
    }

    fn work(&mut self, stream: u32, call: Call, argument: Argument) {
        let (link, client, outgoing) = (self.link.clone(), self.client.clone(), self.outgoing.clone());
        let puts_in_service = call.method() == self.in_service_after;
        self.calls.spawn(async move {
            let handler = dispatch::call(link.plugin(), call.clone(), argument);
            let outcome = serve::answer(link.handlers(), &call, handler)
                .await
                .and_then(message::fitting);
            if puts_in_service && outcome.is_ok() {
                link.up(client, call.runtime());
            }
            // A connection that has ended is noticed where it is read.
            let _ = outgoing
                .send(PLUGIN_SERVICE, &Message::response(stream, outcome))
                .await;
        });
    }

    /// Answers at once, without holding up what comes next.
    fn reply(&mut self, stream: u32, outcome: Result<Vec<u8>, Status>) {
        let outgoing = self.outgoing.clone();
        self.calls.spawn(async move {
            let _ = outgoing
                .send(PLUGIN_SERVICE, &Message::response(stream, outcome))
                .await;
        });
    }

    /// Takes note of who the runtime is and what its terms are.
    fn configured(&mut self, request: api::ConfigureRequest) -> Configuration {
        let milliseconds = |value: i64, default| match u64::try_from(value) {
            Ok(0) | Err(_) => default,
            Ok(value) => Duration::from_millis(value),
        };
        self.request_timeout = milliseconds(request.request_timeout, DEFAULT_REQUEST_TIMEOUT);
        let (name, version) = (request.runtime_name, request.runtime_version);
        info!(
            runtime = name,
            version,
            nri = request.nri_version,
            "configured by the runtime"
        );
        self.info = Some(Arc::new(RuntimeInfo {
            name,
            version,
            nri_version: request.nri_version,
        }));
        Configuration {
            config: request.config,
            registration_timeout: milliseconds(request.registration_timeout, DEFAULT_REGISTRATION_TIMEOUT),
            request_timeout: self.request_timeout,
        }
    }

    /// How long the caller waits: what it says, else what the runtime has said once for all calls.
    fn timeout(&self, nanoseconds: i64) -> Duration {
        let timeout = match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => self.request_timeout,
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        timeout.min(LONGEST_TIMEOUT)
    }

    fn write_failed(&self, written: Result<io::Result<()>, JoinError>) -> SessionError {
        match written {
            Ok(Err(error)) if !is_closed(&error) => SessionError::Write(error),
            _ => SessionError::Closed(self.phase()),
        }
    }

    async fn end(mut self, error: &SessionError) {
        if matches!(error, SessionError::Stopped) {
            // Every handler has a deadline, so this ends.
            while let Some(call) = self.calls.join_next().await {
                rethrow(call);
            }
        }
        self.calls.shutdown().await;
        self.client.close();
        self.link.down(error);
        drop((self.client, self.outgoing));
        if !self.writer.is_finished() && timeout(FLUSH_PATIENCE, &mut self.writer).await.is_err() {
            self.writer.abort();
        }
    }
}

async fn register(client: &Client, identity: &Identity) -> Result<(), SessionError> {
    let request = api::RegisterPluginRequest {
        plugin_name: identity.name().to_owned(),
        plugin_idx: identity.index().to_owned(),
        nri_version: NRI_VERSION.to_owned(),
    };
    let call = client.call::<_, api::Empty>("RegisterPlugin", &request, None);
    match timeout(REGISTRATION_PATIENCE, call).await {
        Err(_) => Err(SessionError::RegistrationTimeout),
        Ok(Ok(api::Empty {})) => Ok(()),
        // The one who reads the socket knows why.
        Ok(Err(CallError::Closed)) => std::future::pending().await,
        Ok(Err(error)) => Err(SessionError::Refused(error.to_string())),
    }
}

/// A panic in a hook of the plugin is the plugin's, and ends it. Those in handlers do not get here.
fn rethrow(call: Result<(), JoinError>) {
    if let Err(failure) = call
        && let Ok(panic) = failure.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

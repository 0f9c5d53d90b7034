//! The front of the daemon: the process that holds the connection with NRI.
//!
//! While that connection is up, no container is created without podwasm; when it breaks, some are. So this process does only what
//! cannot go wrong: it passes NRI's bytes on to a worker, keeps deadlines, and counts. It looks at no image, asks containerd nothing,
//! and parses nothing that a tenant wrote. Workers do ([`crate::worker`]), and if one ends, another is there within milliseconds
//! and is asked the same ([`workers`]).
//!
//! Everything here runs on one thread and never blocks it.

mod process;
mod restarts;
mod unanswered;
pub mod workers;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nri::api::{
    Container, ContainerUpdate, CreateContainerRequest, PodSandbox, SynchronizeRequest,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use nri::{Answer, Call, Configuration, Events, PluginError, RuntimeInfo, SessionError, known_events};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::adjust;
use crate::hop::{self, READY};
use crate::metrics::{Metrics, Outcome};
use crate::plugin::IMAGE_NAME;
use crate::policy::Policy;
use crate::validate::{self, Mark};
use unanswered::expectation;
use workers::{Unanswered, Workers};

/// How long a worker and, if it ends, the next one may take for a container. A worker's own budgets are a little less.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long they may if the container would have to be refused without an answer. containerd waits for 2 s.
const PATIENCE_FOR_WASM: Duration = Duration::from_millis(1500);
/// How long a worker may take to say whether it can work.
const READY_PATIENCE: Duration = Duration::from_millis(1500);

/// The NRI plugin that passes everything on.
#[derive(Debug)]
pub struct Front {
    is_validator: bool,
    metrics: Arc<Metrics>,
    workers: Workers,
}

impl Front {
    /// A plugin that asks these workers. A validator is asked once more when all plugins have adjusted a container.
    pub fn new(workers: Workers, metrics: Arc<Metrics>, is_validator: bool) -> Self {
        Self {
            is_validator,
            metrics,
            workers,
        }
    }

    async fn create_container(&self, call: &Call, request: Vec<u8>) -> Result<Vec<u8>, PluginError> {
        match self.ask(call, request, Subject::to_create).await? {
            Ok(answer) => given(answer),
            Err(unanswered) => self.create_without_worker(call, unanswered),
        }
    }

    async fn validate(&self, call: &Call, request: Vec<u8>) -> Result<Vec<u8>, PluginError> {
        match self.ask(call, request, Subject::to_validate).await? {
            Ok(answer) => given(answer),
            Err(unanswered) => Ok(self.validate_without_worker(unanswered)),
        }
    }

    /// Asks a worker, which may take its time only over what points to Wasm. The request is decoded if there is no answer.
    async fn ask(
        &self,
        call: &Call,
        request: Vec<u8>,
        decode: fn(&[u8]) -> Result<Subject, PluginError>,
    ) -> Result<Result<hop::Answer, NoAnswer>, PluginError> {
        let until = |patience| call.deadline().min(call.arrival() + patience);
        let latest = until(PATIENCE_FOR_WASM);
        let outbound = self
            .workers
            .outbound(call.method(), request, call.arrival(), latest);
        let mut answered = pin!(self.workers.call(&outbound, latest));
        let soon = timeout_at(until(PATIENCE), &mut answered).await;
        if let Ok(Ok(answer)) = soon {
            return Ok(Ok(answer));
        }
        let subject = decode(outbound.request())?;
        let expected = self.expectation(&subject);
        let answered = match soon {
            Ok(answered) => answered,
            Err(_) if expected.is_some() => answered.await,
            Err(_) => {
                self.workers.gave_up(&outbound);
                Err(Unanswered::Late)
            }
        };
        Ok(answered.map_err(|why| NoAnswer {
            expected,
            subject,
            why,
        }))
    }

    fn expectation(&self, Subject { container, mark, pod }: &Subject) -> Option<String> {
        if *mark != Mark::Absent {
            return None;
        }
        let image = container.annotation(IMAGE_NAME).unwrap_or_default();
        let program = container.args.first().map(String::as_str).unwrap_or_default();
        expectation(pod, container, self.workers.knows(image, program))
    }

    /// What points to Wasm must not be started as something else; anything else must not be kept from starting.
    fn create_without_worker(
        &self,
        call: &Call,
        NoAnswer {
            expected,
            subject: Subject { container, pod, .. },
            why,
        }: NoAnswer,
    ) -> Result<Vec<u8>, PluginError> {
        let took = call.arrival().elapsed();
        let outcome = match expected {
            Some(_) => Outcome::refused,
            None => Outcome::unobserved,
        };
        self.metrics.unanswered(outcome, why.as_str(), took);
        let problem = why.reason();
        let (namespace, name) = (&pod.namespace, &container.name);
        if let Some(expected) = expected {
            let reason = format!("{problem}, though {expected}; it is tried again");
            warn!(namespace, pod = pod.name, container = name, reason, "refused");
            return Err(PluginError::new(format!("podwasm: container '{name}': {reason}")));
        }
        warn!(
            namespace,
            pod = pod.name,
            container = name,
            problem,
            "started without having been looked at"
        );
        Ok(Vec::new())
    }

    /// The mark is plain to see. Of what has none, whatever points to Wasm is rejected.
    fn validate_without_worker(
        &self,
        NoAnswer {
            expected,
            subject,
            why,
        }: NoAnswer,
    ) -> Vec<u8> {
        let fault = match subject.mark {
            Mark::Absent => expected.map(|expected| {
                let problem = why.reason();
                format!("it would start without podwasm; {problem}, though {expected}")
            }),
            Mark::Broken(fault) => Some(fault),
            Mark::Whole => None,
        };
        self.metrics.validated(fault.is_none());
        let Some(reason) = fault else {
            return Vec::new();
        };
        let verdict = ValidateContainerAdjustmentResponse {
            reject: true,
            reason: validate::rejected(&subject.pod, &subject.container, &reason),
        };
        verdict.encode_to_vec()
    }
}

/// A container that no worker has looked at.
struct NoAnswer {
    /// Why it may be Wasm, if it may.
    expected: Option<String>,
    subject: Subject,
    why: Unanswered,
}

/// What is to be created, or has been adjusted.
struct Subject {
    container: Container,
    mark: Mark,
    pod: PodSandbox,
}

impl Subject {
    fn to_create(request: &[u8]) -> Result<Self, PluginError> {
        match CreateContainerRequest::decode(request)? {
            CreateContainerRequest {
                pod: Some(pod),
                container: Some(container),
                ..
            } => Ok(Self {
                container,
                mark: Mark::Absent,
                pod,
            }),
            _ => Err(PluginError::new(
                "CreateContainer: the request has no pod or no container",
            )),
        }
    }

    fn to_validate(request: &[u8]) -> Result<Self, PluginError> {
        let mut request = ValidateContainerAdjustmentRequest::decode(request)?;
        let (Some(pod), Some(container)) = (request.pod.take(), &request.container) else {
            return Err(PluginError::new("the request has no pod or no container"));
        };
        Ok(Self {
            container: validate::as_executed(container, request.adjust.as_ref()),
            mark: validate::mark(&request),
            pod,
        })
    }
}

/// What a worker has answered.
fn given(answer: hop::Answer) -> Result<Vec<u8>, PluginError> {
    match answer.error {
        Some(error) => Err(PluginError::new(error)),
        None => Ok(answer.result),
    }
}

impl nri::Plugin for Front {
    fn events(&self) -> Events {
        let events = Events::CREATE_CONTAINER | Events::RUN_POD_SANDBOX | Events::REMOVE_POD_SANDBOX;
        if self.is_validator {
            events | Events::VALIDATE_CONTAINER_ADJUSTMENT
        } else {
            events
        }
    }

    /// Started by the runtime, the policy may come from its configuration.
    async fn configure(&self, call: Call, configuration: Configuration) -> Result<(), PluginError> {
        if self.is_validator && !known_events(call.runtime()).contains(Events::VALIDATE_CONTAINER_ADJUSTMENT)
        {
            let RuntimeInfo { name, version, .. } = call.runtime();
            warn!(
                runtime = name,
                version, "this runtime asks no validators; --validate has no effect"
            );
        }
        let text = configuration.config;
        if !text.trim().is_empty() {
            Policy::parse(&text)?;
            self.workers.set_policy(text);
            info!("policy taken from NRI's configuration");
        }
        Ok(())
    }

    async fn synchronize(
        &self,
        _call: Call,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        let marker = adjust::marker();
        let routed = containers
            .iter()
            .filter(|container| container.annotation(&marker).is_some())
            .count();
        info!(
            pods = pods.len(),
            containers = containers.len(),
            routed,
            "synchronized"
        );
        let request = SynchronizeRequest {
            pods,
            containers,
            more: false,
        };
        self.workers.survey(request.encode_to_vec());
        Ok(Vec::new())
    }

    async fn answer(&self, call: &Call, request: Vec<u8>) -> Answer {
        Answer::Given(match call.method() {
            "CreateContainer" => self.create_container(call, request).await,
            "Shutdown" => Ok(Vec::new()),
            "ValidateContainerAdjustment" => self.validate(call, request).await,
            method => {
                self.workers.tell(method, request);
                Ok(Vec::new())
            }
        })
    }

    fn connected(&self, runtime: &RuntimeInfo) {
        self.metrics.connected(true);
        info!(
            runtime = runtime.name,
            version = runtime.version,
            "registered with NRI"
        );
    }

    fn disconnected(&self, reason: &SessionError) {
        self.metrics.connected(false);
        warn!(
            error = reason as &dyn std::error::Error,
            "NRI connection lost; containers are created without podwasm until it is back"
        );
    }
}

/// Whether a worker can do its work, and if not, why.
pub async fn is_ready(workers: &Workers) -> Result<(), String> {
    let now = Instant::now();
    let deadline = now + READY_PATIENCE;
    let outbound = workers.outbound(READY, Vec::new(), now, deadline);
    match workers.call(&outbound, deadline).await {
        Ok(answer) => answer.error.map_or(Ok(()), Err),
        Err(why) => Err(why.reason().to_owned()),
    }
}

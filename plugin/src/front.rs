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

use std::sync::Arc;
use std::time::Duration;

use nri::api::{Container, ContainerUpdate, CreateContainerRequest, PodSandbox, SynchronizeRequest};
use nri::{Answer, Call, Configuration, Events, PluginError, RuntimeInfo, SessionError};
use prost::Message as _;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::adjust;
use crate::hop::READY;
use crate::metrics::{Metrics, Outcome};
use crate::plugin::IMAGE_NAME;
use crate::policy::Policy;
use unanswered::expectation;
use workers::{Unanswered, Workers};

/// How long a worker and, if it ends, the next one may take for a container. A worker's own budget is a little less.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long a worker may take to say whether it can work.
const READY_PATIENCE: Duration = Duration::from_millis(1500);

/// The NRI plugin that passes everything on.
#[derive(Debug)]
pub struct Front {
    metrics: Arc<Metrics>,
    workers: Workers,
}

impl Front {
    /// A plugin that asks these workers.
    pub fn new(workers: Workers, metrics: Arc<Metrics>) -> Self {
        Self { metrics, workers }
    }

    async fn create_container(&self, call: &Call, request: Vec<u8>) -> Result<Vec<u8>, PluginError> {
        let deadline = call.deadline().min(call.arrival() + PATIENCE);
        let outbound = self
            .workers
            .outbound(call.method(), request, call.arrival(), deadline);
        match self.workers.call(&outbound, deadline).await {
            Ok(answer) => match answer.error {
                Some(error) => Err(PluginError::new(error)),
                None => Ok(answer.result),
            },
            Err(why) => self.without_worker(call, outbound.request(), why),
        }
    }

    /// What points to Wasm must not be started as something else; anything else must not be kept from starting.
    fn without_worker(&self, call: &Call, request: &[u8], why: Unanswered) -> Result<Vec<u8>, PluginError> {
        let CreateContainerRequest {
            pod: Some(pod),
            container: Some(container),
            ..
        } = CreateContainerRequest::decode(request)?
        else {
            return Err(PluginError::new(
                "CreateContainer: the request has no pod or no container",
            ));
        };
        let image = container.annotation(IMAGE_NAME).unwrap_or_default();
        let program = container.args.first().map(String::as_str).unwrap_or_default();
        let is_known = self.workers.knows(image, program);
        let took = call.arrival().elapsed();
        let expected = expectation(&pod, &container, is_known);
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
}

impl nri::Plugin for Front {
    fn events(&self) -> Events {
        Events::CREATE_CONTAINER | Events::RUN_POD_SANDBOX | Events::REMOVE_POD_SANDBOX
    }

    /// Started by the runtime, the policy may come from its configuration.
    async fn configure(&self, _call: Call, configuration: Configuration) -> Result<(), PluginError> {
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

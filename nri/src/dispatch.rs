//! From a method's name and its encoded argument to the plugin's handler, and back.

use std::sync::Arc;

use prost::Message;
use tracing::info;

use crate::api::{self, Container, Event, PodSandbox};
use crate::call::Call;
use crate::event::Events;
use crate::plugin::{Answer, Configuration, Plugin, PluginError, Verdict};
use crate::ttrpc::{Code, Status};
use crate::version::known_events;

/// The service that a plugin offers.
pub(crate) const PLUGIN_SERVICE_NAME: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The service that a runtime offers.
pub(crate) const RUNTIME_SERVICE_NAME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// The methods of the Plugin service.
pub(crate) const METHODS: [&str; 18] = [
    "Configure",
    "CreateContainer",
    "PostCreateContainer",
    "PostStartContainer",
    "PostUpdateContainer",
    "PostUpdatePodSandbox",
    "RemoveContainer",
    "RemovePodSandbox",
    "RunPodSandbox",
    "Shutdown",
    "StartContainer",
    "StateChange",
    "StopContainer",
    "StopPodSandbox",
    "Synchronize",
    "UpdateContainer",
    "UpdatePodSandbox",
    "ValidateContainerAdjustment",
];

/// What a method is called with.
pub(crate) enum Argument {
    /// Of `Configure`.
    Configure(Configuration),
    /// Of any method but `Configure` and `Synchronize`, which the session looks into itself.
    Encoded(Vec<u8>),
    /// Of `Synchronize`, its parts put together.
    Synchronize(api::SynchronizeRequest),
}

/// A method of this name that a handler answers, if there is one.
pub(crate) fn handled(name: &str) -> Option<&'static str> {
    METHODS
        .into_iter()
        .find(|method| *method == name && *method != "Configure")
}

/// The method, if there is one of that name.
pub(crate) fn method(service: &str, name: &str) -> Result<&'static str, Status> {
    METHODS
        .into_iter()
        .find(|method| *method == name && service == PLUGIN_SERVICE_NAME)
        .ok_or_else(|| {
            Status::new(
                Code::Unimplemented,
                format!("the plugin has no method {service}/{name}"),
            )
        })
}

impl From<PluginError> for Status {
    fn from(error: PluginError) -> Self {
        Self::new(Code::Unknown, error.to_string())
    }
}

/// Calls the handler that [`Call::method`] names.
pub(crate) async fn call<P: Plugin>(
    plugin: Arc<P>,
    call: Call,
    argument: Argument,
) -> Result<Vec<u8>, Status> {
    match argument {
        Argument::Configure(configuration) => configure(&*plugin, call, configuration).await,
        Argument::Encoded(bytes) => match plugin.answer(&call, bytes).await {
            Answer::ByHandler(bytes) => handle(&*plugin, call, &bytes).await,
            Answer::Given(answer) => Ok(answer?),
        },
        Argument::Synchronize(request) => {
            let update = plugin.synchronize(call, request.pods, request.containers).await?;
            Ok(api::SynchronizeResponse { update, more: false }.encode_to_vec())
        }
    }
}

/// Calls a plugin's handler with a call's bytes, and returns the answer's: for a process that another one hands calls on to, out of
/// [`Plugin::answer`]. Any method but `Configure`, whose answer is for the connection to give.
pub async fn answer<P: Plugin>(plugin: Arc<P>, call: Call, request: Vec<u8>) -> Result<Vec<u8>, PluginError> {
    let argument = match call.method() {
        "Synchronize" => decode("Synchronize", &request).map(Argument::Synchronize),
        _ => Ok(Argument::Encoded(request)),
    };
    let answered = match argument {
        Ok(argument) => self::call(plugin, call, argument).await,
        Err(status) => Err(status),
    };
    answered.map_err(|status| PluginError::new(status.message))
}

/// Configures the plugin, then says what it subscribes to.
async fn configure<P: Plugin>(
    plugin: &P,
    call: Call,
    configuration: Configuration,
) -> Result<Vec<u8>, Status> {
    let known = known_events(call.runtime());
    plugin.configure(call, configuration).await?;
    Ok(api::ConfigureResponse {
        events: subscription(plugin.events(), known).bits(),
    }
    .encode_to_vec())
}

async fn handle<P: Plugin>(plugin: &P, call: Call, argument: &[u8]) -> Result<Vec<u8>, Status> {
    let method = call.method();
    match method {
        "CreateContainer" => create_container(plugin, call, decode(method, argument)?).await,
        "Shutdown" => {
            plugin.shutdown(call).await;
            Ok(Vec::new())
        }
        "StateChange" => state_change(plugin, call, decode(method, argument)?).await,
        "StopContainer" => stop_container(plugin, call, decode(method, argument)?).await,
        "UpdateContainer" => update_container(plugin, call, decode(method, argument)?).await,
        "UpdatePodSandbox" => update_pod_sandbox(plugin, call, decode(method, argument)?).await,
        "ValidateContainerAdjustment" => validate(plugin, call, decode(method, argument)?).await,
        _ => notify(plugin, call, argument).await,
    }
}

/// The methods with a pod and perhaps a container for an argument, and nothing for a result.
async fn notify<P: Plugin>(plugin: &P, call: Call, argument: &[u8]) -> Result<Vec<u8>, Status> {
    let method = call.method();
    let event = Event::from_str_name(&screaming_snake_case(method))
        .ok_or_else(|| Status::new(Code::Unimplemented, format!("{method} is not a method")))?;
    // Their requests all have these two fields, or the first of them.
    let api::StartContainerRequest { pod, container } = decode(method, argument)?;
    state_change(
        plugin,
        call,
        api::StateChangeEvent {
            event: event.into(),
            pod,
            container,
        },
    )
    .await
}

async fn state_change<P: Plugin>(
    plugin: &P,
    call: Call,
    change: api::StateChangeEvent,
) -> Result<Vec<u8>, Status> {
    let event = Event::try_from(change.event).unwrap_or(Event::Unknown);
    let call = match Events::name(event) {
        Some(name) => call.named(name),
        None => call,
    };
    let method = call.method();
    let pod = pod(method, change.pod)?;
    let container = || container(method, change.container);
    match event {
        Event::RunPodSandbox => plugin.run_pod_sandbox(call, pod).await?,
        Event::PostUpdatePodSandbox => plugin.post_update_pod_sandbox(call, pod).await?,
        Event::StopPodSandbox => plugin.stop_pod_sandbox(call, pod).await?,
        Event::RemovePodSandbox => plugin.remove_pod_sandbox(call, pod).await?,
        Event::PostCreateContainer => plugin.post_create_container(call, pod, container()?).await?,
        Event::StartContainer => plugin.start_container(call, pod, container()?).await?,
        Event::PostStartContainer => plugin.post_start_container(call, pod, container()?).await?,
        Event::PostUpdateContainer => plugin.post_update_container(call, pod, container()?).await?,
        Event::RemoveContainer => plugin.remove_container(call, pod, container()?).await?,
        // Of the rest, those with an answer have methods of their own; a newer one is none of ours.
        _ => {}
    }
    Ok(Vec::new())
}

async fn create_container<P: Plugin>(
    plugin: &P,
    call: Call,
    request: api::CreateContainerRequest,
) -> Result<Vec<u8>, Status> {
    let method = call.method();
    let (pod, container) = (pod(method, request.pod)?, container(method, request.container)?);
    let creation = plugin.create_container(call, pod, container).await?;
    let adjust = Some(creation.adjustment).filter(|adjustment| !adjustment.is_empty());
    let (update, evict) = (creation.updates, creation.evictions);
    Ok(api::CreateContainerResponse {
        adjust,
        update,
        evict,
    }
    .encode_to_vec())
}

async fn update_container<P: Plugin>(
    plugin: &P,
    call: Call,
    request: api::UpdateContainerRequest,
) -> Result<Vec<u8>, Status> {
    let method = call.method();
    let (pod, container) = (pod(method, request.pod)?, container(method, request.container)?);
    let resources = request.linux_resources.unwrap_or_default();
    let updates = plugin.update_container(call, pod, container, resources).await?;
    Ok(api::UpdateContainerResponse {
        update: updates.updates,
        evict: updates.evictions,
    }
    .encode_to_vec())
}

async fn stop_container<P: Plugin>(
    plugin: &P,
    call: Call,
    request: api::StopContainerRequest,
) -> Result<Vec<u8>, Status> {
    let method = call.method();
    let (pod, container) = (pod(method, request.pod)?, container(method, request.container)?);
    let update = plugin.stop_container(call, pod, container).await?;
    Ok(api::StopContainerResponse { update }.encode_to_vec())
}

async fn update_pod_sandbox<P: Plugin>(
    plugin: &P,
    call: Call,
    request: api::UpdatePodSandboxRequest,
) -> Result<Vec<u8>, Status> {
    let pod = pod(call.method(), request.pod)?;
    let overhead = request.overhead_linux_resources.unwrap_or_default();
    let resources = request.linux_resources.unwrap_or_default();
    plugin.update_pod_sandbox(call, pod, overhead, resources).await?;
    Ok(Vec::new())
}

async fn validate<P: Plugin>(
    plugin: &P,
    call: Call,
    request: api::ValidateContainerAdjustmentRequest,
) -> Result<Vec<u8>, Status> {
    let response = match plugin.validate_container_adjustment(call, request).await? {
        Verdict::Accept => api::ValidateContainerAdjustmentResponse::default(),
        Verdict::Reject(reason) => api::ValidateContainerAdjustmentResponse { reject: true, reason },
    };
    Ok(response.encode_to_vec())
}

/// What to subscribe to: what the plugin wants and the runtime knows.
///
/// An empty mask would mean all events, so a plugin without any takes the one that costs least: its
/// default handler answers, and nobody waits for a pod's removal.
fn subscription(wanted: Events, known: Events) -> Events {
    let missing = wanted & !known;
    if !missing.is_empty() {
        info!(events = %missing, "this runtime is too old for some events, they will not arrive");
    }
    let subscribed = wanted & known;
    if subscribed.is_empty() {
        Events::REMOVE_POD_SANDBOX
    } else {
        subscribed
    }
}

/// Decodes an argument.
pub(crate) fn decode<M: Message + Default>(method: &str, argument: &[u8]) -> Result<M, Status> {
    M::decode(argument).map_err(|error| {
        Status::new(
            Code::InvalidArgument,
            format!("{method}: the request cannot be decoded: {error}"),
        )
    })
}

fn pod(method: &str, pod: Option<PodSandbox>) -> Result<PodSandbox, Status> {
    pod.ok_or_else(|| Status::new(Code::InvalidArgument, format!("{method}: the request has no pod")))
}

fn container(method: &str, container: Option<Container>) -> Result<Container, Status> {
    container.ok_or_else(|| {
        Status::new(
            Code::InvalidArgument,
            format!("{method}: the request has no container"),
        )
    })
}

/// `RunPodSandbox` → `RUN_POD_SANDBOX`.
fn screaming_snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, character) in name.char_indices() {
        if at > 0 && character.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(character.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_the_runtime_does_not_know_are_not_asked_for() {
        let wanted = Events::CREATE_CONTAINER | Events::UPDATE_POD_SANDBOX;
        assert_eq!(
            subscription(wanted, Events::BEFORE_0_10),
            Events::CREATE_CONTAINER
        );
        assert_eq!(subscription(wanted, Events::ALL), wanted);
    }

    #[test]
    fn no_events_are_never_all_events() {
        assert_eq!(
            subscription(Events::NONE, Events::ALL),
            Events::REMOVE_POD_SANDBOX
        );
        assert_eq!(
            subscription(Events::UPDATE_POD_SANDBOX, Events::BEFORE_0_10),
            Events::REMOVE_POD_SANDBOX
        );
    }

    #[test]
    fn every_method_without_a_result_is_an_event() {
        let own = [
            "CreateContainer",
            "Shutdown",
            "StateChange",
            "StopContainer",
            "UpdateContainer",
        ];
        let own = [own.as_slice(), &["Configure", "Synchronize", "UpdatePodSandbox"]].concat();
        let own = [own.as_slice(), &["ValidateContainerAdjustment"]].concat();
        for method in METHODS.iter().filter(|method| !own.contains(method)) {
            assert!(
                Event::from_str_name(&screaming_snake_case(method)).is_some(),
                "{method}"
            );
        }
    }
}

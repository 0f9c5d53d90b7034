//! The trait a plugin implements.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::api::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, LinuxResources, PodSandbox,
    ValidateContainerAdjustmentRequest,
};
use crate::call::{Call, RuntimeInfo};
use crate::event::Events;
use crate::session::SessionError;

/// An NRI plugin.
///
/// Implement the methods for the events you want, as plain `async fn`s, and put `#[nri::plugin]` on the
/// block: it subscribes to these and to no others.
///
/// Calls run concurrently, so state goes behind a lock of its own. The runtime holds a lock of its own
/// across each event, though: while one handler works, no other container on the node is created,
/// started or stopped.
///
/// ```
/// use nri::api::{Adjustment, Container, Mount, PodSandbox};
/// use nri::{Call, Creation, Plugin, PluginError};
///
/// struct Engine;
///
/// #[nri::plugin]
/// impl Plugin for Engine {
///     async fn create_container(
///         &self,
///         _call: Call,
///         pod: PodSandbox,
///         container: Container,
///     ) -> Result<Creation, PluginError> {
///         if pod.scoped_annotation("engine.noderesource.dev", &container.name).is_none() {
///             return Ok(Creation::default());
///         }
///         if container.args.is_empty() {
///             return Err(PluginError::new(format!("container {}: no command", container.name)));
///         }
///         Ok(Adjustment::new().mount(Mount::bind("/opt/engine", "/.engine").read_only()).into())
///     }
/// }
///
/// assert_eq!(Engine.events(), nri::Events::CREATE_CONTAINER);
/// ```
#[expect(
    unused_variables,
    reason = "the defaults ignore what they are given; the names are documentation"
)]
pub trait Plugin: Send + Sync + 'static {
    /// What to subscribe to. Asked on every connection, after [`Plugin::configure`]. Written by
    /// `#[nri::plugin]`.
    fn events(&self) -> Events;

    /// The first call on every connection. An error refuses the runtime.
    fn configure(
        &self,
        call: Call,
        configuration: Configuration,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// The second call on every connection, with everything that exists; what was learnt on an earlier
    /// connection is out of date. May ask for changes to these containers. Runtimes with NRI before 0.7
    /// (containerd before 1.7.26) leave it out for plugins that they start themselves.
    fn synchronize(
        &self,
        call: Call,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> impl Future<Output = Result<Vec<ContainerUpdate>, PluginError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// The runtime is about to end the connection.
    fn shutdown(&self, call: Call) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The plugin is in service: from here on no event passes it by. An external plugin is then
    /// registered, configured and synchronized, a pre-installed one registered and configured. Has to
    /// return at once: the connection waits.
    fn connected(&self, runtime: &RuntimeInfo) {}

    /// A connection for which [`Plugin::connected`] was called has ended. Until it is called again,
    /// containers are created without this plugin. Has to return at once: reconnecting waits.
    fn disconnected(&self, reason: &SessionError) {}

    /// Answers a call from its bytes, before they are decoded. For a plugin that hands calls on to another process, which answers them
    /// with [`crate::answer`]. The default leaves every call to its handler. What the connection itself takes part in, `Configure` and
    /// `Synchronize`, does not come here.
    fn answer(&self, call: &Call, request: Vec<u8>) -> impl Future<Output = Answer> + Send {
        async { Answer::ByHandler(request) }
    }

    /// A pod sandbox is being started. An error fails it.
    fn run_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A pod's resources are about to change. An error fails that. Needs NRI 0.10.
    fn update_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
        overhead: LinuxResources,
        resources: LinuxResources,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A pod's resources have changed. Needs NRI 0.10.
    fn post_update_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A pod sandbox is being stopped.
    fn stop_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A pod sandbox is being removed.
    fn remove_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A container is being created: the one place to adjust it. An error fails the creation, and its
    /// message is what the user sees.
    fn create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<Creation, PluginError>> + Send {
        async { Ok(Creation::default()) }
    }

    /// A container has been created; `container` shows what all plugins made of it.
    fn post_create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A container is being started. An error fails it.
    fn start_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A container has been started.
    fn post_start_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A container's resources are about to become `resources`. An update that names this container
    /// replaces them; an error fails the change.
    fn update_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> impl Future<Output = Result<Updates, PluginError>> + Send {
        async { Ok(Updates::default()) }
    }

    /// A container's resources have changed.
    fn post_update_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// A container is being stopped. May ask for changes to those that stay. Also called for a
    /// container whose creation has failed.
    fn stop_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<Vec<ContainerUpdate>, PluginError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// A container is being removed.
    fn remove_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<(), PluginError>> + Send {
        async { Ok(()) }
    }

    /// All plugins have had their say on a container: may it be created so? Needs NRI 0.10.
    fn validate_container_adjustment(
        &self,
        call: Call,
        request: ValidateContainerAdjustmentRequest,
    ) -> impl Future<Output = Result<Verdict, PluginError>> + Send {
        async { Ok(Verdict::Accept) }
    }
}

/// What became of a call's bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The handler that the call is for is to answer it; these are the bytes.
    ByHandler(Vec<u8>),
    /// The encoded answer, or why there is none.
    Given(Result<Vec<u8>, PluginError>),
}

/// What the runtime says when it configures a plugin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Configuration {
    /// The text of the plugin's file in the runtime's NRI configuration folder
    /// (`/etc/nri/conf.d/10-name.conf` or `name.conf`). Only pre-installed plugins get one.
    pub config: String,
    /// How long a plugin may take to register.
    pub registration_timeout: Duration,
    /// How long a plugin may take to answer a call.
    pub request_timeout: Duration,
}

/// What is to happen as a container is created. Converts from an adjustment alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Creation {
    /// Changes to the container.
    pub adjustment: ContainerAdjustment,
    /// Changes to other, existing containers.
    pub updates: Vec<ContainerUpdate>,
    /// Existing containers to stop.
    pub evictions: Vec<ContainerEviction>,
}

impl Creation {
    /// Changes another container too.
    #[must_use]
    pub fn update(mut self, update: ContainerUpdate) -> Self {
        self.updates.push(update);
        self
    }

    /// Stops another container.
    #[must_use]
    pub fn evict(mut self, eviction: ContainerEviction) -> Self {
        self.evictions.push(eviction);
        self
    }
}

impl From<ContainerAdjustment> for Creation {
    fn from(adjustment: ContainerAdjustment) -> Self {
        Self {
            adjustment,
            ..Self::default()
        }
    }
}

/// What is to happen as a container is updated. Converts from updates alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Updates {
    /// Changes to this or other containers.
    pub updates: Vec<ContainerUpdate>,
    /// Containers to stop.
    pub evictions: Vec<ContainerEviction>,
}

impl From<Vec<ContainerUpdate>> for Updates {
    fn from(updates: Vec<ContainerUpdate>) -> Self {
        Self {
            updates,
            evictions: Vec::new(),
        }
    }
}

impl From<ContainerUpdate> for Updates {
    fn from(update: ContainerUpdate) -> Self {
        vec![update].into()
    }
}

/// A validator's answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The container may be created.
    Accept,
    /// Its creation fails, and the user is told why.
    Reject(String),
}

/// Why a handler failed. Its message is what the runtime, and in the end the user, reads.
///
/// Any error converts to it, its causes joined with `: `, so `?` works in handlers.
///
/// ```
/// fn parse(text: &str) -> Result<u16, nri::PluginError> {
///     Ok(text.parse::<u16>()?)
/// }
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// assert_eq!(nri::PluginError::new("no such module").to_string(), "no such module");
/// ```
#[derive(Clone, Eq, PartialEq)]
pub struct PluginError(String);

impl PluginError {
    /// An error with exactly this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for PluginError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<E: Error> From<E> for PluginError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self(message)
    }
}

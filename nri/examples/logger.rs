//! Logs every NRI event with the fields that matter.
//!
//! As an external plugin: `logger --name logger --idx 10 --nri-socket /var/run/nri/nri.sock`. As a
//! pre-installed one: copy it to `/opt/nri/plugins/10-logger`; the runtime passes the rest.

use std::path::PathBuf;

use clap::Parser;
use nri::api::{Container, ContainerUpdate, LinuxResources, PodSandbox, ValidateContainerAdjustmentRequest};
use nri::{
    Call, Configuration, Creation, Identity, Plugin, PluginError, Preinstalled, Runner, RuntimeInfo,
    SessionError, Updates, Verdict,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// Logs every NRI event.
#[derive(Debug, Parser)]
struct Flags {
    /// Name to register under.
    #[arg(long, default_value = "logger")]
    name: String,
    /// Two-digit index: plugins are called in ascending order.
    #[arg(long, default_value = "10")]
    idx: String,
    /// The runtime's NRI socket.
    #[arg(long, default_value = nri::DEFAULT_SOCKET)]
    nri_socket: PathBuf,
}

struct Logger;

#[nri::plugin]
impl Plugin for Logger {
    async fn configure(&self, call: Call, configuration: Configuration) -> Result<(), PluginError> {
        let runtime = call.runtime();
        let timeout = configuration.request_timeout;
        info!(
            runtime = runtime.name,
            version = runtime.version,
            ?timeout,
            config = configuration.config,
            "Configure"
        );
        Ok(())
    }

    async fn synchronize(
        &self,
        call: Call,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        let remaining = call.remaining();
        info!(
            pods = pods.len(),
            containers = containers.len(),
            ?remaining,
            "Synchronize"
        );
        for container in &containers {
            info!(container = container.name, id = container.id, state = ?container.state(), "Synchronize: container");
        }
        Ok(Vec::new())
    }

    async fn shutdown(&self, _call: Call) {
        info!("Shutdown");
    }

    fn connected(&self, runtime: &RuntimeInfo) {
        info!(runtime = runtime.name, version = runtime.version, "connected");
    }

    fn disconnected(&self, reason: &SessionError) {
        warn!(%reason, "disconnected");
    }

    async fn run_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        log_pod(&call, &pod);
        Ok(())
    }

    async fn update_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
        overhead: LinuxResources,
        resources: LinuxResources,
    ) -> Result<(), PluginError> {
        log_pod(&call, &pod);
        info!(?overhead, ?resources, "UpdatePodSandbox: resources");
        Ok(())
    }

    async fn post_update_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        log_pod(&call, &pod);
        Ok(())
    }

    async fn stop_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        log_pod(&call, &pod);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        log_pod(&call, &pod);
        Ok(())
    }

    async fn create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, PluginError> {
        log_container(&call, &pod, &container);
        Ok(Creation::default())
    }

    async fn post_create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        log_container(&call, &pod, &container);
        Ok(())
    }

    async fn start_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        log_container(&call, &pod, &container);
        Ok(())
    }

    async fn post_start_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        log_container(&call, &pod, &container);
        Ok(())
    }

    async fn update_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<Updates, PluginError> {
        log_container(&call, &pod, &container);
        info!(?resources, "UpdateContainer: resources");
        Ok(Updates::default())
    }

    async fn post_update_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        log_container(&call, &pod, &container);
        Ok(())
    }

    async fn stop_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        log_container(&call, &pod, &container);
        Ok(Vec::new())
    }

    async fn remove_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        log_container(&call, &pod, &container);
        Ok(())
    }

    async fn validate_container_adjustment(
        &self,
        _call: Call,
        request: ValidateContainerAdjustmentRequest,
    ) -> Result<Verdict, PluginError> {
        let container = request.container.unwrap_or_default().name;
        let plugins: Vec<_> = request
            .plugins
            .iter()
            .map(|plugin| plugin.name.as_str())
            .collect();
        info!(container, ?plugins, adjust = ?request.adjust, "ValidateContainerAdjustment");
        Ok(Verdict::Accept)
    }
}

fn log_pod(call: &Call, pod: &PodSandbox) {
    info!(
        method = call.method(),
        pod = pod.name,
        namespace = pod.namespace,
        id = pod.id,
        handler = pod.runtime_handler,
        network = pod.namespace_path("network").unwrap_or_default(),
        remaining = ?call.remaining(),
        "pod"
    );
}

fn log_container(call: &Call, pod: &PodSandbox, container: &Container) {
    info!(
        method = call.method(),
        pod = pod.name,
        namespace = pod.namespace,
        container = container.name,
        id = container.id,
        image = container.annotation("io.kubernetes.cri.image-name").unwrap_or_default(),
        args = ?container.args,
        mounts = container.mounts.len(),
        state = ?container.state(),
        remaining = ?call.remaining(),
        "container"
    );
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = Flags::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let runner = match Preinstalled::from_env()? {
        Some(preinstalled) => Runner::preinstalled(Logger, preinstalled),
        None => Runner::external(Logger, Identity::new(flags.name, flags.idx)?).socket(flags.nri_socket),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    runner
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        })
        .await?;
    Ok(())
}

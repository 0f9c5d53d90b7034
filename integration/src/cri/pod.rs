//! A pod: its sandbox, made to order, and a handle on it.

use super::{ContainerBuilder, proto};
use crate::node::Node;
use anyhow::{Context as _, Result};
use std::net::IpAddr;

/// The folder for container logs, inside the node.
const LOGS: &str = "/var/log/pods";

/// A pod to be.
#[derive(Debug)]
#[must_use = "nothing runs before `run`"]
pub struct PodBuilder<'a> {
    node: &'a Node,
    name: String,
    config: proto::PodSandboxConfig,
    handler: String,
}

impl<'a> PodBuilder<'a> {
    pub(crate) fn new(node: &'a Node, name: &str, uid: &str) -> Self {
        let labels = [
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.uid", uid),
        ];
        let metadata = proto::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        // As a kubelet has it unless a pod asks otherwise: each container's first process is process 1.
        let namespaces = proto::NamespaceOption {
            pid: proto::NamespaceMode::Container.into(),
            ..Default::default()
        };
        let security = proto::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces),
            ..Default::default()
        };
        let config = proto::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: format!("{LOGS}/default_{name}_{uid}"),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            linux: Some(proto::LinuxPodSandboxConfig {
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self {
            node,
            name: name.to_owned(),
            config,
            handler: String::new(),
        }
    }

    /// Sets the namespace instead of `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        if let Some(metadata) = &mut self.config.metadata {
            namespace.clone_into(&mut metadata.namespace);
        }
        self.label("io.kubernetes.pod.namespace", namespace)
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Chooses a runtime handler, as a `RuntimeClass` would.
    pub fn runtime_handler(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.handler);
        self
    }

    /// Sets the host name instead of the pod's name.
    pub fn hostname(mut self, hostname: &str) -> Self {
        hostname.clone_into(&mut self.config.hostname);
        self
    }

    /// Sets the pod's `resolv.conf`.
    pub fn dns(mut self, servers: &[&str], searches: &[&str], options: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        self.config.dns_config = Some(proto::DnsConfig {
            servers: owned(servers),
            searches: owned(searches),
            options: owned(options),
        });
        self
    }

    /// Makes a container's port reachable on the node's addresses.
    pub fn port(mut self, container_port: i32, host_port: i32) -> Self {
        self.config.port_mappings.push(proto::PortMapping {
            container_port,
            host_port,
        });
        self
    }

    /// Sets a kernel parameter of the pod's namespaces.
    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.linux().sysctls.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the user that the sandbox runs as; containers set their own.
    pub fn user(mut self, uid: i64) -> Self {
        self.security().run_as_user = Some(proto::Int64Value { value: uid });
        self
    }

    /// Uses the node's network.
    pub fn host_network(mut self) -> Self {
        self.namespaces().network = proto::NamespaceMode::Node.into();
        self
    }

    /// Shares one pid namespace between the pod's containers; kubelets do not, unless asked.
    pub fn share_process_namespace(mut self) -> Self {
        self.namespaces().pid = proto::NamespaceMode::Pod.into();
        self
    }

    /// Changes what no method here does.
    pub fn config(mut self, change: impl FnOnce(&mut proto::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Runs the sandbox.
    pub async fn run(self) -> Result<PodHandle<'a>> {
        let request = proto::RunPodSandboxRequest {
            config: Some(self.config.clone()),
            runtime_handler: self.handler.clone(),
        };
        let answer = self.node.cri().runtime().run_pod_sandbox(request).await;
        let answer = answer.with_context(|| format!("run pod {}", self.name))?;
        Ok(PodHandle {
            node: self.node,
            config: self.config,
            id: answer.into_inner().pod_sandbox_id,
        })
    }

    fn linux(&mut self) -> &mut proto::LinuxPodSandboxConfig {
        self.config.linux.get_or_insert_default()
    }

    fn security(&mut self) -> &mut proto::LinuxSandboxSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    fn namespaces(&mut self) -> &mut proto::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }
}

/// A pod that runs, or did.
#[derive(Clone, Debug)]
pub struct PodHandle<'a> {
    node: &'a Node,
    config: proto::PodSandboxConfig,
    id: String,
}

impl<'a> PodHandle<'a> {
    /// The sandbox's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The node it is on.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// What it was made of.
    pub fn config(&self) -> &proto::PodSandboxConfig {
        &self.config
    }

    /// Which namespaces its containers share, as it was made with.
    pub(super) fn namespaces(&self) -> Option<proto::NamespaceOption> {
        self.config
            .linux
            .as_ref()?
            .security_context
            .as_ref()?
            .namespace_options
            .clone()
    }

    /// A container to be in this pod.
    pub fn container(&self, name: &str) -> ContainerBuilder<'a> {
        ContainerBuilder::new(self.clone(), name)
    }

    /// Runs a native container to its end, which has to be its own.
    pub async fn runs_native(&self) -> Result<()> {
        let native = self
            .container("native")
            .image(self.node.busybox())
            .shell("exit 3");
        native.start().await?.ends_with(3).await
    }

    /// What containerd says of it.
    pub async fn status(&self) -> Result<proto::PodSandboxStatus> {
        let request = proto::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.node.cri().runtime().pod_sandbox_status(request).await?;
        answer.into_inner().status.context("no status")
    }

    /// Its address.
    pub async fn ip(&self) -> Result<IpAddr> {
        let network = self.status().await?.network.context("no network")?;
        network
            .ip
            .parse()
            .with_context(|| format!("pod address {:?}", network.ip))
    }

    /// Its IPv6 address.
    pub async fn ipv6(&self) -> Result<IpAddr> {
        let network = self.status().await?.network.context("no network")?;
        let more = network.additional_ips.first().context("one address only")?;
        more.ip
            .parse()
            .with_context(|| format!("pod address {:?}", more.ip))
    }

    /// Stops it and all its containers at once.
    pub async fn stop(&self) -> Result<()> {
        let request = proto::StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.node
            .cri()
            .runtime()
            .stop_pod_sandbox(request)
            .await
            .context("stop pod")?;
        Ok(())
    }

    /// Stops and removes it.
    pub async fn remove(&self) -> Result<()> {
        self.stop().await?;
        let request = proto::RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.node
            .cri()
            .runtime()
            .remove_pod_sandbox(request)
            .await
            .context("remove pod")?;
        Ok(())
    }
}

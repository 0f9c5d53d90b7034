//! The objects, with the fields that are carried out here and no others.
//!
//! Fields that only concern where a pod is placed, or what the API server keeps, are taken and have no effect on a node; each such
//! group says so.
#![allow(
    missing_docs,
    reason = "the names are Kubernetes' own, and its reference describes them"
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object of a manifest.
#[derive(Clone, Debug)]
pub enum Object {
    ConfigMap(ConfigMap),
    DaemonSet(Controller),
    Deployment(Controller),
    Job(Job),
    /// What a node has nothing to do with.
    Kept(Value),
    Pod(Pod),
    Service(Service),
}

impl Object {
    /// What its pods are to be, if it has any.
    pub(super) fn pod_spec(&self) -> Option<&PodSpec> {
        match self {
            Self::DaemonSet(controller) | Self::Deployment(controller) => {
                Some(&controller.spec.template.spec)
            }
            Self::Job(job) => Some(&job.spec.template.spec),
            Self::Pod(pod) => Some(&pod.spec),
            Self::ConfigMap(_) | Self::Kept(_) | Self::Service(_) => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn pod_spec_mut(&mut self) -> Option<&mut PodSpec> {
        match self {
            Self::DaemonSet(controller) | Self::Deployment(controller) => {
                Some(&mut controller.spec.template.spec)
            }
            Self::Job(job) => Some(&mut job.spec.template.spec),
            Self::Pod(pod) => Some(&mut pod.spec),
            Self::ConfigMap(_) | Self::Kept(_) | Self::Service(_) => None,
        }
    }

    /// Whether it is the object of this kind and name.
    pub(super) fn has_name(&self, kind: &str, name: &str) -> bool {
        let own = match self {
            Self::ConfigMap(_) => "ConfigMap",
            Self::DaemonSet(_) => "DaemonSet",
            Self::Deployment(_) => "Deployment",
            Self::Job(_) => "Job",
            Self::Kept(value) => return value["kind"] == kind && value["metadata"]["name"] == name,
            Self::Pod(_) => "Pod",
            Self::Service(_) => "Service",
        };
        own == kind && self.metadata().is_some_and(|metadata| metadata.name == name)
    }

    /// Its own name, for those that are not kept as they are.
    pub(super) fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::ConfigMap(map) => Some(&map.metadata),
            Self::DaemonSet(controller) | Self::Deployment(controller) => Some(&controller.metadata),
            Self::Job(job) => Some(&job.metadata),
            Self::Kept(_) => None,
            Self::Pod(pod) => Some(&pod.metadata),
            Self::Service(service) => Some(&service.metadata),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    #[serde(default)]
    pub name: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            name: String::new(),
            namespace: default_namespace(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMap {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    #[serde(default)]
    pub data: BTreeMap<String, String>,
    /// Only the API server minds.
    #[serde(default)]
    pub immutable: bool,
}

/// A `Deployment` or a `DaemonSet`: on one node, both are so many pods of one template.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Controller {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: ControllerSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControllerSpec {
    /// Of a Deployment; absent means one, if nothing scales it. A `DaemonSet` has one for each node.
    pub replicas: Option<u32>,
    pub selector: Selector,
    pub template: PodTemplate,
    /// How later versions follow each other: only the controllers mind, up to here.
    pub strategy: Option<Value>,
    pub update_strategy: Option<Value>,
    pub min_ready_seconds: Option<u32>,
    pub revision_history_limit: Option<u32>,
    pub progress_deadline_seconds: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Job {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: JobSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    pub template: PodTemplate,
    /// How often its pods, or their containers, may fail before the Job has.
    #[serde(default = "default_backoff_limit")]
    pub backoff_limit: u32,
    pub pod_failure_policy: Option<PodFailurePolicy>,
    /// Only the API server minds.
    pub ttl_seconds_after_finished: Option<u32>,
}

fn default_backoff_limit() -> u32 {
    6
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodFailurePolicy {
    pub rules: Vec<FailureRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailureRule {
    pub action: FailureAction,
    pub on_exit_codes: OnExitCodes,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum FailureAction {
    Count,
    FailJob,
    Ignore,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnExitCodes {
    pub container_name: Option<String>,
    pub operator: SetOperator,
    pub values: Vec<i32>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum SetOperator {
    In,
    NotIn,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: ServiceSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
    /// Addresses are the cluster's business.
    pub r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: u16,
    pub target_port: Option<PortName>,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
}

/// A port by its number or by the name that the container gives it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum PortName {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: PodSpec,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodTemplate {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    pub containers: Vec<Container>,
    #[serde(default)]
    pub init_containers: Vec<Container>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    #[serde(default)]
    pub security_context: PodSecurityContext,
    pub hostname: Option<String>,
    #[serde(default)]
    pub host_network: bool,
    #[serde(default, rename = "hostPID")]
    pub host_pid: bool,
    #[serde(default)]
    pub share_process_namespace: bool,
    pub dns_config: Option<DnsConfig>,
    /// The handler is taken to have the class's name.
    pub runtime_class_name: Option<String>,
    pub termination_grace_period_seconds: Option<u32>,
    /// Credentials for the API server, of which there is none here: no token is mounted, whatever this says.
    pub service_account_name: Option<String>,
    pub automount_service_account_token: Option<bool>,
    pub enable_service_links: Option<bool>,
    /// Where pods are placed, and what yields to what: the scheduler's business.
    pub affinity: Option<Value>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub priority_class_name: Option<String>,
    pub tolerations: Option<Vec<Value>>,
    pub topology_spread_constraints: Option<Vec<Value>>,
    /// The names are resolved by the cluster's DNS, of which there is none here.
    pub dns_policy: Option<String>,
}

impl PodSpec {
    /// All containers, those of the start first.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    pub(super) fn all_containers_mut(&mut self) -> impl Iterator<Item = &mut Container> {
        self.init_containers.iter_mut().chain(&mut self.containers)
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub enum RestartPolicy {
    #[default]
    Always,
    Never,
    OnFailure,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsConfig {
    #[serde(default)]
    pub nameservers: Vec<String>,
    #[serde(default)]
    pub searches: Vec<String>,
    #[serde(default)]
    pub options: Vec<DnsOption>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSecurityContext {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    pub fs_group: Option<u32>,
    #[serde(default)]
    pub supplemental_groups: Vec<i64>,
    pub seccomp_profile: Option<SeccompProfile>,
    #[serde(default)]
    pub sysctls: Vec<Sysctl>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityContext {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    pub allow_privilege_escalation: Option<bool>,
    #[serde(default)]
    pub privileged: bool,
    #[serde(default)]
    pub read_only_root_filesystem: bool,
    #[serde(default)]
    pub capabilities: Capabilities,
    pub seccomp_profile: Option<SeccompProfile>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    #[serde(default)]
    pub add: Vec<String>,
    #[serde(default)]
    pub drop: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeccompProfile {
    pub r#type: SeccompType,
    /// Below the kubelet's folder of profiles.
    pub localhost_profile: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum SeccompType {
    Localhost,
    RuntimeDefault,
    Unconfined,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub image_pull_policy: Option<PullPolicy>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    #[serde(default)]
    pub env: Vec<EnvVar>,
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
    #[serde(default)]
    pub security_context: SecurityContext,
    pub startup_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub liveness_probe: Option<Probe>,
    /// Of an init container only: `Always` makes it a sidecar.
    pub restart_policy: Option<RestartPolicy>,
    #[serde(default)]
    pub tty: bool,
    #[serde(default)]
    pub stdin: bool,
    /// What the API server shows of a container that failed.
    pub termination_message_policy: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    pub name: String,
    pub value: Option<String>,
    pub value_from: Option<EnvSource>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum EnvSource {
    ConfigMapKeyRef(KeyRef),
    FieldRef(FieldRef),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRef {
    pub name: String,
    pub key: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldRef {
    pub field_path: String,
    pub api_version: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    pub container_port: u16,
    pub host_port: Option<u16>,
    pub name: Option<String>,
    pub protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    #[serde(default)]
    pub limits: BTreeMap<String, QuantityText>,
    #[serde(default)]
    pub requests: BTreeMap<String, QuantityText>,
}

/// A quantity as it is written: YAML takes `2` for a number.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum QuantityText {
    Number(serde_json::Number),
    Text(String),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    #[serde(default)]
    pub read_only: bool,
    pub sub_path: Option<String>,
    pub mount_propagation: Option<MountPropagation>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum MountPropagation {
    Bidirectional,
    HostToContainer,
    None,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    pub name: String,
    pub config_map: Option<ConfigMapVolume>,
    pub empty_dir: Option<EmptyDir>,
    pub host_path: Option<HostPath>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapVolume {
    pub name: String,
    #[serde(default)]
    pub items: Vec<KeyToPath>,
    #[serde(default)]
    pub optional: bool,
    pub default_mode: Option<u32>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmptyDir {
    /// `Memory` makes it a tmpfs.
    pub medium: Option<String>,
    pub size_limit: Option<QuantityText>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    pub path: String,
    pub r#type: Option<HostPathType>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum HostPathType {
    Directory,
    DirectoryOrCreate,
    File,
    FileOrCreate,
    Socket,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGetAction>,
    pub tcp_socket: Option<TcpSocketAction>,
    #[serde(default)]
    pub initial_delay_seconds: u32,
    pub period_seconds: Option<u32>,
    pub timeout_seconds: Option<u32>,
    pub failure_threshold: Option<u32>,
    pub success_threshold: Option<u32>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExecAction {
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGetAction {
    #[serde(default = "default_path")]
    pub path: String,
    pub port: PortName,
    pub scheme: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSocketAction {
    pub port: PortName,
}

fn default_path() -> String {
    "/".to_owned()
}

//! A pod of a manifest on a node, through CRI, as a kubelet does it.
//!
//! In this order: the sandbox; `/etc/hosts` and the volumes; the init containers, one after the other, sidecars among them; the
//! containers; then whoever asks waits for the probes. Not carried out: restarts of what ends, but for Jobs; service account tokens.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::objects::{
    Container, EnvSource, EnvVar, MountPropagation, PodSecurityContext, PullPolicy, RestartPolicy,
    SeccompProfile, SeccompType,
};
use super::pods::{self, PlannedPod};
use super::probe::Probed;
use super::{Manifest, Object, Service, quantity, volumes};
use crate::cri::{ContainerBuilder, ContainerHandle, PodHandle, proto};
use crate::node::{DNS_SERVER, Node};

/// The period of the kernel's bandwidth control, and the least and the unit of its shares, as kubelets set them.
const CPU_PERIOD_MICROSECONDS: i64 = 100_000;
const MIN_CPU_SHARES: i64 = 2;
const SHARES_PER_CPU: i64 = 1024;
/// Where a kubelet keeps profiles of system calls.
const SECCOMP_FOLDER: &str = "/var/lib/kubelet/seccomp";
const DEFAULT_GRACE: u32 = 30;

/// A pod that was started from a manifest.
#[derive(Clone, Debug)]
pub struct RunningPod<'a> {
    plan: PlannedPod,
    pod: PodHandle<'a>,
    address: Option<IpAddr>,
    folder: String,
    volumes: BTreeMap<String, String>,
    started: Vec<(String, ContainerHandle<'a>)>,
    containers: Vec<(String, ContainerHandle<'a>)>,
}

impl Manifest {
    /// Starts all pods of the manifest but those of Jobs, each after the one before, and waits until they are ready.
    pub async fn run<'a>(&self, node: &'a Node) -> Result<Vec<RunningPod<'a>>> {
        let mut running = Vec::new();
        for plan in self.objects.iter().flat_map(pods::of) {
            let pod = start(self, node, plan).await?;
            pod.wait_ready().await?;
            running.push(pod);
        }
        Ok(running)
    }

    /// Where a Service leads to: address and port in each of its pods.
    pub fn endpoints(
        &self,
        service: &str,
        port: u16,
        pods: &[RunningPod<'_>],
    ) -> Result<Vec<std::net::SocketAddr>> {
        let service: &Service = self
            .objects
            .iter()
            .find_map(|object| match object {
                Object::Service(found) if found.metadata.name == service => Some(found),
                _ => None,
            })
            .with_context(|| format!("no Service {service}"))?;
        let entry = service.spec.ports.iter().find(|entry| entry.port == port);
        let entry = entry.with_context(|| format!("no port {port} in Service {}", service.metadata.name))?;
        let target = entry
            .target_port
            .clone()
            .unwrap_or(super::objects::PortName::Number(port));
        let selected = pods.iter().filter(|pod| {
            let labels = &pod.plan.metadata.labels;
            let selector = &service.spec.selector;
            pod.plan.metadata.namespace == service.metadata.namespace
                && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        let place = |pod: &RunningPod| {
            let containers = &pod.plan.spec.containers;
            let number = containers
                .iter()
                .find_map(|container| pods::port_number(&target, container).ok());
            let number = number.with_context(|| format!("no container has the port {target:?}"))?;
            Ok(std::net::SocketAddr::new(
                pod.address.context("the pod has no address")?,
                number,
            ))
        };
        selected.map(place).collect()
    }
}

impl<'a> RunningPod<'a> {
    /// What it belongs to: `Deployment/web`.
    pub fn owner(&self) -> &str {
        &self.plan.owner
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.metadata.name
    }

    /// The images of its containers but for those of the start.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let containers = self.plan.spec.containers.iter();
        containers.map(|container| container.image.as_str())
    }

    /// The pod on the node.
    pub fn handle(&self) -> &PodHandle<'a> {
        &self.pod
    }

    /// Its containers but for those of the start, by name.
    pub fn containers(&self) -> &[(String, ContainerHandle<'a>)] {
        &self.containers
    }

    /// A container of any kind.
    pub fn container(&self, name: &str) -> Result<&ContainerHandle<'a>> {
        let mut all = self.started.iter().chain(&self.containers);
        let found = all.find(|(found, _)| found == name);
        let (_, container) = found.with_context(|| format!("no container {name} in {}", self.name()))?;
        Ok(container)
    }

    /// Waits until all its probes succeed.
    pub async fn wait_ready(&self) -> Result<()> {
        for (name, container) in &self.containers {
            let spec = self.spec_of(name)?;
            let probes = [
                ("startupProbe", &spec.startup_probe),
                ("readinessProbe", &spec.readiness_probe),
                ("livenessProbe", &spec.liveness_probe),
            ];
            for (what, probe) in probes {
                if let Some(probe) = probe {
                    self.probed(spec, container)?.wait(what, probe).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether a container's liveness probe succeeds now.
    pub async fn is_live(&self, name: &str) -> Result<()> {
        let spec = self.spec_of(name)?;
        let probe = spec.liveness_probe.as_ref().context("no livenessProbe")?;
        self.probed(spec, self.container(name)?)?.once(probe).await
    }

    /// Ends its containers within their grace, as when a pod is deleted, and removes it.
    pub async fn delete(&self) -> Result<()> {
        let grace = self
            .plan
            .spec
            .termination_grace_period_seconds
            .unwrap_or(DEFAULT_GRACE);
        // Sidecars end last, in the reverse of their order.
        let all = self.containers.iter().chain(self.started.iter().rev());
        for (_, container) in all {
            container.stop(Duration::from_secs(grace.into())).await?;
        }
        self.pod.remove().await?;
        for volume in &self.plan.spec.volumes {
            if volume.empty_dir.as_ref().is_some_and(|it| it.medium.is_some()) {
                let place = &self.volumes[&volume.name];
                self.pod.node().exec("umount", [place]).await?;
            }
        }
        fs::remove_dir_all(self.pod.node().path(&self.folder)).context("remove the pod's volumes")
    }

    fn spec_of(&self, name: &str) -> Result<&Container> {
        let found = self
            .plan
            .spec
            .all_containers()
            .find(|container| container.name == name);
        found.with_context(|| format!("no container {name} in {}", self.name()))
    }

    fn probed<'b>(&'b self, spec: &'b Container, container: &'b ContainerHandle<'b>) -> Result<Probed<'b>> {
        Ok(Probed {
            node: self.pod.node(),
            spec,
            container,
            address: self.address.context("the pod has no address to probe")?,
        })
    }

    /// A container of it, made to order.
    async fn builder(
        &self,
        manifest: &Manifest,
        spec: &Container,
        attempt: u32,
    ) -> Result<ContainerBuilder<'a>> {
        let node = self.pod.node();
        match spec.image_pull_policy {
            Some(PullPolicy::Always) => drop(node.cri().pull(&spec.image).await?),
            Some(PullPolicy::Never) => ensure!(
                node.cri().image(&spec.image).await?.is_some(),
                "{} is not on the node",
                spec.image
            ),
            None | Some(PullPolicy::IfNotPresent) => node.cri().ensure_image(&spec.image).await?,
        }
        self.check_user(spec).await?;
        let env = self.environment(manifest, spec)?;
        let expand = |words: &[String]| words.iter().map(|word| expanded(word, &env)).collect::<Vec<_>>();
        let mut builder = self
            .pod
            .container(&spec.name)
            .image(&spec.image)
            .command(expand(&spec.command))
            .args(expand(&spec.args));
        for (name, value) in &env {
            builder = builder.env(name, value);
        }
        let mounts = self.mounts(spec)?;
        let resources = resources(spec)?;
        let security = security(spec, &self.plan.spec.security_context)?;
        let restart = attempt.to_string();
        Ok(builder
            .annotation("io.kubernetes.container.restartCount", &restart)
            .config(|config| {
                config.working_dir = spec.working_dir.clone().unwrap_or_default();
                config.tty = spec.tty;
                config.stdin = spec.stdin;
                config.mounts.extend(mounts);
                if let Some(metadata) = &mut config.metadata {
                    metadata.attempt = attempt;
                }
                config.log_path = format!("{}/{attempt}.log", spec.name);
                let linux = config.linux.get_or_insert_default();
                linux.resources = Some(resources);
                let namespaces = linux
                    .security_context
                    .take()
                    .and_then(|old| old.namespace_options);
                linux.security_context = Some(proto::LinuxContainerSecurityContext {
                    namespace_options: namespaces,
                    ..security
                });
            }))
    }

    /// Keeps `runAsNonRoot`, which a kubelet looks to.
    async fn check_user(&self, spec: &Container) -> Result<()> {
        let (pod, own) = (&self.plan.spec.security_context, &spec.security_context);
        if !own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false) {
            return Ok(());
        }
        let user = if let Some(user) = own.run_as_user.or(pod.run_as_user) {
            user
        } else {
            let image = self.pod.node().cri().image(&spec.image).await?;
            let image = image.context("the image is gone")?;
            ensure!(
                image.username.is_empty(),
                "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
                image.username
            );
            image.uid.unwrap_or_default().value
        };
        ensure!(
            user != 0,
            "container has runAsNonRoot and {} will run as root",
            spec.name
        );
        Ok(())
    }

    /// Variables in their order, with references to earlier ones resolved.
    fn environment(&self, manifest: &Manifest, spec: &Container) -> Result<Vec<(String, String)>> {
        let mut env: Vec<(String, String)> = Vec::new();
        for variable in &spec.env {
            let value = self.value(manifest, variable);
            let value = value.with_context(|| format!("variable {}", variable.name))?;
            let value = expanded(&value, &env);
            env.push((variable.name.clone(), value));
        }
        Ok(env)
    }

    fn value(&self, manifest: &Manifest, variable: &EnvVar) -> Result<String> {
        match &variable.value_from {
            None => Ok(variable.value.clone().unwrap_or_default()),
            Some(EnvSource::ConfigMapKeyRef(reference)) => {
                let maps = manifest.config_maps();
                let map = maps.get(&(self.plan.metadata.namespace.as_str(), reference.name.as_str()));
                let map = map.with_context(|| format!("no ConfigMap {}", reference.name))?;
                let value = map.data.get(&reference.key);
                value
                    .cloned()
                    .with_context(|| format!("no key {}", reference.key))
            }
            Some(EnvSource::FieldRef(reference)) => self.field(&reference.field_path),
        }
    }

    fn field(&self, path: &str) -> Result<String> {
        let metadata = &self.plan.metadata;
        let address = || self.address.context("the pod has no address");
        if let Some((map, key)) = path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
            let map = match map {
                "metadata.annotations" => &metadata.annotations,
                "metadata.labels" => &metadata.labels,
                _ => bail!("fieldRef {path} is not known here"),
            };
            return Ok(map.get(key).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => metadata.namespace.clone(),
            "metadata.uid" => self
                .pod
                .config()
                .metadata
                .as_ref()
                .map_or_else(String::new, |it| it.uid.clone()),
            "spec.nodeName" => self.pod.node().name().to_owned(),
            "status.podIP" => address()?.to_string(),
            _ => bail!("fieldRef {path} is not known here"),
        })
    }

    fn mounts(&self, spec: &Container) -> Result<Vec<proto::Mount>> {
        let mount = |host_path: String, container_path: &str| proto::Mount {
            container_path: container_path.to_owned(),
            host_path,
            ..Default::default()
        };
        let mut mounts = Vec::new();
        for wanted in &spec.volume_mounts {
            let mut host_path = self.volumes[&wanted.name].clone();
            if let Some(sub_path) = &wanted.sub_path {
                host_path = format!("{host_path}/{sub_path}");
                let place = self.pod.node().path(&host_path);
                if !place.exists() {
                    fs::create_dir_all(place)?;
                }
            }
            let is_map = self
                .plan
                .spec
                .volumes
                .iter()
                .any(|volume| volume.name == wanted.name && volume.config_map.is_some());
            let propagation = match wanted.mount_propagation {
                None | Some(MountPropagation::None) => proto::MountPropagation::PropagationPrivate,
                Some(MountPropagation::Bidirectional) => proto::MountPropagation::PropagationBidirectional,
                Some(MountPropagation::HostToContainer) => {
                    proto::MountPropagation::PropagationHostToContainer
                }
            };
            mounts.push(proto::Mount {
                readonly: wanted.read_only || is_map,
                propagation: propagation.into(),
                ..mount(host_path, &wanted.mount_path)
            });
        }
        if !self.plan.spec.host_network {
            mounts.push(mount(format!("{}/etc-hosts", self.folder), "/etc/hosts"));
        }
        let log = format!("{}/termination-log-{}", self.folder, spec.name);
        fs::write(self.pod.node().path(&log), "")?;
        mounts.push(mount(log, "/dev/termination-log"));
        Ok(mounts)
    }
}

/// Starts a pod, and returns when its containers run.
pub(super) async fn start<'a>(
    manifest: &Manifest,
    node: &'a Node,
    plan: PlannedPod,
) -> Result<RunningPod<'a>> {
    let what = format!("{}, pod {}", plan.owner, plan.metadata.name);
    // Boxed, because it holds a pod's whole description.
    Box::pin(start_pod(manifest, node, plan)).await.context(what)
}

async fn start_pod<'a>(manifest: &Manifest, node: &'a Node, plan: PlannedPod) -> Result<RunningPod<'a>> {
    let pod = sandbox(node, &plan)?.run().await?;
    let address = pod.ip().await.ok();
    let uid = pod
        .config()
        .metadata
        .as_ref()
        .map_or(String::new(), |it| it.uid.clone());
    let folder = format!("/var/lib/kubelet/pods/{uid}");
    fs::create_dir_all(node.path(&folder))?;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost\n{}\t{}\n",
        address.map_or_else(|| "127.0.1.1".to_owned(), |address| address.to_string()),
        pod.config().hostname
    );
    fs::write(node.path(format!("{folder}/etc-hosts")), hosts)?;
    let volumes = volumes::make(node, manifest, &plan, &folder).await?;
    let mut running = RunningPod {
        plan,
        pod,
        address,
        folder,
        volumes,
        started: Vec::new(),
        containers: Vec::new(),
    };
    for spec in running.plan.spec.init_containers.clone() {
        let container = running.builder(manifest, &spec, 0).await?.start().await?;
        if spec.restart_policy == Some(RestartPolicy::Always) {
            if let Some(probe) = &spec.startup_probe {
                running
                    .probed(&spec, &container)?
                    .wait("startupProbe", probe)
                    .await?;
            }
        } else {
            let code = container.wait_exit().await?;
            ensure!(
                code == 0,
                "init container {} ended with {code}: {:?}",
                spec.name,
                container.logs()
            );
        }
        running.started.push((spec.name.clone(), container));
    }
    for spec in running.plan.spec.containers.clone() {
        let container = running.builder(manifest, &spec, 0).await?.start().await?;
        running.containers.push((spec.name.clone(), container));
    }
    Ok(running)
}

/// Makes those containers of a pod anew that have failed.
pub(super) async fn restart_failed(
    manifest: &Manifest,
    pod: &mut RunningPod<'_>,
    attempt: u32,
) -> Result<()> {
    for at in 0..pod.containers.len() {
        let (name, container) = pod.containers[at].clone();
        if container.wait_exit().await? != 0 {
            let spec = pod.spec_of(&name)?.clone();
            let again = Box::pin(pod.builder(manifest, &spec, attempt))
                .await?
                .start()
                .await?;
            pod.containers[at] = (name, again);
        }
    }
    Ok(())
}

fn sandbox<'a>(node: &'a Node, plan: &PlannedPod) -> Result<crate::cri::PodBuilder<'a>> {
    let (metadata, spec) = (&plan.metadata, &plan.spec);
    let mut pod = node.pod(&metadata.name).namespace(&metadata.namespace);
    for (key, value) in &metadata.labels {
        pod = pod.label(key, value);
    }
    for (key, value) in &metadata.annotations {
        pod = pod.annotation(key, value);
    }
    if let Some(hostname) = &spec.hostname {
        pod = pod.hostname(hostname);
    }
    if let Some(class) = &spec.runtime_class_name {
        pod = pod.runtime_handler(class);
    }
    if spec.host_network {
        pod = pod.hostname("").host_network();
    }
    if spec.share_process_namespace {
        pod = pod.share_process_namespace();
    }
    for port in spec.containers.iter().flat_map(|container| &container.ports) {
        if let Some(host) = port.host_port.filter(|_| !spec.host_network) {
            pod = pod.port(port.container_port.into(), host.into());
        }
    }
    for sysctl in &spec.security_context.sysctls {
        pod = pod.sysctl(&sysctl.name, &sysctl.value);
    }
    if let Some(dns) = &spec.dns_config {
        let options: Vec<String> = dns
            .options
            .iter()
            .map(|option| match &option.value {
                Some(value) => format!("{}:{value}", option.name),
                None => option.name.clone(),
            })
            .collect();
        let words = |words: &[String]| words.to_vec();
        let (servers, searches) = (words(&dns.nameservers), words(&dns.searches));
        pod = pod.config(|config| {
            config.dns_config = Some(proto::DnsConfig {
                servers,
                searches,
                options,
            });
        });
    }
    if spec.dns_config.is_none() && !spec.host_network {
        // The node's name server stands for the cluster's; it knows what tests publish.
        let namespace = format!("{}.svc.cluster.local", metadata.namespace);
        let searches = [namespace.as_str(), "svc.cluster.local", "cluster.local"];
        pod = pod.dns(&[DNS_SERVER], &searches, &["ndots:5"]);
    }
    let profile = spec.security_context.seccomp_profile.as_ref().map(seccomp);
    let profile = profile.transpose()?;
    Ok(pod.config(|config| {
        let security = config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        let id = |value: i64| proto::Int64Value { value };
        security.run_as_user = spec.security_context.run_as_user.map(id);
        security.run_as_group = spec.security_context.run_as_group.map(id);
        security.seccomp = profile;
        if spec.host_pid {
            security.namespace_options.get_or_insert_default().pid = proto::NamespaceMode::Node.into();
        }
    }))
}

fn resources(spec: &Container) -> Result<proto::LinuxContainerResources> {
    let limits = &spec.resources.limits;
    // A request that is not made is the limit.
    let requested = spec.resources.requests.get("cpu").or_else(|| limits.get("cpu"));
    let mut resources = proto::LinuxContainerResources {
        cpu_period: CPU_PERIOD_MICROSECONDS,
        cpu_shares: MIN_CPU_SHARES,
        ..Default::default()
    };
    if let Some(cpu) = requested {
        let shares = quantity::thousandths(cpu)? * SHARES_PER_CPU / 1000;
        resources.cpu_shares = shares.max(MIN_CPU_SHARES);
    }
    if let Some(cpu) = limits.get("cpu") {
        resources.cpu_quota = quantity::thousandths(cpu)? * CPU_PERIOD_MICROSECONDS / 1000;
    }
    if let Some(memory) = limits.get("memory") {
        resources.memory_limit_in_bytes = quantity::units(memory)?;
    }
    for name in limits.keys().chain(spec.resources.requests.keys()) {
        let is_known = ["cpu", "ephemeral-storage", "memory"].contains(&name.as_str());
        ensure!(is_known, "the resource {name} is not known here");
    }
    Ok(resources)
}

fn security(spec: &Container, pod: &PodSecurityContext) -> Result<proto::LinuxContainerSecurityContext> {
    let own = &spec.security_context;
    let id = |value: i64| proto::Int64Value { value };
    let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let mut groups = pod.supplemental_groups.clone();
    groups.extend(pod.fs_group.map(i64::from));
    ensure!(
        own.run_as_group.or(pod.run_as_group).is_none() || own.run_as_user.or(pod.run_as_user).is_some(),
        "containerd wants a runAsUser with a runAsGroup"
    );
    Ok(proto::LinuxContainerSecurityContext {
        capabilities: Some(proto::Capability {
            add_capabilities: own.capabilities.add.clone(),
            drop_capabilities: own.capabilities.drop.clone(),
        }),
        privileged: own.privileged,
        run_as_user: own.run_as_user.or(pod.run_as_user).map(id),
        run_as_group: own.run_as_group.or(pod.run_as_group).map(id),
        readonly_rootfs: own.read_only_root_filesystem,
        supplemental_groups: groups,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: profile.map(seccomp).transpose()?,
        ..Default::default()
    })
}

fn seccomp(profile: &SeccompProfile) -> Result<proto::SecurityProfile> {
    use proto::security_profile::ProfileType;
    let kind = match profile.r#type {
        SeccompType::Localhost => ProfileType::Localhost,
        SeccompType::RuntimeDefault => ProfileType::RuntimeDefault,
        SeccompType::Unconfined => ProfileType::Unconfined,
    };
    let localhost = match (&profile.localhost_profile, kind) {
        (Some(file), ProfileType::Localhost) => format!("{SECCOMP_FOLDER}/{file}"),
        (None, ProfileType::Localhost) => bail!("a seccompProfile of type Localhost names its file"),
        (Some(_), _) => bail!("only a seccompProfile of type Localhost has a file"),
        (None, _) => String::new(),
    };
    Ok(proto::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: localhost,
    })
}

/// A text with `$(NAME)` replaced by the variable's value; one that is not there stays, and `$$` is a dollar.
fn expanded(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let named = from.strip_prefix("$(").and_then(|inside| inside.split_once(')'));
        if let Some((name, after)) = named {
            match env.iter().rev().find(|(found, _)| found == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&from[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &from[1..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_kubelets_do() {
        let env = [("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        assert_eq!(expanded("$(A)-$(B)-$$(A)-$A-$", &env), "2-$(B)-$(A)-$A-$");
    }

    #[test]
    fn pods_security_is_the_containers_unless_it_says_otherwise() {
        let pod = PodSecurityContext {
            run_as_user: Some(1000),
            fs_group: Some(2000),
            ..Default::default()
        };
        let mut spec = Container::default();
        let user = |spec: &Container| security(spec, &pod).unwrap().run_as_user.map(|id| id.value);
        assert_eq!(user(&spec), Some(1000));
        spec.security_context.run_as_user = Some(7);
        assert_eq!(user(&spec), Some(7));
        assert_eq!(security(&spec, &pod).unwrap().supplemental_groups, [2000]);
    }

    #[test]
    fn cpu_is_shares_and_quota() {
        let mut spec = Container::default();
        let quantity = |text: &str| super::super::objects::QuantityText::Text(text.to_owned());
        spec.resources.limits.insert("cpu".to_owned(), quantity("500m"));
        let resources = resources(&spec).unwrap();
        assert_eq!((resources.cpu_quota, resources.cpu_shares), (50_000, 512));
    }
}

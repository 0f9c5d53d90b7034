//! From objects to pods, as the API server checks them and the controllers name and label them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::objects::{
    Container, Controller, Job, Metadata, Object, PodSpec, PodTemplate, PortName, Probe, RestartPolicy,
};

/// What controllers make names of: no vowels, so that no words come about.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A pod as the kubelet is given it.
#[derive(Clone, Debug)]
pub struct PlannedPod {
    /// What it belongs to: `Deployment/web`, or `Pod/hello` for one of its own.
    pub owner: String,
    /// Its own name, namespace, labels and annotations.
    pub metadata: Metadata,
    /// What runs in it.
    pub spec: PodSpec,
}

/// The pods that an object has on a node; those of a Job are made as it goes on, see [`job_pod`].
pub(super) fn of(object: &Object) -> Vec<PlannedPod> {
    match object {
        Object::Pod(pod) => vec![PlannedPod {
            owner: format!("Pod/{}", pod.metadata.name),
            metadata: pod.metadata.clone(),
            spec: pod.spec.clone(),
        }],
        Object::Deployment(deployment) => {
            let replicas = deployment.spec.replicas.unwrap_or(1);
            (0..replicas)
                .map(|number| deployment_pod(deployment, number))
                .collect()
        }
        Object::DaemonSet(set) => vec![daemon_pod(set)],
        Object::ConfigMap(_) | Object::Job(_) | Object::Kept(_) | Object::Service(_) => Vec::new(),
    }
}

fn deployment_pod(deployment: &Controller, number: u32) -> PlannedPod {
    let name = &deployment.metadata.name;
    let template = serde_json::to_string(&deployment.spec.template).expect("a template is JSON");
    let hash = letters(&template, 10);
    let suffix = letters(&format!("{template}{number}"), 5);
    let mut metadata = owned(
        &deployment.metadata,
        &deployment.spec.template,
        &format!("{name}-{hash}-{suffix}"),
    );
    metadata.labels.insert("pod-template-hash".to_owned(), hash);
    PlannedPod {
        owner: format!("Deployment/{name}"),
        metadata,
        spec: deployment.spec.template.spec.clone(),
    }
}

fn daemon_pod(set: &Controller) -> PlannedPod {
    let name = &set.metadata.name;
    let template = serde_json::to_string(&set.spec.template).expect("a template is JSON");
    let mut metadata = owned(
        &set.metadata,
        &set.spec.template,
        &format!("{name}-{}", letters(&template, 5)),
    );
    let hash = letters(&template, 10);
    metadata
        .labels
        .insert("controller-revision-hash".to_owned(), hash);
    metadata
        .labels
        .insert("pod-template-generation".to_owned(), "1".to_owned());
    PlannedPod {
        owner: format!("DaemonSet/{name}"),
        metadata,
        spec: set.spec.template.spec.clone(),
    }
}

/// The pod that a Job makes at its `attempt`th try, from 0.
pub(super) fn job_pod(job: &Job, attempt: u32) -> PlannedPod {
    let name = &job.metadata.name;
    let suffix = letters(&format!("{name}{attempt}"), 5);
    let mut metadata = owned(&job.metadata, &job.spec.template, &format!("{name}-{suffix}"));
    for key in ["batch.kubernetes.io/job-name", "job-name"] {
        metadata.labels.insert(key.to_owned(), name.clone());
    }
    PlannedPod {
        owner: format!("Job/{name}"),
        metadata,
        spec: job.spec.template.spec.clone(),
    }
}

/// A pod of a controller: the template's labels and annotations, the controller's namespace.
fn owned(controller: &Metadata, template: &PodTemplate, name: &str) -> Metadata {
    Metadata {
        name: name.to_owned(),
        namespace: controller.namespace.clone(),
        ..template.metadata.clone()
    }
}

/// So many letters that stand for a text.
fn letters(text: &str, count: usize) -> String {
    let digest = Sha256::digest(text);
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest.iter().take(count).map(letter).collect()
}

/// Refuses what the API server would refuse, as far as mistakes are likely.
pub(super) fn check(object: &Object) -> Result<()> {
    if let Some(metadata) = object.metadata() {
        check_name(&metadata.name)?;
    }
    match object {
        Object::DaemonSet(controller) | Object::Deployment(controller) => {
            let labels = &controller.spec.template.metadata.labels;
            let selected = &controller.spec.selector.match_labels;
            ensure!(
                !selected.is_empty() && selected.iter().all(|(key, value)| labels.get(key) == Some(value)),
                "its selector does not select its own pods"
            );
            let policy = controller.spec.template.spec.restart_policy;
            ensure!(
                policy == RestartPolicy::Always,
                "the restartPolicy of its pods is Always"
            );
        }
        Object::Job(job) => {
            let policy = job.spec.template.spec.restart_policy;
            ensure!(
                policy != RestartPolicy::Always,
                "the restartPolicy of its pods is Never or OnFailure"
            );
            ensure!(
                job.spec.pod_failure_policy.is_none() || policy == RestartPolicy::Never,
                "a podFailurePolicy needs restartPolicy: Never"
            );
        }
        Object::ConfigMap(_) | Object::Kept(_) | Object::Pod(_) | Object::Service(_) => {}
    }
    object.pod_spec().map_or(Ok(()), check_pod)
}

fn check_pod(spec: &PodSpec) -> Result<()> {
    ensure!(!spec.containers.is_empty(), "a pod has a container");
    let mut names = BTreeSet::new();
    for container in spec.all_containers() {
        check_name(&container.name)?;
        ensure!(
            names.insert(&container.name),
            "two containers are called {}",
            container.name
        );
        check_container(container, spec).with_context(|| format!("container {}", container.name))?;
    }
    for volume in &spec.volumes {
        let sources = [
            volume.config_map.is_some(),
            volume.empty_dir.is_some(),
            volume.host_path.is_some(),
        ];
        let count = sources.iter().filter(|&&is_there| is_there).count();
        ensure!(count == 1, "volume {} has {count} sources", volume.name);
    }
    Ok(())
}

fn check_container(container: &Container, spec: &PodSpec) -> Result<()> {
    ensure!(!container.image.is_empty(), "it has no image");
    for mount in &container.volume_mounts {
        let is_it = spec.volumes.iter().any(|volume| volume.name == mount.name);
        ensure!(is_it, "there is no volume {} to mount", mount.name);
    }
    for variable in &container.env {
        ensure!(
            variable.value.is_none() || variable.value_from.is_none(),
            "{} has both value and valueFrom",
            variable.name
        );
    }
    let probes = [
        &container.startup_probe,
        &container.readiness_probe,
        &container.liveness_probe,
    ];
    for probe in probes.into_iter().flatten() {
        check_probe(probe, container)?;
    }
    Ok(())
}

fn check_probe(probe: &Probe, container: &Container) -> Result<()> {
    let port = match (&probe.exec, &probe.http_get, &probe.tcp_socket) {
        (Some(_), None, None) => return Ok(()),
        (None, Some(get), None) => {
            let scheme = get.scheme.as_deref().unwrap_or("HTTP");
            ensure!(scheme == "HTTP", "probes over {scheme} are not carried out here");
            &get.port
        }
        (None, None, Some(socket)) => &socket.port,
        _ => bail!("a probe has one of exec, httpGet and tcpSocket"),
    };
    port_number(port, container).map(drop)
}

/// The number of a port that may be named.
pub(super) fn port_number(port: &PortName, container: &Container) -> Result<u16> {
    match port {
        PortName::Number(number) => Ok(*number),
        PortName::Name(name) => {
            let found = container
                .ports
                .iter()
                .find(|port| port.name.as_ref() == Some(name));
            let found =
                found.with_context(|| format!("there is no port {name} in container {}", container.name))?;
            Ok(found.container_port)
        }
    }
}

/// The names of objects and containers are those of hosts.
fn check_name(name: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_name = !name.is_empty()
        && name.len() <= 253
        && name.chars().all(is_allowed)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.']);
    ensure!(is_name, "{name:?} is no name");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Manifest;
    use super::*;

    const CONTROLLER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
";

    fn pods(text: &str) -> Vec<PlannedPod> {
        of(&Manifest::parse(text).unwrap().objects()[0])
    }

    #[test]
    fn deployment_names_and_labels_its_pods() {
        let pods = pods(CONTROLLER);
        assert_eq!(pods.len(), 2);
        let hash = &pods[0].metadata.labels["pod-template-hash"];
        let suffixes: Vec<_> = pods
            .iter()
            .map(|pod| {
                let name = &pod.metadata.name;
                name.strip_prefix(&format!("web-{hash}-")).unwrap().to_owned()
            })
            .collect();
        assert!(
            suffixes[0].len() == 5 && suffixes[0] != suffixes[1],
            "{suffixes:?}"
        );
        assert_eq!(pods[0].metadata.namespace, "shop");
        assert_eq!(pods[0].metadata.labels["app"], "web");
        assert_eq!(pods[0].owner, "Deployment/web");
    }

    #[test]
    fn daemon_set_has_one_pod_with_its_marks() {
        let text = CONTROLLER
            .replace("kind: Deployment", "kind: DaemonSet")
            .replace("replicas: 2", "");
        let pods = pods(&text);
        assert_eq!(pods.len(), 1);
        assert!(pods[0].metadata.labels.contains_key("controller-revision-hash"));
        assert_eq!(pods[0].metadata.name.len(), "web-".len() + 5);
    }

    #[test]
    fn selector_has_to_select_the_template() {
        let wrong = CONTROLLER.replace("matchLabels: {app: web}", "matchLabels: {app: other}");
        let error = format!("{:#}", Manifest::parse(&wrong).unwrap_err());
        assert_eq!(error, "Deployment web: its selector does not select its own pods");
    }
}

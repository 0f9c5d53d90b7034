//! Kubernetes manifests on a node: what the API server, the controllers, the scheduler and the kubelet would make of them, as far
//! as one node goes.
//!
//! A manifest is read strictly: a field that is not carried out here is an error, so that a manifest that runs here ran whole. Pods come
//! from Pods, Deployments, `DaemonSets` and Jobs, named and labelled as their controllers do it; see [`objects`] for what is known
//! of each, and [`run`] for how a pod is started.
//!
//! ```no_run
//! use podwasm_integration::manifest::Manifest;
//! use podwasm_integration::prelude::*;
//!
//! # async fn example(node: &Node) -> anyhow::Result<()> {
//! let manifest = Manifest::read("deploy/samples/hello.yaml")?;
//! let pods = manifest.run(node).await?;
//! assert_eq!(pods[0].container("hello")?.wait_exit().await?, 0);
//! # Ok(())
//! # }
//! ```

mod job;
pub mod objects;
mod pods;
mod probe;
mod quantity;
pub mod run;
mod volumes;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
pub use job::JobEnd;
use objects::{ConfigMap, Object, PodSpec, Service};
pub use run::RunningPod;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kinds that a node has nothing to do with: they are kept as they are, for a test to look at.
const KEPT: [&str; 17] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "Kustomization",
    "LimitRange",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodMonitor",
    "PriorityClass",
    "PrometheusRule",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "ScaledObject",
    "ServiceAccount",
    "ServiceMonitor",
    "TriggerAuthentication",
];

/// The objects of one or more files.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    objects: Vec<Object>,
}

impl Manifest {
    /// Reads a file below the project's top.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses YAML with any number of documents.
    pub fn parse(text: &str) -> Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("it is no YAML")?;
        let objects = documents
            .into_iter()
            .filter(|document| !document.is_null())
            .map(object)
            .collect::<Result<_>>()?;
        Ok(Self { objects })
    }

    /// Takes images whose names start with `prefix` from somewhere else, as `sed` on the manifest would.
    #[must_use]
    pub fn images_from(mut self, prefix: &str, instead: &str) -> Self {
        for spec in self.objects.iter_mut().filter_map(Object::pod_spec_mut) {
            for container in spec.all_containers_mut() {
                if let Some(rest) = container.image.strip_prefix(prefix) {
                    container.image = format!("{instead}{rest}");
                }
            }
        }
        self
    }

    /// Gives a variable of an object's containers another value, as a value of the chart does. They have to have it.
    pub fn set_variable(&mut self, kind: &str, name: &str, variable: &str, value: &str) -> Result<()> {
        let wanted = self
            .objects
            .iter_mut()
            .filter(|object| object.has_name(kind, name));
        let specs = wanted.filter_map(Object::pod_spec_mut);
        let variables = specs
            .flat_map(PodSpec::all_containers_mut)
            .flat_map(|container| &mut container.env);
        let mut found = false;
        for set in variables.filter(|set| set.name == variable) {
            set.value = Some(value.to_owned());
            found = true;
        }
        ensure!(found, "no container of {kind} {name} has the variable {variable}");
        Ok(())
    }

    /// One object with pods, and whatever its pods mount: what is applied apart from the rest.
    #[must_use]
    pub fn only(&self, kind: &str, name: &str) -> Self {
        let is_wanted = |object: &&Object| match object {
            Object::ConfigMap(_) => true,
            object => object.has_name(kind, name),
        };
        Self {
            objects: self.objects.iter().filter(is_wanted).cloned().collect(),
        }
    }

    /// All objects.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Whether any of them has pods.
    pub fn has_pods(&self) -> bool {
        self.objects.iter().any(|object| object.pod_spec().is_some())
    }

    /// The object of a kind and name that a node has nothing to do with.
    pub fn kept(&self, kind: &str, name: &str) -> Result<&Value> {
        let is_it = |value: &&Value| value["kind"] == kind && value["metadata"]["name"] == name;
        let kept = self.objects.iter().filter_map(|object| match object {
            Object::Kept(value) => Some(value),
            _ => None,
        });
        kept.into_iter()
            .find(is_it)
            .with_context(|| format!("no {kind} {name}"))
    }

    fn config_maps(&self) -> BTreeMap<(&str, &str), &ConfigMap> {
        let maps = self.objects.iter().filter_map(|object| match object {
            Object::ConfigMap(map) => Some(map),
            _ => None,
        });
        maps.map(|map| ((map.metadata.namespace.as_str(), map.metadata.name.as_str()), map))
            .collect()
    }
}

fn object(document: Value) -> Result<Object> {
    let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let name = document["metadata"]["name"]
        .as_str()
        .unwrap_or("without a name")
        .to_owned();
    let expected = match kind.as_str() {
        "ConfigMap" | "Pod" | "Service" => "v1",
        "DaemonSet" | "Deployment" => "apps/v1",
        "Job" => "batch/v1",
        kind if KEPT.contains(&kind) => return Ok(Object::Kept(document)),
        _ => bail!("{kind:?} is no kind that can be carried out here"),
    };
    ensure!(
        version == expected,
        "{kind} {name}: its apiVersion is {expected}, not {version:?}"
    );
    let object = match kind.as_str() {
        "ConfigMap" => typed(document).map(Object::ConfigMap),
        "DaemonSet" => typed(document).map(Object::DaemonSet),
        "Deployment" => typed(document).map(Object::Deployment),
        "Job" => typed(document).map(Object::Job),
        "Pod" => typed(document).map(Object::Pod),
        _ => typed(document).map(Object::Service),
    };
    let object = object.with_context(|| format!("{kind} {name}"))?;
    pods::check(&object).with_context(|| format!("{kind} {name}"))?;
    Ok(object)
}

fn typed<T: DeserializeOwned>(document: Value) -> Result<T> {
    Ok(serde_json::from_value(document)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Manifest::parse(text).unwrap_err())
    }

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hello}
spec:
  containers:
    - {name: c, image: a/b:1}
";

    #[test]
    fn fields_that_are_not_carried_out_are_errors() {
        assert!(Manifest::parse(POD).is_ok());
        let said = error(&POD.replace("image: a/b:1", "image: a/b:1, volumeDevices: []"));
        assert!(
            said.starts_with("Pod hello: unknown field `volumeDevices`"),
            "{said}"
        );
        let said = error(&POD.replace("spec:", "spec:\n  hostUsers: true"));
        assert!(said.contains("unknown field `hostUsers`"), "{said}");
    }

    #[test]
    fn kinds_and_versions_have_to_be_known() {
        assert!(error(&POD.replace("kind: Pod", "kind: Bod")).contains("\"Bod\" is no kind"));
        assert!(
            error(&POD.replace("apiVersion: v1", "apiVersion: v2"))
                .contains("its apiVersion is v1, not \"v2\"")
        );
    }

    #[test]
    fn what_the_api_server_refuses_is_refused() {
        let volume = POD.replace(
            "image: a/b:1",
            "image: a/b:1, volumeMounts: [{name: x, mountPath: /x}]",
        );
        assert!(error(&volume).contains("no volume x"), "{}", error(&volume));
        let port = POD.replace(
            "image: a/b:1",
            "image: a/b:1, readinessProbe: {httpGet: {path: /, port: web}}",
        );
        assert!(error(&port).contains("no port web"), "{}", error(&port));
        assert!(error(&POD.replace("name: hello", "name: Hello_you")).contains("is no name"));
    }

    #[test]
    fn variables_are_set_where_they_are() {
        let pod = POD.replace("image: a/b:1", "image: a/b:1, env: [{name: LEVEL, value: info}]");
        let mut manifest = Manifest::parse(&pod).unwrap();
        manifest.set_variable("Pod", "hello", "LEVEL", "debug").unwrap();
        let Object::Pod(pod) = &manifest.objects()[0] else {
            panic!("it is a pod")
        };
        assert_eq!(pod.spec.containers[0].env[0].value.as_deref(), Some("debug"));
        assert!(manifest.set_variable("Pod", "hello", "LEVER", "1").is_err());
        assert!(manifest.set_variable("Pod", "goodbye", "LEVEL", "1").is_err());
    }

    #[test]
    fn images_are_taken_from_elsewhere() {
        let manifest = Manifest::parse(POD).unwrap().images_from("a/", "c/d/");
        let Object::Pod(pod) = &manifest.objects()[0] else {
            panic!("it is a pod")
        };
        assert_eq!(pod.spec.containers[0].image, "c/d/b:1");
    }
}

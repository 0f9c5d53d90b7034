//! Which pods are counted, and as what: told by what NRI tells, and decided without looking at anything else.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::HashMap;
use std::path::PathBuf;

use nri::api::{Container, PodSandbox};

use crate::counts::Identity;
use crate::workload;

/// The annotation that the podwasm plugin puts on containers that it has routed.
pub const ROUTED: &str = "wasm.noderesource.dev/routed";
/// The pod's annotation that says whether it is counted, `true` or `false`, whatever its containers are.
pub const COUNT: &str = "requests.noderesource.dev/count";

/// The pods of the node.
#[derive(Debug, Default)]
pub struct Pods(HashMap<String, Known>);

/// A pod, by its sandbox.
#[derive(Debug)]
struct Known {
    identity: Identity,
    /// `None` for a pod in the host's network.
    namespace: Option<PathBuf>,
    choice: Option<bool>,
    is_counted: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Count a pod.
    Count {
        /// The id of its sandbox.
        sandbox: String,
        /// Its network namespace; `None` if it has none of its own, so that its traffic cannot be told from that of others.
        namespace: Option<PathBuf>,
        /// Who it is.
        identity: Identity,
    },
    /// A pod is over.
    End {
        /// The id of its sandbox.
        sandbox: String,
        /// Its uid, unless another sandbox of the same pod goes on.
        uid: Option<String>,
    },
    /// An annotation cannot be followed.
    Warn {
        /// The pod's namespace and name.
        pod: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Pods {
    /// A pod begins.
    pub fn run(&mut self, pod: PodSandbox) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.0.contains_key(&pod.id) {
            return steps;
        }
        let sandbox = pod.id.clone();
        let known = Known::new(pod, &mut steps);
        let wants_it = known.choice == Some(true);
        self.0.insert(sandbox.clone(), known);
        if wants_it {
            steps.extend(self.count(&sandbox, ""));
        }
        steps
    }

    /// A container of a pod has been made, as it is after all plugins have changed it.
    pub fn container(&mut self, sandbox: &str, container: &Container) -> Vec<Step> {
        let is_routed = container.annotations.contains_key(ROUTED);
        let is_unwanted = self
            .0
            .get(sandbox)
            .is_none_or(|known| known.choice == Some(false));
        if !is_routed || is_unwanted {
            return Vec::new();
        }
        self.count(sandbox, &container.name).into_iter().collect()
    }

    /// A pod is over.
    pub fn end(&mut self, sandbox: &str) -> Option<Step> {
        let known = self.0.remove(sandbox)?;
        let uid = &known.identity.uid;
        let goes_on = self
            .0
            .values()
            .any(|other| other.is_counted && other.identity.uid == *uid);
        known.is_counted.then(|| Step::End {
            sandbox: sandbox.to_owned(),
            uid: (!goes_on).then_some(known.identity.uid),
        })
    }

    /// These are all pods and containers that there are.
    pub fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: &[Container]) -> Vec<Step> {
        let is_gone = |sandbox: &&String| !pods.iter().any(|pod| pod.id == **sandbox);
        let gone: Vec<_> = self.0.keys().filter(is_gone).cloned().collect();
        let mut steps: Vec<_> = gone.iter().filter_map(|sandbox| self.end(sandbox)).collect();
        for pod in pods {
            steps.extend(self.run(pod));
        }
        // In the order in which they were made, so that the same container is named after a restart.
        let mut containers: Vec<_> = containers.iter().collect();
        containers.sort_by_key(|container| (container.created_at, &container.name));
        for container in containers {
            steps.extend(self.container(&container.pod_sandbox_id, container));
        }
        steps
    }

    fn count(&mut self, sandbox: &str, container: &str) -> Option<Step> {
        let known = self.0.get_mut(sandbox).filter(|known| !known.is_counted)?;
        known.is_counted = true;
        container.clone_into(&mut known.identity.container);
        Some(Step::Count {
            sandbox: sandbox.to_owned(),
            namespace: known.namespace.clone(),
            identity: known.identity.clone(),
        })
    }
}

impl Known {
    fn new(pod: PodSandbox, steps: &mut Vec<Step>) -> Self {
        let mut warn = |reason| {
            let pod = format!("{}/{}", pod.namespace, pod.name);
            steps.push(Step::Warn { pod, reason });
        };
        let choice = match pod.annotation(COUNT) {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                warn(format!(
                    "{COUNT}: {other:?} is neither \"true\" nor \"false\", and is ignored"
                ));
                None
            }
        };
        let mut workload = workload::guess(&pod.name, &pod.labels);
        if let Some(text) = pod.annotation(workload::ANNOTATION) {
            match workload::annotated(text, &workload) {
                Ok(annotated) => workload = annotated,
                Err(error) => warn(error.to_string()),
            }
        }
        let namespace = pod.namespace_path("network").map(PathBuf::from);
        let identity = Identity {
            uid: if pod.uid.is_empty() { pod.id } else { pod.uid },
            namespace: pod.namespace,
            name: pod.name,
            labels: pod.labels,
            container: String::new(),
            workload,
        };
        Self {
            identity,
            namespace,
            choice,
            is_counted: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nri::api::{LinuxNamespace, LinuxPodSandbox};

    fn pod(id: &str, annotations: &[(&str, &str)]) -> PodSandbox {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        PodSandbox {
            id: id.to_owned(),
            name: format!("web-{id}"),
            uid: format!("uid-{id}"),
            namespace: "default".to_owned(),
            annotations: annotations.iter().map(pair).collect(),
            linux: Some(LinuxPodSandbox {
                namespaces: vec![LinuxNamespace::new("network", "/run/netns/x")],
                ..LinuxPodSandbox::default()
            }),
            ..PodSandbox::default()
        }
    }

    fn container(name: &str, sandbox: &str, annotations: &[&str]) -> Container {
        Container {
            name: name.to_owned(),
            pod_sandbox_id: sandbox.to_owned(),
            annotations: annotations
                .iter()
                .map(|key| ((*key).to_owned(), "engine".to_owned()))
                .collect(),
            ..Container::default()
        }
    }

    /// The containers that are counted, and nothing else is done.
    fn counted(steps: &[Step]) -> Vec<&str> {
        fn name(step: &Step) -> &str {
            match step {
                Step::Count { identity, .. } => &identity.container,
                other => panic!("{other:?}"),
            }
        }
        steps.iter().map(name).collect()
    }

    #[test]
    fn a_routed_container_has_its_pod_counted_once() {
        let mut pods = Pods::default();
        assert_eq!(pods.run(pod("a", &[])), []);
        assert_eq!(pods.container("a", &container("sidecar", "a", &[])), []);
        let steps = pods.container("a", &container("app", "a", &[ROUTED]));
        assert_eq!(counted(&steps), ["app"]);
        assert_eq!(pods.container("a", &container("more", "a", &[ROUTED])), []);
        let Step::Count {
            namespace, identity, ..
        } = &steps[0]
        else {
            unreachable!()
        };
        assert_eq!(namespace.as_deref(), Some("/run/netns/x".as_ref()));
        assert_eq!(
            (identity.uid.as_str(), identity.workload.kind.as_str()),
            ("uid-a", "Pod")
        );
        let end = Step::End {
            sandbox: "a".into(),
            uid: Some("uid-a".into()),
        };
        assert_eq!(pods.end("a"), Some(end));
        assert_eq!(pods.end("a"), None);
    }

    #[test]
    fn pods_choose_by_annotation() {
        let mut pods = Pods::default();
        assert_eq!(counted(&pods.run(pod("a", &[(COUNT, "true")]))), [""]);
        assert_eq!(pods.run(pod("b", &[(COUNT, "false")])), []);
        assert_eq!(pods.container("b", &container("app", "b", &[ROUTED])), []);
        let steps = pods.run(pod("c", &[(COUNT, "yes"), (workload::ANNOTATION, "A/B")]));
        assert!(
            matches!(&steps[..], [Step::Warn { .. }, Step::Warn { .. }]),
            "{steps:?}"
        );
        assert_eq!(
            counted(&pods.container("c", &container("app", "c", &[ROUTED]))),
            ["app"]
        );
    }

    #[test]
    fn a_pod_in_the_hosts_network_has_no_namespace() {
        let host = PodSandbox {
            linux: None,
            ..pod("a", &[(COUNT, "true")])
        };
        let steps = Pods::default().run(host);
        assert!(matches!(&steps[..], [Step::Count { namespace: None, .. }]));
    }

    #[test]
    fn after_a_restart_only_what_changed_is_done() {
        let mut pods = Pods::default();
        let first = || Container {
            created_at: 1,
            ..container("z-first", "a", &[ROUTED])
        };
        let second = || Container {
            created_at: 2,
            ..container("a-second", "a", &[ROUTED])
        };
        let steps = pods.synchronize(
            vec![pod("a", &[]), pod("b", &[(COUNT, "true")])],
            &[second(), first()],
        );
        assert_eq!(counted(&steps), ["", "z-first"]);
        assert_eq!(
            pods.synchronize(vec![pod("a", &[]), pod("b", &[(COUNT, "true")])], &[second()]),
            []
        );
        let steps = pods.synchronize(vec![pod("a", &[])], &[]);
        assert!(matches!(&steps[..], [Step::End { sandbox, .. }] if sandbox == "b"));
    }

    #[test]
    fn a_second_sandbox_of_a_pod_goes_on() {
        let mut pods = Pods::default();
        pods.run(pod("a", &[(COUNT, "true")]));
        let again = PodSandbox {
            uid: "uid-a".into(),
            ..pod("b", &[(COUNT, "true")])
        };
        pods.run(again);
        let Some(Step::End { uid, .. }) = pods.end("a") else {
            panic!("it was counted")
        };
        assert_eq!(uid, None);
    }
}

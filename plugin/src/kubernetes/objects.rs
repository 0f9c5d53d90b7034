//! What is sent to the Kubernetes API, and what is read of its answers.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

/// Kubernetes keeps no more of an event's message.
const MESSAGE_BYTES: usize = 1024;
/// The annotation of a pod that the kubelet has from a file: its eviction would only take away the API server's picture of it.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What makes a container's id one of its own in an event's name.
const ID_LETTERS: usize = 16;

/// A container that was created without podwasm and should not have been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Its name in the pod.
    pub container: String,
    /// containerd's id of it.
    pub id: String,
    /// podwasm would have refused it, and would again.
    pub is_refused: bool,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// Why it should have been adjusted.
    pub why: String,
}

/// An event on the container's pod. Its name tells the container, so that there is one of it.
pub fn event(missed: &Missed, instance: &str, now: SystemTime) -> Value {
    let Missed {
        container,
        id,
        is_refused: _,
        namespace,
        pod,
        uid,
        why,
    } = missed;
    let id: String = id.chars().take(ID_LETTERS).collect();
    let now = humantime::format_rfc3339_seconds(now).to_string();
    let message = format!(
        "container '{container}' was created while podwasm was not connected, though {why}; it runs without podwasm's engine"
    );
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{pod}.podwasm-{id}"), "namespace": namespace},
        "type": "Warning",
        "reason": "CreatedWithoutPodwasm",
        "message": shortened(&message),
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": namespace,
            "name": pod,
            "uid": uid,
            "fieldPath": format!("spec.containers{{{container}}}"),
        },
        "source": {"component": "podwasm", "host": instance},
        "reportingComponent": "noderesource.dev/podwasm",
        "reportingInstance": instance,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// What asks for the eviction of exactly this pod, and of none that has taken its name.
pub fn eviction(missed: &Missed) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": missed.pod, "namespace": missed.namespace},
        "deleteOptions": {"preconditions": {"uid": missed.uid}},
    })
}

/// What matters of a pod.
#[derive(Debug, Deserialize)]
pub struct Pod {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: String,
    #[serde(default)]
    annotations: serde_json::Map<String, Value>,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    #[serde(default)]
    controller: bool,
}

impl Pod {
    /// Whether it is the container's, and not another one of the same name.
    pub fn is(&self, missed: &Missed) -> bool {
        self.metadata.uid == missed.uid
    }

    /// Whether something makes it anew when it is gone.
    pub fn is_made_anew(&self) -> bool {
        let is_mirror = self.metadata.annotations.contains_key(MIRROR);
        !is_mirror
            && self
                .metadata
                .owner_references
                .iter()
                .any(|owner| owner.controller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn missed() -> Missed {
        Missed {
            container: "c".to_owned(),
            id: "0123456789abcdef0123".to_owned(),
            is_refused: false,
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            uid: "u1".to_owned(),
            why: "/app is a WebAssembly module".to_owned(),
        }
    }

    #[test]
    fn an_event_names_its_container() {
        let event = event(
            &missed(),
            "node-1",
            SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        );
        assert_eq!(
            event["metadata"],
            json!({"name": "web-1.podwasm-0123456789abcdef", "namespace": "shop"})
        );
        assert_eq!(event["involvedObject"]["uid"], "u1");
        assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{c}");
        assert_eq!(event["firstTimestamp"], "1970-01-01T00:00:01Z");
        let message = event["message"].as_str().unwrap();
        assert!(
            message.contains("container 'c'") && message.contains("/app is a WebAssembly module"),
            "{message}"
        );
    }

    #[test]
    fn a_long_reason_is_cut_between_letters() {
        let why = "é".repeat(2000);
        let event = event(&Missed { why, ..missed() }, "n", SystemTime::UNIX_EPOCH);
        let message = event["message"].as_str().unwrap();
        assert!((MESSAGE_BYTES - 1..=MESSAGE_BYTES).contains(&message.len()));
    }

    #[test]
    fn only_what_a_controller_makes_anew_may_go() {
        let pod = |metadata: Value| -> Pod {
            serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap()
        };
        let owned = json!([{"kind": "ReplicaSet", "name": "web", "controller": true}]);
        for (metadata, wanted) in [
            (json!({"uid": "u1"}), false),
            (
                json!({"uid": "u1", "ownerReferences": [{"kind": "Custom"}]}),
                false,
            ),
            (json!({"uid": "u1", "ownerReferences": owned}), true),
            (
                json!({"uid": "u1", "ownerReferences": owned, "annotations": {MIRROR: "x"}}),
                false,
            ),
        ] {
            assert_eq!(pod(metadata.clone()).is_made_anew(), wanted, "{metadata}");
        }
        assert!(!pod(json!({"uid": "another"})).is(&missed()));
    }
}

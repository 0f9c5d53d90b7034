//! What becomes of a container that no worker could be asked about, or none answered for.
//!
//! The front judges by what is plain to see, and reads nothing that a worker may have stumbled over: no YAML, no image.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use nri::api::{Container, PodSandbox};

use crate::adjust;
use crate::annotation::DOMAIN;
use crate::entrypoint::is_named_as_wasm;

/// The one value that is understood here, because a native pod may carry it.
const LEAVE_ALONE: &str = "handler: none";

/// What makes one expect Wasm, if anything does. Then the container must not start as something else; anything else must not be
/// kept from starting. `is_known` says whether the entrypoint of this image was seen to be a module.
pub fn expectation(pod: &PodSandbox, container: &Container, is_known: bool) -> Option<String> {
    let asked = asked(pod, &container.name);
    if asked == Some(LEAVE_ALONE) {
        return None;
    }
    if asked.is_some() {
        return Some("its annotations say how to run it".to_owned());
    }
    if let Some(annotation) = adjust::wanted_by_crun(pod, container) {
        return Some(format!("an annotation says {annotation}"));
    }
    let program = container.args.first().map(String::as_str).unwrap_or_default();
    if is_named_as_wasm(program) {
        return Some(format!("its entrypoint is named '{program}'"));
    }
    is_known.then(|| "its entrypoint was a WebAssembly module before".to_owned())
}

/// What the most particular annotation says.
fn asked<'a>(pod: &'a PodSandbox, container: &str) -> Option<&'a str> {
    let keys = [
        format!("{DOMAIN}/container.{container}"),
        format!("{DOMAIN}/pod"),
        DOMAIN.to_owned(),
    ];
    let value = keys.iter().find_map(|key| pod.annotation(key));
    value.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &[(&str, &str)]) -> PodSandbox {
        PodSandbox {
            annotations: annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..PodSandbox::default()
        }
    }

    fn expected(annotations: &[(&str, &str)], program: &str, is_known: bool) -> Option<String> {
        let container = Container {
            name: "c".to_owned(),
            args: vec![program.to_owned()],
            ..Container::default()
        };
        expectation(&pod(annotations), &container, is_known)
    }

    #[test]
    fn whatever_points_to_wasm_is_expected_to_be() {
        for (annotations, program, is_known) in [
            (
                &[("wasm.noderesource.dev/pod", "handler: engine")][..],
                "/app",
                false,
            ),
            (
                &[("wasm.noderesource.dev/container.c", "{not even yaml")],
                "/app",
                false,
            ),
            (&[("wasm.noderesource.dev", "memory: 20Mi")], "/app", false),
            (&[("module.wasm.image/variant", "compat-smart")], "/app", false),
            (&[], "/app.wasm", false),
            (&[], "/app", true),
        ] {
            assert!(
                expected(annotations, program, is_known).is_some(),
                "{annotations:?} {program} {is_known}"
            );
        }
    }

    #[test]
    fn nothing_else_is() {
        for annotations in [
            &[][..],
            &[("wasm.noderesource.dev/container.other", "handler: engine")],
            &[("wasm.noderesource.dev/pod", " handler: none\n")],
            &[
                ("wasm.noderesource.dev/container.c", "handler: none"),
                ("wasm.noderesource.dev/pod", "handler: engine"),
            ],
            &[("other.noderesource.dev/pod", "handler: engine")],
        ] {
            assert_eq!(expected(annotations, "/bin/sh", false), None, "{annotations:?}");
        }
    }
}

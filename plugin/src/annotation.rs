//! What a pod may ask for in its annotations.
//!
//! Keys follow NRI's convention, the most particular first: `wasm.noderesource.dev/container.NAME`, then
//! `wasm.noderesource.dev/pod`, then the bare `wasm.noderesource.dev`. The value is YAML. Everything here
//! is a tenant's input: values are enumerated, never a path, and what is not known is an error.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::HashMap;

use serde::Deserialize;

/// The prefix of every annotation that podwasm reads or writes.
pub const DOMAIN: &str = "wasm.noderesource.dev";
/// More than any sensible value has.
const MAX_BYTES: usize = 4096;

/// What a pod asks for one of its containers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which handler is to run the container, instead of what its image suggests.
    pub handler: Option<Handler>,
}

/// What can run a container.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Handler {
    /// podwasm's own engine, mounted over the entrypoint.
    Engine,
    /// Nothing of podwasm's: the container is left as it is.
    None,
}

/// An annotation that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value is too long to be meant.
    #[error("annotation {key} has more than {MAX_BYTES} bytes")]
    Long {
        /// The annotation's key.
        key: String,
    },
    /// The value is not what can be asked for.
    #[error("annotation {key}: {problem}; known are handler: engine | none")]
    Value {
        /// The annotation's key.
        key: String,
        /// What is wrong, on one line.
        problem: String,
    },
}

/// What a pod's annotations ask for one container.
pub fn settings(annotations: &HashMap<String, String>, container: &str) -> Result<Settings, Error> {
    let keys = [
        format!("{DOMAIN}/container.{container}"),
        format!("{DOMAIN}/pod"),
        DOMAIN.to_owned(),
    ];
    let mut settings = Settings::default();
    for key in keys {
        if let Some(value) = annotations.get(&key) {
            let less_particular = parse(&key, value)?;
            settings.handler = settings.handler.or(less_particular.handler);
        }
    }
    Ok(settings)
}

fn parse(key: &str, value: &str) -> Result<Settings, Error> {
    if value.len() > MAX_BYTES {
        return Err(Error::Long { key: key.to_owned() });
    }
    if value.trim().is_empty() {
        return Ok(Settings::default());
    }
    serde_saphyr::from_str(value).map_err(|error| Error::Value {
        key: key.to_owned(),
        problem: first_line(&error.to_string()),
    })
}

/// Errors end up in a pod's events, where a picture of the source has no place.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(annotations: &[(&str, &str)], expected: Result<Option<Handler>, &str>) {
        let annotations = annotations
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        match (settings(&annotations, "web"), expected) {
            (Ok(settings), Ok(handler)) => assert_eq!(settings.handler, handler),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn the_most_particular_annotation_wins() {
        let container = "wasm.noderesource.dev/container.web";
        let pod = "wasm.noderesource.dev/pod";
        check(&[], Ok(None));
        check(&[(DOMAIN, "handler: none")], Ok(Some(Handler::None)));
        check(
            &[(DOMAIN, "handler: none"), (pod, "handler: engine")],
            Ok(Some(Handler::Engine)),
        );
        check(
            &[(pod, "handler: engine"), (container, "handler: none")],
            Ok(Some(Handler::None)),
        );
        check(
            &[("wasm.noderesource.dev/container.other", "handler: none")],
            Ok(None),
        );
        check(&[(pod, " "), (DOMAIN, "{}")], Ok(None));
    }

    #[test]
    fn what_is_not_known_is_an_error_that_says_what_is() {
        check(
            &[(DOMAIN, "handler: docker")],
            Err("known are handler: engine | none"),
        );
        check(&[(DOMAIN, "handlr: none")], Err("handlr"));
        check(&[(DOMAIN, "none")], Err("annotation wasm.noderesource.dev: "));
        check(&[(DOMAIN, &"x".repeat(5000))], Err("more than 4096 bytes"));
        check(
            &[("wasm.noderesource.dev/pod", "handler: [none")],
            Err("annotation wasm.noderesource.dev/pod: "),
        );
    }
}

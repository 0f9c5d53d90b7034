//! What a pod may ask for in its annotations.
//!
//! Keys follow NRI's convention, the most particular first: `wasm.noderesource.dev/container.NAME`, then
//! `wasm.noderesource.dev/pod`, then the bare `wasm.noderesource.dev`. Each setting is taken from the most particular one that
//! has it. The value is YAML. Everything here is a tenant's input: values are enumerated, never a path, and what is not known
//! is an error.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::quantity::Quantity;

/// The prefix of every annotation that podwasm reads or writes.
pub const DOMAIN: &str = "wasm.noderesource.dev";
/// More than any sensible value has.
const MAX_BYTES: usize = 4096;
/// More plugins than there are.
const MAX_PLUGINS: usize = 16;
const KNOWN: &str = "aot: auto|off|required, cpu: QUANTITY|none, drain: DURATION, handler: crun|engine|none|runtime, \
                     memory: QUANTITY|none, plugins: [NAME...], preopens: all|mounts, sockets: true|false, wait: DURATION";

/// What a pod asks for one of its containers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether compiled code is to be used.
    pub aot: Option<Aot>,
    /// The CPU limit, if the container sets none itself.
    pub cpu: Option<Limit>,
    /// How long the guest goes on after it was asked to end.
    #[serde(deserialize_with = "duration")]
    pub drain: Option<Duration>,
    /// Which handler is to run the container, instead of what its image suggests.
    pub handler: Option<Handler>,
    /// The memory limit, if the container sets none itself.
    pub memory: Option<Limit>,
    /// The plugins to load.
    pub plugins: Option<Vec<String>>,
    /// What the guest sees of the file system.
    pub preopens: Option<Preopens>,
    /// Whether the guest may open sockets.
    pub sockets: Option<bool>,
    /// How long a container that starts early waits for native code.
    #[serde(deserialize_with = "duration")]
    pub wait: Option<Duration>,
}

/// Whether compiled code is to be used.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Aot {
    /// Where there is any.
    Auto,
    /// Never.
    Off,
    /// The container must not run without.
    Required,
}

/// What can run a container.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Handler {
    /// crun's own Wasm handler.
    Crun,
    /// podwasm's own engine, mounted over the entrypoint.
    Engine,
    /// Nothing of podwasm's: the container is left as it is.
    None,
    /// The runtime that the pod has chosen by its `RuntimeClass`.
    Runtime,
}

/// A limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No limit.
    None,
    /// So much.
    Of(Quantity),
}

/// What the guest sees of the file system.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Preopens {
    /// All that a native process would see.
    All,
    /// The working directory and the container's mounts.
    Mounts,
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
    #[error("annotation {key}: {problem}; known are {KNOWN}")]
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
            settings = settings.or(parse(&key, value)?);
        }
    }
    Ok(settings)
}

impl Settings {
    /// What is set here, and where nothing is, what a less particular annotation sets.
    fn or(self, less_particular: Self) -> Self {
        Self {
            aot: self.aot.or(less_particular.aot),
            cpu: self.cpu.or(less_particular.cpu),
            drain: self.drain.or(less_particular.drain),
            handler: self.handler.or(less_particular.handler),
            memory: self.memory.or(less_particular.memory),
            plugins: self.plugins.or(less_particular.plugins),
            preopens: self.preopens.or(less_particular.preopens),
            sockets: self.sockets.or(less_particular.sockets),
            wait: self.wait.or(less_particular.wait),
        }
    }
}

fn parse(key: &str, value: &str) -> Result<Settings, Error> {
    if value.len() > MAX_BYTES {
        return Err(Error::Long { key: key.to_owned() });
    }
    if value.trim().is_empty() {
        return Ok(Settings::default());
    }
    let failed = |problem| Error::Value {
        key: key.to_owned(),
        problem,
    };
    let settings: Settings =
        serde_saphyr::from_str(value).map_err(|error| failed(first_line(&error.to_string())))?;
    match &settings.plugins {
        Some(plugins) if plugins.len() > MAX_PLUGINS => {
            Err(failed(format!("more than {MAX_PLUGINS} plugins")))
        }
        _ => Ok(settings),
    }
}

/// Errors end up in a pod's events, where a picture of the source has no place.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Durations as Kubernetes writes them: `2s`, `500ms`, `1m30s`.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text);
    duration.map(Some).map_err(|error| {
        de::Error::custom(format!("'{text}' is not a duration such as 2s or 500ms: {error}"))
    })
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityOrNone)
    }
}

struct QuantityOrNone;

impl Visitor<'_> for QuantityOrNone {
    type Value = Limit;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a quantity such as 50Mi or 200m, or none")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
        match text {
            "none" => Ok(Limit::None),
            quantity => quantity.parse().map(Limit::Of).map_err(E::custom),
        }
    }

    fn visit_u64<E: de::Error>(self, units: u64) -> Result<Limit, E> {
        Ok(Limit::Of(Quantity::units(units)))
    }

    fn visit_i64<E: de::Error>(self, units: i64) -> Result<Limit, E> {
        self.visit_str(&units.to_string())
    }

    fn visit_f64<E: de::Error>(self, units: f64) -> Result<Limit, E> {
        self.visit_str(&units.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn annotations(annotations: &[(&str, &str)]) -> HashMap<String, String> {
        annotations
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    fn check(of: &[(&str, &str)], expected: &Settings) {
        assert_eq!(&settings(&annotations(of), "web").unwrap(), expected, "{of:?}");
    }

    fn check_error(value: &str, part: &str) {
        let error = settings(&annotations(&[(DOMAIN, value)]), "web")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && error.contains(DOMAIN) && !error.contains('\n'),
            "{value}: {error}"
        );
    }

    fn handler(handler: Handler) -> Settings {
        Settings {
            handler: Some(handler),
            ..Settings::default()
        }
    }

    #[test]
    fn the_most_particular_annotation_wins() {
        let container = "wasm.noderesource.dev/container.web";
        let pod = "wasm.noderesource.dev/pod";
        check(&[], &Settings::default());
        check(&[(DOMAIN, "handler: none")], &handler(Handler::None));
        check(
            &[(DOMAIN, "handler: none"), (pod, "handler: engine")],
            &handler(Handler::Engine),
        );
        check(
            &[(pod, "handler: engine"), (container, "handler: none")],
            &handler(Handler::None),
        );
        check(
            &[("wasm.noderesource.dev/container.other", "handler: none")],
            &Settings::default(),
        );
        check(&[(pod, " "), (DOMAIN, "{}")], &Settings::default());
        let both = Settings {
            sockets: Some(false),
            ..handler(Handler::Crun)
        };
        check(
            &[
                (pod, "handler: crun\nsockets: true"),
                (container, "sockets: false"),
            ],
            &both,
        );
    }

    #[test]
    fn every_key() {
        let every = "aot: off\ncpu: 200m\ndrain: 1m30s\nhandler: runtime\nmemory: 50Mi\nplugins: [a, b]\npreopens: mounts\nsockets: true\nwait: 500ms";
        let expected = Settings {
            aot: Some(Aot::Off),
            cpu: Some(Limit::Of(Quantity::thousandths(200))),
            drain: Some(Duration::from_secs(90)),
            handler: Some(Handler::Runtime),
            memory: Some(Limit::Of(Quantity::units(50 << 20))),
            plugins: Some(vec!["a".into(), "b".into()]),
            preopens: Some(Preopens::Mounts),
            sockets: Some(true),
            wait: Some(Duration::from_millis(500)),
        };
        check(&[(DOMAIN, every)], &expected);
        let plain = Settings {
            cpu: Some(Limit::Of(Quantity::thousandths(1500))),
            memory: Some(Limit::None),
            ..Settings::default()
        };
        check(&[(DOMAIN, "cpu: 1.5\nmemory: none")], &plain);
    }

    #[test]
    fn what_is_not_known_is_an_error_that_says_what_is() {
        check_error("handler: docker", "handler: crun|engine|none|runtime");
        check_error("handlr: none", "handlr");
        check_error("none", "known are");
        check_error("drain: soon", "is not a duration such as 2s");
        check_error("memory: 50MB", "is not a quantity such as 50Mi");
        check_error("sockets: maybe", "known are");
        check_error("plugins: /lib/x.so", "known are");
        check_error("handler: [none", "known are");
        check_error(&"x".repeat(5000), "more than 4096 bytes");
        check_error(&format!("plugins: [{}]", "a,".repeat(17)), "more than 16 plugins");
    }

    proptest! {
        #[test]
        fn no_value_is_too_strange(value in "(?s).{0,80}") {
            let _ = settings(&annotations(&[(DOMAIN, &value)]), "web");
        }

        #[test]
        fn scopes_never_mix_up(container in prop::option::of(any::<bool>()), pod in prop::option::of(any::<bool>())) {
            let value = |sockets: Option<bool>| sockets.map_or(String::new(), |sockets| format!("sockets: {sockets}"));
            let (of_container, of_pod) = (value(container), value(pod));
            let annotations = annotations(&[
                ("wasm.noderesource.dev/container.web", &of_container),
                ("wasm.noderesource.dev/pod", &of_pod),
            ]);
            prop_assert_eq!(settings(&annotations, "web").unwrap().sockets, container.or(pod));
        }
    }
}

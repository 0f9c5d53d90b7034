//! The node's policy: one file that bounds what pods may ask for, and says what holds where they ask for nothing.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::Duration;

use serde::Deserialize;

use crate::annotation::{Handler, Limit, Preopens, duration};
use crate::quantity::Quantity;

/// The policy. Every key may be left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The CPU limit of a Wasm container that sets none.
    pub default_cpu: Limit,
    /// The memory limit of a Wasm container that sets none.
    pub default_memory: Limit,
    /// What runs modules where no annotation says otherwise.
    pub handler: Handler,
    /// The longest `drain` that a pod may ask for.
    #[serde(deserialize_with = "some_duration")]
    pub max_drain: Duration,
    /// The largest module that is run.
    pub max_module_size: Quantity,
    /// In which namespaces modules are run.
    pub namespaces: Namespaces,
    /// The plugins that pods may ask for.
    pub plugins: Vec<String>,
    /// What guests see of the file system where no annotation says otherwise.
    pub preopens: Preopens,
    /// Whether guests may open sockets where neither annotation nor environment says otherwise.
    pub sockets: bool,
}

/// A choice of namespaces.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Namespaces {
    /// Not in these.
    pub except: Vec<String>,
    /// Only in these; in all, if there are none.
    pub only: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_cpu: Limit::Of(Quantity::thousandths(200)),
            default_memory: Limit::Of(Quantity::units(50 << 20)),
            handler: Handler::Engine,
            max_drain: Duration::from_secs(60),
            max_module_size: Quantity::units(256 << 20),
            namespaces: Namespaces::default(),
            plugins: Vec::new(),
            preopens: Preopens::All,
            sockets: true,
        }
    }
}

/// A policy that cannot be followed; says line and key.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Policy {
    /// Reads a policy from YAML. An empty text is the default policy.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        let policy: Self = serde_saphyr::from_str(text).map_err(|error| Error(error.to_string()))?;
        match policy.plugins.iter().find(|name| !is_plugin_name(name)) {
            Some(name) => Err(Error(format!(
                "plugins: '{name}' is not a name of letters, digits, _ and -"
            ))),
            None => Ok(policy),
        }
    }
}

impl Namespaces {
    /// Whether modules are run in this namespace.
    pub fn allow(&self, namespace: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == namespace);
        !named(&self.except) && (self.only.is_empty() || named(&self.only))
    }
}

/// A name becomes a folder's, so nothing in it may lead elsewhere.
fn is_plugin_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn some_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Ok(duration(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commented sample that the documentation shows.
    const SAMPLE: &str = include_str!("../../docs/policy.yaml");

    #[test]
    fn the_sample_spells_out_the_defaults() {
        assert_eq!(Policy::parse(SAMPLE).unwrap(), Policy::default());
        assert_eq!(Policy::parse("# nothing\n\n").unwrap(), Policy::default());
        for key in [
            "default_cpu",
            "default_memory",
            "handler",
            "max_drain",
            "max_module_size",
            "namespaces",
            "plugins",
            "preopens",
            "sockets",
        ] {
            assert!(
                SAMPLE.contains(&format!("\n{key}:")),
                "{key} is not in the sample"
            );
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let check = |text: &str, parts: &[&str]| {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check("sockets: true\nmax_modul: 2\n", &["max_modul", "line 2"]);
        check("\nmax_module_size: many\n", &["line 2", "not a quantity"]);
        check("namespaces:\n  onyl: [a]\n", &["onyl", "line 2"]);
        check("plugins: [../../lib]\n", &["plugins", "../../lib"]);
        check("handler: docker\n", &["line 1", "docker"]);
    }

    #[test]
    fn namespaces_are_chosen() {
        let check = |text: &str, namespace: &str, expected: bool| {
            assert_eq!(
                Policy::parse(text).unwrap().namespaces.allow(namespace),
                expected,
                "{text}"
            );
        };
        check("", "any", true);
        check("namespaces: {only: [a, b]}", "b", true);
        check("namespaces: {only: [a, b]}", "c", false);
        check("namespaces: {except: [kube-system]}", "kube-system", false);
        check("namespaces: {except: [kube-system]}", "default", true);
        check("namespaces: {only: [a], except: [a]}", "a", false);
    }
}

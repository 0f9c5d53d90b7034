//! The node's policy: one file that bounds what pods may ask for, and says what holds where they ask for nothing.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::Duration;

use podwasm_engine::proposal::{self, Proposal};
use serde::{Deserialize, de};

use crate::annotation::{Aot, Handler, Limit, Preopens, duration};
use crate::quantity::Quantity;

/// The kernel knows no nicer.
const MAX_NICE: u8 = 19;

/// The policy. Every key may be left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether compiled code is used where no annotation says otherwise.
    pub aot: Aot,
    /// How much modules and their native code may take on disk, but for what containers use.
    pub cache_size: Quantity,
    /// How modules are compiled.
    pub compile: Compile,
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
    /// How long a container that starts early waits for native code; pods may ask for less.
    #[serde(deserialize_with = "some_duration")]
    pub max_wait: Duration,
    /// In which namespaces modules are run.
    pub namespaces: Namespaces,
    /// The plugins that pods may ask for.
    pub plugins: Vec<String>,
    /// What guests see of the file system where no annotation says otherwise.
    pub preopens: Preopens,
    /// What modules may use beyond version 2.0 of the core specification, where they need it.
    #[serde(deserialize_with = "proposals")]
    pub proposals: Vec<Proposal>,
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

/// How modules are compiled.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Compile {
    /// The quick first tier.
    #[serde(deserialize_with = "fast")]
    pub fast: TierPolicy,
    /// The most memory that one compiler may take.
    pub memory: Quantity,
    /// The slow second tier.
    #[serde(deserialize_with = "optimised")]
    pub optimised: TierPolicy,
}

/// How one tier is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierPolicy {
    /// How many compilers run at once; with none, there is no such tier.
    pub at_once: usize,
    /// CPU seconds for each MiB of module; what takes longer has failed.
    pub cpu_seconds_per_mib: u32,
    /// How far the compiler stands back for others, up to 19.
    pub nice: u8,
}

/// What a file says of a tier; the rest is the default of that tier.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierKeys {
    at_once: Option<usize>,
    cpu_seconds_per_mib: Option<u32>,
    nice: Option<u8>,
}

/// Some ten times what it takes: 2 and 20 seconds for each MiB of a usual module, more for a generated one.
const FAST: TierPolicy = TierPolicy {
    at_once: 2,
    cpu_seconds_per_mib: 30,
    nice: 5,
};
const OPTIMISED: TierPolicy = TierPolicy {
    at_once: 1,
    cpu_seconds_per_mib: 300,
    nice: 19,
};

impl Default for Compile {
    fn default() -> Self {
        Self {
            fast: FAST,
            memory: Quantity::units(8 << 30),
            optimised: OPTIMISED,
        }
    }
}

fn fast<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TierPolicy, D::Error> {
    tier(deserializer, &FAST)
}

fn optimised<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TierPolicy, D::Error> {
    tier(deserializer, &OPTIMISED)
}

fn tier<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
    default: &TierPolicy,
) -> Result<TierPolicy, D::Error> {
    let keys = TierKeys::deserialize(deserializer)?;
    let nice = keys.nice.unwrap_or(default.nice);
    if nice > MAX_NICE {
        return Err(de::Error::custom(format!("nice: {nice} is more than {MAX_NICE}")));
    }
    Ok(TierPolicy {
        at_once: keys.at_once.unwrap_or(default.at_once),
        cpu_seconds_per_mib: keys.cpu_seconds_per_mib.unwrap_or(default.cpu_seconds_per_mib),
        nice,
    })
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            aot: Aot::Auto,
            cache_size: Quantity::units(2 << 30),
            compile: Compile::default(),
            default_cpu: Limit::Of(Quantity::thousandths(200)),
            default_memory: Limit::Of(Quantity::units(50 << 20)),
            handler: Handler::Engine,
            max_drain: Duration::from_secs(60),
            max_module_size: Quantity::units(256 << 20),
            max_wait: Duration::from_secs(3),
            namespaces: Namespaces::default(),
            plugins: Vec::new(),
            preopens: Preopens::All,
            proposals: Vec::new(),
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

fn proposals<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Proposal>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parse = |name: &String| {
        let unknown = || {
            format!(
                "'{name}' is no proposal; there are {}",
                proposal::list(&Proposal::ALL)
            )
        };
        name.parse().map_err(|_| de::Error::custom(unknown()))
    };
    names.iter().map(parse).collect()
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
            "aot",
            "cache_size",
            "compile",
            "default_cpu",
            "default_memory",
            "handler",
            "max_drain",
            "max_module_size",
            "max_wait",
            "namespaces",
            "plugins",
            "preopens",
            "proposals",
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
        check(
            "\nproposals: [gc, gx]\n",
            &["'gx' is no proposal", "tail-call", "line 2"],
        );
        check("compile:\n  fast: {nice: 20}\n", &["nice: 20 is more than 19"]);
        check("compile:\n  fast: {nise: 2}\n", &["nise", "line 2"]);
    }

    #[test]
    fn a_tier_is_changed_in_part() {
        let compile = Policy::parse("compile: {optimised: {at_once: 0}}")
            .unwrap()
            .compile;
        let expected = Compile {
            optimised: TierPolicy {
                at_once: 0,
                ..OPTIMISED
            },
            ..Compile::default()
        };
        assert_eq!(compile, expected);
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

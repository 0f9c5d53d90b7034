//! The node's policy: one file that bounds what pods may have.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use serde::Deserialize;

/// The policy. Every key may be left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The largest module that is run, in bytes.
    pub max_module_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_module_bytes: 256 << 20,
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
        serde_saphyr::from_str(text).map_err(|error| Error(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commented sample that the documentation shows.
    const SAMPLE: &str = include_str!("../../docs/policy.yaml");

    #[test]
    fn the_sample_spells_out_the_defaults() {
        assert_eq!(Policy::parse(SAMPLE).unwrap(), Policy::default());
        assert!(SAMPLE.contains("max_module_bytes:"));
        assert_eq!(Policy::parse("# nothing\n\n").unwrap(), Policy::default());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let check = |text: &str, parts: &[&str]| {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check("max_module_bytes: 1\nmax_modul: 2\n", &["max_modul", "line 2"]);
        check("\nmax_module_bytes: many\n", &["line 2"]);
    }
}

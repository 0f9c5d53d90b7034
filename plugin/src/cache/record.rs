//! What the node remembers of a module and of each attempt to compile it: small JSON files beside the modules.

use serde::{Deserialize, Serialize};

use crate::compiled::Tier;

/// How an attempt ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Attempt {
    /// When it ended, in seconds since the epoch.
    pub ended: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// To which tier.
    pub tier: Tier,
}

/// What came of an attempt.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// Native code.
    Compiled {
        /// Its size.
        bytes: u64,
        /// The most memory that the compiler had.
        peak_bytes: u64,
        /// SHA-256 of the native code, in hexadecimal.
        sha256: String,
    },
    /// Nothing, and trying again would end the same.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What is known of a module besides its bytes. The file's own time is when it was last used.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct About {
    /// The images it came from, as far as they were noticed.
    pub names: Vec<String>,
}

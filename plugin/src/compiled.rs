//! What a node has of a module's native code, as far as deciding needs to know.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;

use serde::{Deserialize, Serialize};

/// How thoroughly a module was compiled. Each tier is a file of its own.
#[derive(
    Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Quickly, without optimising.
    Fast,
    /// With the optimisations that earn their time.
    Optimised,
}

impl Tier {
    /// Both, the first to be made first.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Optimised];

    /// The name in files, labels and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Optimised => "optimised",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What there is of a module's native code at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiled {
    /// None yet, but it is being made.
    Coming {
        /// Whose it will be.
        build: String,
    },
    /// The module itself has left the store since it was looked at.
    Evicted,
    /// None, and none will come.
    Failed {
        /// What went wrong.
        why: String,
    },
    /// This node, or this handler, makes none.
    Off {
        /// Why not.
        why: String,
    },
    /// There is some.
    Ready {
        /// Its size in bytes.
        bytes: u64,
        /// Whose it is: compiler, engine and CPU, as in the files' names.
        build: String,
        /// The best there is.
        tier: Tier,
    },
}

/// What a container runs, as known when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runs {
    /// The module's own instructions, one by one.
    Interpreted,
    /// Native code of this tier.
    Native(Tier),
    /// Native code if that comes in time, and else the module's own instructions.
    Waiting,
}

impl Runs {
    /// The name in annotations, labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interpreted => "interpreted",
            Self::Native(tier) => tier.as_str(),
            Self::Waiting => "waiting",
        }
    }
}

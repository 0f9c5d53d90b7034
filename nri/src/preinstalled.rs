//! Plugins that the runtime starts itself.
use crate::identity::{Identity, IdentityError};

/// How the runtime has started this process.
#[derive(Debug)]
pub struct Preinstalled {
    pub(crate) identity: Identity,
}

/// Why the environment of a pre-installed plugin makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum PreinstalledError {
    /// The name or the index is no good.
    #[error("cannot use NRI_PLUGIN_NAME and NRI_PLUGIN_IDX")]
    Identity(#[from] IdentityError),
}

impl Preinstalled {
    /// What the runtime has left in the environment, or `None` if it has not started this process.
    pub fn from_env() -> Result<Option<Self>, PreinstalledError> {
        Ok(None)
    }

    /// The name and index the runtime gave this plugin.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

//! Asking the runtime for changes.
use crate::api::{ContainerEviction, ContainerUpdate};

/// A handle on the runtime, good across reconnections and cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {}

/// Why an unsolicited update did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// There is no connection at the moment.
    #[error("not connected to a runtime")]
    Disconnected,
}

impl Runtime {
    /// Asks for changes to containers, and for others to be stopped. Returns the updates that failed.
    pub async fn update_containers(
        &self,
        _updates: Vec<ContainerUpdate>,
        _evictions: Vec<ContainerEviction>,
    ) -> Result<Vec<ContainerUpdate>, UpdateError> {
        std::future::ready(Err(UpdateError::Disconnected)).await
    }

    /// Whether the plugin is registered, configured and synchronized right now.
    pub fn is_connected(&self) -> bool {
        false
    }
}

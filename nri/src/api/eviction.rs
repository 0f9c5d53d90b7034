//! Evictions.

use super::ContainerEviction;

impl ContainerEviction {
    /// Stops the container with this id, telling people why.
    #[must_use]
    pub fn new(container_id: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            container_id: container_id.into(),
            reason: reason.into(),
        }
    }
}

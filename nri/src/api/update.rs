//! Updates of existing containers.

use super::{ContainerUpdate, LinuxResources};

impl ContainerUpdate {
    /// An update of the container with this id that changes nothing yet.
    #[must_use]
    pub fn new(container_id: impl Into<String>) -> Self {
        Self {
            container_id: container_id.into(),
            ..Self::default()
        }
    }

    /// Sets resources; what is absent in `resources` stays as it is.
    ///
    /// ```
    /// use nri::api::{ContainerUpdate, LinuxResources};
    ///
    /// let update = ContainerUpdate::new("3f9c").resources(LinuxResources::new().cpu_shares(512));
    /// # assert!(update.linux.unwrap().resources.unwrap().cpu.is_some());
    /// ```
    #[must_use]
    pub fn resources(mut self, resources: LinuxResources) -> Self {
        self.linux.get_or_insert_default().resources = Some(resources);
        self
    }

    /// Lets the operation that caused this update go on even if the update fails.
    #[must_use]
    pub fn ignore_failure(mut self) -> Self {
        self.ignore_failure = true;
        self
    }
}

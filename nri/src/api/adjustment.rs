//! Adjustments of a container that is being created.
//!
//! For each thing that has a key there are three verbs: add (the name alone), `remove_…` and
//! `replace_…`. Adding fails the creation if another plugin has set the same key before; replacing
//! never does.

use super::{
    CdiDevice, ContainerAdjustment, Hooks, KeyValue, LinuxContainerAdjustment, LinuxDevice, LinuxIoPriority,
    LinuxMemoryPolicy, LinuxNamespace, LinuxNetDevice, LinuxRdt, LinuxResources, LinuxScheduler,
    LinuxSeccomp, Mount, PosixRlimit, removal,
};

/// ```
/// use nri::api::{Adjustment, LinuxResources, Mount};
///
/// let adjustment = Adjustment::new()
///     .mount(Mount::bind("/opt/engine", "/.engine").read_only())
///     .replace_env("MODE", "fast")
///     .replace_env("LD_PRELOAD", "")
///     .annotation("example.com/seen", "yes")
///     .resources(LinuxResources::new().memory_limit(50 << 20));
/// assert_eq!(adjustment.env.len(), 4);
/// ```
impl ContainerAdjustment {
    /// Changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Removes an annotation.
    ///
    /// There is no call that removes and sets the same key: the runtime keeps both in a map, goes through it in random order
    /// (NRI up to 0.12, `runtime-tools/generate`), and so drops the new value now and then.
    #[must_use]
    pub fn remove_annotation(self, key: &str) -> Self {
        self.annotation(removal(key), "")
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Adds a mount in place of what is mounted at its destination.
    #[must_use]
    pub fn replace_mount(self, mount: Mount) -> Self {
        self.remove_mount(&mount.destination).mount(mount)
    }

    /// Removes the mount at `destination`. Before NRI 0.7 only one that another plugin has added.
    #[must_use]
    pub fn remove_mount(self, destination: &str) -> Self {
        self.mount(Mount {
            destination: removal(destination),
            ..Mount::default()
        })
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push(KeyValue {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Sets an environment variable, whoever has set it before.
    ///
    /// Prefer this to [`ContainerAdjustment::env`] for a variable that the image or the pod may have:
    /// containerd 2.3.0 ignores a plain setting of one that exists.
    #[must_use]
    pub fn replace_env(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        self.remove_env(&key).env(key, value)
    }

    /// Takes back an environment variable that another plugin has set.
    ///
    /// Up to NRI 0.12 a runtime is not told to remove a variable that the image or the pod has: set it
    /// to an empty value with [`ContainerAdjustment::replace_env`] instead.
    #[must_use]
    pub fn remove_env(self, key: &str) -> Self {
        self.env(removal(key), "")
    }

    /// Sets the command line. Needs NRI 0.10; older runtimes ignore it.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the command line, whoever has set it before. Needs NRI 0.10; older runtimes ignore it.
    #[must_use]
    pub fn replace_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = vec![String::new()];
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds OCI hooks.
    #[must_use]
    pub fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks.get_or_insert_default().append(hooks);
        self
    }

    /// Sets a process limit.
    #[must_use]
    pub fn rlimit(mut self, limit: PosixRlimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// Injects a CDI device. Needs NRI 0.7.
    #[must_use]
    pub fn cdi_device(mut self, name: impl Into<String>) -> Self {
        self.cdi_devices.push(CdiDevice::new(name));
        self
    }

    /// Adds a device.
    #[must_use]
    pub fn device(mut self, device: LinuxDevice) -> Self {
        self.linux_mut().devices.push(device);
        self
    }

    /// Adds a device in place of the one at its path.
    #[must_use]
    pub fn replace_device(self, device: LinuxDevice) -> Self {
        self.remove_device(&device.path).device(device)
    }

    /// Takes back a device that another plugin has added. Up to NRI 0.12 a runtime is not told to remove
    /// a device that the container has anyway.
    #[must_use]
    pub fn remove_device(self, path: &str) -> Self {
        self.device(LinuxDevice {
            path: removal(path),
            ..LinuxDevice::default()
        })
    }

    /// Moves the network device `host_name` into the container. Needs NRI 0.11.
    #[must_use]
    pub fn net_device(mut self, host_name: impl Into<String>, device: LinuxNetDevice) -> Self {
        self.linux_mut().net_devices.insert(host_name.into(), device);
        self
    }

    /// Moves a network device, whoever has moved it before. Needs NRI 0.11.
    #[must_use]
    pub fn replace_net_device(self, host_name: impl Into<String>, device: LinuxNetDevice) -> Self {
        let host_name = host_name.into();
        self.remove_net_device(&host_name).net_device(host_name, device)
    }

    /// Leaves a network device on the host. Needs NRI 0.11.
    #[must_use]
    pub fn remove_net_device(self, host_name: &str) -> Self {
        self.net_device(removal(host_name), LinuxNetDevice::default())
    }

    /// Adds a namespace, or replaces the one of its type. Needs NRI 0.10.
    #[must_use]
    pub fn namespace(mut self, namespace: LinuxNamespace) -> Self {
        self.linux_mut().namespaces.push(namespace);
        self
    }

    /// Removes the namespace of type `kind`: the container shares the host's. Needs NRI 0.10.
    #[must_use]
    pub fn remove_namespace(self, kind: &str) -> Self {
        self.namespace(LinuxNamespace::new(removal(kind), ""))
    }

    /// Sets a kernel parameter. Needs NRI 0.11.
    #[must_use]
    pub fn sysctl(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.linux_mut().sysctl.insert(key.into(), value.into());
        self
    }

    /// Sets a kernel parameter, whoever has set it before. Needs NRI 0.11.
    #[must_use]
    pub fn replace_sysctl(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        self.remove_sysctl(&key).sysctl(key, value)
    }

    /// Removes the setting of a kernel parameter. Needs NRI 0.11.
    #[must_use]
    pub fn remove_sysctl(self, key: &str) -> Self {
        self.sysctl(removal(key), "")
    }

    /// Sets resources; what is absent in `resources` stays as it is.
    #[must_use]
    pub fn resources(mut self, resources: LinuxResources) -> Self {
        self.linux_mut().resources = Some(resources);
        self
    }

    /// Sets the cgroup.
    #[must_use]
    pub fn cgroups_path(mut self, path: impl Into<String>) -> Self {
        self.linux_mut().cgroups_path = path.into();
        self
    }

    /// Sets the OOM score adjustment, -1000 to 1000. Needs NRI 0.7.
    #[must_use]
    pub fn oom_score_adj(mut self, value: i64) -> Self {
        self.linux_mut().oom_score_adj = Some(value.into());
        self
    }

    /// Sets the I/O priority. Needs NRI 0.10.
    #[must_use]
    pub fn io_priority(mut self, priority: LinuxIoPriority) -> Self {
        self.linux_mut().io_priority = Some(priority);
        self
    }

    /// Sets the seccomp policy. Needs NRI 0.10.
    #[must_use]
    pub fn seccomp_policy(mut self, policy: LinuxSeccomp) -> Self {
        self.linux_mut().seccomp_policy = Some(policy);
        self
    }

    /// Sets scheduling attributes. Needs NRI 0.11.
    #[must_use]
    pub fn scheduler(mut self, scheduler: LinuxScheduler) -> Self {
        self.linux_mut().scheduler = Some(scheduler);
        self
    }

    /// Sets resource director technology. Needs NRI 0.11.
    #[must_use]
    pub fn rdt(mut self, rdt: LinuxRdt) -> Self {
        self.linux_mut().rdt = Some(rdt);
        self
    }

    /// Sets resource director technology, whoever has set it before. Needs NRI 0.11.
    #[must_use]
    pub fn replace_rdt(self, rdt: LinuxRdt) -> Self {
        self.rdt(LinuxRdt { remove: true, ..rdt })
    }

    /// Drops what is set of resource director technology. Needs NRI 0.11.
    #[must_use]
    pub fn remove_rdt(self) -> Self {
        self.replace_rdt(LinuxRdt::new())
    }

    /// Sets the memory policy. Needs NRI 0.12.
    #[must_use]
    pub fn memory_policy(mut self, policy: LinuxMemoryPolicy) -> Self {
        self.linux_mut().memory_policy = Some(policy);
        self
    }

    fn linux_mut(&mut self) -> &mut LinuxContainerAdjustment {
        self.linux.get_or_insert_default()
    }
}

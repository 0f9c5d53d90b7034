//! Resources: memory, CPU, processes, huge pages and classes.

use super::{HugepageLimit, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources};

/// Setters for a part of the resources: `name(type) -> path`.
macro_rules! setters {
    ($part:ident: $($(#[$doc:meta])* $name:ident($field:ident: $type:ty);)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, value: $type) -> Self {
            self.$part().$field = Some(value.into());
            self
        }
    )*};
}

/// What is not set stays as it is. Sizes are bytes, times are microseconds.
///
/// ```
/// use nri::api::LinuxResources;
///
/// let resources = LinuxResources::new().memory_limit(50 << 20).cpu_quota(20_000).cpu_period(100_000);
/// assert_eq!(resources.memory.unwrap().limit, Some((50 << 20).into()));
/// ```
impl LinuxResources {
    /// Nothing set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! { memory_mut:
        /// Sets the hard limit of memory.
        memory_limit(limit: i64);
        /// Sets the soft limit of memory.
        memory_reservation(reservation: i64);
        /// Sets the limit of memory and swap together.
        memory_swap(swap: i64);
        /// Sets the limit of kernel memory.
        memory_kernel(kernel: i64);
        /// Sets the limit of kernel memory for TCP buffers.
        memory_kernel_tcp(kernel_tcp: i64);
        /// Sets the swappiness, 0 to 100.
        memory_swappiness(swappiness: u64);
        /// Sets whether a container over its limit is suspended instead of killed.
        memory_disable_oom_killer(disable_oom_killer: bool);
        /// Sets whether limits hold for descendants too.
        memory_use_hierarchy(use_hierarchy: bool);
    }

    setters! { cpu_mut:
        /// Sets the relative weight.
        cpu_shares(shares: u64);
        /// Sets the CPU time per period.
        cpu_quota(quota: i64);
        /// Sets the period.
        cpu_period(period: u64);
        /// Sets the time of realtime scheduling per realtime period.
        cpu_realtime_runtime(realtime_runtime: i64);
        /// Sets the realtime period.
        cpu_realtime_period(realtime_period: u64);
    }

    /// Sets the CPUs allowed, as a list such as `0-3,8`.
    #[must_use]
    pub fn cpuset_cpus(mut self, list: impl Into<String>) -> Self {
        self.cpu_mut().cpus = list.into();
        self
    }

    /// Sets the memory nodes allowed, as a list.
    #[must_use]
    pub fn cpuset_mems(mut self, list: impl Into<String>) -> Self {
        self.cpu_mut().mems = list.into();
        self
    }

    /// Sets how many processes there may be; -1 lifts the limit.
    #[must_use]
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.pids = Some(LinuxPids { limit });
        self
    }

    /// Limits huge pages of a size such as `2MB`.
    #[must_use]
    pub fn hugepage_limit(mut self, page_size: impl Into<String>, limit: u64) -> Self {
        self.hugepage_limits.push(HugepageLimit {
            page_size: page_size.into(),
            limit,
        });
        self
    }

    /// Sets the block I/O class.
    #[must_use]
    pub fn blockio_class(mut self, name: impl Into<String>) -> Self {
        self.blockio_class = Some(name.into().into());
        self
    }

    /// Sets the RDT class.
    #[must_use]
    pub fn rdt_class(mut self, name: impl Into<String>) -> Self {
        self.rdt_class = Some(name.into().into());
        self
    }

    /// Writes `value` into the cgroup v2 file `key`.
    #[must_use]
    pub fn unified(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.unified.insert(key.into(), value.into());
        self
    }

    /// Adds a rule of the device cgroup.
    #[must_use]
    pub fn device_rule(mut self, rule: LinuxDeviceCgroup) -> Self {
        self.devices.push(rule);
        self
    }

    fn memory_mut(&mut self) -> &mut LinuxMemory {
        self.memory.get_or_insert_default()
    }

    fn cpu_mut(&mut self) -> &mut LinuxCpu {
        self.cpu.get_or_insert_default()
    }
}

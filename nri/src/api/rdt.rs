//! Resource director technology, I/O priority, scheduling and memory policy.

use super::{
    IoPrioClass, LinuxIoPriority, LinuxMemoryPolicy, LinuxRdt, LinuxScheduler, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MpolFlag, MpolMode,
};

impl LinuxRdt {
    /// Nothing set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the class of service.
    #[must_use]
    pub fn clos_id(mut self, id: impl Into<String>) -> Self {
        self.clos_id = Some(id.into().into());
        self
    }

    /// Sets the lines of the schemata file.
    #[must_use]
    pub fn schemata<S: Into<String>>(mut self, lines: impl IntoIterator<Item = S>) -> Self {
        self.schemata = Some(lines.into_iter().map(Into::into).collect::<Vec<_>>().into());
        self
    }

    /// Sets whether to create a monitoring group.
    #[must_use]
    pub fn monitoring(mut self, enabled: bool) -> Self {
        self.enable_monitoring = Some(enabled.into());
        self
    }
}

impl LinuxIoPriority {
    /// A priority from 0 (highest) to 7 within a class.
    #[must_use]
    pub fn new(class: IoPrioClass, priority: i32) -> Self {
        Self {
            class: class.into(),
            priority,
        }
    }
}

impl LinuxScheduler {
    /// A policy with all attributes at 0.
    #[must_use]
    pub fn new(policy: LinuxSchedulerPolicy) -> Self {
        Self {
            policy: policy.into(),
            ..Self::default()
        }
    }

    /// Sets the niceness.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = nice;
        self
    }

    /// Sets the static priority.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: LinuxSchedulerFlag) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Sets what `SCHED_DEADLINE` needs, in nanoseconds.
    #[must_use]
    pub fn deadline(mut self, runtime: u64, deadline: u64, period: u64) -> Self {
        (self.runtime, self.deadline, self.period) = (runtime, deadline, period);
        self
    }
}

impl LinuxMemoryPolicy {
    /// A policy over nodes written as a list such as `0-1`.
    #[must_use]
    pub fn new(mode: MpolMode, nodes: impl Into<String>) -> Self {
        Self {
            mode: mode.into(),
            nodes: nodes.into(),
            flags: Vec::new(),
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: MpolFlag) -> Self {
        self.flags.push(flag.into());
        self
    }
}

//! Seccomp policies.

use super::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

impl LinuxSeccomp {
    /// A policy that does `default_action` (for instance `SCMP_ACT_ERRNO`) to every system call.
    #[must_use]
    pub fn new(default_action: impl Into<String>) -> Self {
        Self {
            default_action: default_action.into(),
            ..Self::default()
        }
    }

    /// Sets the error that the default action returns.
    #[must_use]
    pub fn default_errno(mut self, errno: u32) -> Self {
        self.default_errno = Some(errno.into());
        self
    }

    /// Adds an architecture, for instance `SCMP_ARCH_X86_64`.
    #[must_use]
    pub fn architecture(mut self, name: impl Into<String>) -> Self {
        self.architectures.push(name.into());
        self
    }

    /// Adds a flag, for instance `SECCOMP_FILTER_FLAG_LOG`.
    #[must_use]
    pub fn flag(mut self, name: impl Into<String>) -> Self {
        self.flags.push(name.into());
        self
    }

    /// Sets the socket of an agent that is notified, and what it is told.
    #[must_use]
    pub fn listener(mut self, path: impl Into<String>, metadata: impl Into<String>) -> Self {
        self.listener_path = path.into();
        self.listener_metadata = metadata.into();
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, rule: LinuxSyscall) -> Self {
        self.syscalls.push(rule);
        self
    }
}

impl LinuxSyscall {
    /// Does `action` to these system calls.
    #[must_use]
    pub fn new<S: Into<String>>(action: impl Into<String>, names: impl IntoIterator<Item = S>) -> Self {
        Self {
            names: names.into_iter().map(Into::into).collect(),
            action: action.into(),
            ..Self::default()
        }
    }

    /// Sets the error returned.
    #[must_use]
    pub fn errno(mut self, errno: u32) -> Self {
        self.errno_ret = Some(errno.into());
        self
    }

    /// Adds a condition: argument `index` compared by `op` (for instance `SCMP_CMP_EQ`) with `value`.
    #[must_use]
    pub fn when(mut self, index: u32, op: impl Into<String>, value: u64) -> Self {
        self.args.push(LinuxSeccompArg {
            index,
            value,
            value_two: 0,
            op: op.into(),
        });
        self
    }

    /// Adds a masked condition: argument `index` and `mask` together must be `value`.
    #[must_use]
    pub fn when_masked(mut self, index: u32, mask: u64, value: u64) -> Self {
        let op = "SCMP_CMP_MASKED_EQ".to_owned();
        self.args.push(LinuxSeccompArg {
            index,
            value: mask,
            value_two: value,
            op,
        });
        self
    }
}

//! Mounts, devices, network devices and namespaces: what an adjustment brings into a container.

use super::{CdiDevice, LinuxDevice, LinuxNamespace, LinuxNetDevice, Mount, PosixRlimit};

impl Mount {
    /// A recursive bind mount of `source` on the host at `destination` in the container.
    ///
    /// ```
    /// let mount = nri::api::Mount::bind("/opt/engine", "/.engine").read_only();
    /// assert_eq!(mount.options, ["rbind", "ro"]);
    /// ```
    #[must_use]
    pub fn bind(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self::new("bind", source, destination).option("rbind")
    }

    /// An empty in-memory file system at `destination`.
    #[must_use]
    pub fn tmpfs(destination: impl Into<String>) -> Self {
        Self::new("tmpfs", "tmpfs", destination)
    }

    /// A mount of any type, without options.
    #[must_use]
    pub fn new(kind: impl Into<String>, source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            destination: destination.into(),
            r#type: kind.into(),
            source: source.into(),
            options: Vec::new(),
        }
    }

    /// Adds `ro`.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.option("ro")
    }

    /// Adds an option.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }
}

impl LinuxDevice {
    /// A character device.
    #[must_use]
    pub fn character(path: impl Into<String>, major: i64, minor: i64) -> Self {
        Self {
            path: path.into(),
            r#type: "c".to_owned(),
            major,
            minor,
            ..Self::default()
        }
    }

    /// A block device.
    #[must_use]
    pub fn block(path: impl Into<String>, major: i64, minor: i64) -> Self {
        Self {
            path: path.into(),
            r#type: "b".to_owned(),
            major,
            minor,
            ..Self::default()
        }
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Self {
        self.file_mode = Some(bits.into());
        self
    }

    /// Sets the owner.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = Some(uid.into());
        self.gid = Some(gid.into());
        self
    }
}

impl CdiDevice {
    /// The device with a qualified name such as `vendor.com/class=name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

impl LinuxNetDevice {
    /// The name a network device is to have inside the container.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

impl LinuxNamespace {
    /// The namespace of type `kind` (`network`, `ipc`, …) at `path`; an empty path means a new one.
    #[must_use]
    pub fn new(kind: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            r#type: kind.into(),
            path: path.into(),
        }
    }
}

impl PosixRlimit {
    /// A limit such as `RLIMIT_NOFILE`.
    #[must_use]
    pub fn new(kind: impl Into<String>, soft: u64, hard: u64) -> Self {
        Self {
            r#type: kind.into(),
            hard,
            soft,
        }
    }
}

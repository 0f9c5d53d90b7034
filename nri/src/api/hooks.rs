//! OCI hooks.

use super::{Hook, Hooks};

impl Hook {
    /// A hook that runs the program at `path`, an absolute path on the host, under that name.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        Self {
            args: vec![path.clone()],
            path,
            ..Self::default()
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a variable to the hook's environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push(format!("{key}={value}"));
        self
    }

    /// Limits how long the hook may take.
    #[must_use]
    pub fn timeout_seconds(mut self, seconds: i64) -> Self {
        self.timeout = Some(seconds.into());
        self
    }
}

impl Hooks {
    /// No hooks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a `prestart` hook. OCI prefers [`Hooks::create_runtime`].
    #[must_use]
    pub fn prestart(mut self, hook: Hook) -> Self {
        self.prestart.push(hook);
        self
    }

    /// Adds a `createRuntime` hook.
    #[must_use]
    pub fn create_runtime(mut self, hook: Hook) -> Self {
        self.create_runtime.push(hook);
        self
    }

    /// Adds a `createContainer` hook.
    #[must_use]
    pub fn create_container(mut self, hook: Hook) -> Self {
        self.create_container.push(hook);
        self
    }

    /// Adds a `startContainer` hook.
    #[must_use]
    pub fn start_container(mut self, hook: Hook) -> Self {
        self.start_container.push(hook);
        self
    }

    /// Adds a `poststart` hook.
    #[must_use]
    pub fn poststart(mut self, hook: Hook) -> Self {
        self.poststart.push(hook);
        self
    }

    /// Adds a `poststop` hook.
    #[must_use]
    pub fn poststop(mut self, hook: Hook) -> Self {
        self.poststop.push(hook);
        self
    }

    pub(super) fn append(&mut self, other: Self) {
        self.prestart.extend(other.prestart);
        self.create_runtime.extend(other.create_runtime);
        self.create_container.extend(other.create_container);
        self.start_container.extend(other.start_container);
        self.poststart.extend(other.poststart);
        self.poststop.extend(other.poststop);
    }
}

//! What a handler knows about the call it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::dispatch;

/// Who is at the other end: known once the runtime has configured the plugin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RuntimeInfo {
    /// For example `containerd` or `cri-o`.
    pub name: String,
    /// For example `v2.1.9`.
    pub version: String,
    /// The protocol version, empty where the runtime is too old to say (before 0.12).
    pub nri_version: String,
}

/// One call of the runtime.
#[derive(Clone, Debug)]
pub struct Call {
    method: &'static str,
    arrival: Instant,
    deadline: Instant,
    runtime: Arc<RuntimeInfo>,
}

impl Call {
    /// A call of `method` to be answered by `deadline`. Public so that a handler can be tested alone.
    pub fn new(method: &'static str, deadline: Instant, runtime: Arc<RuntimeInfo>) -> Self {
        Self {
            method,
            arrival: Instant::now(),
            deadline,
            runtime,
        }
    }

    /// A call that another process has handed on, which arrived there at `arrival`; `None` if no handler is for it.
    pub fn handed_on(
        method: &str,
        arrival: Instant,
        deadline: Instant,
        runtime: Arc<RuntimeInfo>,
    ) -> Option<Self> {
        Some(Self {
            method: dispatch::handled(method)?,
            arrival,
            deadline,
            runtime,
        })
    }

    /// The same call by the name of the event that it is about: before NRI 0.12, most share one method.
    pub(crate) fn named(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    /// When the call came in.
    pub fn arrival(&self) -> Instant {
        self.arrival
    }

    /// When the answer has to be ready.
    ///
    /// A little before the runtime gives up, so that there is time to bring the answer across. A
    /// handler that is still busy then is stopped, and the runtime is told that it was too slow: a
    /// plugin that stays silent would be dropped, and a container created without it.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time left until the deadline, zero after it.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The name of the method or event, for example `CreateContainer`.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// The runtime that calls.
    pub fn runtime(&self) -> &RuntimeInfo {
        &self.runtime
    }
}

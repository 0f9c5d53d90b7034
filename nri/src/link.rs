//! What a connection has to do with the plugin: its handlers, its hooks, and the handles it gave out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tracing::info;

use crate::call::RuntimeInfo;
use crate::plugin::Plugin;
use crate::runtime::Runtime;
use crate::session::SessionError;
use crate::ttrpc::Client;

/// One connection's way to the plugin.
#[derive(Debug)]
pub(crate) struct Link<P> {
    plugin: Arc<P>,
    runtime: Runtime,
    handlers: Handle,
    is_up: AtomicBool,
}

impl<P: Plugin> Link<P> {
    pub(crate) fn new(plugin: Arc<P>, runtime: Runtime, handlers: Handle) -> Self {
        Self {
            plugin,
            runtime,
            handlers,
            is_up: AtomicBool::new(false),
        }
    }

    pub(crate) fn plugin(&self) -> Arc<P> {
        self.plugin.clone()
    }

    /// Where handlers run.
    pub(crate) fn handlers(&self) -> &Handle {
        &self.handlers
    }

    /// Whether the plugin is in service.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// The plugin is in service.
    pub(crate) fn up(&self, client: Client, info: &RuntimeInfo) {
        if self.is_up.swap(true, Ordering::AcqRel) {
            return;
        }
        info!(runtime = info.name, "in service");
        self.runtime.connect(client);
        let _hooks_may_spawn = self.handlers.enter();
        self.plugin.connected(info);
    }

    /// The connection has ended.
    pub(crate) fn down(&self, error: &SessionError) {
        if self.is_up.swap(false, Ordering::AcqRel) {
            self.runtime.disconnect();
            let _hooks_may_spawn = self.handlers.enter();
            self.plugin.disconnected(error);
        }
    }
}

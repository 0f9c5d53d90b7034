//! A plugin that does nothing: what any plugin costs that has the same events.

use anyhow::Result;
use nri::api::{Container, ContainerUpdate, PodSandbox};
use nri::{Call, Creation, Identity, PluginError, Runner};
use podwasm_integration::node::Node;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use tokio::sync::{mpsc, oneshot};

/// Registered until it is dropped, with a thread of its own.
#[derive(Debug)]
pub struct Idle {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Says once that it is registered.
struct Nothing(Mutex<Option<mpsc::Sender<()>>>);

#[nri::plugin]
impl nri::Plugin for Nothing {
    async fn synchronize(
        &self,
        _call: Call,
        _pods: Vec<PodSandbox>,
        _containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        self.0.lock().expect("nothing panics with it").take();
        Ok(Vec::new())
    }

    async fn run_pod_sandbox(&self, _call: Call, _pod: PodSandbox) -> Result<(), PluginError> {
        Ok(())
    }

    async fn remove_pod_sandbox(&self, _call: Call, _pod: PodSandbox) -> Result<(), PluginError> {
        Ok(())
    }

    async fn create_container(
        &self,
        _call: Call,
        _pod: PodSandbox,
        _container: Container,
    ) -> Result<Creation, PluginError> {
        Ok(Creation::default())
    }
}

impl Idle {
    pub async fn on(node: &Node) -> Result<Self> {
        let (registered, mut wait) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let plugin = Nothing(Mutex::new(Some(registered)));
        let identity = Identity::new("idle", "10")?;
        let runner = Runner::external(plugin, identity).socket(node.path("/run/nri/nri.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            let until = async { _ = ended.await };
            if let Err(error) = runtime.block_on(runner.run(until)) {
                eprintln!("the idle plugin ended: {error}");
            }
        };
        let thread = thread::Builder::new().name("idle".to_owned()).spawn(run)?;
        let this = Self {
            end: Some(end),
            thread: Some(thread),
        };
        wait.recv().await; // which ends when the other side is dropped
        Ok(this)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join); // it has said why, if it panicked
    }
}

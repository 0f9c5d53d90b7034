//! Hears of pods as an NRI plugin that changes nothing and answers at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nri::api::{Container, ContainerUpdate, PodSandbox};
use nri::{Call, Plugin, PluginError, RuntimeInfo, SessionError};
use tracing::{info, warn};

use crate::capture::Capture;
use crate::counts::Table;
use crate::pods::{Pods, Step};

/// The plugin.
#[derive(Debug)]
pub struct Observer {
    capture: Capture,
    pods: Mutex<Pods>,
    table: Arc<Table>,
}

impl Observer {
    /// A plugin that has pods counted.
    pub fn new(capture: Capture, table: Arc<Table>) -> Self {
        Self {
            capture,
            pods: Mutex::default(),
            table,
        }
    }

    /// Changes what is known of pods, and does what follows from it.
    fn learn<I: IntoIterator<Item = Step>>(&self, change: impl FnOnce(&mut Pods) -> I) {
        // Held until all is done, so that it is done in order; nothing here waits.
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        for step in change(&mut pods) {
            self.take(step);
        }
    }

    fn take(&self, step: Step) {
        match step {
            Step::Count {
                sandbox,
                namespace,
                identity,
            } => {
                let pod = self.table.start(identity);
                if let Some(path) = namespace {
                    return self.capture.attach(&sandbox, &path, pod);
                }
                let (namespace, pod) = (&pod.identity().namespace, &pod.identity().name);
                warn!(
                    namespace,
                    pod, "this pod's requests are not counted: it is in the host's network"
                );
            }
            Step::End { sandbox, uid } => {
                self.capture.detach(&sandbox);
                if let Some(uid) = uid {
                    self.table.end(&uid, Instant::now());
                }
            }
            Step::Warn { pod, reason } => warn!(pod, reason, "an annotation is not followed"),
        }
    }
}

#[nri::plugin]
impl Plugin for Observer {
    async fn synchronize(
        &self,
        _call: Call,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        self.learn(|known| known.synchronize(pods, &containers));
        self.table.set_synchronized(true);
        Ok(Vec::new())
    }

    fn connected(&self, runtime: &RuntimeInfo) {
        info!(
            runtime = runtime.name,
            version = runtime.version,
            "registered with NRI"
        );
    }

    fn disconnected(&self, reason: &SessionError) {
        warn!(%reason, "no longer registered with NRI; pods that are known are counted on");
    }

    async fn run_pod_sandbox(&self, _call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.learn(|known| known.run(pod));
        Ok(())
    }

    async fn post_create_container(
        &self,
        _call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        self.learn(|known| known.container(&pod.id, &container));
        Ok(())
    }

    async fn stop_pod_sandbox(&self, _call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.learn(|known| known.end(&pod.id));
        Ok(())
    }

    async fn remove_pod_sandbox(&self, _call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.learn(|known| known.end(&pod.id));
        Ok(())
    }
}

//! The plugins that the tests run, and how they run them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use nri::api::{
    Container, ContainerEviction, ContainerUpdate, LinuxResources, Mount, PodSandbox,
    ValidateContainerAdjustmentRequest,
};
use nri::testing::{FakeRuntime, Manners};
use nri::{
    Call, Configuration, Creation, Identity, Plugin, PluginError, RunError, Runner, Runtime, RuntimeInfo,
    SessionError, Updates, Verdict,
};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A plugin in service, the runtime it serves, and what it does.
pub struct Running {
    pub fake: FakeRuntime,
    pub runtime: Runtime,
    pub log: Log,
    stop: Option<oneshot::Sender<()>>,
    job: JoinHandle<Result<(), RunError>>,
    _dir: TempDir,
}

/// Lines that a [`Recorder`] has written.
pub struct Log(Mutex<mpsc::UnboundedReceiver<String>>);

impl Log {
    pub async fn next(&self) -> String {
        in_time(async { self.0.lock().await.recv().await })
            .await
            .expect("the plugin is gone")
    }
}

/// Runs a recorder against a fake runtime.
pub fn run() -> Running {
    run_with(|fake| fake)
}

pub fn run_with(set_up: impl FnOnce(FakeRuntime) -> FakeRuntime) -> Running {
    run_on(&Handle::current(), set_up)
}

/// Runs the recorder in a tokio runtime of its own.
pub fn run_on(handlers: &Handle, set_up: impl FnOnce(FakeRuntime) -> FakeRuntime) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let fake = set_up(FakeRuntime::listen(dir.path().join("nri.sock")).unwrap());
    let (sender, receiver) = mpsc::unbounded_channel();
    let runner = Runner::external(Recorder { log: sender }, identity()).socket(fake.path());
    let (stop, stopped) = oneshot::channel();
    let runtime = runner.runtime();
    let job = handlers.spawn(runner.run(async { stopped.await.unwrap_or_default() }));
    Running {
        fake,
        runtime,
        log: Log(Mutex::new(receiver)),
        stop: Some(stop),
        job,
        _dir: dir,
    }
}

pub fn identity() -> Identity {
    Identity::new("recorder", "42").unwrap()
}

impl Running {
    /// Asks the plugin to stop, and waits until it has.
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.ask_to_stop();
        in_time(self.job).await.unwrap()
    }

    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("nothing happened for 10 s")
}

pub const ALL_MANNERS: [Manners; 3] = [Manners::Crumbs, Manners::Drip, Manners::Runtime];

pub fn pod(name: &str) -> PodSandbox {
    PodSandbox {
        id: format!("{name}-id"),
        name: name.to_owned(),
        ..PodSandbox::default()
    }
}

pub fn container(name: &str) -> Container {
    Container {
        id: format!("{name}-id"),
        name: name.to_owned(),
        ..Container::default()
    }
}

/// Writes a line for everything it hears, and does what containers' names say.
pub struct Recorder {
    pub log: mpsc::UnboundedSender<String>,
}

impl Recorder {
    fn record(&self, line: impl Into<String>) {
        // A test that has seen enough does not listen.
        let _ = self.log.send(line.into());
    }

    fn event(&self, call: &Call, name: &str, pod: &PodSandbox, container: Option<&Container>) {
        let container = container.map_or("", |container| &container.name);
        self.record(format!("{name} {} {} {container}", call.method(), pod.name));
    }
}

#[nri::plugin]
impl Plugin for Recorder {
    async fn configure(&self, call: Call, configuration: Configuration) -> Result<(), PluginError> {
        if configuration.config == "nonsense" {
            return Err(PluginError::new("the configuration is nonsense"));
        }
        self.record(format!(
            "configure {} {}",
            call.runtime().name,
            configuration.request_timeout.as_millis()
        ));
        Ok(())
    }

    async fn synchronize(
        &self,
        _call: Call,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        self.record(format!("synchronize {} {}", pods.len(), containers.len()));
        Ok(containers
            .into_iter()
            .map(|container| ContainerUpdate::new(container.id))
            .collect())
    }

    async fn shutdown(&self, _call: Call) {
        self.record("shutdown");
    }

    fn connected(&self, runtime: &RuntimeInfo) {
        self.record(format!("connected {}", runtime.name));
    }

    fn disconnected(&self, reason: &SessionError) {
        self.record(format!("disconnected {reason}"));
    }

    async fn run_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.event(&call, "run_pod_sandbox", &pod, None);
        Ok(())
    }

    async fn update_pod_sandbox(
        &self,
        call: Call,
        pod: PodSandbox,
        _overhead: LinuxResources,
        _resources: LinuxResources,
    ) -> Result<(), PluginError> {
        self.event(&call, "update_pod_sandbox", &pod, None);
        Ok(())
    }

    async fn post_update_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.event(&call, "post_update_pod_sandbox", &pod, None);
        Ok(())
    }

    async fn stop_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.event(&call, "stop_pod_sandbox", &pod, None);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.event(&call, "remove_pod_sandbox", &pod, None);
        Ok(())
    }

    async fn create_container(
        &self,
        call: Call,
        _pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, PluginError> {
        self.record(format!("create_container {}", container.name));
        match container.name.as_str() {
            "fail" => return Err(PluginError::new("no such module: /app.wasm")),
            "panic" => panic!("a bug"),
            "never" => std::future::pending().await,
            "block" => std::thread::sleep(Duration::from_secs(2)),
            "slow" => tokio::time::sleep(Duration::from_millis(300)).await,
            "huge" => {
                return Ok(nri::api::Adjustment::new()
                    .env("HUGE", "x".repeat(5 << 20))
                    .into());
            }
            "remaining" => {
                let left = call.remaining().as_millis().to_string();
                return Ok(nri::api::Adjustment::new().env("LEFT", left).into());
            }
            "everything" => {
                let adjustment = nri::api::Adjustment::new().replace_mount(Mount::bind("/a", "/b"));
                return Ok(Creation::from(adjustment)
                    .update(ContainerUpdate::new("other"))
                    .evict(ContainerEviction::new("third", "in the way")));
            }
            "echo" => return Ok(nri::api::Adjustment::new().args(container.args).into()),
            _ => {}
        }
        Ok(Creation::default())
    }

    async fn post_create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        self.event(&call, "post_create_container", &pod, Some(&container));
        Ok(())
    }

    async fn start_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        self.event(&call, "start_container", &pod, Some(&container));
        Ok(())
    }

    async fn post_start_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        self.event(&call, "post_start_container", &pod, Some(&container));
        Ok(())
    }

    async fn update_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<Updates, PluginError> {
        self.event(&call, "update_container", &pod, Some(&container));
        Ok(ContainerUpdate::new(container.id).resources(resources).into())
    }

    async fn post_update_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        self.event(&call, "post_update_container", &pod, Some(&container));
        Ok(())
    }

    async fn stop_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        self.event(&call, "stop_container", &pod, Some(&container));
        Ok(vec![ContainerUpdate::new("other").ignore_failure()])
    }

    async fn remove_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        self.event(&call, "remove_container", &pod, Some(&container));
        Ok(())
    }

    async fn validate_container_adjustment(
        &self,
        _call: Call,
        request: ValidateContainerAdjustmentRequest,
    ) -> Result<Verdict, PluginError> {
        Ok(match request.adjust {
            Some(adjust) if adjust.hooks.is_some() => Verdict::Reject("no hooks here".to_owned()),
            _ => Verdict::Accept,
        })
    }
}

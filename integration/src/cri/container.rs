//! A container: made to order in a pod, and a handle on it.

use super::{Logs, PodHandle, proto, spec};
use crate::node::Node;
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, ensure};
use proto::ContainerState;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CPU_PERIOD_MICROSECONDS: i64 = 100_000;

/// A container to be.
#[derive(Debug)]
#[must_use = "nothing runs before `create` or `start`"]
pub struct ContainerBuilder<'a> {
    pod: PodHandle<'a>,
    name: String,
    config: proto::ContainerConfig,
    pull: bool,
}

impl<'a> ContainerBuilder<'a> {
    pub(super) fn new(pod: PodHandle<'a>, name: &str) -> Self {
        let labels = [("io.kubernetes.container.name", name)];
        let security = proto::LinuxContainerSecurityContext {
            namespace_options: pod.namespaces(),
            ..Default::default()
        };
        let config = proto::ContainerConfig {
            linux: Some(proto::LinuxContainerConfig {
                resources: None,
                security_context: Some(security),
            }),
            metadata: Some(proto::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            log_path: format!("{name}/0.log"),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        };
        Self {
            pod,
            name: name.to_owned(),
            config,
            pull: true,
        }
    }

    /// The image; pulled when the container is created, unless the node has it.
    pub fn image(mut self, reference: &str) -> Self {
        self.config.image = Some(spec(reference));
        self
    }

    /// Takes for granted that the node has the image; who measures a creation wants nothing beside it.
    pub fn without_pull(mut self) -> Self {
        self.pull = false;
        self
    }

    /// Replaces the image's entrypoint, and its arguments too.
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.config.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Replaces the image's arguments.
    pub fn args<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.config.args = words.into_iter().map(Into::into).collect();
        self
    }

    /// Runs a script with busybox's shell.
    pub fn shell(self, script: &str) -> Self {
        self.command(["sh", "-c", script])
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.config.envs.push(proto::KeyValue {
            key: name.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    /// Mounts a path of the node.
    pub fn mount(mut self, node_path: &str, container_path: &str, readonly: bool) -> Self {
        let (host_path, container_path) = (node_path.to_owned(), container_path.to_owned());
        self.config.mounts.push(proto::Mount {
            container_path,
            host_path,
            readonly,
            ..Default::default()
        });
        self
    }

    /// Sets the working directory.
    pub fn working_dir(mut self, path: &str) -> Self {
        path.clone_into(&mut self.config.working_dir);
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation to the container; those of the pod are set on the pod.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the memory limit in bytes.
    pub fn memory_limit(mut self, bytes: i64) -> Self {
        self.resources().memory_limit_in_bytes = bytes;
        self
    }

    /// Sets the CPU limit in thousandths of a CPU.
    pub fn cpu_limit(mut self, millis: i64) -> Self {
        self.resources().cpu_period = CPU_PERIOD_MICROSECONDS;
        self.resources().cpu_quota = millis * CPU_PERIOD_MICROSECONDS / 1000;
        self
    }

    /// Sets the user.
    pub fn user(mut self, uid: i64) -> Self {
        self.security().run_as_user = Some(proto::Int64Value { value: uid });
        self
    }

    /// Makes the root file system read-only.
    pub fn readonly_rootfs(mut self) -> Self {
        self.security().readonly_rootfs = true;
        self
    }

    /// Keeps the container from gaining privileges (`allowPrivilegeEscalation: false`).
    pub fn no_new_privs(mut self) -> Self {
        self.security().no_new_privs = true;
        self
    }

    /// Takes capabilities away, `ALL` for all of them.
    pub fn drop_capabilities(mut self, names: &[&str]) -> Self {
        self.security()
            .capabilities
            .get_or_insert_default()
            .drop_capabilities = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Filters system calls as the runtime's default profile does.
    pub fn default_seccomp(mut self) -> Self {
        self.security().seccomp = Some(proto::SecurityProfile {
            profile_type: proto::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
        self
    }

    /// All that the strictest profile of the Pod Security Standards (`restricted`) asks for, and a read-only root.
    pub fn restricted(self, uid: i64) -> Self {
        self.user(uid)
            .readonly_rootfs()
            .no_new_privs()
            .drop_capabilities(&["ALL"])
            .default_seccomp()
    }

    /// Gives it a terminal.
    pub fn tty(mut self) -> Self {
        self.config.tty = true;
        self
    }

    /// Changes what no method here does.
    pub fn config(mut self, change: impl FnOnce(&mut proto::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Creates the container. The error holds containerd's own words, which a user would see in the pod's events.
    pub async fn create(self) -> Result<ContainerHandle<'a>> {
        let cri = self.pod.node().cri();
        let image = self.config.image.as_ref().context("no image was set")?;
        if self.pull {
            cri.ensure_image(&image.image).await?;
        }
        let log = Path::new(&self.pod.config().log_directory).join(&self.config.log_path);
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: self.pod.id().to_owned(),
            config: Some(self.config),
            sandbox_config: Some(self.pod.config().clone()),
        };
        let answer = cri.runtime().create_container(request).await;
        let id = answer
            .with_context(|| format!("create container {}", self.name))?
            .into_inner()
            .container_id;
        Ok(ContainerHandle {
            node: self.pod.node(),
            name: self.name,
            id,
            log,
        })
    }

    /// Creates and starts it.
    pub async fn start(self) -> Result<ContainerHandle<'a>> {
        let container = self.create().await?;
        container.start().await?;
        Ok(container)
    }

    fn resources(&mut self) -> &mut proto::LinuxContainerResources {
        self.config
            .linux
            .get_or_insert_default()
            .resources
            .get_or_insert_default()
    }

    fn security(&mut self) -> &mut proto::LinuxContainerSecurityContext {
        self.config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }
}

/// Whether one of the node's containerds has a file open.
fn open_in_containerd(node: &Node, file: &Metadata) -> Result<bool> {
    let is_it = |fd: PathBuf| {
        let open = std::fs::metadata(fd); // or it was closed just now
        open.is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
    };
    for process in std::fs::read_dir(node.path("/proc"))? {
        let process = process?.path();
        let name = std::fs::read(process.join("comm")).unwrap_or_default();
        if name == b"containerd\n"
            && let Ok(mut open) = std::fs::read_dir(process.join("fd"))
            && open.any(|fd| fd.is_ok_and(|fd| is_it(fd.path())))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether nobody answered.
fn is_unavailable(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<tonic::Status>();
    // It takes connections before it takes calls.
    let comes_up = |status: &tonic::Status| status.message().contains("server is not initialized yet");
    status.is_some_and(|status| status.code() == tonic::Code::Unavailable || comes_up(status))
}

/// What a program run in a container did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exec {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A container that was created.
#[derive(Clone, Debug)]
pub struct ContainerHandle<'a> {
    node: &'a Node,
    name: String,
    id: String,
    log: PathBuf,
}

impl ContainerHandle<'_> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it.
    pub async fn start(&self) -> Result<()> {
        let request = proto::StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.node
            .cri()
            .runtime()
            .start_container(request)
            .await
            .with_context(|| format!("start {}", self.name))?;
        Ok(())
    }

    /// Waits for its end, which has to be with this exit code.
    pub async fn ends_with(&self, expected: i32) -> Result<()> {
        let code = self.wait_exit().await?;
        ensure!(
            code == expected,
            "{} ended with {code} instead of {expected}: {:?}",
            self.name,
            self.logs()
        );
        Ok(())
    }

    /// Waits for its end and returns the exit code.
    pub async fn wait_exit(&self) -> Result<i32> {
        self.wait_exit_within(PATIENCE).await
    }

    /// The same with a patience of the caller's choice.
    pub async fn wait_exit_within(&self, patience: Duration) -> Result<i32> {
        let code = until(&format!("{} exits", self.name), patience, async || {
            let status = match self.status().await {
                // containerd is being restarted; the container does not mind.
                Err(error) if is_unavailable(&error) => return Ok(None),
                status => status?,
            };
            Ok((status.state() == ContainerState::ContainerExited).then_some(status.exit_code))
        })
        .await
        .with_context(|| format!("its output: {:?}", self.logs()))?;
        self.wait_log_whole().await?;
        Ok(code)
    }

    /// containerd calls a container ended before it has written the last lines of its log, and closes the file when it has.
    async fn wait_log_whole(&self) -> Result<()> {
        let Ok(log) = std::fs::metadata(self.log_path()) else {
            return Ok(()); // it never had one
        };
        until(
            &format!("the log of {} is whole", self.name),
            PATIENCE,
            async || {
                let is_open = open_in_containerd(self.node, &log)?;
                Ok((!is_open).then_some(()))
            },
        )
        .await
    }

    /// Waits until its standard output holds a text.
    pub async fn wait_stdout(&self, text: &str) -> Result<()> {
        until(&format!("{} prints {text:?}", self.name), PATIENCE, async || {
            Ok(self.logs()?.stdout.contains(text).then_some(()))
        })
        .await
        .with_context(|| format!("its output: {:?}", self.logs()))
    }

    /// Where the host sees its log file, which has a time for each line.
    pub fn log_path(&self) -> PathBuf {
        self.node.path(&self.log)
    }

    /// What it has written so far, as `kubectl logs` would have it.
    pub fn logs(&self) -> Result<Logs> {
        let path = self.log_path();
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        // A line may be half written.
        let end = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        Logs::parse(&bytes[..end])
    }

    /// Runs a program in it to its end.
    pub async fn exec<S: Into<String>>(&self, words: impl IntoIterator<Item = S>) -> Result<Exec> {
        let cmd = words.into_iter().map(Into::into).collect();
        let timeout = PATIENCE.as_secs().cast_signed();
        let request = proto::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd,
            timeout,
        };
        let answer = self.node.cri().runtime().exec_sync(request).await;
        let answer = answer
            .with_context(|| format!("exec in {}", self.name))?
            .into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Exec {
            code: answer.exit_code,
            stdout: text(answer.stdout),
            stderr: text(answer.stderr),
        })
    }

    /// Asks it to end, and kills it after the timeout, which CRI has in whole seconds.
    pub async fn stop(&self, timeout: Duration) -> Result<()> {
        let timeout = timeout.as_secs().cast_signed();
        let request = proto::StopContainerRequest {
            container_id: self.id.clone(),
            timeout,
        };
        self.node
            .cri()
            .runtime()
            .stop_container(request)
            .await
            .with_context(|| format!("stop {}", self.name))?;
        Ok(())
    }

    /// What containerd says of it.
    pub async fn status(&self) -> Result<proto::ContainerStatus> {
        let request = proto::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.node.cri().runtime().container_status(request).await?;
        answer.into_inner().status.context("no status")
    }

    /// containerd's own view: pid, OCI spec, snapshot.
    pub async fn info(&self) -> Result<serde_json::Value> {
        let request = proto::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: true,
        };
        let answer = self
            .node
            .cri()
            .runtime()
            .container_status(request)
            .await?
            .into_inner();
        Ok(serde_json::from_str(answer.info.get("info").context("no info")?)?)
    }

    /// What it uses.
    pub async fn stats(&self) -> Result<proto::ContainerStats> {
        let request = proto::ContainerStatsRequest {
            container_id: self.id.clone(),
        };
        let answer = self.node.cri().runtime().container_stats(request).await?;
        answer.into_inner().stats.context("no stats")
    }

    /// Changes its limits while it runs.
    pub async fn update_resources(&self, resources: proto::LinuxContainerResources) -> Result<()> {
        let request = proto::UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(resources),
        };
        self.node
            .cri()
            .runtime()
            .update_container_resources(request)
            .await
            .context("update resources")?;
        Ok(())
    }

    /// Removes it; kills it first if it runs.
    pub async fn remove(&self) -> Result<()> {
        let request = proto::RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.node
            .cri()
            .runtime()
            .remove_container(request)
            .await
            .with_context(|| format!("remove {}", self.name))?;
        Ok(())
    }
}

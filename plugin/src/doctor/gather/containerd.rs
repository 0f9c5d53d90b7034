//! Asks containerd: whether it answers, how it is configured, and what its CRI says of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::process::{self, Process};
use crate::containerd::Containerd as Client;
use crate::doctor::distribution::{ConfigFile, Distribution};
use crate::doctor::facts::{Container, Containerd, Cri, Learnt, NriConfig, Reach, Runtime};
use pb::runtime_service_client::RuntimeServiceClient;

#[allow(
    missing_docs,
    clippy::enum_variant_names,
    clippy::pedantic,
    reason = "generated"
)]
mod pb {
    tonic::include_proto!("runtime.v1");
}

/// What containerd has where its configuration says nothing.
const NRI_SOCKET: &str = "/var/run/nri/nri.sock";
/// The name of NRI in containerd's configuration.
const NRI_SECTION: &str = "io.containerd.nri.v1.nri";
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// containerd, and its process where that is known.
pub async fn containerd(socket: &Path, distribution: Distribution) -> (Containerd, Option<Process>) {
    let (reach, pid) = reach(socket).await;
    let process = pid.and_then(process::one);
    let path = process
        .as_ref()
        .and_then(|process| process.flag(&["--config", "-c"]));
    let mut config = config_file(&path.map_or_else(|| distribution.config().into(), PathBuf::from));
    let dump = dump(process.as_ref(), &config.path).await;
    if let Ok(dump) = &dump {
        config.imports = imports(dump);
    }
    let containerd = Containerd {
        config,
        nri: dump.map(|dump| nri(&dump)),
        reach,
        socket: socket.to_owned(),
    };
    (containerd, process)
}

async fn reach(socket: &Path) -> (Reach, Option<u32>) {
    let connected = tokio::time::timeout(CONNECT_PATIENCE, UnixStream::connect(socket)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (unreachable(&error), None),
        Err(_) => return (Reach::Silent, None),
    };
    let credentials = stream.peer_cred().ok();
    let pid = credentials.and_then(|peer| u32::try_from(peer.pid()?).ok());
    drop(stream);
    let reach = match tokio::time::timeout(ANSWER_PATIENCE, Client::at(socket).version()).await {
        Ok(Ok(version)) => Reach::Answers(version),
        Ok(Err(error)) => Reach::Failed(error.to_string()),
        Err(_) => Reach::Silent,
    };
    (reach, pid)
}

fn unreachable(error: &io::Error) -> Reach {
    match error.kind() {
        io::ErrorKind::NotFound => Reach::Missing,
        io::ErrorKind::PermissionDenied => Reach::Denied,
        io::ErrorKind::ConnectionRefused => Reach::Refused,
        _ => Reach::Failed(error.to_string()),
    }
}

fn config_file(path: &Path) -> ConfigFile {
    let text = fs::read_to_string(path);
    ConfigFile {
        path: path.to_owned(),
        exists: path.exists(),
        has_nri_section: text.is_ok_and(|text| text.contains(NRI_SECTION)),
        imports: None,
    }
}

/// The configuration as containerd itself understands it, defaults and further files included.
async fn dump(process: Option<&Process>, config: &Path) -> Learnt<String> {
    let program = process.and_then(Process::executable);
    let program = program.or_else(|| process::find("containerd", None));
    let program = program.ok_or("there is no program `containerd` to ask for its configuration")?;
    let config = config.to_string_lossy();
    // Some distributions have one program under many names.
    process::ask(&program, "containerd", &["--config", &config, "config", "dump"]).await
}

fn nri(dump: &str) -> NriConfig {
    let is_section = |line: &&str| line.trim_start().starts_with('[') && line.contains(NRI_SECTION);
    let mut lines = dump.lines().skip_while(|line| !is_section(line));
    // Before there was NRI there was no section, and it is as good as off.
    if lines.next().is_none() {
        return NriConfig {
            is_off: true,
            socket: NRI_SOCKET.into(),
        };
    }
    let of_section: Vec<_> = lines
        .take_while(|line| !line.trim_start().starts_with('['))
        .collect();
    let value = |key: &str| {
        let mut values = of_section.iter().filter_map(|line| line.split_once('='));
        values
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| unquoted(value))
    };
    NriConfig {
        is_off: value("disable") == Some("true"),
        socket: value("socket_path")
            .filter(|path| !path.is_empty())
            .unwrap_or(NRI_SOCKET)
            .into(),
    }
}

/// Where further files come from, if it is a folder of them.
fn imports(dump: &str) -> Option<String> {
    let line = dump
        .lines()
        .find(|line| line.trim_start().starts_with("imports"))?;
    let list = line
        .split_once('=')?
        .1
        .trim()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let mut paths = list.split(',').map(unquoted);
    paths.find(|path| path.ends_with("/*.toml")).map(str::to_owned)
}

fn unquoted(value: &str) -> &str {
    value.trim().trim_matches(['"', '\''])
}

fn cri_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    Endpoint::from_static("http://cri")
        .timeout(ANSWER_PATIENCE)
        .connect_with_connector_lazy(tower::service_fn(connect))
}

/// What containerd's CRI says of itself.
pub async fn cri(socket: &Path) -> Learnt<Cri> {
    let mut client = RuntimeServiceClient::new(cri_channel(socket));
    let answer = client.status(pb::StatusRequest { verbose: true }).await;
    let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
    let needed = conditions
        .into_iter()
        .filter(|condition| matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady"));
    let unready = needed
        .filter(|condition| !condition.status)
        .map(|condition| format!("{}: {} {}", condition.r#type, condition.reason, condition.message))
        .collect();
    let config = answer.info.get("config").map_or("{}", String::as_str);
    let config: Value =
        serde_json::from_str(config).map_err(|error| format!("its configuration is no JSON: {error}"))?;
    Ok(Cri {
        unready,
        ..of_config(&config)
    })
}

/// The interesting parts of containerd's CRI configuration, which 1.7 and 2 arrange differently.
fn of_config(config: &Value) -> Cri {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containerd = &config["containerd"];
    let runtimes = containerd["runtimes"].as_object().into_iter().flatten();
    let runtime = |(name, runtime): (&String, &Value)| {
        let shim = text(&runtime["runtimeType"]);
        (name.clone(), shim, text(&runtime["options"]["BinaryName"]))
    };
    let snapshotter = [&containerd["snapshotter"], &config["snapshotter"]].map(text);
    Cri {
        unready: Vec::new(),
        default_runtime: text(&containerd["defaultRuntimeName"]),
        runtimes: runtimes.map(runtime).collect(),
        snapshotter: snapshotter
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_else(|| "overlayfs".to_owned()),
        root: text(&config["containerdRootDir"]).into(),
    }
}

/// The runtimes, each asked for its version.
pub async fn runtimes(cri: &Cri, containerd: Option<&Process>) -> Vec<Runtime> {
    let path = containerd.and_then(Process::search_path);
    let mut runtimes = Vec::new();
    for (name, shim, program) in &cri.runtimes {
        let program = if program.is_empty() { "runc" } else { program };
        let is_oci = shim.ends_with(".runc.v2");
        let found = is_oci.then(|| process::find(program, path.as_ref())).flatten();
        let version = match &found {
            Some(found) => process::ask(found, program, &["--version"]).await,
            None => Err("it was not asked".to_owned()),
        };
        runtimes.push(Runtime {
            name: name.clone(),
            shim: shim.clone(),
            program: program.to_owned(),
            is_default: *name == cri.default_runtime,
            version,
            is_there: found.is_some(),
        });
    }
    runtimes
}

/// How a container is, and how it ended.
pub async fn state(socket: &Path, id: &str, container: &mut Container) {
    let request = pb::ContainerStatusRequest {
        container_id: id.to_owned(),
    };
    let answer = RuntimeServiceClient::new(cri_channel(socket))
        .container_status(request)
        .await;
    let Some(status) = answer.ok().and_then(|answer| answer.into_inner().status) else {
        return;
    };
    let state = match status.state() {
        pb::ContainerState::ContainerCreated => "created",
        pb::ContainerState::ContainerRunning => "running",
        pb::ContainerState::ContainerExited => "exited",
        pb::ContainerState::ContainerUnknown => "unknown",
    };
    state.clone_into(&mut container.state);
    container.exit_code = status.exit_code;
    container.reason = status.reason;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nri_is_read_from_both_generations_of_configuration() {
        let check = |dump: &str, is_off, socket: &str| {
            let expected = NriConfig {
                is_off,
                socket: socket.into(),
            };
            assert_eq!(nri(dump), expected, "{dump}");
        };
        let first = "[plugins]\n  [plugins.\"io.containerd.nri.v1.nri\"]\n    disable = true\n    socket_path = \"/var/run/nri/nri.sock\"\n\n  \
                     [plugins.\"x\"]\n    disable = false\n";
        check(first, true, NRI_SOCKET);
        let second =
            "[plugins.'io.containerd.nri.v1.nri']\n  disable = false\n  socket_path = '/run/other.sock'\n";
        check(second, false, "/run/other.sock");
        check("version = 2\n", true, NRI_SOCKET);
    }

    #[test]
    fn a_folder_of_imports_is_found() {
        let check =
            |dump: &str, expected: Option<&str>| assert_eq!(imports(dump).as_deref(), expected, "{dump}");
        check(
            "imports = ['/etc/containerd/conf.d/*.toml']",
            Some("/etc/containerd/conf.d/*.toml"),
        );
        check(
            "imports = [\"/etc/containerd/config.toml\", \"/c/*.toml\"]",
            Some("/c/*.toml"),
        );
        check("imports = []", None);
        check("version = 2", None);
    }

    #[test]
    fn both_generations_of_cri_are_understood() {
        let runtimes = json!({"crun": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/usr/bin/crun"}}});
        let first = json!({
            "containerd": {"snapshotter": "native", "defaultRuntimeName": "crun", "runtimes": runtimes},
            "containerdRootDir": "/var/lib/containerd",
        });
        let expected = Cri {
            unready: Vec::new(),
            default_runtime: "crun".to_owned(),
            runtimes: vec![(
                "crun".to_owned(),
                "io.containerd.runc.v2".to_owned(),
                "/usr/bin/crun".to_owned(),
            )],
            snapshotter: "native".to_owned(),
            root: "/var/lib/containerd".into(),
        };
        assert_eq!(of_config(&first), expected);
        let second = json!({"containerd": {"defaultRuntimeName": "crun", "runtimes": runtimes}, "containerdRootDir": "/var/lib/containerd"});
        assert_eq!(of_config(&second).snapshotter, "overlayfs");
    }
}

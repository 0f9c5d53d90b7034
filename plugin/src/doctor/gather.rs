//! Looks at a node, and tries what can be tried. Whatever does not answer in time is not known; nothing stays changed.

mod containerd;
mod containers;
mod kernel;
mod modules;
mod node;
mod podwasm;
mod process;
mod trial;

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::distribution::{Distribution, SOCKETS};
use super::facts::{Daemon, Facts, Learnt, Nri, Reach};
use crate::containerd::{Containerd as Client, Record};
use crate::flags::{Doctor, Inspect, Run};
use crate::policy_file;
use process::Process;

/// Whatever is looked at takes at most so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// RKE2's folder, which tells it from K3s.
const RKE2: &str = "/var/lib/rancher/rke2";

/// Does something that may wait in a thread of its own, which may never come back.
async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Learnt<T> {
    let (tell, told) = oneshot::channel();
    let handle = Handle::current();
    let work = move || {
        let _entered = handle.enter();
        drop(tell.send(work()));
    };
    let started = std::thread::Builder::new().name("doctor".to_owned()).spawn(work);
    started.map_err(|error| format!("there can be no thread for it: {error}"))?;
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(done) => done.map_err(|_| "the thread that looked has panicked".to_owned()),
        Err(_) => Err(format!("it took more than {PATIENCE:?}")),
    }
}

/// Where things are: what the flags say, else what the running daemon says, else where they usually are.
#[derive(Debug)]
struct Places {
    compiler: PathBuf,
    config: Option<PathBuf>,
    containerd_socket: PathBuf,
    engine: PathBuf,
    http: Option<SocketAddr>,
    identity: (String, String),
    nri_socket: PathBuf,
    plugins: PathBuf,
    state: PathBuf,
}

impl Places {
    fn new(flags: &Doctor, daemon: Option<&Run>) -> Self {
        let place = |flag: &Option<PathBuf>, of_daemon: fn(&Run) -> &PathBuf, usual: &str| {
            let said = flag.clone().or_else(|| daemon.map(of_daemon).cloned());
            said.unwrap_or_else(|| usual.into())
        };
        let usual = policy_file::USUAL;
        let identity = daemon.map_or((usual.0.to_owned(), usual.1.to_owned()), |run| {
            (run.idx.clone(), run.name.clone())
        });
        Self {
            compiler: place(&flags.compiler, |run| &run.compiler, "/opt/podwasm/compiler"),
            config: flags
                .config
                .clone()
                .or_else(|| daemon.and_then(|run| run.config.clone())),
            containerd_socket: containerd_socket(flags, daemon),
            engine: place(&flags.engine, |run| &run.engine, "/opt/podwasm/engine"),
            http: flags.http,
            identity,
            nri_socket: place(&flags.nri_socket, |run| &run.nri_socket, nri::DEFAULT_SOCKET),
            plugins: daemon.map_or_else(|| "/opt/podwasm/plugins".into(), |run| run.plugins.clone()),
            state: place(&flags.state, |run| &run.state, "/var/lib/podwasm"),
        }
    }

    fn inspect(&self, target: String, command: Vec<String>) -> Inspect {
        Inspect {
            target,
            r#as: Some(crate::flags::TargetKind::Image),
            json: true,
            command,
            r#ref: None,
            annotation: Vec::new(),
            container: "app".to_owned(),
            namespace: "default".to_owned(),
            runtime: "runc".to_owned(),
            containerd_socket: self.containerd_socket.clone(),
            config: self.config.clone(),
            engine: self.engine.clone(),
            plugins: self.plugins.clone(),
            compiler: self.compiler.clone(),
            state: self.state.clone(),
        }
    }
}

/// A daemon in a container may know the socket by a path that is not the node's.
fn containerd_socket(flags: &Doctor, daemon: Option<&Run>) -> PathBuf {
    if let Some(socket) = &flags.containerd_socket {
        return socket.clone();
    }
    let of_daemon = daemon.map(|run| run.containerd_socket.clone());
    let candidates = of_daemon.into_iter().chain(SOCKETS.map(PathBuf::from));
    let mut there = candidates.filter(|socket| socket.exists());
    there.next().unwrap_or_else(|| SOCKETS[0].into())
}

/// Everything.
pub async fn gather(flags: &Doctor) -> Facts {
    let processes = podwasm::processes();
    let running = processes.as_deref().map(podwasm::running).unwrap_or_default();
    let places = Places::new(flags, running.first().map(|(_, run)| run));
    let is_root = rustix::process::geteuid().is_root();
    let distribution = Distribution::of(&places.containerd_socket, Path::new(RKE2).exists());
    let (containerd, process) = containerd::containerd(&places.containerd_socket, distribution).await;
    let answers = matches!(containerd.reach, Reach::Answers(_));
    let client = Client::at(&places.containerd_socket);
    let (cri, records) = if answers {
        let (cri, records) = tokio::join!(containerd::cri(&places.containerd_socket), client.containers());
        (Some(cri), Some(records.map_err(|error| error.to_string())))
    } else {
        (None, None)
    };
    let known = cri.as_ref().and_then(|cri| cri.as_ref().ok());
    let (runtimes, snapshot, dns, (engine, compiler), state) = tokio::join!(
        async { of_runtimes(known, process.as_ref()).await },
        async {
            match known {
                Some(cri) => containers::snapshot(&client, &cri.snapshotter).await,
                None => None,
            }
        },
        containers::dns(records.as_ref(), is_root),
        podwasm::engine_and_compiler(&places.engine, &places.compiler),
        podwasm::state(&places.state),
    );
    let image = match &flags.image {
        Some(name) => Some(containers::image(name, places.inspect(name.clone(), Vec::new())).await),
        None => None,
    };
    let pod = of_pod(flags, &places, records.as_ref()).await;
    let root = known.map_or_else(|| PathBuf::from("/var/lib/containerd"), |cri| cri.root.clone());
    let folders = node::folders(&root, &places.state);
    Facts {
        cgroups: node::cgroups(),
        clock_is_behind: node::clock_is_behind(),
        compiler,
        containerd,
        cri,
        daemons: of_daemons(&running, &processes, &places).await,
        disks: node::disks(&folders.iter().map(PathBuf::as_path).collect::<Vec<_>>()),
        distribution,
        dns,
        engine,
        exporter: of_exporter(&processes).await,
        image,
        is_root,
        nri: of_nri(&places.nri_socket),
        pod,
        policy: podwasm::policy(places.config.clone(), &places.identity.0, &places.identity.1),
        runtimes,
        snapshot,
        state,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

async fn of_runtimes(
    cri: Option<&super::facts::Cri>,
    process: Option<&Process>,
) -> Vec<super::facts::Runtime> {
    match cri {
        Some(cri) => containerd::runtimes(cri, process).await,
        None => Vec::new(),
    }
}

async fn of_pod(
    flags: &Doctor,
    places: &Places,
    records: Option<&Learnt<Vec<Record>>>,
) -> Vec<super::facts::Container> {
    let (Some(wanted), Some(Ok(records))) = (&flags.pod, records) else {
        return Vec::new();
    };
    let inspect = |image, command| places.inspect(image, command);
    containers::containers(records, wanted, &places.containerd_socket, inspect).await
}

async fn of_daemons(
    running: &[(Process, Run)],
    processes: &Learnt<Vec<Process>>,
    places: &Places,
) -> Learnt<Vec<Daemon>> {
    if let Err(why) = processes {
        return Err(why.clone());
    }
    let mut daemons = Vec::new();
    for (process, run) in running {
        let (process, http) = (process.clone(), places.http.unwrap_or(run.http));
        daemons.push(in_thread(move || podwasm::ask(&process, http)).await?);
    }
    Ok(daemons)
}

async fn of_exporter(processes: &Learnt<Vec<Process>>) -> super::facts::Exporter {
    let processes = processes.clone().unwrap_or_default();
    let ready = in_thread(move || podwasm::exporter(&processes))
        .await
        .unwrap_or_default();
    node::exporter(ready)
}

fn of_nri(socket: &Path) -> Nri {
    let is_there = match std::fs::metadata(socket) {
        Ok(about) => Some(about.file_type().is_socket()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    };
    Nri {
        socket: socket.to_owned(),
        is_there,
    }
}

//! Looks at containers: what they resolve names with, and those that were asked about.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::runtime::Handle;

use super::{containerd as asked, in_thread, kernel};
use crate::adjust;
use crate::annotation::DOMAIN;
use crate::containerd::{Containerd, Descriptor, Record};
use crate::doctor::facts::{self, Container, Dns, ImageForm, Learnt, PodResolver, Resolver};
use crate::flags::Inspect;
use crate::inspect;
use crate::inspect::documents::{self, Image};
use crate::inspect::report::{Form, Report, Verdict};
use crate::inspect::stored::Stored;
use crate::observe;

/// Of so many pods the name servers are asked; the rest is only looked at.
const MAX_ASKED: usize = 8;
/// So many images are tried until one is found that is unpacked here.
const MAX_IMAGES: usize = 20;
/// Of so many pods the resolv.conf is read.
const MAX_PODS: usize = 256;
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const MAX_RESOLV_BYTES: usize = 64 << 10;
/// A query for the address of `kubernetes.default.svc.cluster.local`, which a cluster's name server knows itself and any other
/// denies.
const QUERY: &[u8] = b"\x70\x77\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
    \x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";

/// What is read of a container's specification.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    annotations: HashMap<String, String>,
    linux: Linux,
    mounts: Vec<Mount>,
    process: Process,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Namespace {
    path: PathBuf,
    r#type: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mount {
    destination: PathBuf,
    source: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Process {
    args: Vec<String>,
}

impl Spec {
    fn of(record: &Record) -> Self {
        serde_json::from_slice(&record.spec).unwrap_or_default()
    }

    fn cri(&self, key: &str) -> &str {
        self.annotations
            .get(&format!("io.kubernetes.cri.{key}"))
            .map_or("", String::as_str)
    }

    fn is_container(&self) -> bool {
        self.cri("container-type") == "container"
    }

    fn pod(&self) -> String {
        format!("{}/{}", self.cri("sandbox-namespace"), self.cri("sandbox-name"))
    }

    fn network(&self) -> Option<&Path> {
        let found = self
            .linux
            .namespaces
            .iter()
            .find(|namespace| namespace.r#type == "network")?;
        Some(&found.path)
    }

    fn resolv_conf(&self) -> Option<&Path> {
        let found = self
            .mounts
            .iter()
            .find(|mount| mount.destination == Path::new("/etc/resolv.conf"))?;
        Some(&found.source)
    }
}

/// What this node and its pods resolve names with. Each pod's name servers are asked from the pod's own network.
pub async fn dns(containerd: Option<&Learnt<Vec<Record>>>, is_root: bool) -> Dns {
    let node = fs::read_to_string("/etc/resolv.conf")
        .map(|text| resolver(&text))
        .unwrap_or_default();
    let pods = match containerd {
        None => None,
        Some(Err(why)) => Some(Err(why.clone())),
        Some(Ok(records)) => Some(of_pods(records, is_root).await),
    };
    Dns { node, pods }
}

async fn of_pods(records: &[Record], is_root: bool) -> Learnt<Vec<PodResolver>> {
    let mut pods: HashMap<PathBuf, (PodResolver, Option<PathBuf>)> = HashMap::new();
    let specs = records.iter().map(Spec::of).filter(Spec::is_container);
    for spec in specs {
        let Some(path) = spec.resolv_conf() else {
            continue;
        };
        // A pod that has ended leaves the path of its namespace behind, and nothing there.
        let is_alive = spec.network().is_none_or(std::path::Path::exists);
        if !is_alive || pods.contains_key(path) || pods.len() == MAX_PODS {
            continue;
        }
        let Ok(mut text) = fs::read_to_string(path) else {
            continue;
        };
        let cut = (0..=MAX_RESOLV_BYTES.min(text.len()))
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or_default());
        let found = PodResolver {
            pod: spec.pod(),
            resolver: resolver(&text),
            on_host_network: spec.network().is_none(),
            answers: Vec::new(),
        };
        pods.insert(path.to_owned(), (found, spec.network().map(Path::to_owned)));
    }
    let mut pods: Vec<_> = pods.into_values().collect();
    pods.sort_by(|(a, _), (b, _)| a.pod.cmp(&b.pod));
    if is_root {
        ask_all(&mut pods).await;
    }
    Ok(pods.into_iter().map(|(pod, _)| pod).collect())
}

/// All at once: each takes at most as long as one.
async fn ask_all(pods: &mut [(PodResolver, Option<PathBuf>)]) {
    let asked = pods
        .iter_mut()
        .take(MAX_ASKED)
        .filter_map(|(pod, network)| Some((pod, network.clone()?)));
    let asking = asked.map(|(pod, network)| async move {
        let servers: Vec<_> = pod
            .resolver
            .servers
            .iter()
            .copied()
            .filter(|server| !server.is_loopback())
            .collect();
        for server in servers {
            let network = network.clone();
            // Without an answer nothing is known of it, neither good nor bad.
            if let Ok(Some(answer)) = in_thread(move || ask(&network, server)).await {
                pod.answers.push((server, answer));
            }
        }
    });
    futures_util::future::join_all(asking).await;
}

/// Asks a name server from a pod's network; `None` where that cannot be entered. Any answer will do.
fn ask(network: &Path, server: IpAddr) -> Option<Learnt<()>> {
    kernel::enter_network(network).ok()?;
    let asked = || {
        let own: SocketAddr = if server.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(ANSWER_PATIENCE))?;
        socket.connect((server, 53))?;
        socket.send(QUERY)?;
        let mut answer = [0; 512];
        socket.recv(&mut answer).map(drop)
    };
    Some(asked().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {ANSWER_PATIENCE:?}")
        }
        _ => error.to_string(),
    }))
}

fn resolver(text: &str) -> Resolver {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(server) = words.next()
        {
            // A link-local address may name its interface.
            servers.extend(
                server
                    .split('%')
                    .next()
                    .and_then(|server| server.parse::<IpAddr>().ok()),
            );
        }
    }
    Resolver { servers }
}

/// Whether an image's snapshot on this node is folders; `None` without an image that is unpacked.
pub async fn snapshot(containerd: &Containerd, snapshotter: &str) -> Option<Learnt<()>> {
    let images = containerd.images().await.ok()?;
    let (client, handle, snapshotter) = (containerd.clone(), Handle::current(), snapshotter.to_owned());
    let looked = in_thread(move || {
        let stored = Stored::new(client, handle);
        let mut images = images.into_iter().take(MAX_IMAGES);
        images.find_map(|(_, image)| of_image(&stored, image, &snapshotter))
    });
    looked.await.unwrap_or_else(|why| Some(Err(why)))
}

fn of_image(stored: &Stored, image: Descriptor, wanted: &str) -> Option<Learnt<()>> {
    let target = documents::Target {
        digest: image.digest,
        media_type: image.media_type,
    };
    let image = documents::read(stored, target).ok().filter(Image::has_files)?;
    match stored.folders(&image) {
        Ok(Some((snapshotter, folders))) if snapshotter == wanted && !folders.is_empty() => Some(Ok(())),
        Err(error @ observe::Error::Snapshotter { .. }) => Some(Err(error.to_string())),
        _ => None,
    }
}

/// What an image is, as `podwasm inspect` finds it.
pub async fn image(name: &str, flags: Inspect) -> facts::Image {
    let handle = Handle::current();
    let inspected = in_thread(move || inspect::report_of(flags, handle)).await;
    facts::Image {
        name: name.to_owned(),
        found: inspected.and_then(|report| report).map(|report| form(&report)),
    }
}

fn form(report: &Report) -> ImageForm {
    match report.image.as_ref().map(|image| image.form) {
        Some(Form::WasmOnlyIndex) => return ImageForm::OnlyWasmIndex,
        Some(Form::ForeignIndex) => return ImageForm::OtherMachine,
        _ => {}
    }
    match report.verdict {
        Verdict::Native => ImageForm::Native,
        Verdict::Wasm => ImageForm::Wasm,
        Verdict::Fails | Verdict::NoCommand | Verdict::NotPulled | Verdict::Refused => {
            ImageForm::Refused(report.reason.clone())
        }
    }
}

/// The containers of a pod, or the one with an id.
pub async fn containers(
    records: &[Record],
    wanted: &str,
    socket: &Path,
    flags: impl Fn(String, Vec<String>) -> Inspect,
) -> Vec<Container> {
    let mut found = Vec::new();
    for record in records {
        let spec = Spec::of(record);
        let is_wanted = spec.pod() == wanted || (wanted.len() >= 6 && record.id.starts_with(wanted));
        if !spec.is_container() || !is_wanted {
            continue;
        }
        let mut container = Container {
            name: spec.cri("container-name").to_owned(),
            image: record.image.clone(),
            command: spec.process.args.clone(),
            routed: spec.annotations.get(&adjust::marker()).cloned(),
            tier: spec.annotations.get(&format!("{DOMAIN}/tier")).cloned(),
            ..Container::default()
        };
        asked::state(socket, &record.id, &mut container).await;
        if container.routed.is_none() {
            let flags = flags(record.image.clone(), spec.process.args.clone());
            container.would = Some(image(&record.image, flags).await.found);
        }
        found.push(container);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let check = |text: &str, expected: &[&str]| {
            let expected: Vec<IpAddr> = expected.iter().map(|server| server.parse().unwrap()).collect();
            assert_eq!(resolver(text).servers, expected, "{text}");
        };
        check(
            "search a b\nnameserver 10.0.0.1\noptions ndots:5\nnameserver fd00::1\n",
            &["10.0.0.1", "fd00::1"],
        );
        check("nameserver fe80::1%eth0", &["fe80::1"]);
        check("# nameserver 10.0.0.1\nnameserver\nnameserver x\n", &[]);
        check("", &[]);
    }

    #[test]
    fn a_specification_tells_pod_network_and_resolver() {
        let spec = br#"{"annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-name": "app",
            "io.kubernetes.cri.sandbox-namespace": "default"}, "process": {"args": ["/app.wasm"]},
            "mounts": [{"destination": "/etc/resolv.conf", "source": "/s/resolv.conf"}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]}}"#;
        let record = Record {
            id: "c".to_owned(),
            image: String::new(),
            spec: spec.to_vec(),
        };
        let spec = Spec::of(&record);
        assert!(spec.is_container());
        assert_eq!(spec.pod(), "default/app");
        assert_eq!(spec.network(), Some(Path::new("/run/netns/x")));
        assert_eq!(spec.resolv_conf(), Some(Path::new("/s/resolv.conf")));
        let broken = Record {
            spec: b"{".to_vec(),
            ..record
        };
        assert!(!Spec::of(&broken).is_container());
    }
}

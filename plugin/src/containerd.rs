//! What podwasm asks containerd: where layers lie, what an image is, and which runtime a pod has.
//!
//! Every call carries the namespace and a deadline, and each error says what was being asked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use prost::Message as _;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::codegen::InterceptedService;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};

use pb::containers::containers_client::ContainersClient;
use pb::content::content_client::ContentClient;
use pb::events::events_client::EventsClient;
use pb::images::images_client::ImagesClient;
use pb::snapshots::snapshots_client::SnapshotsClient;
use pb::version::version_client::VersionClient;

pub use pb::images::Descriptor;
pub use pb::snapshots::Mount;

#[allow(missing_docs, clippy::pedantic, reason = "generated")]
mod pb {
    pub mod containers {
        tonic::include_proto!("containerd.services.containers.v1");
    }
    pub mod content {
        tonic::include_proto!("containerd.services.content.v1");
    }
    pub mod events {
        tonic::include_proto!("containerd.services.events.v1");
    }
    pub mod images {
        tonic::include_proto!("containerd.services.images.v1");
    }
    pub mod runc {
        tonic::include_proto!("containerd.runc.v1");
    }
    pub mod snapshots {
        tonic::include_proto!("containerd.services.snapshots.v1");
    }
    pub mod version {
        tonic::include_proto!("containerd.services.version.v1");
    }
}

/// containerd's namespace for everything the kubelet makes.
const NAMESPACE: &str = "k8s.io";
/// No single answer may take longer; containerd's own budget for a plugin is 2 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// A manifest or image config above this is not read. Registries commonly cap manifests at 4 MiB.
const MAX_DOCUMENT_BYTES: i64 = 8 << 20;

/// Which events are about images.
const IMAGES_CHANGE: &str = "topic~=\"^/images/\"";
/// Which are podwasm's own, by which it learns that a subscription is in force.
const IS_ANNOUNCEMENT: &str = "topic==\"/podwasm/subscribed\"";
/// Its topic.
const ANNOUNCEMENT: &str = "/podwasm/subscribed";
/// How often one is sent until a subscription is in force.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(5);

/// Which snapshot an image was unpacked to, by the snapshotter's name behind it.
const SNAPSHOT_LABEL: &str = "containerd.io/gc.ref.snapshot.";

/// Why containerd could not say what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is larger than any manifest or image config should be.
    #[error(
        "{digest} has {size} bytes, more than the {MAX_DOCUMENT_BYTES} that a manifest or config may have"
    )]
    BlobTooLarge {
        /// The blob asked for.
        digest: String,
        /// Its size in bytes.
        size: i64,
    },
    /// containerd answered with an error, or not in time.
    #[error("containerd could not {doing}: {}", source.message())]
    Call {
        /// What was asked, as an infinitive.
        doing: String,
        /// containerd's answer.
        source: Box<Status>,
    },
    /// An answer left out what it is for.
    #[error("containerd's answer to {doing} is empty")]
    Empty {
        /// What was asked, as an infinitive.
        doing: String,
    },
}

impl Error {
    fn call(doing: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let doing = doing.into();
        move |status| Self::Call {
            doing,
            source: Box::new(status),
        }
    }

    /// Whether the thing asked for does not exist, as against containerd not answering.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.code() == Code::NotFound)
    }
}

/// The runtime behind a pod sandbox, as containerd recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRecord {
    /// The shim's name: `io.containerd.runc.v2` for plain OCI runtimes.
    pub shim: String,
    /// The OCI runtime's program, empty for the shim's default.
    pub program: String,
    /// The snapshotter that keeps the pod's layers.
    pub snapshotter: String,
}

/// A container, as containerd recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its image's name.
    pub image: String,
    /// Its specification, as JSON.
    pub spec: Vec<u8>,
}

/// A client of containerd's socket. Cheap to clone; connects when first used, and again when it must.
#[derive(Clone, Debug)]
pub struct Containerd {
    channel: InterceptedService<Channel, InNamespace>,
}

#[derive(Clone, Debug)]
struct InNamespace(MetadataValue<Ascii>);

impl Interceptor for InNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("containerd-namespace", self.0.clone());
        Ok(request)
    }
}

impl Containerd {
    /// A client for the socket at this path. Nothing is connected yet.
    pub fn at(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let channel = Endpoint::from_static("http://containerd")
            .timeout(CALL_TIMEOUT)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| connect(socket.clone())));
        let namespace = InNamespace(MetadataValue::from_static(NAMESPACE));
        Self {
            channel: InterceptedService::new(channel, namespace),
        }
    }

    /// containerd's version, which also shows that it answers.
    pub async fn version(&self) -> Result<String, Error> {
        let answer = VersionClient::new(self.channel.clone()).version(()).await;
        Ok(answer
            .map_err(Error::call("tell its version"))?
            .into_inner()
            .version)
    }

    /// With which runtime and snapshotter a pod sandbox was made.
    pub async fn sandbox(&self, id: &str) -> Result<SandboxRecord, Error> {
        let doing = format!("look up pod sandbox {id}");
        let request = pb::containers::GetContainerRequest { id: id.to_owned() };
        let answer = ContainersClient::new(self.channel.clone()).get(request).await;
        let record = answer
            .map_err(Error::call(&doing))?
            .into_inner()
            .container
            .ok_or(Error::Empty { doing })?;
        let runtime = record.runtime.unwrap_or_default();
        Ok(SandboxRecord {
            program: runtime.options.as_ref().map(runc_program).unwrap_or_default(),
            shim: runtime.name,
            snapshotter: record.snapshotter,
        })
    }

    /// All containers of the kubelet's, sandboxes among them.
    pub async fn containers(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        self.each_container(|container| {
            records.push(Record {
                id: container.id,
                image: container.image,
                spec: container.spec.map(|spec| spec.value).unwrap_or_default(),
            });
        })
        .await?;
        Ok(records)
    }

    /// What of the host the containers of all pods mount.
    pub async fn mounted(&self) -> Result<HashSet<PathBuf>, Error> {
        let mut mounted = HashSet::new();
        self.each_container(|container| {
            let spec = container.spec.into_iter();
            mounted.extend(spec.flat_map(|spec| mount_sources(&spec.value)));
        })
        .await?;
        Ok(mounted)
    }

    async fn each_container(&self, mut see: impl FnMut(pb::containers::Container)) -> Result<(), Error> {
        let failed = || Error::call("list containers");
        let request = pb::containers::ListContainersRequest { filters: Vec::new() };
        let answer = ContainersClient::new(self.channel.clone())
            .list_stream(request)
            .await;
        let mut containers = answer.map_err(failed())?.into_inner();
        while let Some(message) = containers.message().await.map_err(failed())? {
            message.container.into_iter().for_each(&mut see);
        }
        Ok(())
    }

    /// How a container's snapshot would be mounted: its layers, as host folders.
    pub async fn mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>, Error> {
        let request = pb::snapshots::MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = SnapshotsClient::new(self.channel.clone()).mounts(request).await;
        Ok(answer
            .map_err(Error::call(format!("tell the mounts of snapshot {key}")))?
            .into_inner()
            .mounts)
    }

    /// How a committed snapshot and those below it would be mounted. For that containerd makes a view, which is removed
    /// before anything else is done. No lease holds it: should this process end in between, containerd collects it.
    pub async fn committed_mounts(&self, snapshotter: &str, parent: &str) -> Result<Vec<Mount>, Error> {
        static VIEWS: AtomicU64 = AtomicU64::new(0);
        let number = VIEWS.fetch_add(1, Ordering::Relaxed);
        let key = format!("podwasm-{}-{}-{number}", std::process::id(), nanoseconds());
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let view = pb::snapshots::ViewSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
        };
        let viewed = snapshots.view(view).await;
        let removal = pb::snapshots::RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
        };
        // Whatever the answer was: one that came too late has made the view all the same.
        let removed = snapshots.remove(removal).await;
        let mounts = viewed.map_err(Error::call(format!("show snapshot {parent}")))?;
        match removed {
            Err(status) if status.code() != Code::NotFound => {
                Err(Error::call(format!("remove snapshot {key}"))(status))
            }
            _ => Ok(mounts.into_inner().mounts),
        }
    }

    /// The snapshots that keep an image's files, by their snapshotters: what the labels of the image's config name.
    pub async fn unpacked(&self, config: &str) -> Result<Vec<(String, String)>, Error> {
        let labels = self.blob(config).await?.labels;
        let snapshot = |(label, snapshot): (String, String)| {
            Some((label.strip_prefix(SNAPSHOT_LABEL)?.to_owned(), snapshot))
        };
        Ok(labels.into_iter().filter_map(snapshot).collect())
    }

    /// What an image's name stands for at this moment.
    pub async fn image(&self, name: &str) -> Result<Descriptor, Error> {
        let doing = format!("look up image {name}");
        let request = pb::images::GetImageRequest {
            name: name.to_owned(),
        };
        let answer = ImagesClient::new(self.channel.clone()).get(request).await;
        let image = answer.map_err(Error::call(&doing))?.into_inner().image;
        image.and_then(|image| image.target).ok_or(Error::Empty { doing })
    }

    /// The names of all images, and what they stand for.
    pub async fn images(&self) -> Result<Vec<(String, Descriptor)>, Error> {
        let request = pb::images::ListImagesRequest::default();
        let answer = ImagesClient::new(self.channel.clone()).list(request).await;
        let images = answer
            .map_err(Error::call("list the images"))?
            .into_inner()
            .images;
        let pair = |image: pb::images::Image| Some((image.name, image.target?));
        Ok(images.into_iter().filter_map(pair).collect())
    }

    /// Follows the changes of images' names, from before this returns.
    ///
    /// containerd answers a subscription only with its first event, so that one is made here.
    pub async fn image_changes(&self) -> Result<ImageChanges, Error> {
        let doing = "follow changes of images";
        let mut events = EventsClient::new(self.channel.clone());
        let mut announcer = events.clone();
        let subscription = events.subscribe(pb::events::SubscribeRequest {
            filters: [IMAGES_CHANGE, IS_ANNOUNCEMENT]
                .map(|topic| format!("namespace==\"{NAMESPACE}\",{topic}"))
                .into(),
        });
        let answer = tokio::select! {
            answer = subscription => answer,
            Err(status) = announce(&mut announcer) => Err(status),
        };
        let stream = answer.map_err(Error::call(doing))?.into_inner();
        Ok(ImageChanges { stream })
    }

    /// Whether a blob is in the content store. An index names manifests that were never fetched.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, Error> {
        match self.blob_size(digest).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A manifest, index or config as bytes.
    pub async fn document(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let size = self.blob_size(digest).await?;
        if size > MAX_DOCUMENT_BYTES {
            return Err(Error::BlobTooLarge {
                digest: digest.to_owned(),
                size,
            });
        }
        let mut stream = self.stream(digest).await?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        while let Some(piece) = next_piece(&mut stream, digest).await? {
            bytes.extend(piece);
        }
        Ok(bytes)
    }

    /// Hands a blob over piece by piece, until it ends or nobody takes the pieces any more.
    pub async fn read_blob(&self, digest: &str, pieces: mpsc::Sender<Vec<u8>>) -> Result<(), Error> {
        let mut stream = self.stream(digest).await?;
        while let Some(piece) = next_piece(&mut stream, digest).await? {
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn stream(&self, digest: &str) -> Result<Streaming<pb::content::ReadContentResponse>, Error> {
        let request = pb::content::ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        };
        let answer = ContentClient::new(self.channel.clone()).read(request).await;
        Ok(answer
            .map_err(Error::call(format!("read blob {digest}")))?
            .into_inner())
    }

    /// A blob's size in bytes.
    pub async fn blob_size(&self, digest: &str) -> Result<i64, Error> {
        Ok(self.blob(digest).await?.size)
    }

    async fn blob(&self, digest: &str) -> Result<pb::content::Info, Error> {
        let doing = format!("look up blob {digest}");
        let request = pb::content::InfoRequest {
            digest: digest.to_owned(),
        };
        let answer = ContentClient::new(self.channel.clone()).info(request).await;
        let info = answer.map_err(Error::call(&doing))?.into_inner().info;
        info.ok_or(Error::Empty { doing })
    }
}

/// A change of what an image's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageChange {
    /// Whether the name is gone.
    pub is_removal: bool,
    /// The name.
    pub name: String,
}

/// The changes of images' names, in their order.
#[derive(Debug)]
pub struct ImageChanges {
    stream: Streaming<pb::events::Envelope>,
}

impl ImageChanges {
    /// The next change; an error when containerd ends, which is also the stream's end.
    pub async fn next(&mut self) -> Result<ImageChange, Error> {
        let doing = "tell the next change of an image";
        loop {
            let event = self.stream.message().await.map_err(Error::call(doing))?;
            let event = event.ok_or_else(|| Error::Empty {
                doing: doing.to_owned(),
            })?;
            if let Some(change) = image_change(&event) {
                return Ok(change);
            }
        }
    }
}

fn image_change(event: &pb::events::Envelope) -> Option<ImageChange> {
    let what = event.topic.strip_prefix("/images/")?;
    let change = pb::events::ImageChange::decode(event.event.as_ref()?.value.as_slice()).ok()?;
    Some(ImageChange {
        is_removal: what == "delete",
        name: change.name,
    })
}

/// Makes events that only podwasm knows, again and again, until this is dropped.
async fn announce(events: &mut EventsClient<InterceptedService<Channel, InNamespace>>) -> Result<(), Status> {
    loop {
        let event = prost_types::Any {
            type_url: "podwasm.subscribed".to_owned(),
            value: Vec::new(),
        };
        let request = pb::events::PublishRequest {
            topic: ANNOUNCEMENT.to_owned(),
            event: Some(event),
        };
        events.publish(request).await?;
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}

/// Makes names unique where process ids come back.
fn nanoseconds() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

async fn next_piece(
    stream: &mut Streaming<pb::content::ReadContentResponse>,
    digest: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let piece = stream
        .message()
        .await
        .map_err(Error::call(format!("read blob {digest}")))?;
    Ok(piece.map(|piece| piece.data))
}

/// Of a container whose specification is no JSON nothing is known; what made it is not the kubelet.
fn mount_sources(spec: &[u8]) -> Vec<PathBuf> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        mounts: Vec<SpecMount>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct SpecMount {
        source: PathBuf,
    }
    let spec: Spec = serde_json::from_slice(spec).unwrap_or_default();
    spec.mounts.into_iter().map(|mount| mount.source).collect()
}

async fn connect(socket: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(socket).await.map(TokioIo::new)
}

/// Options of other shims, and older ones with another type, simply name no program.
fn runc_program(options: &prost_types::Any) -> String {
    if options.type_url.trim_start_matches('/') != "containerd.runc.v1.Options" {
        return String::new();
    }
    pb::runc::Options::decode(options.value.as_slice())
        .map(|options| options.binary_name)
        .unwrap_or_default()
}

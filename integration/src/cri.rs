//! What a kubelet says to containerd: the container runtime interface over the node's socket.

mod container;
mod log;
mod pod;

use crate::wait::PATIENCE;
use anyhow::{Context as _, Result};
pub use container::{ContainerBuilder, ContainerHandle, Exec};
pub use log::Logs;
pub use pod::{PodBuilder, PodHandle};
use proto::image_service_client::ImageServiceClient;
use proto::runtime_service_client::RuntimeServiceClient;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

/// The messages themselves.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod proto {
    tonic::include_proto!("runtime.v1");
}

/// Carries the connections of all nodes, since each test has a runtime of its own that ends with it.
static CONNECTIONS: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread can be started")
});

/// The clients for one node; clones share a connection, which comes back by itself after a restart of containerd.
#[derive(Clone, Debug)]
pub struct Cri {
    channel: Channel,
}

impl Cri {
    /// Clients over a socket, which need not be there yet.
    pub(crate) fn over(socket: &str) -> Self {
        let _connections = CONNECTIONS.enter();
        let endpoint = Endpoint::from_shared(format!("unix://{socket}")).expect("a path makes a URI");
        Self {
            channel: endpoint.timeout(PATIENCE * 2).connect_lazy(),
        }
    }

    /// Pods and containers.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    /// Images.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Whether containerd says that pods can run: itself and the network are ready.
    pub(crate) async fn ready(&self) -> bool {
        let mut runtime = self.runtime();
        let status = runtime.status(proto::StatusRequest {});
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), status).await else {
            return false;
        };
        let conditions = answer.into_inner().status.unwrap_or_default().conditions;
        // Others tell of deprecated settings, for example.
        let is = |name| {
            let mut conditions = conditions.iter();
            conditions.any(|condition| condition.r#type == name && condition.status)
        };
        is("RuntimeReady") && is("NetworkReady")
    }

    /// containerd's name and version.
    pub async fn version(&self) -> Result<String> {
        let version = self
            .runtime()
            .version(proto::VersionRequest::default())
            .await?
            .into_inner();
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    /// Pulls an image and returns its id. The error holds containerd's own words.
    pub async fn pull(&self, image: &str) -> Result<String> {
        let request = proto::PullImageRequest {
            image: Some(spec(image)),
            sandbox_config: None,
        };
        let answer = self
            .images()
            .pull_image(request)
            .await
            .with_context(|| format!("pull {image}"))?;
        Ok(answer.into_inner().image_ref)
    }

    /// What the node knows of an image, if it has it.
    pub async fn image(&self, image: &str) -> Result<Option<proto::Image>> {
        let request = proto::ImageStatusRequest {
            image: Some(spec(image)),
            verbose: false,
        };
        Ok(self.images().image_status(request).await?.into_inner().image)
    }

    /// Pulls an image unless the node has it.
    pub async fn ensure_image(&self, image: &str) -> Result<()> {
        if self.image(image).await?.is_none() {
            self.pull(image).await?;
        }
        Ok(())
    }

    /// Removes an image from the node.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        self.images()
            .remove_image(proto::RemoveImageRequest {
                image: Some(spec(image)),
            })
            .await?;
        Ok(())
    }
}

fn spec(image: &str) -> proto::ImageSpec {
    proto::ImageSpec {
        image: image.to_owned(),
    }
}

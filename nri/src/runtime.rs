//! Asking the runtime for changes outside any event.

use std::sync::Arc;

use tokio::sync::watch;

use crate::api::{ContainerEviction, ContainerUpdate, UpdateContainersRequest, UpdateContainersResponse};
use crate::ttrpc::{CallError, Client};

/// A handle on the runtime: good across reconnections, and cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    current: Arc<watch::Sender<Option<Client>>>,
}

/// Why an unsolicited update did not happen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The answer makes no sense.
    #[error("the runtime's answer cannot be decoded")]
    Answer(#[source] prost::DecodeError),
    /// There is no connection, or it ended before the answer: the updates may have been applied.
    #[error("not connected to a runtime")]
    Disconnected,
    /// The runtime said no.
    #[error("the runtime refused to update containers: {0}")]
    Refused(String),
    /// The updates do not fit one message.
    #[error("the updates take {0} bytes, more than fit one message")]
    TooLong(usize),
}

impl Runtime {
    pub(crate) fn new() -> Self {
        Self {
            current: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Asks for changes to containers, and for others to be stopped. Returns the updates that the
    /// runtime could not apply. containerd ignores evictions asked for here.
    ///
    /// Not from within a handler: the runtime holds a lock across each event, so each would wait for
    /// the other. There is no time limit other than the connection's life.
    pub async fn update_containers(
        &self,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
    ) -> Result<Vec<ContainerUpdate>, UpdateError> {
        let client = self.current.borrow().clone().ok_or(UpdateError::Disconnected)?;
        let request = UpdateContainersRequest {
            update: updates,
            evict: evictions,
        };
        match client
            .call::<_, UpdateContainersResponse>("UpdateContainers", &request, None)
            .await
        {
            Ok(response) => Ok(response.failed),
            Err(CallError::Closed) => Err(UpdateError::Disconnected),
            Err(CallError::Decode(error)) => Err(UpdateError::Answer(error)),
            Err(CallError::Status(status)) => Err(UpdateError::Refused(status.message)),
            Err(CallError::TooLong(bytes)) => Err(UpdateError::TooLong(bytes)),
        }
    }

    /// Whether the plugin is in service right now, as [`crate::Plugin::connected`] tells it.
    pub fn is_connected(&self) -> bool {
        self.current.borrow().is_some()
    }

    /// Waits until the plugin is in service.
    pub async fn connected(&self) {
        self.wait(true).await;
    }

    /// Waits until the plugin is not in service any more, or not yet.
    pub async fn disconnected(&self) {
        self.wait(false).await;
    }

    async fn wait(&self, connected: bool) {
        let mut current = self.current.subscribe();
        // Cannot fail: this handle keeps the sender.
        let _ = current.wait_for(|client| client.is_some() == connected).await;
    }

    pub(crate) fn connect(&self, client: Client) {
        self.current.send_replace(Some(client));
    }

    pub(crate) fn disconnect(&self) {
        self.current.send_replace(None);
    }
}

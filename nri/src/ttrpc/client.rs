//! Calling the other end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::oneshot;
use tracing::debug;

use super::message::{Kind, MAX_PAYLOAD_BYTES, Message, Request, Response, Status};
use crate::mux::Outgoing;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum CallError {
    /// The connection ended first.
    #[error("the connection ended")]
    Closed,
    /// The answer is not what was promised.
    #[error("the answer cannot be decoded")]
    Decode(#[source] prost::DecodeError),
    /// The other end said no.
    #[error("{}", .0.message)]
    Status(Status),
    /// The call does not fit a message.
    #[error("the request of {0} bytes exceeds the limit of {MAX_PAYLOAD_BYTES}")]
    TooLong(usize),
}

/// Calls one service over one connection of the multiplexer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: &'static str,
    connection: u32,
    outgoing: Outgoing,
    next_stream: AtomicU32,
    /// `None` once the connection has ended.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Response>>>>,
}

impl Client {
    pub(crate) fn new(service: &'static str, connection: u32, outgoing: Outgoing) -> Self {
        let shared = Shared {
            service,
            connection,
            outgoing,
            // Streams that a client opens have odd numbers.
            next_stream: AtomicU32::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Calls `method` and waits for the answer, as long as the connection lives. `patience` is what
    /// the other end is told; it is not enforced here.
    pub(crate) async fn call<Q: prost::Message, A: prost::Message + Default>(
        &self,
        method: &str,
        argument: &Q,
        patience: Option<Duration>,
    ) -> Result<A, CallError> {
        let nanoseconds = patience.map_or(0, |patience| patience.as_nanos());
        let request = Request {
            service: self.shared.service.to_owned(),
            method: method.to_owned(),
            payload: argument.encode_to_vec(),
            timeout_nano: i64::try_from(nanoseconds).unwrap_or(i64::MAX),
        };
        let message = Message::request(self.shared.next_stream.fetch_add(2, Ordering::Relaxed), &request);
        if message.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(CallError::TooLong(message.payload.len()));
        }
        let (forget, answer) = self.expect_answer(message.stream)?;
        self.shared
            .outgoing
            .send(self.shared.connection, &message)
            .await
            .map_err(|_| CallError::Closed)?;
        let response = answer.await.map_err(|_| CallError::Closed)?;
        drop(forget);
        let payload = response.outcome().map_err(CallError::Status)?;
        A::decode(payload.as_slice()).map_err(CallError::Decode)
    }

    /// Hands over an answer that has arrived.
    pub(crate) fn answered(&self, message: &Message) {
        if message.kind != Kind::Response {
            debug!(kind = ?message.kind, "not an answer, ignored");
            return;
        }
        let Some(answer) = self.waiting(|waiting| waiting.remove(&message.stream)).flatten() else {
            debug!(
                stream = message.stream,
                "answer to a call that nobody waits for, ignored"
            );
            return;
        };
        match Response::decode(message.payload.as_slice()) {
            // The caller may have gone away.
            Ok(response) => drop(answer.send(response)),
            Err(error) => debug!(%error, "answer that cannot be decoded, ignored"),
        }
    }

    /// Ends every call that waits, and every later one.
    pub(crate) fn close(&self) {
        *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn expect_answer(&self, stream: u32) -> Result<(Forget<'_>, oneshot::Receiver<Response>), CallError> {
        let (sender, receiver) = oneshot::channel();
        self.waiting(|waiting| waiting.insert(stream, sender))
            .ok_or(CallError::Closed)?;
        Ok((Forget { client: self, stream }, receiver))
    }

    fn waiting<T>(&self, act: impl FnOnce(&mut HashMap<u32, oneshot::Sender<Response>>) -> T) -> Option<T> {
        self.shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .map(act)
    }
}

/// Forgets a call whose caller has stopped waiting.
struct Forget<'a> {
    client: &'a Client,
    stream: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.client.waiting(|waiting| waiting.remove(&self.stream));
    }
}

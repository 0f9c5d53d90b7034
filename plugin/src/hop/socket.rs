//! The socket between the two processes: frames in, frames out.
#![allow(clippy::disallowed_methods, reason = "this one does I/O")]

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::{Decoder, FrameError, encode};

/// What one read may bring.
const READ_BYTES: usize = 64 << 10;
/// More than this does not wait for a reader that does not read.
const MAX_WAITING_BYTES: usize = 300 << 20;
/// A buffer that has grown beyond this is not kept.
const KEPT_BYTES: usize = 1 << 20;

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The other process speaks nonsense.
    #[error("the other process sends what it should not")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("cannot read from the other process")]
    Read(#[source] io::Error),
}

/// Takes the socket apart into what comes and what goes.
pub fn open(socket: StdUnixStream) -> io::Result<(Inbox, Outbox)> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixStream::from_std(socket)?);
    let outbox = Outbox(Arc::new(Outgoing {
        more: Notify::new(),
        socket: socket.clone(),
        waiting: Mutex::default(),
    }));
    let decoder = Decoder::default();
    Ok((Inbox { decoder, socket }, outbox))
}

/// What comes.
#[derive(Debug)]
pub struct Inbox {
    decoder: Decoder,
    socket: Arc<UnixStream>,
}

impl Inbox {
    /// The next message, or `None` when the other process is gone.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, ReadError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            match self.socket.try_read_buf(buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.readable().await.map_err(ReadError::Read)?;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(ReadError::Read(error)),
            }
        }
    }

    /// For a thread that only reads.
    pub fn into_blocking(self) -> io::Result<BlockingInbox> {
        Ok(BlockingInbox {
            decoder: self.decoder,
            socket: self.socket.as_fd().try_clone_to_owned()?,
        })
    }
}

/// What comes, for a thread that sleeps until something does.
#[derive(Debug)]
pub struct BlockingInbox {
    decoder: Decoder,
    socket: OwnedFd,
}

impl BlockingInbox {
    /// The next message, or `None` when the other process is gone.
    pub fn next<M: Message + Default>(&mut self) -> Result<Option<M>, ReadError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            self.wait()?;
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(buffer)) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(None),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(ReadError::Read(error.into())),
            }
        }
    }

    /// The outbox writes to the same socket without waiting, so a read does not wait either.
    fn wait(&self) -> Result<(), ReadError> {
        loop {
            match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(ReadError::Read(error.into())),
            }
        }
    }
}

/// What goes. It is written by who sends it, on its own thread, and only what the socket does not take at once is left to
/// [`Outbox::write`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Outgoing>);

#[derive(Debug)]
struct Outgoing {
    more: Notify,
    socket: Arc<UnixStream>,
    waiting: Mutex<Vec<u8>>,
}

impl Outbox {
    /// Leaves a message for the next one to take along.
    pub fn push(&self, message: &impl Message) {
        encode(
            message,
            &mut self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Sends a message. That it arrives is not said; a socket whose other end is gone is noticed where it is read.
    pub fn send(&self, message: &impl Message) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        encode(message, &mut waiting);
        self.flush(&mut waiting);
    }

    /// Sends a frame. Returns whether it fits what may wait.
    pub fn send_frame(&self, frame: &[u8]) -> bool {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() + frame.len() > MAX_WAITING_BYTES {
            return false;
        }
        waiting.extend_from_slice(frame);
        self.flush(&mut waiting);
        true
    }

    /// Tells the other process that no more comes.
    pub fn close(&self) {
        // It may be gone already.
        let _ = rustix::net::shutdown(&self.0.socket, rustix::net::Shutdown::Write);
    }

    /// Writes what the socket did not take at once, for ever.
    pub async fn write(self) {
        loop {
            self.0.more.notified().await;
            if self.0.socket.writable().await.is_err() {
                return;
            }
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.flush(&mut waiting);
        }
    }

    fn flush(&self, waiting: &mut Vec<u8>) {
        let mut written = 0;
        while written < waiting.len() {
            match self.0.socket.try_write(&waiting[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.0.more.notify_one();
                    break;
                }
                // The other process is gone, and nothing is for it any more.
                Err(_) => written = waiting.len(),
            }
        }
        waiting.drain(..written);
        if waiting.is_empty() && waiting.capacity() > KEPT_BYTES {
            *waiting = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hop::{Call, Order, ToWorker};

    fn call(id: u64, bytes: usize) -> ToWorker {
        ToWorker {
            order: Some(Order::Call(Call {
                id,
                request: vec![7; bytes],
                ..Call::default()
            })),
        }
    }

    #[tokio::test]
    async fn messages_arrive_in_order_however_large() {
        let (one, other) = StdUnixStream::pair().unwrap();
        let (_, outbox) = open(one).unwrap();
        let (mut inbox, _) = open(other).unwrap();
        tokio::spawn(outbox.clone().write());
        let messages: Vec<_> = (0..20).map(|id| call(id, 1 << id)).collect();
        outbox.push(&messages[0]);
        for message in &messages[1..] {
            outbox.send(message);
        }
        for message in &messages {
            assert_eq!(inbox.next().await.unwrap().as_ref(), Some(message));
        }
        drop(outbox);
    }

    #[tokio::test]
    async fn a_thread_reads_the_same() {
        let (one, other) = StdUnixStream::pair().unwrap();
        let (_, outbox) = open(one).unwrap();
        let (mut inbox, theirs) = open(other).unwrap();
        let writer = tokio::spawn(outbox.clone().write());
        let messages: Vec<_> = (0..20).map(|id| call(id, 1 << id)).collect();
        outbox.send(&messages[0]);
        // What was begun there goes on here.
        assert_eq!(inbox.next().await.unwrap().as_ref(), Some(&messages[0]));
        let mut inbox = inbox.into_blocking().unwrap();
        for message in &messages[1..] {
            outbox.send(message);
        }
        let expected = messages.clone();
        let reader = tokio::task::spawn_blocking(move || {
            for message in &expected[1..] {
                assert_eq!(inbox.next().unwrap().as_ref(), Some(message));
            }
            inbox.next::<ToWorker>().unwrap()
        });
        tokio::task::yield_now().await;
        while !outbox.0.waiting.lock().unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        writer.abort();
        outbox.close();
        assert!(reader.await.unwrap().is_none());
        drop(theirs);
    }

    #[tokio::test]
    async fn the_other_end_s_end_is_an_end() {
        let (one, other) = StdUnixStream::pair().unwrap();
        let (mut inbox, outbox) = open(one).unwrap();
        drop(other);
        assert!(inbox.next::<ToWorker>().await.unwrap().is_none());
        outbox.send(&call(1, 10));
    }
}

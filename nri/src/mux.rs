//! The socket under the multiplexer: messages in, messages out.

use std::collections::{HashMap, VecDeque};
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::frame::{Demux, FrameError, PLUGIN_SERVICE, RUNTIME_SERVICE};
use crate::ttrpc::message::Assembler;
use crate::ttrpc::{Message, MessageError};

/// What one read may bring.
const READ_BYTES: usize = 64 << 10;

/// Messages that wait to be written before senders have to wait too.
const OUTGOING_MESSAGES: usize = 64;

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    /// The other end closed the connection in the middle of a message.
    #[error("the connection was closed in the middle of a message")]
    Cut,
    /// The other end sent a frame that cannot be.
    #[error("the runtime sent what NRI does not allow")]
    Frame(#[from] FrameError),
    /// The other end sent a message that cannot be.
    #[error("the runtime sent what NRI does not allow")]
    Message(#[from] MessageError),
    /// The socket failed.
    #[error("cannot read from the NRI socket")]
    Read(#[source] io::Error),
}

/// Splits a connection into what comes and what goes. The task writes until every [`Outgoing`] is gone.
pub(crate) fn open(socket: UnixStream) -> (Incoming, Outgoing, JoinHandle<io::Result<()>>) {
    let (read, write) = socket.into_split();
    let (sender, receiver) = mpsc::channel(OUTGOING_MESSAGES);
    (
        Incoming::new(read),
        Outgoing { sender },
        tokio::spawn(write_all(write, receiver)),
    )
}

/// The messages that arrive.
#[derive(Debug)]
pub(crate) struct Incoming {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    demux: Demux,
    assemblers: HashMap<u32, Assembler>,
    ready: VecDeque<(u32, Message)>,
}

impl Incoming {
    fn new(socket: OwnedReadHalf) -> Self {
        let services = [PLUGIN_SERVICE, RUNTIME_SERVICE];
        Self {
            socket,
            buffer: Vec::with_capacity(READ_BYTES),
            demux: Demux::default(),
            assemblers: services
                .into_iter()
                .map(|id| (id, Assembler::default()))
                .collect(),
            ready: VecDeque::new(),
        }
    }

    /// The next message and its connection, or `None` when the other end has closed the socket. What
    /// arrives for other connections is dropped. Can be cancelled without losing anything.
    pub(crate) async fn next(&mut self) -> Result<Option<(u32, Message)>, MuxError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            self.buffer.clear();
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return self.end(),
                Ok(_) => self.take_apart()?,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return self.end(),
                Err(error) => return Err(MuxError::Read(error)),
            }
        }
    }

    fn take_apart(&mut self) -> Result<(), MuxError> {
        let mut input = self.buffer.as_slice();
        while let Some((connection, mut bytes)) = self.demux.next(&mut input)? {
            let Some(assembler) = self.assemblers.get_mut(&connection) else {
                continue;
            };
            while !bytes.is_empty() {
                self.ready
                    .extend(assembler.next(&mut bytes)?.map(|message| (connection, message)));
            }
        }
        Ok(())
    }

    fn end(&self) -> Result<Option<(u32, Message)>, MuxError> {
        let between = self.assemblers.values().all(Assembler::is_between_messages);
        if between && self.demux.is_between_frames() {
            Ok(None)
        } else {
            Err(MuxError::Cut)
        }
    }
}

/// Where messages are left to be written. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    sender: mpsc::Sender<Vec<u8>>,
}

/// The socket cannot be written to any more.
#[derive(Debug)]
pub(crate) struct Ended;

impl Outgoing {
    /// Queues a message. Two messages never mix, whoever sends them.
    pub(crate) async fn send(&self, connection: u32, message: &Message) -> Result<(), Ended> {
        self.sender
            .send(message.to_frames(connection))
            .await
            .map_err(|_| Ended)
    }
}

async fn write_all(mut socket: OwnedWriteHalf, mut messages: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = messages.recv().await {
        socket.write_all(&bytes).await?;
    }
    socket.shutdown().await
}

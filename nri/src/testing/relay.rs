//! What stands between the fake's orderly messages and the plugin's socket.

use std::collections::HashMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::frame::{self, Demux, FRAME_HEADER_BYTES};
use crate::ttrpc::message::{Assembler, MESSAGE_HEADER_BYTES};

/// What Go's buffered readers and writers hold.
const BUFFER_BYTES: usize = 4096;

/// How a fake runtime writes. All of these are one and the same to a correct reader.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Manners {
    /// One byte to a frame, header and payload alike.
    Crumbs,
    /// One frame to a message, and one write to a byte.
    Drip,
    /// As containerd does: a message up to 4096 bytes in one frame, a longer one cut after 4096.
    #[default]
    Runtime,
}

impl Manners {
    fn frames(self, connection: u32, message: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), message);
        let mut cut = |length: usize| {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            frame::encode(connection, piece, &mut out);
            rest = after;
            !after.is_empty()
        };
        match self {
            Self::Crumbs => while cut(1) {},
            Self::Drip => while cut(frame::MAX_FRAME_BYTES) {},
            Self::Runtime => {
                cut(BUFFER_BYTES);
                if message.len() > BUFFER_BYTES {
                    cut(message.len());
                }
            }
        }
        out
    }

    fn write_bytes(self) -> usize {
        if self == Self::Drip { 1 } else { usize::MAX }
    }
}

/// Relays until either end closes, or the plugin does what a real runtime would close it for.
pub(super) async fn run(
    plugin: UnixStream,
    fake: UnixStream,
    manners: Manners,
    raw: mpsc::Receiver<Vec<u8>>,
) {
    let ((from_plugin, to_plugin), (from_fake, to_fake)) = (plugin.into_split(), fake.into_split());
    // Either one's end drops all four halves, and with them both sockets.
    let _ = tokio::select! {
        result = to_the_plugin(from_fake, to_plugin, manners, raw) => result,
        result = to_the_fake(from_plugin, to_fake) => result,
    };
}

async fn to_the_plugin(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    manners: Manners,
    mut raw: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let (mut demux, mut assemblers) = (Demux::default(), HashMap::<u32, Assembler>::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = tokio::select! {
            Some(bytes) = raw.recv() => {
                to.write_all(&bytes).await?;
                continue;
            }
            count = from.read(&mut buffer) => count?,
        };
        if count == 0 {
            return Ok(());
        }
        let mut input = &buffer[..count];
        while let Some((connection, mut bytes)) = demux.next(&mut input).map_err(io::Error::other)? {
            while !bytes.is_empty() {
                let assembler = assemblers.entry(connection).or_default();
                if let Some(message) = assembler.next(&mut bytes).map_err(io::Error::other)? {
                    let message = [message.header().as_slice(), &message.payload].concat();
                    for piece in manners.frames(connection, &message).chunks(manners.write_bytes()) {
                        to.write_all(piece).await?;
                    }
                }
            }
        }
    }
}

async fn to_the_fake(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut readers = HashMap::<u32, StrictReader>::new();
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        from.read_exact(&mut header).await?;
        let [c0, c1, c2, c3, l0, l1, l2, l3] = header;
        let (connection, length) = (
            u32::from_be_bytes([c0, c1, c2, c3]),
            u32::from_be_bytes([l0, l1, l2, l3]),
        );
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload).await?;
        readers.entry(connection).or_default().take(&payload)?;
        to.write_all(&header).await?;
        to.write_all(&payload).await?;
    }
}

/// Reads a connection the way containerd's library does: through a buffer of 4096 bytes, except that
/// a payload is read straight into its place when the buffer is empty and at least that much is wanted.
/// A frame that holds more than the read asked for ends the connection.
#[derive(Debug, Default)]
struct StrictReader {
    header: Vec<u8>,
    payload_left: usize,
}

impl StrictReader {
    fn take(&mut self, mut frame: &[u8]) -> io::Result<()> {
        let is_direct = self.payload_left >= BUFFER_BYTES;
        let asked = if is_direct {
            self.payload_left
        } else {
            BUFFER_BYTES
        };
        if frame.len() > asked {
            return Err(io::Error::other(
                "a frame holds more than a runtime reads at once",
            ));
        }
        while !frame.is_empty() {
            let wanted = if self.payload_left > 0 {
                self.payload_left
            } else {
                MESSAGE_HEADER_BYTES - self.header.len()
            };
            let (piece, rest) = frame.split_at(wanted.min(frame.len()));
            frame = rest;
            if self.payload_left > 0 {
                self.payload_left -= piece.len();
                continue;
            }
            self.header.extend_from_slice(piece);
            if let [a, b, c, d, _, _, _, _, _, _] = self.header[..] {
                self.payload_left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.header.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ttrpc::Message;
    use crate::ttrpc::message::Kind;

    fn message(payload_bytes: usize) -> Message {
        Message {
            stream: 1,
            kind: Kind::Request,
            payload: vec![7; payload_bytes],
        }
    }

    /// The payloads of the frames in `bytes`.
    fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while let [_, _, _, _, a, b, c, d, rest @ ..] = bytes {
            let (payload, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            out.push(payload.to_vec());
            bytes = after;
        }
        out
    }

    #[test]
    fn a_strict_reader_takes_what_this_crate_writes() {
        let mut reader = StrictReader::default();
        for length in [0, 1, 4085, 4086, 4087, 4095, 4096, 4097, 100_000] {
            for frame in frames(&message(length).to_frames(1)) {
                reader
                    .take(&frame)
                    .unwrap_or_else(|error| panic!("{length}: {error}"));
            }
            assert_eq!((reader.header.len(), reader.payload_left), (0, 0), "{length}");
        }
    }

    #[test]
    fn a_strict_reader_refuses_a_long_frame_with_a_header_in_it() {
        let message = message(4087);
        let whole = [message.header().as_slice(), &message.payload].concat();
        assert!(StrictReader::default().take(&whole).is_err());
        assert!(StrictReader::default().take(&whole[..4096]).is_ok());
    }

    #[test]
    fn runtimes_cut_after_4096_bytes() {
        let lengths = |payload| {
            let message = message(payload);
            let whole = [message.header().as_slice(), &message.payload].concat();
            frames(&Manners::Runtime.frames(1, &whole))
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(lengths(4086), [4096]);
        assert_eq!(lengths(4087), [4096, 1]);
        assert_eq!(lengths(50_000), [4096, 45_914]);
    }
}

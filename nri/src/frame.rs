//! Frames of the multiplexer that NRI puts on its one socket.
//!
//! A frame is a connection number and a length, both 32-bit big-endian, and that many bytes. A
//! connection is a stream of bytes: where a frame ends says nothing about where a message ends. The
//! runtime's own library writes through a 4 KiB buffer, so that a message longer than that arrives as
//! one frame of 4096 bytes, which starts with the message's header, and another with the rest.
//!
//! That library reads less freely than it writes:
//! - it takes at most 4096 bytes in one read while it waits for a message's header, and a frame that
//!   holds more than the read asked for ends the connection;
//! - it queues at most 256 frames that nobody has read yet, and one more ends the connection.
//!
//! So a message is written as exactly two frames: its header, and the whole of its payload.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

/// The connection on which the runtime calls the plugin.
pub const PLUGIN_SERVICE: u32 = 1;

/// The connection on which the plugin calls the runtime.
pub const RUNTIME_SERVICE: u32 = 2;

/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 8;

/// The longest payload of a frame: the longest message there is, with its header.
pub const MAX_FRAME_BYTES: usize = 10 + (4 << 20);

/// What is wrong with a frame.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// It claims to be longer than any message.
    #[error("a frame of {length} bytes on connection {connection} exceeds the limit of {MAX_FRAME_BYTES}")]
    TooLong {
        /// The connection it is for.
        connection: u32,
        /// The length it claims.
        length: u32,
    },
}

/// Appends one frame to `out`.
///
/// # Panics
///
/// If `payload` is longer than 4 GiB; callers stay below [`MAX_FRAME_BYTES`].
pub fn encode(connection: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("callers keep frames below 4 GiB");
    out.reserve(FRAME_HEADER_BYTES + payload.len());
    out.extend_from_slice(&connection.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Takes a stream of frames apart, however it is cut.
#[derive(Debug, Default)]
pub struct Demux {
    header: [u8; FRAME_HEADER_BYTES],
    header_filled: usize,
    connection: u32,
    payload_left: usize,
}

impl Demux {
    /// Takes bytes off the front of `input`: the next piece of a payload and the connection it belongs
    /// to, or `None` once `input` is used up. Nothing is buffered but a frame's header.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, FrameError> {
        while self.payload_left == 0 {
            if !self.read_header(input)? {
                return Ok(None);
            }
        }
        if input.is_empty() {
            return Ok(None);
        }
        let (piece, rest) = input.split_at(self.payload_left.min(input.len()));
        self.payload_left -= piece.len();
        *input = rest;
        Ok(Some((self.connection, piece)))
    }

    /// Whether the stream could end here without cutting a frame.
    pub fn is_between_frames(&self) -> bool {
        self.header_filled == 0 && self.payload_left == 0
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        let wanted = FRAME_HEADER_BYTES - self.header_filled;
        let (piece, rest) = input.split_at(wanted.min(input.len()));
        self.header[self.header_filled..][..piece.len()].copy_from_slice(piece);
        self.header_filled += piece.len();
        *input = rest;
        if self.header_filled < FRAME_HEADER_BYTES {
            return Ok(false);
        }
        self.header_filled = 0;
        let [c0, c1, c2, c3, l0, l1, l2, l3] = self.header;
        let (connection, length) = (
            u32::from_be_bytes([c0, c1, c2, c3]),
            u32::from_be_bytes([l0, l1, l2, l3]),
        );
        if length as usize > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { connection, length });
        }
        (self.connection, self.payload_left) = (connection, length as usize);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `pieces` one by one and joins what comes out, by runs of one connection.
    fn demux<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<(u32, Vec<u8>)>, FrameError> {
        let (mut demux, mut out) = (Demux::default(), Vec::<(u32, Vec<u8>)>::new());
        for mut piece in pieces {
            while let Some((connection, bytes)) = demux.next(&mut piece)? {
                match out.last_mut() {
                    Some((last, joined)) if *last == connection => joined.extend_from_slice(bytes),
                    _ => out.push((connection, bytes.to_vec())),
                }
            }
        }
        Ok(out)
    }

    #[test]
    fn a_frame_is_number_length_payload() {
        let mut bytes = Vec::new();
        encode(2, b"abc", &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 2, 0, 0, 0, 3, b'a', b'b', b'c']);
    }

    #[test]
    fn empty_frames_are_passed_over() {
        let mut bytes = Vec::new();
        for payload in [b"".as_slice(), b"x", b""] {
            encode(1, payload, &mut bytes);
        }
        assert_eq!(demux([bytes.as_slice()]), Ok(vec![(1, b"x".to_vec())]));
    }

    #[test]
    fn the_longest_frame_passes_and_one_byte_more_does_not() {
        let header = |length: usize| {
            let mut bytes = 1u32.to_be_bytes().to_vec();
            bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
            bytes
        };
        assert_eq!(demux([header(MAX_FRAME_BYTES).as_slice()]), Ok(vec![]));
        let length = u32::try_from(MAX_FRAME_BYTES + 1).unwrap();
        let refused = Err(FrameError::TooLong {
            connection: 1,
            length,
        });
        assert_eq!(demux([header(MAX_FRAME_BYTES + 1).as_slice()]), refused);
    }

    #[test]
    fn a_cut_frame_is_noticed() {
        let mut bytes = Vec::new();
        encode(1, b"abc", &mut bytes);
        for cut in 0..=bytes.len() {
            let (mut demux, mut input) = (Demux::default(), &bytes[..cut]);
            while demux.next(&mut input).unwrap().is_some() {}
            assert_eq!(
                demux.is_between_frames(),
                cut == 0 || cut == bytes.len(),
                "cut at {cut}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out_however_it_is_cut(
            frames in prop::collection::vec((0u32..4, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cut in 1usize..50,
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::<(u32, Vec<u8>)>::new());
            for (connection, payload) in &frames {
                encode(*connection, payload, &mut bytes);
                match expected.last_mut() {
                    _ if payload.is_empty() => {}
                    Some((last, joined)) if last == connection => joined.extend_from_slice(payload),
                    _ => expected.push((*connection, payload.clone())),
                }
            }
            prop_assert_eq!(demux(bytes.chunks(cut)), Ok(expected));
        }

        #[test]
        fn any_bytes_are_either_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..20) {
            let whole = demux([bytes.as_slice()]);
            prop_assert_eq!(demux(bytes.chunks(cut)), whole);
        }
    }
}

//! HTTP/2's frames (RFC 9113), read for one purpose: each stream that a client opens is a request.
//!
//! Trailers are headers of a stream that is open already. Bodies are not looked at.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::counts::{Exclusion, Protocol};
use crate::exclude::Rules;
use crate::hpack::Decoder;
use crate::tally::Tally;

/// What a client's preface ends with, after the two lines that HTTP/1 would take for a request.
const MAGIC: &[u8] = b"SM\r\n\r\n";
const HEADER_LENGTH: usize = 9;
/// A block that is longer is counted and not decoded. Servers refuse such.
const MAX_BLOCK: usize = 64 * 1024;
/// The longest frame that is believed when its connection was not seen from the start.
const LONGEST_PLAUSIBLE: u32 = 1 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;

const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

/// The bytes are no HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// Follows the streams that a client opens.
#[derive(Debug, Default)]
pub struct Http2 {
    state: State,
    header: [u8; HEADER_LENGTH],
    frame: Frame,
    block: Block,
    decoder: Decoder,
    last_stream: u32,
}

/// What is to be read next, and how much of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The end of the preface.
    Magic(usize),
    Header(usize),
    /// What is left of a frame's payload that belongs to a block.
    Fragment(usize),
    /// What is left of one that does not.
    Payload(u64),
}

impl Default for State {
    fn default() -> Self {
        Self::Magic(0)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// The fields of a stream, until all are there.
#[derive(Debug, Default)]
struct Block {
    /// The stream, while the block is not complete.
    stream: Option<u32>,
    /// Where the current frame's payload starts in `bytes`.
    frame_start: usize,
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl Http2 {
    /// A connection that began as HTTP/1, whose request for an upgrade is the first stream.
    pub fn upgraded() -> Self {
        Self {
            last_stream: 1,
            ..Self::default()
        }
    }

    /// A connection that is not seen from its start, or no longer whole, and goes on with a frame.
    #[must_use]
    pub fn picked_up(mut self) -> Self {
        self.state = State::Header(0);
        self.block = Block::default();
        self.decoder.forget();
        self
    }

    /// Reads on.
    pub fn read(&mut self, bytes: &[u8], rules: &Rules, tally: &mut Tally) -> Result<(), Foreign> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.state {
                State::Magic(read) => {
                    if rest[0] != MAGIC[read] {
                        return Err(Foreign);
                    }
                    rest = &rest[1..];
                    self.state = if read + 1 < MAGIC.len() {
                        State::Magic(read + 1)
                    } else {
                        State::Header(0)
                    };
                }
                State::Header(read) => {
                    let part = rest
                        .split_off(..rest.len().min(HEADER_LENGTH - read))
                        .unwrap_or_default();
                    self.header[read..read + part.len()].copy_from_slice(part);
                    self.state = State::Header(read + part.len());
                    if read + part.len() == HEADER_LENGTH {
                        self.frame_begins()?;
                        self.settle(rules, tally)?;
                    }
                }
                State::Fragment(left) => {
                    let part = rest.split_off(..rest.len().min(left)).unwrap_or_default();
                    self.block.extend(part);
                    self.state = State::Fragment(left - part.len());
                    self.settle(rules, tally)?;
                }
                State::Payload(left) => {
                    let passed = left.min(rest.len() as u64);
                    rest = &rest[usize::try_from(passed).unwrap_or(rest.len())..];
                    self.pass(passed);
                }
            }
        }
        Ok(())
    }

    /// How many of the bytes that follow belong to a body, or another frame of no interest.
    pub fn indifferent(&self) -> u64 {
        match self.state {
            State::Payload(left) => left,
            _ => 0,
        }
    }

    /// Goes on after so many of these.
    pub fn pass(&mut self, bytes: u64) {
        if let State::Payload(left) = self.state {
            self.state = match left.saturating_sub(bytes) {
                0 => State::Header(0),
                left => State::Payload(left),
            };
        }
    }

    fn frame_begins(&mut self) -> Result<(), Foreign> {
        self.frame = Frame::parse(&self.header);
        let Frame {
            length, kind, stream, ..
        } = self.frame;
        let continues = kind == CONTINUATION;
        if self.block.stream != continues.then_some(stream) {
            return Err(Foreign); // nothing may come between the frames of a block
        }
        if kind == HEADERS {
            if stream.is_multiple_of(2) {
                return Err(Foreign);
            }
            self.block.begin(stream);
        }
        self.block.frame_start = self.block.bytes.len();
        self.state = match kind {
            HEADERS | CONTINUATION => State::Fragment(length as usize),
            _ => State::Payload(length.into()),
        };
        Ok(())
    }

    /// Ends a frame of which all is there.
    fn settle(&mut self, rules: &Rules, tally: &mut Tally) -> Result<(), Foreign> {
        match self.state {
            State::Payload(0) => self.state = State::Header(0),
            State::Fragment(0) => {
                self.state = State::Header(0);
                if self.frame.kind == HEADERS {
                    self.block.strip(self.frame.flags)?;
                }
                if self.frame.flags & END_HEADERS != 0 {
                    self.block_ends(rules, tally);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn block_ends(&mut self, rules: &Rules, tally: &mut Tally) {
        let stream = self.block.stream.take().unwrap_or_default();
        let request = self.decode(rules);
        if stream > self.last_stream {
            self.last_stream = stream;
            tally.request(request.protocol(), request.exclusion);
        }
        self.block.bytes.clear();
        self.block.bytes.shrink_to(MAX_BLOCK / 16);
    }

    fn decode(&mut self, rules: &Rules) -> Request {
        let mut request = Request::default();
        let decoded = self
            .decoder
            .decode(&self.block.bytes, |name, value| request.field(name, value, rules));
        if self.block.is_too_long || decoded.is_err() {
            self.decoder.forget();
        }
        request
    }
}

impl Frame {
    fn parse(header: &[u8; HEADER_LENGTH]) -> Self {
        Self {
            length: u32::from_be_bytes([0, header[0], header[1], header[2]]),
            kind: header[3],
            flags: header[4],
            stream: u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]),
        }
    }

    /// Whether a client might send it.
    fn is_plausible(&self) -> bool {
        let is_of_a_stream = !self.stream.is_multiple_of(2);
        match self.kind {
            DATA => is_of_a_stream && self.length <= LONGEST_PLAUSIBLE && self.flags & !0x9 == 0,
            HEADERS => is_of_a_stream && (1..=16384).contains(&self.length) && self.flags & !0x2d == 0,
            PRIORITY => is_of_a_stream && self.length == 5,
            RST_STREAM => is_of_a_stream && self.length == 4 && self.flags == 0,
            SETTINGS => {
                self.stream == 0 && self.length.is_multiple_of(6) && self.length < 256 && self.flags <= 1
            }
            PING => self.stream == 0 && self.length == 8 && self.flags <= 1,
            GOAWAY => self.stream == 0 && (8..1024).contains(&self.length) && self.flags == 0,
            WINDOW_UPDATE => (self.stream == 0 || is_of_a_stream) && self.length == 4 && self.flags == 0,
            _ => false, // a block whose start was not seen, or what only servers send
        }
    }
}

/// Whether a segment looks as if it began with a frame: all that is in it are frames.
pub fn begins_with_frame(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut frames = 0;
    while let Some(header) = rest.first_chunk() {
        let frame = Frame::parse(header);
        if !frame.is_plausible() {
            return false;
        }
        frames += 1;
        rest = rest
            .get(HEADER_LENGTH + frame.length as usize..)
            .unwrap_or_default();
    }
    frames > 0 && rest.len() < HEADER_LENGTH
}

impl Block {
    fn begin(&mut self, stream: u32) {
        self.stream = Some(stream);
        self.bytes.clear();
        self.is_too_long = false;
    }

    fn extend(&mut self, part: &[u8]) {
        if self.bytes.len() + part.len() > MAX_BLOCK {
            self.is_too_long = true;
        }
        if self.is_too_long {
            self.bytes.clear();
            self.frame_start = 0;
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Takes the padding and the priority out of what the last frame has added.
    fn strip(&mut self, flags: u8) -> Result<(), Foreign> {
        if self.is_too_long {
            return Ok(());
        }
        let mut start = self.frame_start;
        if flags & PADDED != 0 {
            let padding = usize::from(*self.bytes.get(start).ok_or(Foreign)?);
            start += 1;
            let end = self.bytes.len().checked_sub(padding).filter(|end| *end >= start);
            self.bytes.truncate(end.ok_or(Foreign)?);
        }
        if flags & HAS_PRIORITY != 0 {
            start += 5;
        }
        if start > self.bytes.len() {
            return Err(Foreign);
        }
        self.bytes.drain(self.frame_start..start);
        Ok(())
    }
}

/// What matters of a request's fields.
#[derive(Debug, Default)]
struct Request {
    by_path: Option<Exclusion>,
    exclusion: Option<Exclusion>,
    is_grpc: bool,
}

impl Request {
    fn field(&mut self, name: &[u8], value: &[u8], rules: &Rules) {
        match name {
            b":path" => {
                self.by_path = rules.by_path(value);
                self.exclusion = self.by_path.or(self.exclusion);
            }
            b"content-type" => self.is_grpc = value.starts_with(b"application/grpc"),
            b"user-agent" => self.exclusion = self.by_path.or_else(|| rules.by_user_agent(value)),
            _ => {}
        }
    }

    fn protocol(&self) -> Protocol {
        if self.is_grpc {
            Protocol::Grpc
        } else {
            Protocol::Http2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// `:method: POST`, `:path` and `content-type` as literals that are remembered.
    fn block(path: &str, content_type: &str) -> Vec<u8> {
        let mut block = vec![0x83];
        for (index, value) in [(0x44, path), (0x5f, content_type)] {
            block.extend([index, u8::try_from(value.len()).unwrap()]);
            block.extend(value.as_bytes());
        }
        block
    }

    fn begun() -> Vec<u8> {
        [
            MAGIC,
            &frame(SETTINGS, 0, 0, &[]),
            &frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]),
        ]
        .concat()
    }

    fn found_in(mut parser: Http2, stream: &[u8], size: usize) -> (Tally, Result<(), Foreign>) {
        let mut tally = Tally::default();
        let mut pieces = stream.chunks(size);
        let result = pieces.try_for_each(|piece| parser.read(piece, &Rules::probes(), &mut tally));
        (tally, result)
    }

    fn check(stream: &[u8], http2: u64, grpc: u64, health: u64) {
        for size in [1, 2, 9, 10, 100, 1_000_000] {
            let (tally, result) = found_in(Http2::default(), stream, size);
            let found = (
                tally.requests(Protocol::Http2),
                tally.requests(Protocol::Grpc),
                tally.excluded(Exclusion::GrpcHealth),
            );
            assert_eq!(
                (found, result),
                ((http2, grpc, health), Ok(())),
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn each_stream_counts_once() {
        let grpc = block("/a.B/C", "application/grpc+proto");
        let mut stream = begun();
        stream.extend(frame(HEADERS, END_HEADERS, 1, &block("/", "text/plain")));
        stream.extend(frame(HEADERS, END_HEADERS, 3, &grpc));
        stream.extend(frame(DATA, 0, 3, &frame(HEADERS, END_HEADERS, 9, &grpc)));
        stream.extend(frame(HEADERS, END_HEADERS | 1, 3, &[0x82])); // trailers
        stream.extend(frame(PING, 0, 0, &[0; 8]));
        stream.extend(frame(PRIORITY, 0, 7, &[0; 5]));
        stream.extend(frame(0xbe, 0, 7, &[0; 100])); // an extension
        // What was remembered is named by its number, the newest first.
        stream.extend(frame(HEADERS, END_HEADERS, 11, &[0x83, 0xbe, 0xbf]));
        check(&stream, 1, 2, 0);
    }

    #[test]
    fn blocks_may_go_on_in_other_frames() {
        let block = block("/grpc.health.v1.Health/Check", "application/grpc");
        let padded = [&[3, 0, 0, 0, 0, 16][..], &block[..4], &[0; 3]].concat();
        let mut stream = begun();
        stream.extend(frame(HEADERS, PADDED | HAS_PRIORITY, 1, &padded));
        stream.extend(frame(CONTINUATION, 0, 1, &[]));
        stream.extend(frame(CONTINUATION, 0, 1, &block[4..9]));
        stream.extend(frame(CONTINUATION, END_HEADERS, 1, &block[9..]));
        stream.extend(frame(HEADERS, END_HEADERS, 3, &[0xbf, 0xbe]));
        check(&stream, 0, 0, 2);
    }

    #[test]
    fn an_upgraded_connection_has_its_first_stream_already() {
        let stream = [begun(), frame(HEADERS, END_HEADERS, 3, &[0x82])].concat();
        let (tally, _) = found_in(Http2::upgraded(), &stream, 4);
        assert_eq!(tally.requests(Protocol::Http2), 1);
        let stream = [begun(), frame(HEADERS, END_HEADERS, 1, &[0x82])].concat();
        let (tally, _) = found_in(Http2::upgraded(), &stream, 4);
        assert_eq!(tally.requests(Protocol::Http2), 0);
    }

    #[test]
    fn what_no_client_sends_is_foreign() {
        let headers = frame(HEADERS, 0, 1, &[0x82]);
        for wrong in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            [MAGIC, &frame(HEADERS, END_HEADERS, 2, &[0x82])].concat(),
            [MAGIC, &frame(CONTINUATION, END_HEADERS, 1, &[0x82])].concat(),
            [MAGIC, &headers, &frame(PING, 0, 0, &[0; 8])].concat(),
            [MAGIC, &headers, &frame(CONTINUATION, END_HEADERS, 3, &[0x82])].concat(),
            [MAGIC, &frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82])].concat(),
            [MAGIC, &frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, &[0x82])].concat(),
        ] {
            assert_eq!(found_in(Http2::default(), &wrong, 5).1, Err(Foreign), "{wrong:?}");
        }
    }

    #[test]
    fn a_block_of_any_length_is_one_request() {
        let mut stream = begun();
        stream.extend(frame(HEADERS, 0, 1, &block("/", "text/plain")));
        for _ in 0..20 {
            stream.extend(frame(CONTINUATION, 0, 1, &vec![0; 10_000]));
        }
        stream.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
        stream.extend(frame(HEADERS, END_HEADERS, 3, &block("/", "application/grpc")));
        check(&stream, 1, 1, 0);
    }

    #[test]
    fn a_segment_begins_with_a_frame_or_not() {
        let data = frame(DATA, 1, 7, &[0; 100]);
        assert!(begins_with_frame(&data) && begins_with_frame(&data[..50]));
        assert!(begins_with_frame(
            &[data.clone(), frame(HEADERS, 0x25, 9, &[0; 30]), vec![0, 0, 4]].concat()
        ));
        assert!(!begins_with_frame(&data[1..]));
        assert!(!begins_with_frame(b"GET / HTTP/1.1\r\n\r\n"));
        assert!(!begins_with_frame(&[0; 9]));
        assert!(!begins_with_frame(&frame(5, END_HEADERS, 1, &[0; 8])));
    }

    #[test]
    fn a_connection_is_picked_up_at_a_frame() {
        let block = block("/a.B/C", "application/grpc");
        let stream = [
            frame(HEADERS, END_HEADERS, 41, &[0x83, 0xc5]),
            frame(HEADERS, END_HEADERS, 43, &block),
        ]
        .concat();
        let (tally, result) = found_in(Http2::default().picked_up(), &stream, 3);
        assert_eq!(
            (
                tally.requests(Protocol::Http2),
                tally.requests(Protocol::Grpc),
                result
            ),
            (1, 1, Ok(()))
        );
    }

    /// The frames of a request: its block cut into frames, data, trailers.
    fn request(stream: u32, cuts: &[u8], data: &[u8], trailers: bool) -> Vec<u8> {
        let block = block("/a.B/C", "application/grpc");
        let mut bytes = Vec::new();
        let (mut start, mut kind) = (0, HEADERS);
        for cut in cuts {
            let end = (start + usize::from(*cut)).min(block.len());
            bytes.extend(frame(kind, 0, stream, &block[start..end]));
            (start, kind) = (end, CONTINUATION);
        }
        bytes.extend(frame(kind, END_HEADERS, stream, &block[start..]));
        bytes.extend(frame(DATA, 0, stream, data));
        if trailers {
            bytes.extend(frame(HEADERS, END_HEADERS | 1, stream, &[0x82]));
        }
        bytes
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_count(
            requests in prop::collection::vec(
                (prop::collection::vec(0u8..30, 0..3), prop::collection::vec(any::<u8>(), 0..100), any::<bool>()), 0..10),
            size in 1usize..300,
        ) {
            let mut stream = begun();
            for (number, (cuts, data, trailers)) in requests.iter().enumerate() {
                stream.extend(request(2 * u32::try_from(number).unwrap() + 1, cuts, data, *trailers));
            }
            let (tally, result) = found_in(Http2::default(), &stream, size);
            prop_assert_eq!((tally.requests(Protocol::Grpc), result), (requests.len() as u64, Ok(())));
        }

        #[test]
        fn no_bytes_make_it_panic(stream in prop::collection::vec(any::<u8>(), 0..500), size in 1usize..100) {
            let _ = found_in(Http2::default(), &stream, size);
            let _ = found_in(Http2::default().picked_up(), &stream, size);
            begins_with_frame(&stream);
        }
    }
}

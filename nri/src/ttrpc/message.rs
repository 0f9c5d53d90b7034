//! ttrpc messages: a header of ten bytes (payload length, stream id, type, flags) and a payload.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use prost::Message as _;

use crate::frame;

/// Bytes before a message's payload.
pub const MESSAGE_HEADER_BYTES: usize = 10;

/// The longest payload of a message. Both ends refuse more.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// What a [`Response`] adds to its payload: a tag and a length of at most four bytes.
const RESPONSE_OVERHEAD_BYTES: usize = 5;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Error texts are cut here: one that is longer helps nobody, and might not fit a message.
const MAX_STATUS_BYTES: usize = 32 << 10;

/// What is wrong with a message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// It claims to be longer than allowed.
    #[error("a message of {length} bytes exceeds the limit of {MAX_PAYLOAD_BYTES}")]
    TooLong {
        /// The length it claims.
        length: u32,
    },
}

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A call.
    Request,
    /// The answer to the call with the same stream id.
    Response,
    /// Part of a stream, or something newer. NRI uses neither.
    Unknown(u8),
}

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Which call it belongs to.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Its content.
    pub payload: Vec<u8>,
}

impl Message {
    /// A call.
    pub fn request(stream: u32, request: &Request) -> Self {
        Self {
            stream,
            kind: Kind::Request,
            payload: request.encode_to_vec(),
        }
    }

    /// The answer to call `stream`: a payload, or what went wrong.
    pub fn response(stream: u32, outcome: Result<Vec<u8>, Status>) -> Self {
        let payload = Response::new(outcome.and_then(fitting)).encode_to_vec();
        Self {
            stream,
            kind: Kind::Response,
            payload,
        }
    }

    /// The header.
    pub fn header(&self) -> [u8; MESSAGE_HEADER_BYTES] {
        let length = u32::try_from(self.payload.len()).expect("payloads are limited to 4 MiB");
        let kind = match self.kind {
            Kind::Request => REQUEST,
            Kind::Response => RESPONSE,
            Kind::Unknown(kind) => kind,
        };
        let mut header = [0; MESSAGE_HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&self.stream.to_be_bytes());
        header[8] = kind;
        header
    }

    /// The message as frames of `connection`: one for its header, one for its payload if it has any.
    pub fn to_frames(&self, connection: u32) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(2 * frame::FRAME_HEADER_BYTES + MESSAGE_HEADER_BYTES + self.payload.len());
        frame::encode(connection, &self.header(), &mut out);
        if !self.payload.is_empty() {
            frame::encode(connection, &self.payload, &mut out);
        }
        out
    }
}

/// An answer that does not fit a message becomes an error that says so.
pub fn fitting(answer: Vec<u8>) -> Result<Vec<u8>, Status> {
    if answer.len() + RESPONSE_OVERHEAD_BYTES <= MAX_PAYLOAD_BYTES {
        return Ok(answer);
    }
    let text = format!(
        "the answer of {} bytes exceeds the limit of {MAX_PAYLOAD_BYTES}",
        answer.len()
    );
    Err(Status::new(Code::ResourceExhausted, text))
}

/// Puts messages together from the bytes of one connection, however they are cut.
#[derive(Debug, Default)]
pub struct Assembler {
    header: [u8; MESSAGE_HEADER_BYTES],
    header_filled: usize,
    payload: Vec<u8>,
}

impl Assembler {
    /// Takes bytes off the front of `input` until a message is complete, or until none are left.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Message>, MessageError> {
        if !self.fill_header(input)? {
            return Ok(None);
        }
        let length = self.payload_length();
        let (piece, rest) = input.split_at((length - self.payload.len()).min(input.len()));
        self.payload.extend_from_slice(piece);
        *input = rest;
        if self.payload.len() < length {
            return Ok(None);
        }
        Ok(Some(self.take()))
    }

    /// Whether the stream could end here without cutting a message.
    pub fn is_between_messages(&self) -> bool {
        self.header_filled == 0
    }

    fn fill_header(&mut self, input: &mut &[u8]) -> Result<bool, MessageError> {
        let wanted = MESSAGE_HEADER_BYTES - self.header_filled;
        if wanted == 0 {
            return Ok(true);
        }
        let (piece, rest) = input.split_at(wanted.min(input.len()));
        self.header[self.header_filled..][..piece.len()].copy_from_slice(piece);
        self.header_filled += piece.len();
        *input = rest;
        if self.header_filled < MESSAGE_HEADER_BYTES {
            return Ok(false);
        }
        if self.payload_length() > MAX_PAYLOAD_BYTES {
            return Err(MessageError::TooLong {
                length: self.header_word(0),
            });
        }
        Ok(true)
    }

    fn take(&mut self) -> Message {
        let kind = match self.header[8] {
            REQUEST => Kind::Request,
            RESPONSE => Kind::Response,
            other => Kind::Unknown(other),
        };
        self.header_filled = 0;
        Message {
            stream: self.header_word(4),
            kind,
            payload: std::mem::take(&mut self.payload),
        }
    }

    fn payload_length(&self) -> usize {
        self.header_word(0) as usize
    }

    fn header_word(&self, at: usize) -> u32 {
        let word = self.header[at..at + 4]
            .try_into()
            .expect("four bytes are four bytes");
        u32::from_be_bytes(word)
    }
}

/// A call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Full name of the service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The method's argument.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// How long the caller will wait, from when it sent this. 0 for ever.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

/// The answer to a call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// Absent, or code 0, when all went well.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The method's result.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

impl Response {
    fn new(outcome: Result<Vec<u8>, Status>) -> Self {
        match outcome {
            Ok(payload) => Self {
                status: None,
                payload,
            },
            Err(status) => Self {
                status: Some(status),
                payload: Vec::new(),
            },
        }
    }

    /// The result, or what went wrong.
    pub fn outcome(self) -> Result<Vec<u8>, Status> {
        match self.status {
            Some(status) if status.code != Code::Ok as i32 => Err(status),
            _ => Ok(self.payload),
        }
    }
}

/// What went wrong with a call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// One of gRPC's codes.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Status {
    /// A status with a message, cut if it is very long.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = (0..=MAX_STATUS_BYTES.min(message.len()))
            .rev()
            .find(|&at| message.is_char_boundary(at));
        message.truncate(end.unwrap_or_default());
        Self {
            code: code as i32,
            message,
        }
    }
}

/// The status codes used here, with gRPC's numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// All went well.
    Ok = 0,
    /// A handler's own error.
    Unknown = 2,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// Something does not fit.
    ResourceExhausted = 8,
    /// There is no such method.
    Unimplemented = 12,
    /// A handler panicked, or was too slow.
    ///
    /// Not `DEADLINE_EXCEEDED` for the latter: in a runtime that code also stands for its own patience
    /// having ended, upon which it drops the plugin.
    Internal = 13,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Demux;

    fn message(stream: u32, payload: &[u8]) -> Message {
        Message {
            stream,
            kind: Kind::Request,
            payload: payload.to_vec(),
        }
    }

    fn assemble<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Message>, MessageError> {
        let (mut assembler, mut out) = (Assembler::default(), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                out.extend(assembler.next(&mut piece)?);
            }
        }
        Ok(out)
    }

    #[test]
    fn the_header_is_a_frame_of_its_own() {
        let frames = message(3, b"abc").to_frames(1);
        let header = [0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 3, 0, 0, 0, 3, 1, 0];
        assert_eq!(
            frames,
            [header.as_slice(), &[0, 0, 0, 1, 0, 0, 0, 3], b"abc"].concat()
        );
    }

    #[test]
    fn a_message_without_payload_is_one_frame() {
        assert_eq!(message(1, b"").to_frames(1).len(), 18);
        assert_eq!(
            assemble([message(1, b"").header().as_slice()]),
            Ok(vec![message(1, b"")])
        );
    }

    #[test]
    fn a_giant_length_is_refused_before_anything_is_allocated() {
        let mut header = message(1, b"").header();
        header[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(
            assemble([header.as_slice()]),
            Err(MessageError::TooLong { length: u32::MAX })
        );
    }

    #[test]
    fn an_answer_that_does_not_fit_becomes_an_error() {
        let most = MAX_PAYLOAD_BYTES - RESPONSE_OVERHEAD_BYTES;
        assert_eq!(
            Message::response(7, Ok(vec![0; most])).payload.len(),
            MAX_PAYLOAD_BYTES
        );
        let answer = Message::response(7, Ok(vec![0; most + 1]));
        let status = Response::decode(answer.payload.as_slice())
            .unwrap()
            .outcome()
            .unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted as i32);
        assert!(
            status.message.contains("exceeds the limit of 4194304"),
            "{}",
            status.message
        );
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let status = Status::new(Code::Unknown, "é".repeat(MAX_STATUS_BYTES));
        assert_eq!(status.message.len(), MAX_STATUS_BYTES);
    }

    #[test]
    fn fields_of_the_future_are_skipped() {
        let mut bytes = Request {
            method: "M".into(),
            ..Request::default()
        }
        .encode_to_vec();
        bytes.extend([0xba, 0x3e, 0x02, b'h', b'i']);
        assert_eq!(Request::decode(bytes.as_slice()).unwrap().method, "M");
    }

    proptest! {
        #[test]
        fn messages_survive_frames_and_cuts(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..12),
            cut in 1usize..70,
        ) {
            let messages: Vec<_> = (1..).step_by(2).zip(&payloads).map(|(id, p)| message(id, p)).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(|message| message.to_frames(1)).collect();
            let (mut demux, mut assembler, mut out) = (Demux::default(), Assembler::default(), Vec::new());
            for mut piece in bytes.chunks(cut) {
                while let Some((_, mut bytes)) = demux.next(&mut piece).unwrap() {
                    while !bytes.is_empty() {
                        out.extend(assembler.next(&mut bytes).unwrap());
                    }
                }
            }
            prop_assert_eq!(out, messages);
            prop_assert!(assembler.is_between_messages());
        }
    }
}

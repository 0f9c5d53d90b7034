//! What the two processes of the daemon say to each other, and how it is framed.
//!
//! The front holds the connection with NRI, the worker does the work (see [`crate::front`]). Between them is one socket pair. A
//! frame is a length and a message; NRI's own bytes pass through as they are.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

pub mod clock;
pub mod socket;

use prost::Message;

use crate::metrics::Sample;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// What a Synchronize of NRI may take in all, and something for the envelope.
pub const MAX_FRAME_BYTES: usize = (256 << 20) + 4096;
/// The call by which the front asks whether the worker can do its work.
pub const READY: &str = "Ready";

/// What the front says.
#[derive(Clone, PartialEq, Message)]
pub struct ToWorker {
    /// One of these.
    #[prost(oneof = "Order", tags = "1, 2, 3")]
    pub order: Option<Order>,
}

/// What the front can say.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Order {
    /// Do this, and answer.
    #[prost(message, tag = "1")]
    Call(Call),
    /// NRI's configuration says that this is the policy.
    #[prost(string, tag = "2")]
    Policy(String),
    /// Be at work from now on. The first message, once.
    #[prost(message, tag = "3")]
    Start(Start),
}

/// What a worker has to know of those before it.
#[derive(Clone, PartialEq, Message)]
pub struct Start {
    /// Whether another worker was at work before, under the same front.
    #[prost(bool, tag = "1")]
    pub is_successor: bool,
    /// The policy that is in force, if one was taken from anywhere.
    #[prost(message, optional, tag = "2")]
    pub policy: Option<PolicyText>,
    /// What earlier workers have seen to begin as a module.
    #[prost(message, repeated, tag = "3")]
    pub known: Vec<Entrypoint>,
}

/// A policy that was found to be good.
#[derive(Clone, PartialEq, Message)]
pub struct PolicyText {
    /// Whether it is the file's; else it is from NRI's configuration.
    #[prost(bool, tag = "1")]
    pub is_files: bool,
    /// The YAML.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// A call of NRI's, or [`READY`].
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    /// By which the answer is told. 0 if nobody waits for one.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// NRI's name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// Its argument, encoded.
    #[prost(bytes = "vec", tag = "3")]
    pub request: Vec<u8>,
    /// When it came in, in nanoseconds of the kernel's monotonic clock, which both processes read alike.
    #[prost(uint64, tag = "4")]
    pub arrival: u64,
    /// When the answer has to be there, on the same clock.
    #[prost(uint64, tag = "5")]
    pub deadline: u64,
}

/// What the worker says.
#[derive(Clone, PartialEq, Message)]
pub struct FromWorker {
    /// One of these.
    #[prost(oneof = "Report", tags = "1, 2, 3, 4, 5, 6")]
    pub report: Option<Report>,
}

/// What the worker can say.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Report {
    /// The answer to a call.
    #[prost(message, tag = "1")]
    Answer(Answer),
    /// Something to be counted.
    #[prost(message, tag = "2")]
    Count(Sample),
    /// An entrypoint begins as a module.
    #[prost(message, tag = "3")]
    Module(Entrypoint),
    /// A policy has been taken from its file.
    #[prost(string, tag = "4")]
    Policy(String),
    /// At work.
    #[prost(bool, tag = "5")]
    Started(bool),
    /// All containers of the last Synchronize have been looked at.
    #[prost(message, tag = "6")]
    Surveyed(Surveyed),
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// The call's.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The result, encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub result: Vec<u8>,
    /// Or why there is none.
    #[prost(string, optional, tag = "3")]
    pub error: Option<String>,
}

/// What a container would start.
#[derive(Clone, Eq, Hash, PartialEq, Message)]
pub struct Entrypoint {
    /// The image's name.
    #[prost(string, tag = "1")]
    pub image: String,
    /// `args[0]`.
    #[prost(string, tag = "2")]
    pub program: String,
}

/// What a look at all containers brought.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Surveyed {
    /// Wasm containers that nobody adjusted.
    #[prost(uint64, tag = "1")]
    pub unadjusted: u64,
    /// Containers that could not be looked at.
    #[prost(uint64, tag = "2")]
    pub unknown: u64,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is no message.
    #[error("a message cannot be decoded")]
    Decode,
    /// It claims to be longer than allowed.
    #[error("a message of {0} bytes exceeds the limit of {MAX_FRAME_BYTES}")]
    TooLong(usize),
}

/// A message's frame, put behind what is in `out`.
pub fn encode(message: &impl Message, out: &mut Vec<u8>) {
    let length = message.encoded_len();
    out.reserve(LENGTH_BYTES + length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    message
        .encode(out)
        .expect("a vector grows as long as there is memory");
}

/// A frame by itself.
pub fn frame(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out);
    out
}

/// Puts messages together from bytes, however they are cut.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Where bytes are to be added.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        &mut self.bytes
    }

    /// The next message that is whole.
    pub fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(body).map_err(|_| FrameError::Decode)?;
        self.taken += LENGTH_BYTES + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(id: u64, request: Vec<u8>) -> ToWorker {
        let call = Call {
            id,
            method: "CreateContainer".to_owned(),
            request,
            arrival: 1,
            deadline: 2,
        };
        ToWorker {
            order: Some(Order::Call(call)),
        }
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(
            requests in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
            cut in 1usize..50,
        ) {
            let messages: Vec<_> = (0..).zip(requests).map(|(id, request)| call(id, request)).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(frame).collect();
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                decoder.buffer().extend_from_slice(piece);
                while let Some(message) = decoder.next::<ToWorker>().unwrap() {
                    found.push(message);
                }
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn nonsense_is_no_message_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.next::<FromWorker>() {}
        }
    }

    #[test]
    fn a_giant_length_is_refused_before_anything_is_allocated() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            decoder.next::<ToWorker>(),
            Err(FrameError::TooLong(u32::MAX as usize))
        );
    }
}

//! The part of ttrpc that NRI uses: calls with one request and one response.
//!
//! Written here rather than taken from the `ttrpc` crate, which cannot keep what a plugin has to keep:
//! - it writes header and payload in one go, so the multiplexer below would have to take its output
//!   apart again to send the two frames that runtimes insist on (see [`crate::frame`]);
//! - it reads a message of any length its header claims, up to 4 GiB, in order to skip it;
//! - a handler that panics leaves its caller without an answer, and one that is too slow is answered
//!   when the caller has already given up: a runtime then drops the plugin, and creates the container
//!   without it;
//! - nobody is told when a connection has ended, which is when a plugin has to come back;
//! - its messages come from another protobuf implementation, or from `protoc` at build time.

pub(crate) mod client;
pub(crate) mod message;

pub(crate) use client::{CallError, Client};
pub use message::MessageError;
pub(crate) use message::{Code, Message, Request, Status};

//! What is fuzzed: each function takes any bytes, and panics where a promise is broken.
#![allow(
    clippy::missing_panics_doc,
    reason = "each panics where its promise is broken, and nowhere else"
)]

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use crate::api::{self, Container, ContainerUpdate, PodSandbox};
use crate::call::{Call, RuntimeInfo};
use crate::dispatch::{self, Argument};
use crate::frame::{self, Demux};
use crate::ttrpc::Request;
use crate::ttrpc::message::{Assembler, MAX_PAYLOAD_BYTES, Message};
use crate::{Creation, Events, MuxError, Plugin, PluginError};

/// Frames and the messages in them: however the bytes are cut, the same comes out, and what comes out comes back.
pub fn mux(input: &[u8]) {
    let whole = messages(input, input.len().max(1));
    for size in [1, 7, 64] {
        assert_eq!(messages(input, size), whole, "in pieces of {size}");
    }
    for message in whole.0 {
        assert!(message.payload.len() <= MAX_PAYLOAD_BYTES);
        let frames = message.to_frames(frame::PLUGIN_SERVICE);
        assert_eq!(messages(&frames, 5), (vec![message.clone()], None));
        if let Ok(request) = Request::decode(message.payload.as_slice()) {
            drop(dispatch::method(&request.service, &request.method));
        }
    }
}

/// The messages on the plugin's connection, and what ended them.
fn messages(input: &[u8], size: usize) -> (Vec<Message>, Option<String>) {
    let (mut demux, mut assembler, mut messages) = (Demux::default(), Assembler::default(), Vec::new());
    let mut read = |mut bytes: &[u8]| -> Result<(), MuxError> {
        while let Some((connection, mut piece)) = demux.next(&mut bytes)? {
            while connection == frame::PLUGIN_SERVICE && !piece.is_empty() {
                messages.extend(assembler.next(&mut piece)?);
            }
        }
        Ok(())
    };
    let end = input.chunks(size).try_for_each(&mut read);
    (messages, end.err().map(|error| error.to_string()))
}

/// A plugin that reads what it is told and changes nothing.
struct Listener;

#[crate::plugin]
impl Plugin for Listener {
    async fn synchronize(
        &self,
        _call: Call,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, PluginError> {
        assert!(format!("{pods:?}{containers:?}").len() > 3);
        Ok(Vec::new())
    }

    async fn create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, PluginError> {
        assert!(!call.method().is_empty() && format!("{pod:?}").len() > 3);
        Ok(api::Adjustment::new().replace_env("NAME", container.name).into())
    }

    async fn start_container(
        &self,
        _call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), PluginError> {
        assert!(format!("{pod:?}{container:?}").len() > 3);
        Ok(())
    }
}

/// A call of a method, chosen by the first byte, with the rest for an argument: there is an answer, or a status.
pub fn dispatch(input: &[u8]) {
    let (Some(&chosen), argument) = (input.first(), input.get(1..).unwrap_or_default()) else {
        return;
    };
    let method = dispatch::METHODS[usize::from(chosen) % dispatch::METHODS.len()];
    let call = Call::new(
        method,
        Instant::now() + Duration::from_secs(1),
        Arc::new(RuntimeInfo::default()),
    );
    let argument = match method {
        "Configure" => return,
        "Synchronize" => match api::SynchronizeRequest::decode(argument) {
            Ok(request) => Argument::Synchronize(request),
            Err(_) => return,
        },
        _ => Argument::Encoded(argument.to_vec()),
    };
    let answer = pin!(dispatch::call(Arc::new(Listener), call, argument));
    match answer.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(answer)) => drop(Message::response(1, Ok(answer)).to_frames(1)),
        Poll::Ready(Err(status)) => assert!(status.code != 0 && !status.message.is_empty()),
        Poll::Pending => panic!("nobody is waited for"),
    }
    assert!(!Events::ALL.is_empty());
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, replay};
    use super::*;

    #[test]
    fn what_is_kept_of_fuzzing_keeps_all_promises() {
        let targets: [(&str, Target); 2] = [("dispatch", dispatch), ("mux", mux)];
        replay(&targets);
    }
}

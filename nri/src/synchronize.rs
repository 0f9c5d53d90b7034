//! Putting a split Synchronize together.
//!
//! A runtime with more pods and containers than fit a message sends several, all but the last marked
//! `more`. Each has to be answered with the same mark, which is how a plugin shows that it understands;
//! updates may only come with the last answer.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use prost::Message;

use crate::api::{SynchronizeRequest, SynchronizeResponse};
use crate::ttrpc::{Code, Status};

/// What all parts may add up to, in encoded bytes.
const MAX_BYTES: usize = 256 << 20;

/// The parts so far.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pods: Vec<crate::api::PodSandbox>,
    containers: Vec<crate::api::Container>,
    bytes: usize,
}

impl Parts {
    /// Adds a part that was `bytes` long. With the last part, returns the whole and starts anew.
    pub(crate) fn add(
        &mut self,
        part: SynchronizeRequest,
        bytes: usize,
    ) -> Result<Option<SynchronizeRequest>, Status> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            *self = Self::default();
            let text = format!("Synchronize: the parts exceed {MAX_BYTES} bytes together");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        self.pods.extend(part.pods);
        self.containers.extend(part.containers);
        if part.more {
            return Ok(None);
        }
        let Self { pods, containers, .. } = std::mem::take(self);
        Ok(Some(SynchronizeRequest {
            pods,
            containers,
            more: false,
        }))
    }
}

/// The answer to a part that is not the last.
pub(crate) fn more() -> Vec<u8> {
    SynchronizeResponse {
        update: Vec::new(),
        more: true,
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PodSandbox;

    fn part(id: &str, more: bool) -> SynchronizeRequest {
        let pod = PodSandbox {
            id: id.to_owned(),
            ..PodSandbox::default()
        };
        SynchronizeRequest {
            pods: vec![pod],
            containers: Vec::new(),
            more,
        }
    }

    #[test]
    fn the_whole_comes_once_and_in_order() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part("a", true), 1), Ok(None));
        assert_eq!(parts.add(part("b", true), 1), Ok(None));
        let whole = parts.add(part("c", false), 1).unwrap().unwrap();
        assert_eq!(
            whole.pods.iter().map(|pod| pod.id.as_str()).collect::<String>(),
            "abc"
        );
        assert_eq!(parts.add(part("d", false), 1).unwrap().unwrap().pods.len(), 1);
    }

    #[test]
    fn parts_without_end_are_refused() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part("a", true), MAX_BYTES), Ok(None));
        assert!(parts.add(part("b", true), 1).is_err());
    }
}

//! What was found while bytes were read, before it is added to what others see.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::counts::{Exclusion, Pod, Protocol};

/// Some findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    excluded: [u64; Exclusion::ALL.len()],
    requests: [u64; Protocol::ALL.len()],
    /// Something else than a request was said after `CONNECT`, so who is asked is a proxy. This stays when the numbers are moved.
    pub grants_tunnels: bool,
    /// TLS connections.
    pub tls_connections: u64,
    /// Bytes in no protocol that is understood.
    pub unparsed_bytes: u64,
}

impl Tally {
    /// A request was found, perhaps one that is not to be counted.
    pub fn request(&mut self, protocol: Protocol, exclusion: Option<Exclusion>) {
        match exclusion {
            Some(reason) => self.excluded[reason as usize] += 1,
            None => self.requests[protocol as usize] += 1,
        }
    }

    /// Requests in a protocol.
    pub fn requests(&self, protocol: Protocol) -> u64 {
        self.requests[protocol as usize]
    }

    /// Requests that are not counted for a reason.
    pub fn excluded(&self, reason: Exclusion) -> u64 {
        self.excluded[reason as usize]
    }

    /// Adds all of it to a pod's numbers, and begins anew.
    pub fn move_to(&mut self, pod: &Pod) {
        let tally = std::mem::take(self);
        self.grants_tunnels = tally.grants_tunnels;
        for (protocol, count) in Protocol::ALL.into_iter().zip(tally.requests) {
            add(count, |count| pod.add_requests(protocol, count));
        }
        for (reason, count) in Exclusion::ALL.into_iter().zip(tally.excluded) {
            add(count, |count| pod.add_excluded(reason, count));
        }
        add(tally.tls_connections, |count| pod.add_tls_connections(count));
        add(tally.unparsed_bytes, |count| pod.add_unparsed_bytes(count));
    }
}

fn add(count: u64, to: impl FnOnce(u64)) {
    if count > 0 {
        to(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_reaches_its_own_place_once() {
        let mut tally = Tally::default();
        for (count, protocol) in Protocol::ALL.into_iter().enumerate() {
            (0..=count).for_each(|_| tally.request(protocol, None));
        }
        tally.request(Protocol::Http1, Some(Exclusion::Scrape));
        tally.tls_connections = 5;
        tally.unparsed_bytes = 6;
        tally.grants_tunnels = true;
        let pod = Pod::default();
        tally.move_to(&pod);
        tally.move_to(&pod);
        assert_eq!(Protocol::ALL.map(|protocol| pod.requests(protocol)), [1, 2, 3]);
        assert_eq!(Exclusion::ALL.map(|reason| pod.excluded(reason)), [0, 0, 1]);
        assert_eq!((pod.tls_connections(), pod.unparsed_bytes()), (5, 6));
        assert!(tally.grants_tunnels);
    }
}

//! The connections to a pod: which segments are requests to it, and which are answers to what it asked others.
//!
//! Who sends the first segment of a connection is the client. A connection whose start was not seen is one to the pod if the
//! pod was found to listen on the port. Each is followed from its start, or from a message's start if it was there before,
//! and no other: a segment that is repeated after its connection's end is no new one.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::conversation::Conversation;
use crate::exclude::Rules;
use crate::packet::{Flags, Flow, Segment};
use crate::stream::{PATIENCE, PATIENCE_AFTER_LOSS, Reader as _, Stream};
use crate::tally::Tally;

/// How many connections of a pod are followed at once.
pub const MAX_CONNECTIONS: usize = 65_536;
/// How many may have begun and not said anything yet, as those of a flood of SYNs.
const MAX_SILENT: usize = 65_536;
/// How many bytes may wait for others, of all connections together.
const MAX_HELD_BYTES: usize = 16 << 20;
/// A connection on which nothing was said for so long is forgotten.
pub const IDLE: Duration = Duration::from_secs(30 * 60);
/// The same when there is no room for others.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(60);
/// How long a connection may take to be established.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many bytes have to be of no interest that it is told.
const MIN_SKIP: u64 = 128 * 1024;
/// How many are told at once at most: a stream is not lost sight of for longer.
const MAX_SKIP: u64 = 1 << 29;
/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// What was there before anyone looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The ports on which the pod listens.
    pub listening: Vec<u16>,
    /// The connections, each in the direction to the pod.
    pub flows: Vec<Flow>,
}

/// A part of a connection of which the bytes are of no interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The connection.
    pub flow: Flow,
    /// The number of the first byte.
    pub start: u32,
    /// How many there are; none where all are of interest again.
    pub length: u32,
}

/// The connections to one pod.
#[derive(Debug)]
pub struct Connections {
    followed: HashMap<Flow, Connection>,
    /// Those that have begun and said nothing, with the number of their first byte.
    silent: HashMap<Flow, (u32, Instant)>,
    /// Those whose segments wait for others.
    waiting: HashSet<Flow>,
    held_bytes: usize,
    before: HashSet<Flow>,
    listening: HashSet<u16>,
    /// Some start may have been missed, so that any segment may be of a connection that is not known.
    has_missed: bool,
    /// What became of no interest, or of some, since this was last asked for.
    skips: Vec<Skip>,
    swept: Instant,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    conversation: Conversation,
    /// The number of the byte after its last.
    end: Option<u32>,
    last_seen: Instant,
    /// The number of the first byte of a connection that may have begun in its place.
    rival: Option<u32>,
    /// Where what is of interest goes on, if a part is not.
    skipped_to: Option<u32>,
}

impl Connections {
    /// The connections of a pod that is looked at from `now` on.
    pub fn new(before: Before, now: Instant) -> Self {
        let listening: HashSet<_> = before.listening.into_iter().collect();
        let is_to_the_pod = |flow: &Flow| listening.contains(&flow.to.port);
        Self {
            followed: HashMap::new(),
            silent: HashMap::new(),
            waiting: HashSet::new(),
            held_bytes: 0,
            before: before.flows.into_iter().filter(is_to_the_pod).collect(),
            listening,
            has_missed: false,
            skips: Vec::new(),
            swept: now,
        }
    }

    /// How many are followed.
    pub fn len(&self) -> usize {
        self.followed.len()
    }

    /// Whether none is followed.
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// Packets were missed.
    pub fn missed_some(&mut self) {
        self.has_missed = true;
    }

    /// What became of no interest since this was last called, or is of interest again.
    pub fn skips(&mut self) -> impl Iterator<Item = Skip> {
        self.skips.drain(..)
    }

    /// Reads a segment that the pod has received.
    pub fn segment(&mut self, segment: &Segment<'_>, now: Instant, rules: &Rules, tally: &mut Tally) {
        if segment.flags.has(Flags::SYN) {
            return self.begin(segment, now, rules, tally);
        }
        if segment.flags.has(Flags::RST) {
            return self.reset(segment, rules, tally);
        }
        if !self.followed.contains_key(&segment.flow) && !self.follow(segment, now, tally) {
            return;
        }
        self.push(segment, segment.sequence, now, rules, tally);
    }

    /// Gives up on segments that wait for others that do not come, and forgets connections on which nothing is said.
    pub fn expire(&mut self, now: Instant, rules: &Rules, tally: &mut Tally) {
        let patience = if self.has_missed {
            PATIENCE_AFTER_LOSS
        } else {
            PATIENCE
        };
        for flow in std::mem::take(&mut self.waiting) {
            let Some(connection) = self.followed.get_mut(&flow) else {
                continue;
            };
            let held = connection.stream.held_bytes();
            let mut listener = connection.conversation.listen(rules, tally);
            connection.stream.expire(now, patience, &mut listener);
            self.held_bytes -= held;
            self.settle(flow);
        }
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.forget(IDLE, now);
        }
    }

    /// Forgets all of them, and what of them is of no interest.
    pub fn forget_all(&mut self) {
        let flows: Vec<_> = self.followed.keys().copied().collect();
        for flow in flows {
            self.drop_connection(flow);
        }
    }

    fn begin(&mut self, segment: &Segment<'_>, now: Instant, rules: &Rules, tally: &mut Tally) {
        if segment.flags.has(Flags::ACK) {
            return; // the pod is the client
        }
        let first = segment.sequence.wrapping_add(1);
        self.listening.insert(segment.flow.to.port);
        if let Some(connection) = self.followed.get_mut(&segment.flow) {
            let ahead = connection.stream.next_sequence().wrapping_sub(first);
            if ahead == 0 || connection.end.is_none() && ahead < 1 << 30 {
                return; // it was sent twice
            }
            if segment.length == 0 {
                connection.rival = Some(first); // what comes next tells whether the pod takes it for a new connection
                return;
            }
            self.drop_connection(segment.flow);
        }
        if self.silent.len() >= MAX_SILENT {
            self.silent.clear();
            self.has_missed = true;
        }
        self.silent.insert(segment.flow, (first, now));
        // Data may come with the very first segment, and once more with the next if the server did not want it.
        if segment.length > 0 && self.follow(segment, now, tally) {
            self.push(segment, first, now, rules, tally);
        }
    }

    /// A reset ends a connection if it comes exactly when it is due. One from elsewhere, or before data that are still on their way, does not
    /// (RFC 5961): the pod then asks for it again.
    fn reset(&mut self, segment: &Segment<'_>, rules: &Rules, tally: &mut Tally) {
        self.silent.remove(&segment.flow);
        let Some(connection) = self.followed.get_mut(&segment.flow) else {
            return;
        };
        let ahead = segment.sequence.wrapping_sub(connection.stream.next_sequence());
        let indifferent = connection.conversation.listen(rules, tally).indifferent();
        if u64::from(ahead) <= indifferent.min(MAX_SKIP) {
            self.drop_connection(segment.flow);
        }
    }

    /// Follows a connection from here on, if it is one to the pod. Says whether it does.
    fn follow(&mut self, segment: &Segment<'_>, now: Instant, tally: &mut Tally) -> bool {
        let (first, conversation) = if let Some((first, _)) = self.silent.remove(&segment.flow) {
            (first, Conversation::new())
        } else if segment.length > 0 && self.was_missed(&segment.flow) {
            (segment.sequence, Conversation::overheard())
        } else {
            return false;
        };
        if self.followed.len() >= MAX_CONNECTIONS {
            self.forget(IDLE_WHEN_FULL, now);
        }
        if self.followed.len() >= MAX_CONNECTIONS {
            tally.unparsed_bytes += segment.length as u64;
            return false;
        }
        let connection = Connection::new(first, conversation, now);
        self.followed.insert(segment.flow, connection);
        true
    }

    /// Follows the connection that has begun in place of another, if the segment is one of it.
    fn follow_rival(&mut self, flow: Flow, sequence: u32, now: Instant) {
        let Some(connection) = self.followed.get_mut(&flow) else {
            return;
        };
        let Some(first) = connection.rival.take() else {
            return;
        };
        let distance = |from: u32| sequence.wrapping_sub(from).cast_signed().unsigned_abs();
        if distance(first) < distance(connection.stream.next_sequence()) {
            self.drop_connection(flow);
            let connection = Connection::new(first, Conversation::new(), now);
            self.followed.insert(flow, connection);
        }
    }

    /// Whether this may be a connection to the pod of which the start was not seen.
    fn was_missed(&mut self, flow: &Flow) -> bool {
        self.before.remove(flow) || self.has_missed && self.listening.contains(&flow.to.port)
    }

    fn push(&mut self, segment: &Segment<'_>, sequence: u32, now: Instant, rules: &Rules, tally: &mut Tally) {
        self.follow_rival(segment.flow, sequence, now);
        let Some(connection) = self.followed.get_mut(&segment.flow) else {
            return;
        };
        connection.last_seen = now;
        let held = connection.stream.held_bytes();
        let mut listener = connection.conversation.listen(rules, tally);
        connection
            .stream
            .push(sequence, segment.data, segment.length, now, &mut listener);
        let skip = connection.skip(segment.flow, rules, tally);
        self.skips.extend(skip);
        if segment.flags.has(Flags::FIN) {
            let length = u32::try_from(segment.length).unwrap_or_default();
            connection.end = Some(sequence.wrapping_add(length));
        }
        if held == 0 && connection.stream.held_bytes() == 0 {
            if connection.end == Some(connection.stream.next_sequence()) {
                self.drop_connection(segment.flow);
            }
            return;
        }
        self.held_bytes -= held;
        self.settle(segment.flow);
    }

    /// Notes whether a connection's segments wait, and whether it has ended.
    fn settle(&mut self, flow: Flow) {
        let Some(connection) = self.followed.get(&flow) else {
            return;
        };
        let held = connection.stream.held_bytes();
        self.held_bytes += held;
        if connection.end == Some(connection.stream.next_sequence()) || self.held_bytes > MAX_HELD_BYTES {
            self.has_missed |= self.held_bytes > MAX_HELD_BYTES;
            self.drop_connection(flow);
        } else if held > 0 {
            self.waiting.insert(flow);
        } else {
            self.waiting.remove(&flow);
        }
    }

    fn drop_connection(&mut self, flow: Flow) {
        self.waiting.remove(&flow);
        if let Some(connection) = self.followed.remove(&flow) {
            self.held_bytes -= connection.stream.held_bytes();
            self.skips.extend(connection.skipped_to.map(|start| Skip {
                flow,
                start,
                length: 0,
            }));
        }
    }

    fn forget(&mut self, idle: Duration, now: Instant) {
        self.swept = now;
        let count = self.followed.len();
        let is_fresh = |seen: Instant, limit| now.saturating_duration_since(seen) < limit;
        let is_old = |connection: &Connection| {
            connection.stream.held_bytes() == 0 && !is_fresh(connection.last_seen, idle)
        };
        let old = self.followed.iter().filter(|(_, connection)| is_old(connection));
        let old: Vec<_> = old.map(|(flow, _)| *flow).collect();
        for flow in old {
            self.drop_connection(flow);
        }
        self.silent
            .retain(|_, (_, begun)| is_fresh(*begun, HANDSHAKE.max(idle)));
        self.has_missed |= self.followed.len() < count;
        self.followed.shrink_to(self.followed.len() * 2);
        self.silent.shrink_to(self.silent.len() * 2);
    }
}

impl Connection {
    fn new(first: u32, conversation: Conversation, now: Instant) -> Self {
        Self {
            stream: Stream::new(first),
            conversation,
            end: None,
            last_seen: now,
            rival: None,
            skipped_to: None,
        }
    }

    /// What of the bytes that follow is of no interest, if that is much and was not told.
    fn skip(&mut self, flow: Flow, rules: &Rules, tally: &mut Tally) -> Option<Skip> {
        let length = self.conversation.listen(rules, tally).indifferent().min(MAX_SKIP);
        let start = self.stream.next_sequence();
        let ahead = self.skipped_to.map_or(0, |to| to.wrapping_sub(start));
        if length < MIN_SKIP || (1..=MAX_SKIP).contains(&ahead.into()) {
            return None;
        }
        let length = u32::try_from(length).unwrap_or_default();
        self.skipped_to = Some(start.wrapping_add(length));
        Some(Skip { flow, start, length })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
mod tests {
    use super::*;
    use crate::counts::Protocol;
    use crate::packet::Endpoint;
    use proptest::prelude::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    fn flow(client_port: u16, server_port: u16) -> Flow {
        let end = |port| Endpoint::new([10, 0, 0, 1].into(), port);
        Flow {
            from: end(client_port),
            to: end(server_port),
        }
    }

    /// A pod that is sent segments.
    struct Pod {
        connections: Connections,
        now: Instant,
        rules: Rules,
        tally: Tally,
    }

    impl Pod {
        fn new(before: Before) -> Self {
            let now = Instant::now();
            Self {
                connections: Connections::new(before, now),
                now,
                rules: Rules::probes(),
                tally: Tally::default(),
            }
        }

        fn send(&mut self, flow: Flow, flags: Flags, sequence: u32, data: &[u8]) -> &mut Self {
            let segment = Segment {
                flow,
                sequence,
                flags,
                data,
                length: data.len(),
            };
            self.connections
                .segment(&segment, self.now, &self.rules, &mut self.tally);
            self
        }

        fn later(&mut self, time: Duration) -> &mut Self {
            self.now += time;
            self.connections.expire(self.now, &self.rules, &mut self.tally);
            self
        }

        fn requests(&self) -> u64 {
            self.tally.requests(Protocol::Http1)
        }
    }

    const FIN_ACK: Flags = Flags(0x11);
    const SYN_ACK: Flags = Flags(0x12);

    #[test]
    fn requests_to_the_pod_count_and_answers_to_it_do_not() {
        let mut pod = Pod::new(Before::default());
        pod.send(flow(1, 80), Flags::SYN, 9, b"")
            .send(flow(1, 80), Flags::ACK, 10, REQUEST);
        pod.send(flow(443, 5000), SYN_ACK, 9, b"")
            .send(flow(443, 5000), Flags::ACK, 10, REQUEST);
        assert_eq!((pod.requests(), pod.tally.unparsed_bytes), (1, 0));
    }

    #[test]
    fn what_is_repeated_counts_once_also_after_the_end() {
        let mut pod = Pod::new(Before::default());
        let length = u32::try_from(REQUEST.len()).unwrap();
        pod.send(flow(1, 80), Flags::SYN, u32::MAX, b"")
            .send(flow(1, 80), Flags::SYN, u32::MAX, b"");
        for _ in 0..3 {
            pod.send(flow(1, 80), Flags::ACK, 0, REQUEST);
        }
        pod.send(flow(1, 80), Flags::SYN, u32::MAX, b"");
        pod.send(flow(1, 80), FIN_ACK, length, REQUEST);
        assert!(pod.connections.is_empty());
        pod.send(flow(1, 80), FIN_ACK, length, REQUEST);
        assert_eq!(pod.requests(), 2);
    }

    #[test]
    fn an_end_that_comes_early_waits_for_what_is_before_it() {
        let mut pod = Pod::new(Before::default());
        let length = u32::try_from(REQUEST.len()).unwrap();
        pod.send(flow(1, 80), Flags::SYN, 0, b"");
        pod.send(flow(1, 80), FIN_ACK, 1 + length, REQUEST);
        assert_eq!((pod.requests(), pod.connections.len()), (0, 1));
        pod.send(flow(1, 80), Flags::ACK, 1, REQUEST);
        assert_eq!(
            (pod.requests(), pod.connections.len(), pod.connections.held_bytes),
            (2, 0, 0)
        );
    }

    #[test]
    fn a_port_that_is_used_again_is_another_connection() {
        let mut pod = Pod::new(Before::default());
        for first in [7, 3_000_000_000] {
            pod.send(flow(1, 80), Flags::SYN, first, b"");
            pod.send(flow(1, 80), Flags::ACK, first + 1, REQUEST);
        }
        pod.send(flow(1, 80), Flags::RST, 3_000_000_001 + 27, b"");
        assert_eq!((pod.requests(), pod.connections.len()), (2, 0));
    }

    #[test]
    fn a_reset_from_elsewhere_ends_nothing() {
        let mut pod = Pod::new(Before::default());
        pod.send(flow(1, 80), Flags::SYN, 9, b"")
            .send(flow(1, 80), Flags::ACK, 10, b"GET / ");
        pod.send(flow(1, 80), Flags::RST, 2_000_000_000, b"");
        pod.send(flow(1, 80), Flags::ACK, 16, b"HTTP/1.1\r\n\r\n");
        assert_eq!(pod.requests(), 1);
    }

    #[test]
    fn a_reset_that_overtakes_data_waits_for_them() {
        let mut pod = Pod::new(Before::default());
        let length = u32::try_from(REQUEST.len()).unwrap();
        pod.send(flow(1, 80), Flags::SYN, 9, b"")
            .send(flow(1, 80), Flags::ACK, 10, REQUEST);
        pod.send(flow(1, 80), Flags::RST, 10 + 2 * length, b"");
        pod.send(flow(1, 80), Flags::ACK, 10 + length, REQUEST);
        assert_eq!((pod.requests(), pod.connections.len()), (2, 1));
        pod.send(flow(1, 80), Flags::RST, 10 + 2 * length, b"");
        assert_eq!(pod.connections.len(), 0);
        // The body of this one need not be seen, so the reset after a part of it is when it is due.
        let head = b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n";
        pod.send(flow(2, 80), Flags::SYN, 9, b"")
            .send(flow(2, 80), Flags::ACK, 10, head);
        pod.send(flow(2, 80), Flags::RST, 400, b"");
        assert_eq!((pod.requests(), pod.connections.len()), (3, 0));
    }

    #[test]
    fn a_false_start_within_a_connection_hides_nothing() {
        let mut pod = Pod::new(Before::default());
        let length = u32::try_from(REQUEST.len()).unwrap();
        pod.send(flow(1, 80), Flags::SYN, 9, b"")
            .send(flow(1, 80), Flags::ACK, 10, REQUEST);
        for first in [2_000_000_000, 500_000, 10 + length + 5] {
            pod.send(flow(1, 80), Flags::SYN, first, b"");
            pod.send(flow(1, 80), Flags::ACK, 10 + length, REQUEST); // the same twice more
        }
        pod.send(flow(1, 80), Flags::ACK, 10 + 2 * length, REQUEST);
        assert_eq!((pod.requests(), pod.tally.unparsed_bytes), (3, 0));
    }

    #[test]
    fn data_with_the_first_segment_counts_once() {
        let mut pod = Pod::new(Before::default());
        pod.send(flow(1, 80), Flags::SYN, 9, REQUEST)
            .send(flow(1, 80), Flags::ACK, 10, REQUEST);
        assert_eq!(pod.requests(), 1);
    }

    #[test]
    fn connections_from_before_are_picked_up_and_others_are_not() {
        let before = Before {
            listening: vec![80],
            flows: vec![flow(1, 80), flow(2, 81)],
        };
        let mut pod = Pod::new(before);
        pod.send(flow(1, 80), Flags::ACK, 5, b"rest of a body")
            .send(flow(1, 80), Flags::ACK, 19, REQUEST);
        pod.send(flow(2, 81), Flags::ACK, 5, REQUEST)
            .send(flow(3, 80), Flags::ACK, 5, REQUEST);
        assert_eq!((pod.requests(), pod.tally.unparsed_bytes), (1, 14));
        pod.connections.missed_some();
        pod.send(flow(3, 80), Flags::ACK, 5, REQUEST)
            .send(flow(3, 82), Flags::ACK, 5, REQUEST);
        assert_eq!(pod.requests(), 2);
    }

    #[test]
    fn what_does_not_come_is_given_up() {
        let mut pod = Pod::new(Before::default());
        pod.send(flow(1, 80), Flags::SYN, 0, b"")
            .send(flow(1, 80), Flags::ACK, 101, REQUEST);
        pod.later(crate::stream::PATIENCE);
        assert_eq!((pod.requests(), pod.tally.unparsed_bytes), (1, 100));
        assert!(pod.connections.waiting.is_empty() && pod.connections.held_bytes == 0);
    }

    #[test]
    fn idle_connections_are_forgotten_and_found_again() {
        let mut pod = Pod::new(Before::default());
        pod.send(flow(1, 80), Flags::SYN, 0, b"")
            .send(flow(1, 80), Flags::ACK, 1, REQUEST);
        pod.later(IDLE / 2);
        assert_eq!(pod.connections.len(), 1);
        pod.later(IDLE);
        assert_eq!(pod.connections.len(), 0);
        pod.send(flow(1, 80), Flags::ACK, 28, REQUEST);
        assert_eq!(pod.requests(), 2);
    }

    #[test]
    fn large_bodies_and_what_is_encrypted_may_be_skipped() {
        let skip = |start, length| Skip {
            flow: flow(1, 80),
            start,
            length,
        };
        let mut pod = Pod::new(Before::default());
        let head = b"PUT / HTTP/1.1\r\nContent-Length: 3000000000\r\n\r\n";
        let after = u32::try_from(head.len()).unwrap();
        pod.send(flow(1, 80), Flags::SYN, u32::MAX, b"")
            .send(flow(1, 80), Flags::ACK, 0, head);
        let half = 1 << 29;
        assert_eq!(pod.connections.skips().collect::<Vec<_>>(), [skip(after, half)]);
        pod.send(flow(1, 80), Flags::ACK, after, b"was under way already");
        assert_eq!(pod.connections.skips().count(), 0);
        for times in 1..6 {
            pod.send(flow(1, 80), Flags::ACK, after + times * half, b"x");
        }
        assert_eq!(pod.connections.skips().count(), 5);
        pod.send(
            flow(1, 80),
            Flags::ACK,
            after.wrapping_add(3_000_000_000),
            REQUEST,
        );
        assert_eq!((pod.requests(), pod.tally.unparsed_bytes), (2, 0));
        pod.send(flow(1, 80), Flags::RST, after.wrapping_add(3_000_000_027), b"");
        let last: Vec<_> = pod.connections.skips().collect();
        assert_eq!((last.len(), last[0].length), (1, 0));

        pod.send(flow(2, 80), Flags::SYN, 9, b"")
            .send(flow(2, 80), Flags::ACK, 10, &[22, 3, 1, 0, 9, 1]);
        assert_eq!(
            pod.connections
                .skips()
                .map(|skip| skip.length)
                .collect::<Vec<_>>(),
            [half]
        );
    }

    #[test]
    fn a_flood_of_beginnings_takes_bounded_memory_and_ends_nothing() {
        let mut pod = Pod::new(Before::default());
        pod.send(flow(1, 80), Flags::SYN, 0, b"")
            .send(flow(1, 80), Flags::ACK, 1, REQUEST);
        for number in 0..200_000_u32 {
            let port = u16::try_from(number % 60_000).unwrap() + 2;
            pod.send(
                flow(port, u16::try_from(number / 60_000).unwrap() + 100),
                Flags::SYN,
                0,
                b"",
            );
        }
        assert!(pod.connections.silent.len() <= MAX_SILENT);
        pod.send(flow(1, 80), Flags::ACK, 28, REQUEST);
        assert_eq!((pod.requests(), pod.connections.len()), (2, 1));
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_the_same_count(
            count in 1usize..20,
            cuts in prop::collection::vec((0usize..600, 1usize..80), 0..40),
            first in any::<u32>(),
            seed in any::<u64>(),
        ) {
            let stream: Vec<u8> = (0..count).flat_map(|_| REQUEST).copied().collect();
            let mut segments: Vec<_> = cuts
                .into_iter()
                .chain((0..stream.len()).step_by(13).map(|start| (start, 13)))
                .collect();
            let mut state = seed;
            for at in (1..segments.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                segments.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
            }
            let mut pod = Pod::new(Before::default());
            pod.send(flow(1, 80), Flags::SYN, first, b"");
            for (start, length) in segments {
                let data = &stream[start.min(stream.len())..(start + length).min(stream.len())];
                let sequence = first.wrapping_add(1 + u32::try_from(start).unwrap());
                pod.send(flow(1, 80), Flags::ACK, sequence, data);
            }
            prop_assert_eq!((pod.requests(), pod.tally.unparsed_bytes), (count as u64, 0));
        }
    }
}

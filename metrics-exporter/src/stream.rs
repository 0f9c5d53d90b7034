//! One direction of a connection put together from segments: what comes twice is read once, what comes early waits.
//!
//! Who reads the bytes says how many of those that follow it need not see, as in the body of a request; where these are
//! missing nothing is lost.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a segment waits for those before it. A sender repeats what was lost on its way several times within less.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The same where those may have come and not been seen.
pub const PATIENCE_AFTER_LOSS: Duration = Duration::from_secs(2);
/// How much waits at most.
const MAX_HELD_BYTES: usize = 1 << 20;
const MAX_HELD_SEGMENTS: usize = 256;
/// The largest window of TCP. What is further ahead is no part of the stream.
const MAX_AHEAD: i64 = 1 << 30;

/// Reads the bytes of a stream, each once and in order.
pub trait Reader {
    /// Reads the next bytes. Their start is the start of a segment, unless part of it was read before.
    fn read(&mut self, bytes: &[u8]);

    /// How many of the bytes that follow need not be read.
    fn indifferent(&self) -> u64;

    /// So many bytes went by, and no more than need not be read.
    fn pass(&mut self, bytes: u64);

    /// So many bytes are missing, and will not come.
    fn lose(&mut self, bytes: u64);
}

/// What of a stream was read, and what waits to be.
#[derive(Debug)]
pub struct Stream {
    /// The number of the next byte to read; its lower half is TCP's.
    next: u64,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    waits_since: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    data: Box<[u8]>,
    length: usize,
}

impl Stream {
    /// A stream whose first byte has this number.
    pub fn new(first: u32) -> Self {
        Self {
            next: (1 << 32) | u64::from(first),
            held: BTreeMap::new(),
            held_bytes: 0,
            waits_since: None,
        }
    }

    /// The number of the next byte, as TCP has it.
    #[allow(clippy::cast_possible_truncation, reason = "TCP's numbers are the lower half")]
    pub fn next_sequence(&self) -> u32 {
        (self.next & 0xffff_ffff) as u32
    }

    /// How many bytes wait.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes a segment of `length` bytes of which `data` is the first part, and reads what there is to read.
    pub fn push(
        &mut self,
        sequence: u32,
        data: &[u8],
        length: usize,
        now: Instant,
        reader: &mut impl Reader,
    ) {
        let ahead = i64::from(sequence.wrapping_sub(self.next_sequence()).cast_signed());
        if ahead > MAX_AHEAD || length == 0 {
            return;
        }
        let Some(start) = self.next.checked_add_signed(ahead) else {
            return;
        };
        self.pass_to(start, reader);
        if start > self.next {
            self.hold(start, data, length, now, reader);
        } else {
            self.take(start, data, length, reader);
        }
        self.read_held(now, reader);
    }

    /// Gives up on what segments have waited for too long.
    pub fn expire(&mut self, now: Instant, patience: Duration, reader: &mut impl Reader) {
        if self
            .waits_since
            .is_some_and(|since| now.saturating_duration_since(since) >= patience)
        {
            self.give_up(reader);
            self.read_held(now, reader);
        }
    }

    /// Passes over what need not be read before `start`.
    fn pass_to(&mut self, start: u64, reader: &mut impl Reader) {
        let passed = reader.indifferent().min(start.saturating_sub(self.next));
        if passed > 0 {
            self.next += passed;
            reader.pass(passed);
        }
    }

    fn hold(&mut self, start: u64, data: &[u8], length: usize, now: Instant, reader: &mut impl Reader) {
        if self.held.get(&start).is_some_and(|held| held.length >= length) {
            return;
        }
        self.held_bytes += data.len();
        let data = data.into();
        if let Some(shorter) = self.held.insert(start, Held { data, length }) {
            self.held_bytes -= shorter.data.len();
        }
        self.waits_since.get_or_insert(now);
        if self.held_bytes > MAX_HELD_BYTES || self.held.len() > MAX_HELD_SEGMENTS {
            self.give_up(reader);
        }
    }

    /// Reads a segment that starts at or before what is next.
    fn take(&mut self, start: u64, data: &[u8], length: usize, reader: &mut impl Reader) {
        let end = start + length as u64;
        if end <= self.next {
            return;
        }
        let known = usize::try_from(self.next - start).unwrap_or(usize::MAX);
        let fresh = data.get(known..).unwrap_or_default();
        if !fresh.is_empty() {
            self.next += fresh.len() as u64;
            reader.read(fresh);
        }
        self.pass_to(end, reader);
        if end > self.next {
            reader.lose(end - self.next);
            self.next = end;
        }
    }

    /// Loses what is missing before the first segment that waits.
    fn give_up(&mut self, reader: &mut impl Reader) {
        if let Some((&start, _)) = self.held.first_key_value() {
            reader.lose(start - self.next);
            self.next = start;
        }
    }

    /// Reads those that waited and need no longer.
    fn read_held(&mut self, now: Instant, reader: &mut impl Reader) {
        let mut has_read = false;
        while let Some((&start, _)) = self.held.first_key_value() {
            self.pass_to(start, reader);
            if start > self.next {
                break;
            }
            let (start, held) = self.held.pop_first().expect("there is a first");
            self.held_bytes -= held.data.len();
            self.take(start, &held.data, held.length, reader);
            has_read = true;
        }
        if self.held.is_empty() {
            self.waits_since = None;
        } else if has_read {
            self.waits_since = Some(now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keeps what it reads.
    #[derive(Debug, Default)]
    struct Copy {
        bytes: Vec<u8>,
        indifferent: u64,
        lost: Vec<u64>,
        passed: u64,
    }

    impl Reader for Copy {
        fn read(&mut self, bytes: &[u8]) {
            self.bytes.extend(bytes);
            self.indifferent = self.indifferent.saturating_sub(bytes.len() as u64);
        }

        fn indifferent(&self) -> u64 {
            self.indifferent
        }

        fn pass(&mut self, bytes: u64) {
            self.indifferent -= bytes;
            self.passed += bytes;
        }

        fn lose(&mut self, bytes: u64) {
            self.lost.push(bytes);
        }
    }

    /// Pushes segments, given by their offsets, of a stream that starts just before numbers wrap.
    fn copied(segments: &[(u32, &[u8])]) -> Copy {
        let mut copy = Copy::default();
        push_all(&mut Stream::new(u32::MAX - 2), segments, &mut copy);
        copy
    }

    fn push_all(stream: &mut Stream, segments: &[(u32, &[u8])], copy: &mut Copy) {
        let now = Instant::now();
        for (offset, data) in segments {
            stream.push((u32::MAX - 2).wrapping_add(*offset), data, data.len(), now, copy);
        }
    }

    #[test]
    fn in_order_twice_and_overlapping() {
        assert_eq!(
            copied(&[(0, b"abc"), (3, b"def"), (0, b"abc"), (2, b"cdefg")]).bytes,
            b"abcdefg"
        );
    }

    #[test]
    fn early_segments_wait() {
        assert_eq!(
            copied(&[(6, b"ghi"), (3, b"def"), (3, b"defg"), (0, b"abc")]).bytes,
            b"abcdefghi"
        );
    }

    /// As Linux puts them together, whose readers the pods are.
    #[test]
    fn of_bytes_that_differ_the_same_are_read_as_by_the_pod() {
        for (segments, expected) in [
            // What was read is not read again.
            (
                &[(0, &b"abc"[..]), (0, b"xyzdef"), (2, b"????g")][..],
                &b"abcdefg"[..],
            ),
            // What comes in order is read whole, before what has waited.
            (&[(3, b"DEFG"), (0, b"abcde")], b"abcdeFG"),
            // Of those that wait, the one that starts first is, ...
            (&[(5, b"FGH"), (3, b"defg"), (0, b"abc")], b"abcdefgH"),
            // ... and of those that start at the same byte, the longest.
            (&[(3, b"DE"), (3, b"def"), (3, b"??"), (0, b"abc")], b"abcdef"),
        ] {
            assert_eq!(copied(segments).bytes, expected, "{segments:?}");
        }
    }

    #[test]
    fn what_is_missing_in_a_body_is_not_lost() {
        let mut copy = Copy {
            indifferent: 10,
            ..Copy::default()
        };
        let mut stream = Stream::new(u32::MAX - 2);
        push_all(
            &mut stream,
            &[(0, b"abc"), (8, b"ij"), (10, b"GET"), (3, b"defgh")],
            &mut copy,
        );
        assert_eq!(copy.bytes, b"abcijGET");
        assert_eq!((copy.passed, copy.lost.len()), (5, 0));
    }

    #[test]
    fn what_does_not_come_is_lost_after_a_while() {
        let mut copy = Copy::default();
        let mut stream = Stream::new(u32::MAX - 2);
        push_all(&mut stream, &[(0, b"abc"), (5, b"fgh")], &mut copy);
        let now = Instant::now();
        stream.expire(now + PATIENCE / 2, PATIENCE, &mut copy);
        assert!(copy.lost.is_empty());
        stream.expire(now + PATIENCE, PATIENCE, &mut copy);
        assert_eq!(
            (copy.lost.as_slice(), copy.bytes.as_slice()),
            (&[2][..], &b"abcfgh"[..])
        );
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut copy = Copy::default();
        let mut stream = Stream::new(0);
        let data = vec![0; 60_000];
        for number in 0..100 {
            stream.push(1 + number * 60_000, &data, data.len(), Instant::now(), &mut copy);
            assert!(stream.held_bytes() <= MAX_HELD_BYTES);
        }
        assert_eq!((copy.lost, copy.bytes.len()), (vec![1], 6_000_000));
    }

    #[test]
    fn what_was_cut_off_is_lost_unless_nobody_needs_it() {
        let mut copy = Copy::default();
        Stream::new(0).push(0, b"abc", 10, Instant::now(), &mut copy);
        assert_eq!(copy.lost, [7]);
        let mut copy = Copy {
            indifferent: 8,
            ..Copy::default()
        };
        Stream::new(0).push(0, b"abc", 10, Instant::now(), &mut copy);
        assert_eq!((copy.passed, copy.lost.as_slice()), (5, &[2][..]));
    }

    #[test]
    fn what_is_beyond_any_window_is_ignored() {
        assert_eq!(
            copied(&[(0, b"abc"), (1 << 31, b"x"), ((1 << 31) - 9, b"y")]).bytes,
            b"abc"
        );
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_bytes(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec((0usize..400, 1usize..100), 0..60),
            first in any::<u32>(),
        ) {
            let mut copy = Copy::default();
            let mut stream = Stream::new(first);
            let now = Instant::now();
            let mut push = |start: usize, end: usize| {
                let data = &bytes[start.min(bytes.len())..end.min(bytes.len())];
                let sequence = first.wrapping_add(u32::try_from(start).unwrap());
                stream.push(sequence, data, data.len(), now, &mut copy);
            };
            for (start, length) in cuts {
                push(start, start + length);
            }
            for start in (0..bytes.len()).step_by(7).rev() {
                push(start, start + 7);
            }
            prop_assert_eq!(copy.bytes, bytes);
            prop_assert_eq!(stream.held_bytes(), 0);
        }
    }
}

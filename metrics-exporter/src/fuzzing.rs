//! What is fuzzed: each function takes any bytes, and panics where a promise is broken.
//!
//! The targets in `fuzz/` call them with whatever finds new code; the unit tests here, with every input that is kept in `fuzz/corpus`.
#![allow(
    clippy::missing_panics_doc,
    reason = "each panics where its promise is broken, and nowhere else"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::connections::{Before, Connections, IDLE};
use crate::conversation::Conversation;
use crate::counts::{Identity, Protocol, Table, Workload};
use crate::exclude::Rules;
use crate::hpack::Decoder;
use crate::http1::{self, Http1, Next};
use crate::http2::{self, Http2};
use crate::metrics::Metrics;
use crate::packet::{self, Endpoint, Flags, Flow, Segment};
use crate::pb::counts as pb;
use crate::rate::MAX_WINDOW;
use crate::recent::Recent;
use crate::scaler::fleet::{Fleet, Partial, Patience};
use crate::scaler::selector::Selector;
use crate::scaler::trigger::Trigger;
use crate::stream::{PATIENCE, Reader as _, Stream};
use crate::tally::Tally;
use crate::text::Format;
use crate::tls;
use crate::workload;

/// Fewer than a stream holds back before it gives up.
const MAX_PIECES: usize = 100;
const FIRST: u32 = u32::MAX - 20;

/// Draws numbers from the input's beginning; zeros when it is used up.
struct Draw<'a>(&'a [u8]);

impl<'a> Draw<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// As text, whatever it is.
    fn text(&mut self, length: usize) -> String {
        String::from_utf8_lossy(self.bytes(length)).into_owned()
    }
}

fn all(tally: &Tally) -> u64 {
    Protocol::ALL
        .into_iter()
        .map(|protocol| tally.requests(protocol))
        .sum()
}

/// HTTP/1: however a stream is cut, the same is found in it.
pub fn http1(input: &[u8]) {
    let read = |size: usize| {
        let (mut http1, rules, mut tally) = (Http1::default(), Rules::probes(), Tally::default());
        for piece in input.chunks(size) {
            let (taken, next) = http1.read(piece, &rules, &mut tally);
            assert!(taken <= piece.len());
            match next {
                Next::More => assert_eq!(taken, piece.len(), "it stops for no reason"),
                next => return (tally, Some(next)),
            }
        }
        (tally, None)
    };
    let whole = read(input.len().max(1));
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(read(size), whole, "in pieces of {size}");
    }
    assert!(
        all(&whole.0) <= input.len() as u64 / 4,
        "more requests than there is room for"
    );
    http1::begins_with_request(input);
}

/// HTTP/2 with HPACK: the same.
pub fn http2(input: &[u8]) {
    let read = |size: usize| {
        let (mut http2, rules, mut tally) = (Http2::default(), Rules::probes(), Tally::default());
        let mut pieces = input.chunks(size);
        let end = pieces.try_for_each(|piece| http2.read(piece, &rules, &mut tally));
        (tally, end)
    };
    let whole = read(input.len().max(1));
    for size in [1, 2, 9, 64] {
        assert_eq!(read(size), whole, "in pieces of {size}");
    }
    assert!(
        all(&whole.0) <= input.len() as u64 / 9,
        "more requests than there are frames"
    );
    if http2::begins_with_frame(input) {
        let mut http2 = Http2::default().picked_up();
        let _ = http2.read(input, &Rules::probes(), &mut Tally::default());
    }
}

/// HPACK: any block decodes or does not, and what is encoded comes out again.
pub fn hpack(input: &[u8]) {
    let mut decoder = Decoder::default();
    let mut bytes = 0;
    for block in input.split(|byte| *byte == 0xff) {
        let _ = decoder.decode(block, |name, value| bytes += name.len() + value.len());
    }
    decoder.forget();

    let mut draw = Draw(input);
    let (mut block, mut expected) = (Vec::new(), Vec::new());
    while !draw.0.is_empty() && expected.len() < MAX_PIECES {
        let form = [0x40, 0x00, 0x10][usize::from(draw.byte() % 3)];
        let (name, value) = (draw.byte() % 40, draw.byte() % 40);
        let (name, value) = (draw.bytes(name.into()), draw.bytes(value.into()));
        block.push(form);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("less than 40"));
            block.extend(text);
        }
        expected.push((name.to_vec(), value.to_vec()));
        // The newest entry of the dynamic table.
        if form == 0x40 {
            block.push(0xbe);
            expected.push((name.to_vec(), value.to_vec()));
        }
    }
    let mut found = Vec::new();
    let end = Decoder::default().decode(&block, |name, value| found.push((name.to_vec(), value.to_vec())));
    assert_eq!((end, found), (Ok(()), expected));
}

/// TLS: a connection is recognised in any pieces, and never taken back.
pub fn tls(input: &[u8]) {
    let whole = tls::begins_with_hello(input);
    for length in 0..=input.len().min(2 * tls::HELLO_LENGTH) {
        if let Some(early) = tls::begins_with_hello(&input[..length]) {
            assert_eq!(Some(early), whole, "after {length} bytes");
        }
    }
    if whole == Some(true) {
        assert!(tls::looks_like_record(input) || input[3..5] == [0, 0] || input.len() < 5 || input[3] > 0x40);
    }
}

/// A connection of which nothing is lost: any cutting, repetition and order of its segments gives the same count.
pub fn conversation(input: &[u8]) {
    let mut draw = Draw(input);
    let (seed, step, extra) = (draw.word(), draw.byte(), usize::from(draw.byte() % 32));
    let extra: Vec<_> = (0..extra).map(|_| (draw.number(), draw.byte())).collect();
    let stream = draw.0;
    let step = usize::from(step).max(1).max(stream.len().div_ceil(MAX_PIECES));
    let mut pieces: Vec<_> = (0..stream.len())
        .step_by(step)
        .map(|start| (start, step))
        .chain(extra.into_iter().map(|(start, length)| (start, length.into())))
        .collect();
    let mut state = u64::from(seed);
    for at in (1..pieces.len()).rev().filter(|_| seed > 0) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pieces.swap(at, usize::try_from(state >> 33).unwrap_or_default() % (at + 1));
    }
    let whole = counted(stream, &[(0, stream.len())]);
    // What is not understood is found out at some piece's end, so how many bytes that was may differ.
    let mut cut = counted(stream, &pieces);
    cut.unparsed_bytes = whole.unparsed_bytes;
    assert_eq!(cut, whole, "{pieces:?}");
    assert_eq!(passed_over(stream, step), all(&whole), "bodies are not looked at");
}

fn flow(client: u16) -> Flow {
    Flow {
        from: Endpoint::new([10, 0, 0, 1].into(), client),
        to: Endpoint::new([10, 0, 0, 2].into(), 80),
    }
}

/// What is found in a stream that comes in these pieces, each a start and a length.
fn counted(stream: &[u8], pieces: &[(usize, usize)]) -> Tally {
    let (now, rules, mut tally) = (Instant::now(), Rules::probes(), Tally::default());
    let mut connections = Connections::new(Before::default(), now);
    let mut send = |flags, sequence, data: &[u8]| {
        let segment = Segment {
            flow: flow(1),
            sequence,
            flags,
            data,
            length: data.len(),
        };
        connections.segment(&segment, now, &rules, &mut tally);
    };
    send(Flags::SYN, FIRST, b"");
    for &(start, length) in pieces {
        let start = start.min(stream.len());
        let data = &stream[start..(start + length).min(stream.len())];
        let offset = u32::try_from(start).expect("inputs are small");
        send(Flags::ACK, FIRST.wrapping_add(1).wrapping_add(offset), data);
    }
    tally
}

/// Requests in a stream of which segments come without what need not be read.
fn passed_over(stream: &[u8], step: usize) -> u64 {
    let (now, rules, mut tally) = (Instant::now(), Rules::probes(), Tally::default());
    let (mut tcp, mut conversation) = (Stream::new(FIRST), Conversation::new());
    for piece in stream.chunks(step) {
        let sequence = tcp.next_sequence();
        let mut listener = conversation.listen(&rules, &mut tally);
        let needed = listener.indifferent() < piece.len() as u64;
        let data = if needed { piece } else { &[] };
        tcp.push(sequence, data, piece.len(), now, &mut listener);
    }
    all(&tally)
}

/// Segments of any kind, in any order: nothing is held for ever, and no more is found than was sent.
pub fn segments(input: &[u8]) {
    let mut draw = Draw(input);
    let (mut now, rules, mut tally) = (Instant::now(), Rules::probes(), Tally::default());
    let before = Before {
        listening: vec![80],
        flows: vec![flow(3)],
    };
    let mut connections = Connections::new(before, now);
    let mut sent = 0;
    while !draw.0.is_empty() {
        let (kind, client) = (draw.byte(), u16::from(draw.byte() % 4));
        let sequence = FIRST.wrapping_add(draw.byte().into());
        match kind {
            0xfe => connections.missed_some(),
            0xff => {
                now += PATIENCE;
                connections.expire(now, &rules, &mut tally);
            }
            kind => {
                let length = draw.byte().into();
                let data = draw.bytes(length);
                sent += data.len() as u64;
                // Some segments are merged ones, of which the kernel gives the beginning.
                let length = data.len() + if kind & 0x80 > 0 { draw.number() } else { 0 };
                let segment = Segment {
                    flow: flow(client),
                    sequence,
                    flags: Flags(kind & 0x1f),
                    data,
                    length,
                };
                connections.segment(&segment, now, &rules, &mut tally);
            }
        }
        connections.skips().for_each(drop);
    }
    assert!(
        all(&tally) <= sent / 4,
        "{} requests in {sent} bytes",
        all(&tally)
    );
    for _ in 0..4 {
        now += IDLE;
        connections.expire(now, &rules, &mut tally);
    }
    assert!(connections.len() <= 4);
}

/// A packet: what is taken for data lies in it.
pub fn packet(input: &[u8]) {
    let mut draw = Draw(input);
    let beyond = draw.number();
    let bytes = draw.0;
    for wire_length in [bytes.len(), bytes.len() + beyond] {
        if let Ok(segment) = packet::parse(bytes, wire_length) {
            assert!(segment.data.len() <= segment.length);
            assert!(segment.data.len() + 40 <= bytes.len(), "headers are no data");
            assert!(bytes.ends_with(segment.data) || segment.data.len() == segment.length);
        }
    }
}

/// A trigger's metadata: what is accepted is within what the documentation allows.
pub fn trigger(input: &[u8]) {
    const KEYS: [&str; 9] = [
        "selector",
        "workload",
        "targetRequestsPerSecond",
        "activationRequestsPerSecond",
        "window",
        "panicWindow",
        "panicThreshold",
        "metricName",
        "scalerAddress",
    ];
    let text = String::from_utf8_lossy(input);
    let line = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let number = key.parse().ok().and_then(|number: usize| KEYS.get(number));
        Some((number.map_or(key, |key| *key).to_owned(), value.to_owned()))
    };
    let metadata: HashMap<_, _> = text.lines().filter_map(line).collect();
    let trigger = match Trigger::parse(&metadata) {
        Ok(trigger) => trigger,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(trigger.target >= 0.001 && trigger.target.is_finite());
    assert!(trigger.activation >= 0.0 && trigger.activation.is_finite());
    let is_window = |window: Duration| {
        window.subsec_nanos() == 0 && (Duration::from_secs(1)..=MAX_WINDOW).contains(&window)
    };
    assert!(is_window(trigger.window), "{:?}", trigger.window);
    if let Some(panic) = trigger.panic {
        assert!(is_window(panic.window) && panic.window < trigger.window);
        assert!(2 * trigger.window <= MAX_WINDOW && panic.threshold >= 1.0);
    }
    assert!(trigger.metric_name.len() <= 200);
}

/// A selector on some labels; commas and spaces between requirements mean nothing. Workload annotations and guesses beside it.
pub fn selector(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (selector, labels) = text.split_once('\n').unwrap_or((&text, "app=web\ntier=a"));
    let labels = labels
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if let Ok(parsed) = Selector::parse(selector) {
        let again = Selector::parse(&format!(" {selector} ")).expect("spaces mean nothing");
        assert_eq!(parsed.selects(&labels), again.selects(&labels));
        let both = Selector::parse(&format!("{selector},{selector}")).expect("twice is as good as once");
        assert_eq!(parsed.selects(&labels), both.selects(&labels));
        let none = Selector::parse(&format!("{selector},!x,x")).expect("a requirement more");
        assert!(!none.selects(&labels), "nothing has a label and has it not");
    }
    let guessed = workload::guess(selector, &labels);
    if let Ok(annotated) = workload::annotated(selector, &guessed) {
        assert!(!annotated.name.is_empty() && annotated.name.len() <= 253);
    }
}

/// What exporters may say: a rate is a rate, or not known.
pub fn fleet(input: &[u8]) {
    let patience = Patience {
        stale_after: Duration::from_secs(3),
        forget_after: Duration::from_secs(60),
        partial: Partial::Affected,
    };
    let address = |node: u8| SocketAddr::from(([10, 0, 0, node % 3], 1));
    let metadata = |window: &str| {
        let pairs = [
            ("workload", "web"),
            ("targetRequestsPerSecond", "1"),
            ("window", window),
        ];
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    };
    let triggers = ["1s", "1m"].map(|window| Trigger::parse(&metadata(window)).expect("it is right"));
    let (mut fleet, mut now, mut draw) = (Fleet::new(patience), 1_000_000, Draw(input));
    while !draw.0.is_empty() {
        let (kind, node) = (draw.byte(), draw.byte());
        match kind % 5 {
            0 => drop(fleet.listed(
                &(0..3).filter(|bit| node >> bit & 1 > 0).map(address).collect(),
                now,
            )),
            1 => fleet.connected(address(node)),
            2 => fleet.disconnected(address(node), "lost".to_owned()),
            3 => {
                now += u64::from(node) * u64::from(kind);
                fleet.forget(now);
            }
            _ => {
                let length = draw.byte().into();
                if let Ok(update) = pb::Update::decode(draw.bytes(length)) {
                    fleet.update(address(node), update, now);
                }
            }
        }
        for trigger in &triggers {
            if let Ok(rate) = fleet.rate("shop", trigger, now) {
                assert!(rate >= 0.0 && rate.is_finite(), "{rate}");
            }
        }
        fleet.census(now);
        fleet.has_begun(now);
    }
}

/// The text that Prometheus reads: whatever pods are called, each series is one line with its names whole.
pub fn exposition(input: &[u8]) {
    let mut draw = Draw(input);
    let mut text = || {
        let length = draw.byte().into();
        draw.text(length)
    };
    let identity = Identity {
        uid: text(),
        namespace: text(),
        name: text(),
        container: text(),
        workload: Workload {
            kind: text(),
            name: text(),
        },
        ..Identity::default()
    };
    let now = Instant::now();
    let table = Arc::new(Table::new(10, now));
    table.start(identity.clone()).add_requests(Protocol::Http1, 7);
    let recent = Arc::new(Recent::new(table, now));
    recent.read(now);
    let metrics = Metrics::new(recent, Duration::ZERO);
    for format in [Format::OpenMetrics, Format::Text] {
        let text = metrics.text(format);
        let sample = |line: &&str| line.starts_with("podwasm_requests_total{") && line.ends_with(" 7");
        let found: Vec<_> = text.split('\n').filter(sample).collect();
        assert_eq!(found.len(), 1, "{text}");
        let labels = labels(found[0]);
        let label = |key: &str| labels.get(key).map(String::as_str);
        assert_eq!(label("namespace"), Some(identity.namespace.as_str()));
        assert_eq!(label("pod"), Some(identity.name.as_str()));
        assert_eq!(label("workload"), Some(identity.workload.name.as_str()));
    }
    let any = String::from_utf8_lossy(input);
    Format::accepted(&any);
    Format::Text.of(any.into_owned());
}

/// Reads a series' labels as Prometheus does.
fn labels(line: &str) -> HashMap<String, String> {
    let mut labels = HashMap::new();
    let mut rest = line.split_once('{').expect("there are labels").1;
    while let Some((key, after)) = rest.split_once("=\"") {
        let (mut value, mut characters) = (String::new(), after.char_indices());
        let end = loop {
            match characters.next().expect("a value ends") {
                (at, '"') => break at,
                (_, '\\') => match characters.next().expect("something is escaped").1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(key.trim_start_matches(',').to_owned(), value);
        rest = &after[end + 1..];
    }
    labels
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
        let targets: [(&str, Target); 11] = [
            ("conversation", conversation),
            ("exposition", exposition),
            ("fleet", fleet),
            ("hpack", hpack),
            ("http1", http1),
            ("http2", http2),
            ("packet", packet),
            ("segments", segments),
            ("selector", selector),
            ("tls", tls),
            ("trigger", trigger),
        ];
        replay(&targets);
    }
}

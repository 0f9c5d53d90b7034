//! The framing of HTTP/1 requests: where each begins, how long its body is, and what comes after.
//!
//! Nothing is kept but numbers and the ends of a line that was split, so a connection costs the same whatever is sent.
//! The rules are RFC 9112's, lenient where common servers are.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::counts::{Exclusion, Protocol};
use crate::exclude::Rules;
use crate::line::{Line, Text};
use crate::tally::Tally;

/// The longest name of a method. The longest one that is registered, `UPDATEREDIRECTREF`, has 17 bytes.
const MAX_METHOD: usize = 24;
/// How many lines a head, or the trailers, may have. Servers allow some hundreds.
const MAX_LINES: usize = 10_000;

/// Follows the requests of a connection.
#[derive(Debug, Default)]
pub struct Http1 {
    state: State,
    line: Line,
    head: Head,
    /// The last request asked for something else to be spoken after it.
    tunnel: Option<Tunnel>,
}

/// What is to be read next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A request, perhaps after some empty lines.
    #[default]
    Between,
    Body(u64),
    ChunkData(u64),
    ChunkEnd,
    ChunkSize,
    Field,
    RequestLine,
    Trailer,
}

/// How a request asked for something else to be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunnel {
    Connect,
    Upgrade,
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// No request comes any more: what followed would not be read by the server either.
    End,
    /// These bytes are no HTTP/1.
    Foreign,
    /// HTTP/2 begins, after the first two lines of its preface.
    Http2 {
        /// Whether a request has asked for it, which then was its first stream.
        upgraded: bool,
    },
    /// More bytes are needed.
    More,
    /// Something else is spoken from here on, as was asked for.
    Tunnel,
}

/// What matters of a request's head.
#[derive(Clone, Copy, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a thing that a head says or does not"
)]
struct Head {
    chunked: bool,
    close: bool,
    connect: bool,
    /// It says how the body is encoded.
    encoded: bool,
    exclusion: Option<Exclusion>,
    /// The framing is one that servers refuse.
    faulty: bool,
    /// The last field was one that says how long the body is.
    framing: bool,
    keep_alive: bool,
    length: Option<u64>,
    lines: usize,
    /// HTTP/2's preface, which looks like a request.
    preface: bool,
    upgrade: bool,
    upgrade_h2c: bool,
    version_10: bool,
}

impl Http1 {
    /// Reads on. Returns how many bytes it has taken and why it stopped.
    pub fn read(&mut self, bytes: &[u8], rules: &Rules, tally: &mut Tally) -> (usize, Next) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let next = self.step(&mut rest, rules, tally);
            if next != Next::More {
                return (bytes.len() - rest.len(), next);
            }
        }
        (bytes.len(), Next::More)
    }

    /// How many of the bytes that follow are a body's.
    pub fn indifferent(&self) -> u64 {
        match self.state {
            State::Body(rest) | State::ChunkData(rest) => rest,
            _ => 0,
        }
    }

    /// Goes on after so many bytes of a body.
    pub fn pass(&mut self, bytes: u64) {
        match self.state {
            State::Body(rest) => self.body(rest.saturating_sub(bytes)),
            State::ChunkData(rest) => self.chunk_data(rest.saturating_sub(bytes)),
            _ => {}
        }
    }

    /// Whether the last request was the connection's last.
    fn is_over(&self) -> bool {
        let head = &self.head;
        self.tunnel.is_none() && (head.faulty || head.close || head.version_10 && !head.keep_alive)
    }

    fn step(&mut self, rest: &mut &[u8], rules: &Rules, tally: &mut Tally) -> Next {
        match self.state {
            State::Between => return self.between(rest),
            State::RequestLine => return self.request_line(rest, rules, tally),
            State::Field => return self.field(rest, rules, tally),
            State::Body(_) | State::ChunkData(_) => {
                let passed = (rest.len() as u64).min(self.indifferent());
                self.pass(passed);
                *rest = &rest[usize::try_from(passed).expect("it is at most a length")..];
            }
            State::ChunkSize => return self.chunk_size(rest),
            State::ChunkEnd => {
                if let Some(line) = self.line.take(rest) {
                    if !line.is_empty() {
                        return Next::Foreign;
                    }
                    self.state = State::ChunkSize;
                }
            }
            State::Trailer => return self.trailer(rest),
        }
        Next::More
    }

    fn between(&mut self, rest: &mut &[u8]) -> Next {
        if self.is_over() && self.head.lines > 0 {
            return Next::End;
        }
        let empty = rest
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        *rest = &rest[empty..];
        if !rest.is_empty() {
            self.line.clear();
            self.state = State::RequestLine;
        }
        Next::More
    }

    fn request_line(&mut self, rest: &mut &[u8], rules: &Rules, tally: &mut Tally) -> Next {
        let tunnel = self.tunnel;
        let foreign = |tally: &mut Tally| {
            tally.grants_tunnels |= tunnel == Some(Tunnel::Connect);
            tunnel.map_or(Next::Foreign, |_| Next::Tunnel)
        };
        let Some(line) = self.line.take(rest) else {
            return if may_become_request(self.line.so_far()) {
                Next::More
            } else {
                foreign(tally)
            };
        };
        let Some(request) = RequestLine::parse(&line) else {
            return foreign(tally);
        };
        // A proxy is asked for whole URLs, so a bare path is spoken to what is at the tunnel's end. Others refuse tunnels.
        if tunnel == Some(Tunnel::Connect) && tally.grants_tunnels && request.target.starts_with(b"/") {
            return Next::Tunnel;
        }
        self.head = Head {
            connect: request.method == b"CONNECT",
            exclusion: rules.by_path(request.path()),
            lines: 1,
            preface: request.is_preface(),
            upgrade_h2c: request.is_preface() && self.head.upgrade_h2c,
            version_10: request.version == b"1.0",
            ..Head::default()
        };
        self.state = State::Field;
        Next::More
    }

    fn field(&mut self, rest: &mut &[u8], rules: &Rules, tally: &mut Tally) -> Next {
        let Some(line) = self.line.take(rest) else {
            return Next::More;
        };
        if !line.is_empty() {
            if self.head.preface || self.head.lines > MAX_LINES {
                return Next::Foreign;
            }
            self.head.field(&line, rules);
            return Next::More;
        }
        if self.head.preface {
            let upgraded = self.head.upgrade_h2c && self.tunnel.is_some();
            return Next::Http2 { upgraded };
        }
        tally.request(Protocol::Http1, self.head.exclusion);
        self.head_ended();
        Next::More
    }

    fn head_ended(&mut self) {
        self.head.faulty |= self.head.encoded && !self.head.chunked;
        let head = &self.head;
        // What HTTP/1.0 asks to upgrade to is ignored (RFC 9110).
        self.tunnel = match (head.connect, head.upgrade && !head.version_10) {
            (true, _) => Some(Tunnel::Connect),
            (false, true) => Some(Tunnel::Upgrade),
            (false, false) => None,
        };
        if head.faulty {
            self.state = State::Between;
        } else if head.chunked {
            self.state = State::ChunkSize;
        } else {
            self.body(head.length.unwrap_or(0));
        }
    }

    fn body(&mut self, rest: u64) {
        self.state = if rest == 0 {
            State::Between
        } else {
            State::Body(rest)
        };
    }

    fn chunk_size(&mut self, rest: &mut &[u8]) -> Next {
        let Some(line) = self.line.take(rest) else {
            return Next::More;
        };
        match chunk_size(line.prefix()) {
            None => return Next::Foreign,
            Some(0) => {
                self.head.lines = 1;
                self.state = State::Trailer;
            }
            Some(size) => self.chunk_data(size),
        }
        Next::More
    }

    fn chunk_data(&mut self, rest: u64) {
        self.state = if rest == 0 {
            State::ChunkEnd
        } else {
            State::ChunkData(rest)
        };
    }

    fn trailer(&mut self, rest: &mut &[u8]) -> Next {
        let Some(line) = self.line.take(rest) else {
            return Next::More;
        };
        if line.is_empty() {
            self.state = State::Between;
        }
        self.head.lines += 1;
        if self.head.lines > MAX_LINES {
            Next::Foreign
        } else {
            Next::More
        }
    }
}

/// A line that asks for something.
struct RequestLine<'a> {
    method: &'a [u8],
    /// All of it, or its first part.
    target: &'a [u8],
    version: &'a [u8],
}

impl<'a> RequestLine<'a> {
    fn parse(line: &Text<'a>) -> Option<Self> {
        let suffix = line.suffix();
        let (rest, version) = suffix.split_at_checked(suffix.len().checked_sub(3)?)?;
        let is_version = rest.ends_with(b" HTTP/") && matches!(version, [b'1', b'.', b'0'..=b'9'] | b"2.0");
        if !is_version {
            return None;
        }
        let (method, target) = split_once(line.prefix(), b' ')?;
        let (target, rest) = split_once(target, b' ').unwrap_or((target, b""));
        if line.is_whole() && rest.len() != "HTTP/1.1".len() || target.is_empty() || !is_method(method) {
            return None;
        }
        let request = Self {
            method,
            target,
            version,
        };
        (version != b"2.0" || request.is_preface()).then_some(request)
    }

    fn is_preface(&self) -> bool {
        self.method == b"PRI" && self.target == b"*" && self.version == b"2.0"
    }

    /// The target's path, also of one that is a whole URL.
    fn path(&self) -> &'a [u8] {
        let Some(authority) = split_once(self.target, b':').and_then(|(_, rest)| rest.strip_prefix(b"//"))
        else {
            return self.target;
        };
        let start = memchr::memchr(b'/', authority).unwrap_or(authority.len());
        &authority[start..]
    }
}

/// Whether a segment begins with a whole request line.
pub fn begins_with_request(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut line = Line::default();
    let line = line.take(&mut rest);
    line.and_then(|line| RequestLine::parse(&line))
        .is_some_and(|request| request.version != b"2.0")
}

fn may_become_request(so_far: &[u8]) -> bool {
    match split_once(so_far, b' ') {
        None => so_far.len() <= MAX_METHOD && so_far.iter().all(|byte| is_token(*byte)),
        Some((method, _)) => is_method(method),
    }
}

fn is_method(method: &[u8]) -> bool {
    (1..=MAX_METHOD).contains(&method.len()) && method.iter().all(|byte| is_token(*byte))
}

/// Whether a byte may be in a token, by RFC 9110.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let is_followed_well = matches!(line.get(digits), None | Some(b';' | b' ' | b'\t'));
    if !is_followed_well || digits > 16 {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

impl Head {
    fn field(&mut self, line: &Text<'_>, rules: &Rules) {
        self.lines += 1;
        let text = line.prefix();
        // A value that goes on in another line is one to some and another to others.
        self.faulty |= self.framing && matches!(text[0], b' ' | b'\t');
        self.framing = false;
        // Nearly all fields are told to be of no interest by their first byte.
        if !matches!(text[0] | 0x20, b'c' | b't' | b'u') {
            return;
        }
        let Some((name, value)) = split_once(text, b':') else {
            return;
        };
        // Who takes no notice of the space is told another length by some. RFC 9112 has all refuse it.
        if name.ends_with(b" ") || name.ends_with(b"\t") {
            self.faulty = true;
            return;
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"user-agent") {
            self.exclusion = self.exclusion.or_else(|| rules.by_user_agent(value));
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.framing = true;
            self.content_length(value);
        } else if name.eq_ignore_ascii_case(b"connection") {
            words(value).for_each(|word| self.connection(word));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.framing = true;
            self.transfer_encoding(value);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
            self.upgrade_h2c |= words(value).any(|word| word.eq_ignore_ascii_case(b"h2c"));
        }
    }

    fn connection(&mut self, word: &[u8]) {
        self.close |= word.eq_ignore_ascii_case(b"close");
        self.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
    }

    /// A length that is repeated is one length, by RFC 9112.
    fn content_length(&mut self, value: &[u8]) {
        for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let is_number = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
            match length.filter(|_| is_number) {
                Some(length) if self.length.is_none_or(|known| known == length) => self.length = Some(length),
                _ => self.faulty |= !self.chunked,
            }
        }
    }

    /// What encodes last, in the last such field, has to say where the body ends, which only `chunked` does.
    fn transfer_encoding(&mut self, value: &[u8]) {
        let is_chunked = |word: &&[u8]| word.eq_ignore_ascii_case(b"chunked");
        let again = self.chunked;
        self.chunked = words(value).last().is_some_and(|word| is_chunked(&word));
        // HTTP/1.0 has no chunks, and nobody is to be chunked twice.
        let times = usize::from(again) + words(value).filter(is_chunked).count();
        self.faulty |= self.version_10 || times > 1;
        self.encoded = true;
    }
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    words.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is found in a stream that comes in pieces of a size, and how it ends.
    fn found_in(stream: &[u8], size: usize) -> (Tally, Next) {
        let mut parser = Http1::default();
        let mut tally = Tally::default();
        for piece in stream.chunks(size) {
            let (taken, next) = parser.read(piece, &Rules::probes(), &mut tally);
            assert!(taken <= piece.len());
            if next != Next::More {
                return (tally, next);
            }
        }
        (tally, Next::More)
    }

    fn check(stream: &str, requests: u64, end: Next) {
        for size in [1, 2, 3, 7, 16, 61, 100_000] {
            let (tally, next) = found_in(stream.as_bytes(), size);
            let found = tally.requests(Protocol::Http1);
            assert_eq!((found, next), (requests, end), "{stream:?} in pieces of {size}");
        }
    }

    #[test]
    fn requests_without_bodies_follow_each_other() {
        check("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1, Next::More);
        check(&"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5), 5, Next::More);
        check(
            "\r\n\r\nGET / HTTP/1.1\n\nHEAD /x HTTP/1.1\r\n\r\n",
            2,
            Next::More,
        );
        check("GET / HTTP/1.1\r\nHost: x\r\n\r", 0, Next::More);
        check(
            "PROPFIND /a%20b?c HTTP/1.1\r\n\r\nM-SEARCH * HTTP/1.1\r\n\r\n",
            2,
            Next::More,
        );
    }

    #[test]
    fn bodies_are_passed_over_whatever_they_hold() {
        let body = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let length = body.len();
        let request = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
        check(&request.repeat(3), 3, Next::More);
        let twice = format!("POST / HTTP/1.1\r\ncontent-length: {length}, {length}\r\n\r\n{body}{body}");
        check(&twice, 2, Next::More);
    }

    #[test]
    fn chunks_with_extensions_and_trailers() {
        let request = "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
            1b;name=\"value\"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n5\r\nGET /\r\n0\r\n\
            Trailer: GET / HTTP/1.1\r\n\r\n";
        check(&request.repeat(3), 3, Next::More);
        check(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            2,
            Next::More,
        );
        check(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            1,
            Next::Foreign,
        );
        check(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            1,
            Next::Foreign,
        );
    }

    #[test]
    fn a_body_that_was_asked_about_first_is_a_body() {
        let request =
            "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        check(&request.repeat(2), 2, Next::More);
    }

    #[test]
    fn what_servers_refuse_is_the_last_request() {
        let more = "GET / HTTP/1.1\r\n\r\n";
        for field in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: x",
            "Transfer-Encoding: gzip",
        ] {
            check(&format!("POST / HTTP/1.1\r\n{field}\r\n\r\n{more}"), 1, Next::End);
        }
    }

    #[test]
    fn lengths_that_servers_disagree_on_end_the_connection() {
        let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n";
        for fields in [
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked\r\nContent-Length: 3",
            "Content-Length : 0",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip,\r\n chunked",
            "Content-Length: 1\r\n 0",
            "Content-Length: 0\r\n\t9",
            "Content-Length: 0x0",
            "Content-Length: -0",
            "Content-Length: 0,",
            "Content-Length:",
            "Content-Length: 0\r\nContent-Length: 5",
            "Content-Length: 18446744073709551616",
        ] {
            check(
                &format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n{smuggled}"),
                1,
                Next::End,
            );
        }
        let old = "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{old}{smuggled}"), 1, Next::End);
    }

    #[test]
    fn lengths_that_servers_agree_on_are_believed() {
        let next = "GET / HTTP/1.1\r\n\r\n";
        for (fields, body) in [
            ("Transfer-Encoding:chunked", "0\r\n\r\n"),
            ("TRANSFER-ENCODING:\t Chunked \t", "0\r\n\r\n"),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
            ("Cookie: a\r\n folded: b\r\nContent-Length: 3", "abc"),
            (
                "X-Content-Length: 9\r\nContent-Lengths: 9\r\nContent-Length: 003",
                "abc",
            ),
            ("Content-Length: 3\r\nContent-Length: 3", "abc"),
            (
                "Transfer-Encoding: chunked",
                "00000003 ;x=\"\r\nabc\r\n0;last\r\nA: b\r\n\r\n",
            ),
            ("Transfer-Encoding: chunked", "3\nabc\n0\n\n"),
            ("", ""),
        ] {
            let end = if fields.is_empty() { "" } else { "\r\n" };
            let stream = format!("POST / HTTP/1.1\r\n{fields}{end}\r\n{body}{next}");
            check(&stream.repeat(2), 4, Next::More);
        }
    }

    #[test]
    fn sizes_of_chunks_that_nobody_takes_are_foreign() {
        for size in ["0x1", "-1", "+1", "1h", ";", "", "10000000000000000", " 1"] {
            let stream = format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
            );
            check(&stream, 1, Next::Foreign);
        }
    }

    #[test]
    fn an_upgrade_to_http2_may_have_a_body() {
        let preface = "PRI * HTTP/2.0\r\n\r\nSM";
        for (field, body) in [
            ("Content-Length: 24", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ("Transfer-Encoding: chunked", "3\r\nPRI\r\n0\r\nPRI: *\r\n\r\n"),
        ] {
            let stream = format!(
                "POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{field}\r\n\r\n{body}{preface}"
            );
            check(&stream, 1, Next::Http2 { upgraded: true });
        }
    }

    #[test]
    fn a_stream_may_be_split_at_every_byte() {
        let stream = "\r\nPOST /a HTTP/1.1\r\nUser-Agent: kube-probe/1\r\nContent-Length: 16\r\n\r\nGET / HTTP/1.1\r\n\
            PUT http://b/ HTTP/1.1\nTransfer-Encoding: chunked\n\n1;GET / HTTP/1.1\r\n\r\r\n0\r\nGET: / HTTP/1.1\r\n\r\n\
            HEAD / HTTP/1.1\r\nConnection: keep-alive\r\n\r\nGET /ws HTTP/1.1\r\nUpgrade: x\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        let stream = stream.as_bytes();
        for first in 0..stream.len() {
            for second in [first, first + 1, first + 7, stream.len()] {
                let second = second.min(stream.len());
                let (mut parser, mut tally) = (Http1::default(), Tally::default());
                for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                    let read = parser.read(piece, &Rules::probes(), &mut tally);
                    assert_eq!(read, (piece.len(), Next::More), "{first} {second}");
                }
                let found = (
                    tally.requests(Protocol::Http1),
                    tally.excluded(Exclusion::HttpProbe),
                );
                assert_eq!(found, (4, 1), "{first} {second}");
            }
        }
    }

    #[test]
    fn after_a_close_nothing_is_a_request() {
        let more = "GET / HTTP/1.1\r\n\r\n";
        check(
            &format!("GET / HTTP/1.1\r\nConnection: close\r\n\r\n{more}"),
            1,
            Next::End,
        );
        check(&format!("GET / HTTP/1.0\r\n\r\n{more}"), 1, Next::End);
        check(
            &format!("GET / HTTP/1.0\r\nConnection: TE, Keep-Alive\r\n\r\n{more}"),
            2,
            Next::More,
        );
    }

    #[test]
    fn other_protocols_are_foreign_at_once() {
        check("SSH-2.0-OpenSSH_10.0\r\n", 0, Next::Foreign);
        check("*1\r\n$4\r\nPING\r\n", 0, Next::Foreign);
        check("\x16\x03\x01", 0, Next::Foreign);
        check("GET / HTTP/3.0\r\n", 0, Next::Foreign);
        check("GET  HTTP/1.1\r\n", 0, Next::Foreign);
        check("a-method-that-is-longer-than-any", 0, Next::Foreign);
        check("HTTP/1.1 200 OK\r\n\r\n", 0, Next::Foreign);
    }

    #[test]
    fn an_upgrade_that_is_refused_changes_nothing() {
        let request = "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        check(&format!("{request}GET / HTTP/1.1\r\n\r\n"), 2, Next::More);
        check(&format!("{request}\u{1}\u{5}hello"), 1, Next::Tunnel);
        check(&format!("{request}A\u{ff}hello"), 1, Next::Tunnel);
    }

    #[test]
    fn http2_is_spoken_at_once_or_by_upgrade() {
        check(
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            0,
            Next::Http2 { upgraded: false },
        );
        let request = "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n";
        check(
            &format!("{request}PRI * HTTP/2.0\r\n\r\nSM"),
            1,
            Next::Http2 { upgraded: true },
        );
        check(
            &format!("{request}{request}GET / HTTP/1.1\r\n\r\n"),
            3,
            Next::More,
        );
        check("PRI * HTTP/2.0\r\nHost: x\r\n\r\n", 0, Next::Foreign);
    }

    #[test]
    fn tunnels_hold_no_requests_of_ours() {
        let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n";
        let through = format!("{connect}GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        check(&format!("{connect}\x16\x03\x01"), 1, Next::Tunnel);
        check(&format!("{connect}{connect}"), 2, Next::More);
        check(&format!("{connect}GET http://a/ HTTP/1.1\r\n\r\n"), 2, Next::More);
        // Who was never seen to grant a tunnel has refused it.
        check(&through, 2, Next::More);
        let rules = Rules::probes();
        let mut tally = Tally::default();
        for (stream, requests) in [(format!("{connect}\x16\x03\x01"), 1), (through, 2)] {
            let (_, next) = Http1::default().read(stream.as_bytes(), &rules, &mut tally);
            assert_eq!((next, tally.requests(Protocol::Http1)), (Next::Tunnel, requests));
        }
    }

    #[test]
    fn upgrades_are_refused_in_http_1_0() {
        let request = "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        check(&format!("{request}GET / HTTP/1.1\r\n\r\n"), 1, Next::End);
        check(&format!("{request}\u{1}\u{5}hello"), 1, Next::End);
    }

    #[test]
    fn what_a_web_socket_sends_is_no_request() {
        let request = "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        // Each first byte that a client's frame may have, and the second, which says that it is masked.
        for first in (0..=u8::MAX).filter(|first| matches!(first & 0xf, 0..=2 | 8..=10)) {
            for length in [0, 5, 13, 32, 126, 127] {
                let frame = [&[first, 0x80 | length][..], b"GET / HTTP/1.1\r\n\r\n"].concat();
                let stream = [request.as_bytes(), &frame].concat();
                for size in [1, 3, 1000] {
                    let (tally, next) = found_in(&stream, size);
                    assert_eq!(
                        (tally.requests(Protocol::Http1), next),
                        (1, Next::Tunnel),
                        "{first} {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn probes_are_told_by_their_agent_and_path() {
        let stream = "GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.33\r\n\r\n\
            GET / HTTP/1.1\r\nuser-agent:curl\r\n\r\n\
            POST http://a:1/grpc.health.v1.Health/Check HTTP/1.1\r\n\r\n";
        for size in [1, 5, 1000] {
            let (tally, _) = found_in(stream.as_bytes(), size);
            assert_eq!(tally.requests(Protocol::Http1), 1);
            assert_eq!(tally.excluded(Exclusion::HttpProbe), 1);
            assert_eq!(tally.excluded(Exclusion::GrpcHealth), 1);
        }
    }

    #[test]
    fn heads_may_be_long() {
        let target = "x".repeat(70_000);
        let cookie = "y".repeat(100_000);
        let request = format!("GET /{target} HTTP/1.1\r\nCookie: {cookie}\r\nContent-Length: 1\r\n\r\n.");
        check(&request.repeat(2), 2, Next::More);
        let endless = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(MAX_LINES + 1));
        check(&endless, 0, Next::Foreign);
    }

    #[test]
    fn a_segment_begins_with_a_request_or_not() {
        assert!(begins_with_request(b"DELETE /x HTTP/1.1\r\nHo"));
        assert!(!begins_with_request(b"DELETE /x HTTP/1.1"));
        assert!(!begins_with_request(b"lo GET / HTTP/1.1\r\n"));
        assert!(!begins_with_request(b"PRI * HTTP/2.0\r\n"));
    }

    /// A well-formed request, and the exclusion it meets.
    fn request() -> impl Strategy<Value = (Vec<u8>, bool)> {
        let body = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            Just(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ];
        (0..4, body, any::<bool>(), any::<bool>()).prop_map(|(kind, body, probe, close_line)| {
            let end = if close_line { "\n" } else { "\r\n" };
            let agent = if probe { "kube-probe/1.30" } else { "x" };
            let mut bytes = format!("POST /a HTTP/1.1{end}User-Agent: {agent}{end}").into_bytes();
            match kind {
                0 => bytes.extend(end.as_bytes()),
                1 => {
                    bytes.extend(format!("Content-Length: {}{end}{end}", body.len()).as_bytes());
                    bytes.extend(body);
                }
                _ => {
                    bytes.extend(format!("Transfer-Encoding: chunked{end}{end}").as_bytes());
                    for chunk in body.chunks(100) {
                        bytes.extend(format!("{:x}{end}", chunk.len()).as_bytes());
                        bytes.extend(chunk);
                        bytes.extend(end.as_bytes());
                    }
                    bytes.extend(format!("0{end}A: b{end}{end}").as_bytes());
                }
            }
            (bytes, probe)
        })
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_count(
            requests in prop::collection::vec(request(), 0..12),
            sizes in prop::collection::vec(1usize..400, 1..50),
        ) {
            let stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let probes = requests.iter().filter(|(_, probe)| *probe).count() as u64;
            let (mut parser, mut tally, mut rest) = (Http1::default(), Tally::default(), &stream[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, later) = rest.split_at(rest.len().min(*size));
                prop_assert_eq!(parser.read(piece, &Rules::probes(), &mut tally), (piece.len(), Next::More));
                rest = later;
            }
            prop_assert_eq!(tally.requests(Protocol::Http1), requests.len() as u64 - probes);
            prop_assert_eq!(tally.excluded(Exclusion::HttpProbe), probes);
        }

        #[test]
        fn no_bytes_make_it_panic(stream in prop::collection::vec(any::<u8>(), 0..500), size in 1usize..100) {
            found_in(&stream, size);
        }
    }
}

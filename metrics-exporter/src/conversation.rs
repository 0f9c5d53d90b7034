//! What a client says on one connection, in whatever protocol that turns out to be.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::exclude::Rules;
use crate::http1::{self, Http1, Next};
use crate::http2::{self, Http2};
use crate::stream::Reader;
use crate::tally::Tally;
use crate::tls;

/// What is spoken, and how far it was understood.
#[derive(Debug)]
pub enum Conversation {
    /// HTTP/1, which also begins HTTP/2.
    Http1(Http1),
    /// HTTP/2.
    Http2(Box<Http2>),
    /// Nothing is known yet: the first bytes may be TLS.
    New {
        /// The first bytes.
        seen: [u8; tls::HELLO_LENGTH],
        /// How many there are.
        length: usize,
    },
    /// Nothing to look at any more.
    Opaque(Opaque),
    /// A part was missed. It goes on where a message begins.
    Searching(Sought),
}

/// Why a connection is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// It is encrypted.
    Tls,
    /// It was asked to become something else, and did.
    Tunnel,
    /// It is in no protocol that is understood, or no longer.
    Unknown,
}

/// What kind of message is looked for.
#[derive(Debug)]
pub enum Sought {
    /// Any.
    Any,
    /// A request of HTTP/1.
    Http1,
    /// A frame of HTTP/2.
    Http2(Box<Http2>),
}

impl Conversation {
    /// One that is heard from its first byte.
    pub fn new() -> Self {
        Self::New {
            seen: [0; tls::HELLO_LENGTH],
            length: 0,
        }
    }

    /// One that is heard from somewhere in the middle.
    pub fn overheard() -> Self {
        Self::Searching(Sought::Any)
    }

    /// Listens.
    pub fn listen<'a>(&'a mut self, rules: &'a Rules, tally: &'a mut Tally) -> Listener<'a> {
        Listener {
            conversation: self,
            rules,
            tally,
        }
    }
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new()
    }
}

/// A conversation with what it takes to understand it.
#[derive(Debug)]
pub struct Listener<'a> {
    conversation: &'a mut Conversation,
    rules: &'a Rules,
    tally: &'a mut Tally,
}

impl Reader for Listener<'_> {
    fn read(&mut self, bytes: &[u8]) {
        match self.conversation {
            Conversation::Http1(_) => self.http1(bytes),
            Conversation::Http2(http2) => {
                if http2.read(bytes, self.rules, self.tally).is_err() {
                    self.give_up(bytes.len() as u64);
                }
            }
            Conversation::New { .. } => self.first_bytes(bytes),
            Conversation::Opaque(_) => self.pass(bytes.len() as u64),
            Conversation::Searching(_) => self.search(bytes),
        }
    }

    fn indifferent(&self) -> u64 {
        match &*self.conversation {
            Conversation::Http1(http1) => http1.indifferent(),
            Conversation::Http2(http2) => http2.indifferent(),
            Conversation::New { .. } | Conversation::Searching(_) => 0,
            Conversation::Opaque(_) => u64::MAX,
        }
    }

    fn pass(&mut self, bytes: u64) {
        match self.conversation {
            Conversation::Http1(http1) => http1.pass(bytes),
            Conversation::Http2(http2) => http2.pass(bytes),
            Conversation::Opaque(Opaque::Tls | Opaque::Tunnel) => {}
            Conversation::New { .. } | Conversation::Opaque(Opaque::Unknown) | Conversation::Searching(_) => {
                self.tally.unparsed_bytes += bytes;
            }
        }
    }

    fn lose(&mut self, bytes: u64) {
        self.tally.unparsed_bytes += bytes;
        let sought = match std::mem::take(self.conversation) {
            Conversation::Http1(_) => Sought::Http1,
            Conversation::Http2(http2) => Sought::Http2(http2),
            Conversation::New { .. } => Sought::Any,
            same @ Conversation::Opaque(_) => return *self.conversation = same,
            Conversation::Searching(sought) => sought,
        };
        *self.conversation = Conversation::Searching(sought);
    }
}

impl Listener<'_> {
    fn first_bytes(&mut self, bytes: &[u8]) {
        let Conversation::New { seen, length } = self.conversation else {
            return;
        };
        let known = *length;
        let more = bytes.len().min(seen.len() - known);
        seen[known..known + more].copy_from_slice(&bytes[..more]);
        *length += more;
        let (seen, length) = (*seen, *length);
        match tls::begins_with_hello(&seen[..length]) {
            None => {}
            Some(true) => {
                self.tally.tls_connections += 1;
                *self.conversation = Conversation::Opaque(Opaque::Tls);
            }
            Some(false) => {
                *self.conversation = Conversation::Http1(Http1::default());
                self.read(&seen[..known]);
                self.read(bytes);
            }
        }
    }

    fn http1(&mut self, bytes: &[u8]) {
        let Conversation::Http1(http1) = self.conversation else {
            return;
        };
        let (taken, next) = http1.read(bytes, self.rules, self.tally);
        match next {
            Next::More => {}
            Next::End | Next::Foreign => self.give_up((bytes.len() - taken) as u64),
            Next::Http2 { upgraded } => {
                let http2 = if upgraded {
                    Http2::upgraded()
                } else {
                    Http2::default()
                };
                *self.conversation = Conversation::Http2(Box::new(http2));
                self.read(&bytes[taken..]);
            }
            Next::Tunnel => *self.conversation = Conversation::Opaque(Opaque::Tunnel),
        }
    }

    fn search(&mut self, bytes: &[u8]) {
        let Conversation::Searching(sought) = self.conversation else {
            return;
        };
        match sought {
            Sought::Any | Sought::Http1 if http1::begins_with_request(bytes) => {
                *self.conversation = Conversation::Http1(Http1::default());
                self.read(bytes);
            }
            Sought::Any if tls::looks_like_record(bytes) => {
                self.tally.tls_connections += 1;
                *self.conversation = Conversation::Opaque(Opaque::Tls);
            }
            Sought::Any if http2::begins_with_frame(bytes) => self.go_on(Http2::default(), bytes),
            Sought::Http2(http2) if http2::begins_with_frame(bytes) => {
                let http2 = std::mem::take(&mut **http2);
                self.go_on(http2, bytes);
            }
            _ => self.tally.unparsed_bytes += bytes.len() as u64,
        }
    }

    fn go_on(&mut self, http2: Http2, bytes: &[u8]) {
        *self.conversation = Conversation::Http2(Box::new(http2.picked_up()));
        self.read(bytes);
    }

    /// What is said is not understood, nor what follows.
    fn give_up(&mut self, bytes: u64) {
        self.tally.unparsed_bytes += bytes;
        *self.conversation = Conversation::Opaque(Opaque::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Protocol;

    fn heard(mut conversation: Conversation, pieces: &[&[u8]]) -> (Conversation, Tally) {
        let (rules, mut tally) = (Rules::probes(), Tally::default());
        for piece in pieces {
            conversation.listen(&rules, &mut tally).read(piece);
        }
        (conversation, tally)
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn tls_is_counted_as_a_connection_and_its_bytes_are_not_guessed_at() {
        let (conversation, tally) = heard(Conversation::new(), &[&[22, 3], &[1, 0, 200], &[1, 0], REQUEST]);
        assert!(matches!(conversation, Conversation::Opaque(Opaque::Tls)));
        assert_eq!((tally.tls_connections, tally.unparsed_bytes), (1, 0));
        assert_eq!(tally.requests(Protocol::Http1), 0);
    }

    #[test]
    fn other_protocols_are_admitted_to_be_unparsed() {
        let (_, tally) = heard(Conversation::new(), &[b"\x16", b"\x09", b"*1\r\n", REQUEST]);
        assert_eq!(tally.requests(Protocol::Http1), 0);
        assert!(tally.unparsed_bytes > 27);
    }

    #[test]
    fn http2_begins_in_any_pieces() {
        let stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x82";
        for size in 1..stream.len() {
            let pieces: Vec<_> = stream.chunks(size).collect();
            let (conversation, tally) = heard(Conversation::new(), &pieces);
            assert!(matches!(conversation, Conversation::Http2(_)));
            assert_eq!((tally.requests(Protocol::Http2), tally.unparsed_bytes), (1, 0));
        }
    }

    #[test]
    fn after_a_loss_it_goes_on_at_the_next_message() {
        let (mut conversation, mut tally) = heard(Conversation::new(), &[REQUEST, b"GET /x HTT"]);
        let rules = Rules::probes();
        let mut listener = conversation.listen(&rules, &mut tally);
        listener.lose(9);
        listener.read(b"Host: x\r\n\r\n");
        listener.read(REQUEST);
        assert_eq!((tally.requests(Protocol::Http1), tally.unparsed_bytes), (2, 20));
    }

    #[test]
    fn what_is_overheard_is_found_out() {
        let (_, tally) = heard(Conversation::overheard(), &[b"the end of a body", REQUEST]);
        assert_eq!(tally.requests(Protocol::Http1), 1);
        let (_, tally) = heard(Conversation::overheard(), &[&[23, 3, 3, 0, 9, 0], REQUEST]);
        assert_eq!((tally.requests(Protocol::Http1), tally.tls_connections), (0, 1));
        let frame = b"\0\0\x01\x01\x05\0\0\0\x09\x82";
        let (_, tally) = heard(Conversation::overheard(), &[frame, frame]);
        assert_eq!(tally.requests(Protocol::Http2), 1);
    }
}

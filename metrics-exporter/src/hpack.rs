//! HPACK (RFC 7541), as far as it takes to read a few fields of requests.
//!
//! A decoder that has not seen a connection from its start, or has missed a part, goes on: entries count from the newest, so
//! those that were added since are known, and others are just that, unknown.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::VecDeque;

use crate::huffman;

/// What the dynamic table may hold, unless the encoder says otherwise.
const DEFAULT_TABLE: usize = 4096;
/// What it may hold in here, whatever the encoder says. A server has to offer more than the default to be sent more.
const MAX_TABLE: usize = 64 * 1024;
/// What each entry counts for besides its bytes.
const ENTRY_OVERHEAD: usize = 32;

/// Names and values that need not be sent.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// The block is not well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    capacity: usize,
    entries: VecDeque<Entry>,
    size: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
    /// Its name is that of an entry that was not seen, so its size is not known.
    is_vague: bool,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            capacity: DEFAULT_TABLE,
            entries: VecDeque::new(),
            size: 0,
        }
    }
}

impl Decoder {
    /// Decodes a block. Fields whose name and value are known are told; unknown ones are passed over.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut input = Input(block);
        while let Some(&first) = input.0.first() {
            match first {
                0x80.. => self.indexed(input.integer(7)?, &mut field)?,
                0x40.. => {
                    let entry = self.literal(&mut input, 6)?;
                    entry.tell(&mut field);
                    self.add(entry);
                }
                0x20.. => self.resize(input.integer(5)?),
                _ => self.literal(&mut input, 4)?.tell(&mut field),
            }
        }
        Ok(())
    }

    /// Forgets all entries: something was missed.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.size = 0;
    }

    fn indexed(&self, index: usize, field: &mut impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        if index == 0 {
            return Err(Malformed);
        }
        match STATIC.get(index - 1) {
            Some((name, value)) => field(name.as_bytes(), value.as_bytes()),
            None => {
                if let Some(entry) = self.entries.get(index - 1 - STATIC.len()) {
                    entry.tell(field);
                }
            }
        }
        Ok(())
    }

    fn literal(&self, input: &mut Input<'_>, prefix: u32) -> Result<Entry, Malformed> {
        let index = input.integer(prefix)?;
        let (name, is_vague) = match index.checked_sub(1) {
            None => (input.string()?, false),
            Some(index) => match STATIC.get(index) {
                Some((name, _)) => (name.as_bytes().into(), false),
                None => match self.entries.get(index - STATIC.len()) {
                    Some(entry) => (entry.name.clone(), entry.is_vague),
                    None => (Box::default(), true),
                },
            },
        };
        Ok(Entry {
            name,
            value: input.string()?,
            is_vague,
        })
    }

    fn add(&mut self, entry: Entry) {
        self.size += entry.size();
        self.entries.push_front(entry);
        self.evict();
    }

    fn resize(&mut self, capacity: usize) {
        self.capacity = capacity.min(MAX_TABLE);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.capacity
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size();
        }
    }
}

impl Entry {
    fn tell(&self, field: &mut impl FnMut(&[u8], &[u8])) {
        if !self.is_vague {
            field(&self.name, &self.value);
        }
    }
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number whose first bits are the last of a byte.
    fn integer(&mut self, bits: u32) -> Result<usize, Malformed> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in (0..28).step_by(7) {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn string(&mut self) -> Result<Box<[u8]>, Malformed> {
        let is_huffman = self.0.first().ok_or(Malformed)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if !is_huffman {
            return Ok(bytes.into());
        }
        let mut decoded = Vec::with_capacity(length * 8 / 5);
        huffman::decode(bytes, &mut decoded).ok_or(Malformed)?;
        Ok(decoded.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, |name, value| fields.push((text(name), text(value))))?;
        Ok(fields)
    }

    fn check(decoder: &mut Decoder, block: &str, expected: &[(&str, &str)]) {
        let block: Vec<u8> = (0..block.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&block[at..at + 2], 16).unwrap())
            .collect();
        let fields = decoded(decoder, &block).unwrap();
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn the_rfcs_requests() {
        let first = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ];
        let second = [&first[..], &[("cache-control", "no-cache")]].concat();
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        let mut plain = Decoder::default();
        check(&mut plain, "828684410f7777772e6578616d706c652e636f6d", &first);
        check(&mut plain, "828684be58086e6f2d6361636865", &second);
        check(
            &mut plain,
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            &third,
        );
        assert_eq!(plain.size, 164);
        let mut huffman = Decoder::default();
        check(&mut huffman, "828684418cf1e3c2e5f23a6ba0ab90f4ff", &first);
        check(&mut huffman, "828684be5886a8eb10649cbf", &second);
        check(
            &mut huffman,
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            &third,
        );
        assert_eq!(huffman.size, 164);
    }

    #[test]
    fn a_table_that_shrinks_drops_its_oldest() {
        let mut decoder = Decoder::default();
        check(&mut decoder, "4001610162", &[("a", "b")]);
        check(&mut decoder, "4001630164", &[("c", "d")]);
        check(&mut decoder, "3f05be", &[("c", "d")]); // 36 bytes: one entry
        assert_eq!(decoder.entries.len(), 1);
        check(&mut decoder, "20bf", &[]); // none, and an entry that is not known
        assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
    }

    #[test]
    fn what_was_missed_is_unknown_and_the_rest_is_not() {
        let mut decoder = Decoder::default();
        check(&mut decoder, "c082", &[(":method", "GET")]);
        check(&mut decoder, "7f010162", &[]); // a value for an unknown name
        check(&mut decoder, "4001610162bebf", &[("a", "b"), ("a", "b")]);
        decoder.forget();
        check(&mut decoder, "be", &[]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for block in [
            &[0x80][..],
            &[0x40],
            &[0x40, 0x05, b'a'],
            &[0xff; 8],
            &[0x00, 0x81, 0x00],
        ] {
            assert_eq!(
                decoded(&mut Decoder::default(), block),
                Err(Malformed),
                "{block:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_blocks_make_it_panic_or_grow(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10)) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoded(&mut decoder, &block);
                prop_assert!(decoder.size <= MAX_TABLE);
            }
        }
    }
}

//! HPACK's Huffman code (RFC 7541, appendix B). It is canonical, so the lengths of the codes are the whole table.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

/// The length in bits of each byte's code, and of the end's.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const LONGEST: usize = 30;
const END: u16 = 256;

/// The codes of one length are successive numbers, in the order of what they stand for.
struct Code {
    count: [u32; LONGEST + 1],
    first: [u32; LONGEST + 1],
    /// Where in `symbols` those of a length begin.
    start: [usize; LONGEST + 1],
    symbols: [u16; 257],
}

static CODE: Code = Code::new();

impl Code {
    #[allow(clippy::cast_possible_truncation, reason = "there are 257 symbols")]
    const fn new() -> Self {
        let mut code = Self {
            count: [0; LONGEST + 1],
            first: [0; LONGEST + 1],
            start: [0; LONGEST + 1],
            symbols: [0; 257],
        };
        let (mut at, mut next, mut length) = (0, 0, 1);
        while length <= LONGEST {
            next <<= 1;
            code.first[length] = next;
            code.start[length] = at;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[at] = symbol as u16;
                    code.count[length] += 1;
                    at += 1;
                    next += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        code
    }

    /// What the bits at the top of a window stand for, and how many they are.
    fn look_up(&self, window: u64) -> Option<(u16, usize)> {
        (5..=LONGEST).find_map(|length| {
            let code = u32::try_from(window >> (64 - length)).ok()?;
            let number = code
                .checked_sub(self.first[length])
                .filter(|number| *number < self.count[length])?;
            Some((self.symbols[self.start[length] + number as usize], length))
        })
    }
}

/// Appends what `encoded` stands for. `None` if it is not well-formed.
pub fn decode(encoded: &[u8], decoded: &mut Vec<u8>) -> Option<()> {
    let (mut window, mut filled, mut rest) = (0_u64, 0_usize, encoded.iter());
    loop {
        while filled <= 56
            && let Some(byte) = rest.next()
        {
            window |= u64::from(*byte) << (56 - filled);
            filled += 8;
        }
        // What is left over is the start of the end's code, which is all ones, and less than a byte.
        let padded = if filled == 64 {
            window
        } else {
            window | (u64::MAX >> filled)
        };
        if filled < 8 && padded == u64::MAX {
            return Some(());
        }
        let (symbol, length) = CODE.look_up(padded)?;
        if symbol == END || length > filled {
            return None;
        }
        decoded.push(u8::try_from(symbol).ok()?);
        window <<= length;
        filled -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write as _;

    /// The code of each byte, from the lengths alone.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let symbols = &CODE.symbols[CODE.start[length]..];
            let number = symbols
                .iter()
                .position(|symbol| *symbol == u16::from(*byte))
                .unwrap();
            let code = CODE.first[length] as usize + number;
            write!(bits, "{code:0length$b}").unwrap();
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |bits: &[u8]| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap();
        bits.as_bytes().chunks(8).map(byte).collect()
    }

    fn decoded(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(encoded, &mut text).map(|()| text)
    }

    #[test]
    fn the_rfcs_examples() {
        let example = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&example).unwrap(), b"www.example.com");
        assert_eq!(
            decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(),
            b"no-cache"
        );
        assert_eq!(decoded(&[]).unwrap(), b"");
    }

    #[test]
    fn wrong_padding_and_the_end_are_refused() {
        assert_eq!(decoded(&[0xff]), None);
        assert_eq!(decoded(&[0x00, 0x00]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(text in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }

        #[test]
        fn no_bytes_make_it_panic(encoded in prop::collection::vec(any::<u8>(), 0..100)) {
            decoded(&encoded);
        }
    }
}

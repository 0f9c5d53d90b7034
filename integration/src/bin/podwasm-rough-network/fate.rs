//! What becomes of a packet in a bad network.

use std::time::Duration;

const TCP: u8 = 6;

/// How bad a network is: how many of a hundred packets share a fate.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Roughness {
    /// Packets of a hundred that are lost.
    #[arg(long, default_value_t = 2)]
    pub lost: u64,
    /// Packets of a hundred that come twice.
    #[arg(long, default_value_t = 5)]
    pub twice: u64,
    /// Packets of a hundred that are late, and so overtaken by others.
    #[arg(long, default_value_t = 15)]
    pub late: u64,
    /// Segments of a hundred that come as two, which overlap.
    #[arg(long, default_value_t = 15)]
    pub cut: u64,
    /// How late packets are at most, in milliseconds.
    #[arg(long, default_value_t = 10)]
    pub late_ms: u64,
}

/// Draws the fates of packets.
#[derive(Debug)]
pub struct Fates {
    roughness: Roughness,
    state: u64,
}

impl Fates {
    /// The same seed gives the same fates.
    pub fn new(roughness: Roughness, seed: u64) -> Self {
        Self {
            roughness,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// What arrives in place of a packet, and after how long.
    pub fn of(&mut self, packet: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        let mut arriving = Vec::new();
        let copies = if self.happens(self.roughness.twice) { 2 } else { 1 };
        for _ in 0..copies {
            if self.happens(self.roughness.lost) {
                continue;
            }
            let cut = self.happens(self.roughness.cut);
            let (first, second) = (self.draw(), self.draw());
            let pieces = cut.then(|| overlapping(packet, first, second)).flatten();
            let pieces = pieces.map_or_else(|| vec![packet.to_vec()], Vec::from);
            for piece in pieces {
                arriving.push((self.delay(), piece));
            }
        }
        arriving
    }

    fn delay(&mut self) -> Duration {
        if !self.happens(self.roughness.late) {
            return Duration::ZERO;
        }
        let most = self.roughness.late_ms * 1000;
        Duration::from_micros(self.draw() % most.max(1))
    }

    fn happens(&mut self, of_hundred: u64) -> bool {
        self.draw() % 100 < of_hundred
    }

    /// Xorshift, by Marsaglia.
    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 11
    }
}

/// A segment as two that overlap, or meet. `None` if it is none, or has too little in it.
fn overlapping(packet: &[u8], first: u64, second: u64) -> Option<[Vec<u8>; 2]> {
    let ip = match packet.first()? >> 4 {
        4 if packet[9] == TCP => usize::from(packet[0] & 0xf) * 4,
        6 if packet[6] == TCP => 40,
        _ => return None,
    };
    let headers = ip + usize::from(packet.get(ip + 12)? >> 4) * 4;
    let length = packet.len().checked_sub(headers).filter(|length| *length >= 2)?;
    let place = |draw: u64, places: usize| usize::try_from(draw % places as u64).expect("it is less");
    let end = 1 + place(first, length - 1);
    let start = place(second, end + 1);
    let mut head = packet[..headers + end].to_vec();
    head[ip + 13] &= !0x09; // the last byte is not in it, so it neither ends the connection nor pushes
    let mut tail = [&packet[..headers], &packet[headers + start..]].concat();
    let sequence = u32::from_be_bytes(tail[ip + 4..ip + 8].try_into().expect("four bytes"));
    let sequence = sequence.wrapping_add(u32::try_from(start).expect("a packet is short"));
    tail[ip + 4..ip + 8].copy_from_slice(&sequence.to_be_bytes());
    Some([sealed(head, ip), sealed(tail, ip)])
}

/// With the lengths and checksums that fit to it.
fn sealed(mut packet: Vec<u8>, ip: usize) -> Vec<u8> {
    let length = u16::try_from(packet.len()).expect("a packet is short");
    let payload = length - u16::try_from(ip).expect("a header is short");
    let addresses = if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = checksum([&packet[..ip]]);
        packet[10..12].copy_from_slice(&checksum);
        12..20
    } else {
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        8..40
    };
    packet[ip + 16..ip + 18].fill(0);
    let pseudo = [&[0, TCP][..], &payload.to_be_bytes()].concat();
    let checksum = checksum([&packet[addresses], &pseudo, &packet[ip..]]);
    packet[ip + 16..ip + 18].copy_from_slice(&checksum);
    packet
}

/// The Internet's checksum of parts of which all but the last have an even length.
fn checksum<const N: usize>(parts: [&[u8]; N]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded & 0xffff).expect("it is masked")).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment without checksums.
    const SEGMENT: [u8; 45] = [
        0x45, 0, 0, 45, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 99, 0, 2, 10, 88, 0, 2, 0x9c, 0x40, 0x1f, 0x90, 0, 0,
        0, 7, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o',
    ];

    #[test]
    fn what_is_sealed_sums_up_to_nothing() {
        let packet = sealed(SEGMENT.to_vec(), 20);
        assert_eq!(checksum([&packet[..20]]), [0, 0]);
        let pseudo = [0, TCP, 0, 25];
        assert_eq!(checksum([&packet[12..20], &pseudo, &packet[20..]]), [0, 0]);
        // RFC 1071's example.
        assert_eq!(
            checksum([&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            [0x22, 0x0d]
        );
    }

    #[test]
    fn two_pieces_hold_what_the_segment_held() {
        let packet = sealed(SEGMENT.to_vec(), 20);
        for (first, second) in [(0, 0), (0, 1), (3, 0), (3, 4), (2, 1), (3, 2)] {
            let [head, tail] = overlapping(&packet, first, second).unwrap();
            let at = usize::from(tail[27] - 7);
            let (begin, end) = (&head[40..], &tail[40..]);
            assert!(at <= begin.len() && !begin.is_empty() && !end.is_empty());
            assert_eq!([&begin[..at], end].concat(), b"hello");
            assert_eq!((head[33], tail[33]), (0x10, 0x18));
        }
        assert_eq!(overlapping(&packet[..41], 0, 0), None);
    }

    #[test]
    fn fates_happen_about_as_often_as_they_should() {
        let roughness = Roughness {
            lost: 10,
            twice: 20,
            late: 30,
            cut: 0,
            late_ms: 5,
        };
        let mut fates = Fates::new(roughness, 3);
        let arrived: Vec<_> = (0..10_000).map(|_| fates.of(&SEGMENT)).collect();
        let come = |times| arrived.iter().filter(|one| one.len() == times).count();
        assert!((740..900).contains(&come(0)), "{}", come(0));
        assert!((1_500..1_750).contains(&come(2)), "{}", come(2));
        let late = arrived
            .iter()
            .flatten()
            .filter(|(delay, _)| !delay.is_zero())
            .count();
        assert!((3_000..3_500).contains(&late), "{late}");
    }
}

//! TCP segments in packets, as a packet socket hands them out: from the network header on, perhaps cut short.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
/// IPv6 headers that may stand before TCP's.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// One end of a connection. IPv4 addresses are mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv6Addr,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// An end at an address of either family.
    pub fn new(address: IpAddr, port: u16) -> Self {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Self { address, port }
    }
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who sends.
    pub from: Endpoint,
    /// Who receives.
    pub to: Endpoint,
}

/// The flags of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// The connection begins.
    pub const SYN: Self = Self(0x02);
    /// The connection is no more.
    pub const RST: Self = Self(0x04);
    /// The segment acknowledges.
    pub const ACK: Self = Self(0x10);

    /// Whether these are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// From whom to whom.
    pub flow: Flow,
    /// The number of its first byte.
    pub sequence: u32,
    /// Its flags.
    pub flags: Flags,
    /// Its data, or the first part of it.
    pub data: &'a [u8],
    /// How many bytes of data it had on the wire.
    pub length: usize,
}

/// Why a packet is no whole segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSegment {
    /// A piece of a packet that was too large for some link.
    Fragment,
    /// A header ends early or contradicts itself.
    Malformed,
    /// Another protocol.
    Other,
}

/// Reads a packet that had `wire_length` bytes on the wire.
pub fn parse(packet: &[u8], wire_length: usize) -> Result<Segment<'_>, NoSegment> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_ipv4(packet, wire_length),
        Some(6) => parse_ipv6(packet, wire_length),
        Some(_) => Err(NoSegment::Other),
        None => Err(NoSegment::Malformed),
    }
}

fn parse_ipv4(packet: &[u8], wire_length: usize) -> Result<Segment<'_>, NoSegment> {
    let header = packet.first_chunk::<20>().ok_or(NoSegment::Malformed)?;
    if header[9] != TCP {
        return Err(NoSegment::Other);
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(NoSegment::Fragment);
    }
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let total = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
        0 => wire_length, // merged by the kernel into more than 64 kB
        total => total,
    };
    let address = |at: usize| {
        let octets: [u8; 4] = header[at..at + 4].try_into().expect("four bytes");
        Ipv4Addr::from(octets).to_ipv6_mapped()
    };
    parse_tcp(packet, header_length.max(20), total, address(12), address(16))
}

fn parse_ipv6(packet: &[u8], wire_length: usize) -> Result<Segment<'_>, NoSegment> {
    let header = packet.first_chunk::<40>().ok_or(NoSegment::Malformed)?;
    let total = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
        0 => wire_length, // a jumbogram, or merged by the kernel
        payload => payload + 40,
    };
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        Ipv6Addr::from(octets)
    };
    let start = skip_extensions(packet, header[6])?;
    parse_tcp(packet, start, total, address(8), address(24))
}

/// Where the TCP header begins.
fn skip_extensions(packet: &[u8], mut next: u8) -> Result<usize, NoSegment> {
    let mut at = 40;
    while next != TCP {
        let length_unit = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => 8,
            AUTHENTICATION => 4,
            _ => return Err(NoSegment::Other),
        };
        let extension = packet.get(at..at + 4).ok_or(NoSegment::Malformed)?;
        let kind = next;
        next = extension[0];
        if kind == FRAGMENT {
            if u16::from_be_bytes([extension[2], extension[3]]) & 0xfff9 != 0 {
                return Err(NoSegment::Fragment);
            }
            at += 8;
            continue;
        }
        let extra = if length_unit == 4 { 2 } else { 1 };
        at += (usize::from(extension[1]) + extra) * length_unit;
    }
    Ok(at)
}

/// Reads the TCP header at `start` of a packet of `total` bytes.
fn parse_tcp(
    packet: &[u8],
    start: usize,
    total: usize,
    from: Ipv6Addr,
    to: Ipv6Addr,
) -> Result<Segment<'_>, NoSegment> {
    let rest = packet.get(start..).ok_or(NoSegment::Malformed)?;
    let header = rest.first_chunk::<20>().ok_or(NoSegment::Malformed)?;
    let header_length = usize::from(header[12] >> 4) * 4;
    let data_start = start + header_length;
    if header_length < 20 || data_start > total {
        return Err(NoSegment::Malformed);
    }
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let end = packet.len().min(total);
    Ok(Segment {
        flow: Flow {
            from: Endpoint {
                address: from,
                port: port(0),
            },
            to: Endpoint {
                address: to,
                port: port(2),
            },
        },
        sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        flags: Flags(header[13]),
        data: packet.get(data_start..end).unwrap_or_default(),
        length: total - data_start,
    })
}

#[cfg(test)]
pub(crate) mod examples {
    //! Packets to try filters and parsers on.

    use super::*;

    pub fn tcp(flags: u8, options: usize, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 7, 0, 0, 0, 0];
        bytes.push(u8::try_from((20 + options) / 4).unwrap() << 4);
        bytes.extend([flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend(vec![1; options]);
        bytes.extend(data);
        bytes
    }

    pub fn ipv4(tcp: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + tcp.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0];
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(tcp);
        bytes
    }

    pub fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
        bytes.extend(Ipv6Addr::LOCALHOST.octets());
        bytes.extend(Ipv6Addr::LOCALHOST.octets());
        bytes.extend(rest);
        bytes
    }

    /// A packet, and whether it has to be looked at.
    pub struct Example {
        pub what: &'static str,
        pub packet: Vec<u8>,
        pub matters: bool,
    }

    /// One of each kind.
    pub fn all() -> Vec<Example> {
        let mut fragment = ipv4(&tcp(0x10, 0, b""));
        fragment[7] = 1;
        let mut udp = ipv4(&tcp(0x18, 0, b"GET"));
        udp[9] = 17;
        let mut padded = ipv4(&tcp(0x10, 0, b""));
        padded.extend([0; 6]);
        let mut merged = ipv4(&tcp(0x18, 0, &[1; 100]));
        merged[2..4].fill(0);
        let mut jumbogram = ipv6(6, &tcp(0x18, 0, &[1; 100]));
        jumbogram[4..6].fill(0);
        let options = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(0x18, 0, b"GET")].concat();
        let example = |what, packet, matters| Example {
            what,
            packet,
            matters,
        };
        vec![
            example("IPv4 data", ipv4(&tcp(0x18, 0, b"G")), true),
            example("IPv4 data with options", ipv4(&tcp(0x10, 12, b"G")), true),
            example("IPv4 acknowledgement", ipv4(&tcp(0x10, 0, b"")), false),
            example(
                "IPv4 acknowledgement with options",
                ipv4(&tcp(0x10, 40, b"")),
                false,
            ),
            example("IPv4 acknowledgement with padding", padded, false),
            example("IPv4 SYN", ipv4(&tcp(0x02, 20, b"")), true),
            example("IPv4 FIN", ipv4(&tcp(0x11, 12, b"")), true),
            example("IPv4 RST", ipv4(&tcp(0x04, 0, b"")), true),
            example("IPv4 fragment", fragment, true),
            example("IPv4 merged", merged, true),
            example("UDP", udp, false),
            example("IPv6 data", ipv6(6, &tcp(0x18, 12, b"G")), true),
            example("IPv6 acknowledgement", ipv6(6, &tcp(0x10, 12, b"")), false),
            example("IPv6 SYN", ipv6(6, &tcp(0x02, 0, b"")), true),
            example("IPv6 FIN", ipv6(6, &tcp(0x11, 0, b"")), true),
            example("IPv6 jumbogram", jumbogram, true),
            example("IPv6 with options", ipv6(0, &options), true),
            example("IPv6 ICMP", ipv6(58, &[128, 0, 0, 0]), false),
            example("ARP", vec![0, 1, 8, 0, 6, 4, 0, 1], false),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::examples::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ipv4_with_options_and_padding() {
        let mut packet = ipv4(&tcp(0x18, 12, b"GET"));
        packet.extend([0; 6]);
        let segment = parse(&packet, packet.len()).unwrap();
        assert_eq!(
            (segment.data, segment.length, segment.sequence),
            (&b"GET"[..], 3, 7)
        );
        assert_eq!(segment.flow.from.address.to_string(), "::ffff:10.0.0.1");
        assert_eq!((segment.flow.from.port, segment.flow.to.port), (40000, 8080));
        assert!(segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::SYN));
    }

    #[test]
    fn what_was_cut_off_is_known_to_be_missing() {
        let packet = ipv4(&tcp(0x18, 0, b"POST / HTTP/1.1"));
        let segment = parse(&packet[..44], packet.len()).unwrap();
        assert_eq!((segment.data, segment.length), (&b"POST"[..], 15));
        let segment = parse(&packet[..40], packet.len()).unwrap();
        assert_eq!((segment.data, segment.length), (&b""[..], 15));
    }

    #[test]
    fn merged_packets_have_no_length_of_their_own() {
        let mut packet = ipv4(&tcp(0x18, 0, &vec![b'x'; 60_000]));
        packet.extend(vec![b'y'; 40_000]);
        packet[2..4].fill(0);
        assert_eq!(parse(&packet, packet.len()).unwrap().data.len(), 100_000);
        let mut packet = ipv6(6, &tcp(0x18, 0, b"abc"));
        packet[4..6].fill(0);
        assert_eq!(parse(&packet, packet.len()).unwrap().data, b"abc");
    }

    #[test]
    fn ipv6_with_extension_headers() {
        let mut rest = vec![60, 0, 1, 4, 0, 0, 0, 0]; // hop by hop
        rest.extend([51, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options
        rest.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // authentication
        rest.extend([6, 0, 0, 0, 0, 0, 0, 1]); // a fragment that is whole
        rest.extend(tcp(0x18, 0, b"GET"));
        let packet = ipv6(0, &rest);
        assert_eq!(parse(&packet, packet.len()).unwrap().data, b"GET");
    }

    #[test]
    fn fragments_and_other_protocols_are_told_apart() {
        let mut packet = ipv4(&tcp(0x18, 0, b"GET"));
        packet[6] = 0x20;
        assert_eq!(parse(&packet, packet.len()), Err(NoSegment::Fragment));
        packet[9] = 17;
        assert_eq!(parse(&packet, packet.len()), Err(NoSegment::Other));
        let mut rest = vec![6, 0, 0, 1, 0, 0, 0, 1];
        rest.extend(tcp(0x18, 0, b"GET"));
        let packet = ipv6(44, &rest);
        assert_eq!(parse(&packet, packet.len()), Err(NoSegment::Fragment));
        assert_eq!(parse(&[0x20], 1), Err(NoSegment::Other));
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(
            version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
            rest in prop::collection::vec(any::<u8>(), 0..200),
            more in 0usize..100,
        ) {
            let mut packet = vec![version];
            packet.extend(rest);
            if let Ok(segment) = parse(&packet, packet.len() + more) {
                prop_assert!(segment.data.len() <= segment.length);
            }
        }
    }
}

//! What a network namespace was doing before anyone looked: the ports on which something listens, and the connections to them.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::connections::Before;
use crate::packet::{Endpoint, Flow};

/// The state of a socket that listens, as the kernel prints it.
const LISTEN: &str = "0A";

/// Reads it in the calling thread's namespace.
pub fn read() -> io::Result<Before> {
    let mut before = Before::default();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(file) {
            Ok(table) => parse(&table, &mut before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // a kernel without IPv6
            Err(error) => return Err(error),
        }
    }
    Ok(before)
}

fn parse(table: &str, before: &mut Before) {
    for line in table.lines().skip(1) {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Some(local), Some(remote)) = (endpoint(local), endpoint(remote)) else {
            continue;
        };
        if state == LISTEN {
            before.listening.push(local.port);
        } else {
            before.flows.push(Flow {
                from: remote,
                to: local,
            });
        }
    }
}

/// Reads `ADDRESS:PORT` in hexadecimal, where addresses are in words of the machine's byte order.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    if address.len() == 8 {
        return Some(Endpoint::new(Ipv4Addr::from(word(0)?).into(), port));
    }
    let mut octets = [0; 16];
    for (at, part) in octets.chunks_mut(4).enumerate() {
        part.copy_from_slice(&word(at)?);
    }
    Some(Endpoint::new(Ipv6Addr::from(octets).into(), port))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const IPV4: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0200580A:1F90 0100580A:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
";
    const IPV6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   1: 0000000000000000FFFF00000200580A:0050 0000000000000000FFFF00000100580A:D431 01 00000000:00000000 00:00000000
   2: 88000000000000000000000001000000:0050 nonsense:D431 01
";

    #[test]
    fn listeners_and_connections_of_both_families() {
        let mut before = Before::default();
        parse(IPV4, &mut before);
        parse(IPV6, &mut before);
        let end = |address: [u8; 4], port| Endpoint::new(address.into(), port);
        let flow = |from, to| Flow { from, to };
        assert_eq!(before.listening, [8080, 80]);
        let expected = [
            flow(end([10, 88, 0, 1], 50000), end([10, 88, 0, 2], 8080)),
            flow(end([10, 88, 0, 1], 54321), end([10, 88, 0, 2], 80)),
        ];
        assert_eq!(before.flows, expected);
    }

    #[test]
    fn this_machine_can_be_read() {
        read().unwrap();
    }
}

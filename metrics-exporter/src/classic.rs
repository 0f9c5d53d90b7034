//! The filter for kernels that let nobody load a better one: what holds no data and begins or ends nothing is not received.
//!
//! It is in the kernel's oldest language for filters, open to every process that may open the socket.
#![allow(unsafe_code, reason = "the option takes a pointer to the program")]

use std::io;
use std::os::fd::BorrowedFd;

use libc::{sock_filter, sock_fprog};

use crate::socket;

/// Keep as much of the packet as there is.
const KEEP_ALL: u32 = 0x4_0000;
/// FIN, SYN and RST.
const BEGINS_OR_ENDS: u32 = 0x07;
const TCP: u32 = 6;

// The instructions, by what they do with the accumulator and the index X.
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_HALF: u16 = 0x28;
const X_TO_HEADER_LENGTH: u16 = 0xb1;
const STORE: u16 = 0x02;
const X_FROM_STORE: u16 = 0x61;
const ADD_X: u16 = 0x0c;
const AND: u16 = 0x54;
const SHIFT_RIGHT: u16 = 0x74;
const TO_X: u16 = 0x07;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER_THAN_X: u16 = 0x2d;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// A line of the program. A jump to `""` is one to the next line.
enum Step {
    Do(u16, u32),
    If(u16, u32, &'static str, &'static str),
    At(&'static str),
}
use Step::{At, Do, If};

#[rustfmt::skip]
const PROGRAM: &[Step] = &[
    Do(LOAD_BYTE, 0),
    Do(SHIFT_RIGHT, 4),
    If(IF_EQUAL, 4, "ipv4", ""),
    If(IF_EQUAL, 6, "ipv6", "drop"),

    At("ipv4"),
    Do(LOAD_BYTE, 9),
    If(IF_EQUAL, TCP, "", "drop"),
    Do(LOAD_HALF, 6),
    If(IF_ANY_BIT, 0x3fff, "keep", ""), // a fragment, so that it is known
    Do(X_TO_HEADER_LENGTH, 0),
    Do(LOAD_BYTE_AT_X, 13),
    If(IF_ANY_BIT, BEGINS_OR_ENDS, "keep", ""),
    Do(LOAD_BYTE_AT_X, 12),
    Do(SHIFT_RIGHT, 2),
    Do(AND, 0x3c),
    Do(ADD_X, 0),
    Do(STORE, 0),
    Do(X_FROM_STORE, 0),
    Do(LOAD_HALF, 2),
    If(IF_EQUAL, 0, "keep", ""), // merged into more than 64 kB
    If(IF_GREATER_THAN_X, 0, "keep", "drop"),

    At("ipv6"),
    Do(LOAD_BYTE, 6),
    If(IF_EQUAL, TCP, "tcp", ""),
    If(IF_EQUAL, 0, "keep", ""), // headers that may stand before TCP's
    If(IF_EQUAL, 43, "keep", ""),
    If(IF_EQUAL, 44, "keep", ""),
    If(IF_EQUAL, 51, "keep", ""),
    If(IF_EQUAL, 60, "keep", "drop"),
    At("tcp"),
    Do(LOAD_BYTE, 53),
    If(IF_ANY_BIT, BEGINS_OR_ENDS, "keep", ""),
    Do(LOAD_BYTE, 52),
    Do(SHIFT_RIGHT, 2),
    Do(AND, 0x3c),
    Do(TO_X, 0),
    Do(LOAD_HALF, 4),
    If(IF_EQUAL, 0, "keep", ""), // merged, or a jumbogram
    If(IF_GREATER_THAN_X, 0, "keep", "drop"),

    At("drop"),
    Do(RETURN, 0),
    At("keep"),
    Do(RETURN, KEEP_ALL),
];

/// Has a socket receive only what the filter keeps.
pub fn attach(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut program = assemble(PROGRAM);
    let program = sock_fprog {
        len: u16::try_from(program.len()).expect("it is a short program"),
        filter: program.as_mut_ptr(),
    };
    socket::set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn assemble(steps: &[Step]) -> Vec<sock_filter> {
    let is_instruction = |step: &&Step| !matches!(step, At(_));
    let address = |wanted: &str| {
        let end = steps
            .iter()
            .position(|step| matches!(step, At(label) if *label == wanted));
        let end = end.expect("each label that is jumped to is there");
        steps[..end].iter().filter(is_instruction).count()
    };
    let over = |label: &str, from: usize| match label {
        "" => 0,
        label => u8::try_from(address(label) - from - 1).expect("jumps go forward, and not far"),
    };
    let instructions = steps.iter().filter(is_instruction).enumerate();
    let assembled = instructions.map(|(number, step)| match *step {
        Do(code, k) => sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        },
        If(code, k, yes, no) => sock_filter {
            code,
            jt: over(yes, number),
            jf: over(no, number),
            k,
        },
        At(_) => unreachable!("these were left out"),
    });
    assembled.collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixDatagram;

    /// Whether packets get past the filter. The kernel runs it on any socket, which takes no privileges.
    fn is_kept(packet: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        super::attach(receiver.as_fd()).unwrap();
        receiver.set_nonblocking(true).unwrap();
        sender.send(packet).unwrap();
        receiver.recv(&mut [0; 2048]).is_ok()
    }

    #[test]
    fn it_keeps_what_holds_data_or_begins_or_ends_a_connection() {
        for case in crate::packet::examples::all() {
            assert_eq!(is_kept(&case.packet), case.matters, "{}", case.what);
        }
    }
}

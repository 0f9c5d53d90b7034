//! TLS is recognised, so that nobody takes its bytes for requests.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The types of TLS records: `change_cipher_spec`, alert, handshake, `application_data`, heartbeat.
const RECORDS: std::ops::RangeInclusive<u8> = 20..=24;
/// How many bytes tell.
pub const HELLO_LENGTH: usize = 6;

/// Whether a connection that begins so is TLS. `None` if more bytes have to tell.
pub fn begins_with_hello(bytes: &[u8]) -> Option<bool> {
    let expected: [fn(u8) -> bool; HELLO_LENGTH] = [
        |kind| kind == HANDSHAKE,
        |major| major == 3,
        |minor| minor <= 4,
        |_| true,
        |_| true,
        |handshake| handshake == CLIENT_HELLO,
    ];
    if bytes
        .iter()
        .zip(expected)
        .any(|(byte, is_right)| !is_right(*byte))
    {
        return Some(false);
    }
    (bytes.len() >= HELLO_LENGTH).then_some(true)
}

/// Whether the bytes could be the start of a record somewhere in a TLS connection.
pub fn looks_like_record(bytes: &[u8]) -> bool {
    match bytes {
        [kind, 3, minor, high, low, ..] => {
            let length = u16::from_be_bytes([*high, *low]);
            RECORDS.contains(kind) && *minor <= 4 && (1..=(1 << 14) + 2048).contains(&length)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_hello_is_recognised_by_its_first_bytes() {
        let hello = [22, 3, 1, 2, 0, 1, 0, 1];
        assert_eq!(begins_with_hello(&hello), Some(true));
        assert_eq!(begins_with_hello(&hello[..5]), None);
        assert_eq!(begins_with_hello(&[]), None);
        assert_eq!(begins_with_hello(&[22, 3, 1, 2, 0, 2]), Some(false));
        assert_eq!(begins_with_hello(b"GET"), Some(false));
    }

    #[test]
    fn records_in_the_middle_of_a_connection() {
        assert!(looks_like_record(&[23, 3, 3, 0, 42, 9]));
        assert!(!looks_like_record(&[23, 3, 3, 0xff, 0xff]));
        assert!(!looks_like_record(b"GET / HTTP/1.1"));
        assert!(!looks_like_record(&[23, 3]));
    }
}

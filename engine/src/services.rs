//! Ports of well-known services.
//!
//! Guests look up names together with a service ("http"), which the C library finds in `/etc/services`. An image that holds
//! nothing but a module has no such file; then these are the ones there are.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::ffi::CStr;

/// By name; TCP and UDP have the same port. From IANA's registry of service names.
const PORTS: [(&str, &CStr); 31] = [
    ("amqp", c"5672"),
    ("amqps", c"5671"),
    ("domain", c"53"),
    ("domain-s", c"853"),
    ("echo", c"7"),
    ("etcd-client", c"2379"),
    ("ftp", c"21"),
    ("http", c"80"),
    ("http-alt", c"8080"),
    ("https", c"443"),
    ("imap", c"143"),
    ("imaps", c"993"),
    ("kerberos", c"88"),
    ("ldap", c"389"),
    ("ldaps", c"636"),
    ("memcache", c"11211"),
    ("mqtt", c"1883"),
    ("ms-sql-s", c"1433"),
    ("mysql", c"3306"),
    ("nfs", c"2049"),
    ("ntp", c"123"),
    ("pop3", c"110"),
    ("pop3s", c"995"),
    ("postgresql", c"5432"),
    ("redis", c"6379"),
    ("secure-mqtt", c"8883"),
    ("smtp", c"25"),
    ("ssh", c"22"),
    ("submission", c"587"),
    ("syslog", c"514"),
    ("telnet", c"23"),
];

/// The port of a service, in decimal digits.
pub fn port(name: &[u8]) -> Option<&'static CStr> {
    let found = PORTS.binary_search_by(|(known, _)| known.as_bytes().cmp(name));
    found.ok().map(|at| PORTS[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_found_by_its_name() {
        for (name, expected) in PORTS {
            assert_eq!(port(name.as_bytes()), Some(expected), "{name}");
        }
        assert_eq!(port(b"gopher"), None);
        assert_eq!(port(b""), None);
    }
}

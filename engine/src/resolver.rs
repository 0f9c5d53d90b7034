//! The container's name server, for guests that speak DNS themselves.
//!
//! Crates for WasmEdge have two ways to look up a name: they ask the engine (`sock_getaddrinfo`), or send their own questions to
//! the server that the variable `DNS_SERVER` names, over TCP and without search list or hosts file. A module that can ask the
//! engine gets the better answer so, and would prefer the variable if it were there: only a module that cannot gets it.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::net::{IpAddr, SocketAddr};

/// The variable that such crates read.
pub const VARIABLE: &str = "DNS_SERVER";

const PORT: u16 = 53;

/// Whether a module with these imports from WASI opens connections and has no other way to look up names.
pub fn needs_server<S: AsRef<str>>(imports: impl IntoIterator<Item = S>) -> bool {
    let mut connects = false;
    for import in imports {
        match import.as_ref() {
            "sock_connect" | "sock_connect_v2" => connects = true,
            "sock_getaddrinfo" => return false,
            _ => {}
        }
    }
    connects
}

/// Whether the environment names a server already.
pub fn names_server<'a>(variables: impl IntoIterator<Item = &'a [u8]>) -> bool {
    variables.into_iter().any(|variable| {
        let value = variable.strip_prefix(VARIABLE.as_bytes());
        value.is_some_and(|value| value.starts_with(b"="))
    })
}

/// The first name server in a `resolv.conf`.
pub fn first_server(resolv_conf: &str) -> Option<SocketAddr> {
    resolv_conf.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resolv_conf: &str, expected: Option<&str>) {
        let server = first_server(resolv_conf).map(|server| server.to_string());
        assert_eq!(server.as_deref(), expected);
    }

    #[test]
    fn the_first_server_counts() {
        let cluster =
            "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n";
        check(cluster, Some("10.96.0.10:53"));
        check("nameserver\tfd00::a  # ours", Some("[fd00::a]:53"));
        check("#nameserver 1.2.3.4\n; nameserver 1.2.3.5\n", None);
        check(
            "nameserver\nnameserver not-an-address\nnameserver 9.9.9.9",
            Some("9.9.9.9:53"),
        );
        check("", None);
    }

    #[test]
    fn only_a_module_without_another_way_needs_one() {
        assert!(needs_server(["fd_write", "sock_open", "sock_connect"]));
        assert!(!needs_server(["sock_connect", "sock_getaddrinfo"]));
        assert!(!needs_server(["sock_accept", "fd_read"]));
        assert!(!needs_server([""; 0]));
    }

    #[test]
    fn a_server_of_the_users_stays() {
        assert!(names_server([b"A=1".as_slice(), b"DNS_SERVER=1.2.3.4:53"]));
        assert!(!names_server([
            b"DNS_SERVERS=1.2.3.4".as_slice(),
            b"XDNS_SERVER=1"
        ]));
    }
}

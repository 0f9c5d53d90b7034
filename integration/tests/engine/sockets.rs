//! The guest's sockets and the names it looks up, in a root folder that holds nothing for that.

use std::net::{TcpListener, UdpSocket};

use crate::container::Container;

fn free_tcp_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}

fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    socket.expect("a free port").port()
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn tcp_and_udp_work_with_ipv4_and_ipv6() {
    for host in ["127.0.0.1", "[::1]"] {
        let ended = Container::new("net.wasm")
            .args(["tcp", &format!("{host}:{}", free_tcp_port())])
            .run();
        assert!(
            ended.code == Some(0) && ended.stdout.starts_with("a line through TCP\n"),
            "{ended:?}"
        );
        let addresses = [0, 1].map(|_| format!("{host}:{}", free_udp_port()));
        let ended = Container::new("net.wasm")
            .args(["udp", &addresses[0], &addresses[1]])
            .run();
        assert!(
            ended.code == Some(0) && ended.stdout.contains("datagram"),
            "{ended:?}"
        );
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn sockets_that_are_off_are_refused() {
    let off = |arguments: &[&str]| {
        let ended = Container::new("net.wasm")
            .setting("sockets=off")
            .file("/etc/hosts", "10.1.2.3 somewhere\n")
            .args(arguments)
            .run();
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{arguments:?}");
        assert!(
            ended.stderr.ends_with("Permission denied (os error 2)\n"),
            "{arguments:?}: {}",
            ended.stderr
        );
    };
    off(&["open"]);
    off(&["tcp", "127.0.0.1:1"]);
    off(&["udp", "127.0.0.1:1", "127.0.0.1:2"]);
    off(&["connect", "127.0.0.1:1"]);
    off(&["resolve", "somewhere", "4"]);
    off(&["resolve", "localhost", "6"]);
    let on = Container::new("net.wasm")
        .setting("sockets=on")
        .file("/etc/hosts", "10.1.2.3 somewhere\n")
        .args(["resolve", "somewhere", "4"])
        .run();
    on.expect_stdout("10.1.2.3\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn services_need_no_file() {
    let resolve = |service: &str| {
        Container::new("sockets.wasm")
            .file("/etc/hosts", "10.1.2.3 somewhere\n")
            .args(["resolve", "somewhere", service])
    };
    resolve("http").run().expect_stdout("10.1.2.3:80\n");
    resolve("https").run().expect_stdout("10.1.2.3:443\n");
    resolve("8443").run().expect_stdout("10.1.2.3:8443\n");
    assert_eq!(resolve("no-such-service").run().code, Some(1));
    let services = "http 8000/tcp\nno-such-service 9999/tcp\n";
    let with_file = |service| resolve(service).file("/etc/services", services).run();
    with_file("http").expect_stdout("10.1.2.3:8000\n");
    with_file("no-such-service").expect_stdout("10.1.2.3:9999\n");
    with_file("https").expect_stdout("10.1.2.3:443\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_that_asks_name_servers_itself_is_told_one() {
    let guest = |resolv_conf: &str| Container::new("dns.wasm").file("/etc/resolv.conf", resolv_conf);
    let cluster = "search default.svc.cluster.local\nnameserver 10.96.0.10\nnameserver 10.96.0.11\n";
    guest(cluster).run().expect_stdout("10.96.0.10:53\n");
    guest("nameserver fd00::a\n")
        .run()
        .expect_stdout("[fd00::a]:53\n");
    guest(cluster)
        .env("DNS_SERVER=1.2.3.4:53")
        .run()
        .expect_stdout("1.2.3.4:53\n");
    guest("").run().expect_stdout("no server\n");
    guest(&"#".repeat(10 << 20)).run().expect_stdout("no server\n");
    guest(cluster)
        .setting("sockets=off")
        .run()
        .expect_stdout("no server\n");
    Container::new("dns.wasm").run().expect_stdout("no server\n");
}

/// Given a server, its crate would neither read the hosts file nor use the search list.
#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_that_can_ask_the_engine_does() {
    Container::new("sockets.wasm")
        .file("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        .file("/etc/hosts", "10.1.2.3 somewhere\n")
        .args(["resolve", "somewhere"])
        .run()
        .expect_stdout("10.1.2.3\n");
}

//! The container's files, by absolute and by relative paths, and its name resolution and sockets.

use std::net::TcpListener;

use crate::container::Container;

fn check_cat(container: impl Fn() -> Container, path: &str, expected: &str) {
    container().args(["cat", path]).run().expect_stdout(expected);
}

fn check_missing(container: impl Fn() -> Container, path: &str, why: &str) {
    container()
        .args(["cat", path])
        .run()
        .expect(1, "", &format!("guest: cannot open {path}: {why}\n"));
}

/// The working directory has files of its own and shares names with the root.
fn in_a_working_directory() -> Container {
    Container::new("guest.wasm")
        .file("/etc/hosts", "hosts\n")
        .file("/usr/lib/x", "library\n")
        .symlink("/lib", "usr/lib")
        .file("/app/conf/x", "configuration\n")
        .file("/app/x", "here\n")
        .symlink("/app/link", "conf/x")
        .directory("/app")
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn paths_resolve_in_a_working_directory() {
    check_cat(in_a_working_directory, "x", "here\n");
    check_cat(in_a_working_directory, "./x", "here\n");
    check_cat(in_a_working_directory, "conf/x", "configuration\n");
    check_cat(in_a_working_directory, "link", "configuration\n");
    check_cat(in_a_working_directory, "/app/x", "here\n");
    check_cat(in_a_working_directory, "/app/conf/../x", "here\n");
    check_cat(in_a_working_directory, "/etc/hosts", "hosts\n");
    check_cat(in_a_working_directory, "/lib/x", "library\n");
    check_missing(in_a_working_directory, "/etc/x", "No such file or directory");
    check_missing(in_a_working_directory, "../etc/hosts", "Operation not permitted");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn paths_resolve_in_the_root() {
    // As a projected volume of Kubernetes has them.
    let container = || {
        Container::new("guest.wasm")
            .file("/x", "root\n")
            .file("/secret/..2026/token", "secret\n")
            .symlink("/secret/..data", "..2026")
            .symlink("/secret/token", "..data/token")
    };
    check_cat(container, "x", "root\n");
    check_cat(container, "/x", "root\n");
    check_cat(container, "secret/token", "secret\n");
    check_cat(container, "/secret/token", "secret\n");
    check_missing(container, "/y", "No such file or directory");
    check_missing(container, "/../x", "Operation not permitted");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn rust_finds_the_same_files() {
    let container = || {
        Container::new("rust-hello.wasm")
            .file("/data/in", "some\n")
            .file("/app/in", "other\n")
            .directory("/app")
    };
    let ended = container().args(["files", "/data/in", "/data/out"]).run();
    ended.expect_stdout("some\nand more\n14 bytes\n");
    container()
        .args(["files", "in", "out"])
        .run()
        .expect_stdout("other\nand more\n15 bytes\n");
    container().args(["list", "."]).run().expect_stdout("in\n");
    container().args(["list", "/data"]).run().expect_stdout("in\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_writes_files() {
    let ended = Container::new("guest.wasm")
        .folder("/tmp", 0o1777)
        .user(65534)
        .args(["write", "/tmp/x", "text"])
        .run();
    ended.expect_stdout("");
    let ended = Container::new("guest.wasm")
        .user(65534)
        .args(["write", "/x", "text"])
        .run();
    ended.expect(1, "", "guest: cannot create /x: Permission denied\n");
    let ended = Container::new("guest.wasm")
        .read_only()
        .args(["write", "/x", "text"])
        .run();
    ended.expect(1, "", "guest: cannot create /x: Read-only file system\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn nothing_is_needed_of_the_image() {
    Container::new("hello.wasm")
        .read_only()
        .user(65534)
        .run()
        .expect_stdout("hello from wat\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn sockets_work() {
    let free = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let ended = Container::new("sockets.wasm")
        .args(["loop", &free.port().to_string()])
        .run();
    ended.expect_stdout("a line through a socket\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn names_resolve_by_the_hosts_file() {
    let ended = Container::new("sockets.wasm")
        .file("/etc/hosts", "10.1.2.3 somewhere\n")
        .args(["resolve", "somewhere"])
        .run();
    ended.expect_stdout("10.1.2.3\n");
}

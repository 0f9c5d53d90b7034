//! How a run ends: exit codes, traps, and modules that cannot be started.

use crate::container::Container;

fn check_refused(guest: &str, why: &str) {
    let stderr = format!("podwasm: cannot start \"/app.wasm\": {why}\n");
    Container::new(guest).run().expect(126, "", &stderr);
}

fn check_trap(container: Container, what: &str) {
    container
        .run()
        .expect(134, "", &format!("podwasm: trap: {what}\n"));
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_guests_exit_code_is_the_containers() {
    for code in [0, 1, 42, 126, 255] {
        Container::new("guest.wasm")
            .args(["exit", &code.to_string()])
            .run()
            .expect(code, "", "");
        Container::new("rust-hello.wasm")
            .args(["exit", &code.to_string()])
            .run()
            .expect(code, "", "");
    }
    Container::new("hello.wasm")
        .run()
        .expect_stdout("hello from wat\n");
    Container::new("start-exits.wasm").run().expect(7, "", "");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_trap_is_one_line_and_134() {
    check_trap(
        Container::new("guest.wasm").args(["trap"]),
        r#"unreachable executed in "/app.wasm""#,
    );
    check_trap(
        Container::new("guest.wasm").args(["divide"]),
        r#"integer divide by zero in "/app.wasm""#,
    );
    check_trap(
        Container::new("start-traps.wasm"),
        r#"unreachable executed in "/app.wasm""#,
    );
    let ended = Container::new("rust-hello.wasm").args(["panic"]).run();
    assert_eq!(ended.code, Some(134));
    assert!(
        ended
            .stderr
            .ends_with("podwasm: trap: unreachable executed in \"/app.wasm\"\n"),
        "{ended:?}"
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn endless_recursion_is_a_trap() {
    check_trap(Container::new("endless-recursion.wasm"), "call stack exhausted");
    // It ends while its memory is below what even a small container has.
    check_trap(
        Container::new("endless-recursion.wasm").limits("-d 65536"),
        "call stack exhausted",
    );
    Container::new("guest.wasm")
        .args(["deep", "1000"])
        .run()
        .expect_stdout("came back from 1000\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn what_is_not_a_module_is_refused() {
    check_refused(
        "component.wasm",
        "it is a WebAssembly component, and only core modules are supported (build for wasm32-wasip1)",
    );
    check_refused("elf.wasm", "it is a native ELF file, not a WebAssembly module");
    check_refused("empty.wasm", "it is empty");
    check_refused("text.wasm", "it is not a WebAssembly module");
    check_refused("truncated.wasm", "it is malformed: length out of bounds");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_module_that_cannot_be_linked_is_refused() {
    check_refused(
        "no-start.wasm",
        "it exports no function _start, so it is a library and not a program",
    );
    check_refused("odd-start.wasm", "its _start takes parameters or returns values");
    check_refused(
        "unknown-import.wasm",
        r#"it imports "launch_missiles" from "env", which this engine does not have"#,
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_module_that_is_not_there_is_refused() {
    let stderr =
        "podwasm: cannot start \"/app.wasm\": it cannot be read: No such file or directory (os error 2)\n";
    Container::new("hello.wasm")
        .without_module()
        .run()
        .expect(126, "", stderr);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn memory_that_the_kernel_refuses_is_said() {
    let refused = |guest, kibibytes| {
        let why = format!("its memory cannot be mapped: {kibibytes} KiB, in 12 GiB of address space");
        let stderr = format!("podwasm: cannot start \"/app.wasm\": {why}\n");
        Container::new(guest)
            .limits("-v 2097152")
            .run()
            .expect(126, "", &stderr);
    };
    refused("hello.wasm", 64);
    refused("memory-4gib.wasm", 4 << 20);
    Container::new("memory-4gib.wasm").run().expect(0, "", "");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn growth_that_the_kernel_refuses_is_an_error_for_the_guest() {
    let ended = Container::new("guest.wasm")
        .args(["grow"])
        .limits("-d 131072")
        .run();
    let grew = ended
        .stdout
        .strip_prefix("grew by ")
        .and_then(|rest| rest.strip_suffix(" MiB\n"));
    let mebibytes: u32 = grew
        .and_then(|grew| grew.parse().ok())
        .expect("it says by how much");
    assert!(
        (64..=128).contains(&mebibytes) && ended.code == Some(0),
        "{ended:?}"
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn names_in_the_engines_line_are_escaped() {
    let ended = Container::new("guest.wasm")
        .arg0("a\nb\u{1b}[31m")
        .args(["trap"])
        .run();
    ended.expect(
        134,
        "",
        "podwasm: trap: unreachable executed in \"a\\u{a}b\\u{1b}[31m\"\n",
    );
    let ended = Container::new("guest.wasm")
        .arg0("x".repeat(100_000))
        .args(["trap"])
        .run();
    assert!(
        ended.stderr.len() < 1024 && ended.stderr.lines().count() == 1,
        "{}",
        ended.stderr
    );
}

//! What the plugin tells the engine: `PODWASM_SETTINGS`.

use crate::container::Container;

fn cannot_start(why: &str) -> String {
    format!("podwasm: cannot start \"/app.wasm\": {why}\n")
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn settings_that_are_none_are_refused() {
    for line in [
        "colour=blue",
        "sockets=perhaps",
        "memory_pages=65537",
        "drain_ms=2s",
    ] {
        let why = format!("PODWASM_SETTINGS has the line {line:?}, which this engine does not know");
        Container::new("hello.wasm")
            .setting(line)
            .run()
            .expect(126, "", &cannot_start(&why));
    }
    Container::new("hello.wasm")
        .env("PODWASM_SETTINGS=")
        .run()
        .expect_stdout("hello from wat\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_guest_does_not_see_the_settings() {
    Container::new("guest.wasm")
        .args(["env"])
        .env("A=1")
        .setting("memory_pages=100")
        .run()
        .expect_stdout("A=1\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_is_told_no_at_its_memory_limit() {
    // 16 pages are 1 MiB, and the guest has less than that before it grows.
    for mebibytes in [1, 7, 50] {
        let ended = Container::new("guest.wasm")
            .args(["grow"])
            .setting(&format!("memory_pages={}", mebibytes * 16))
            .run();
        let got = format!("grew by {} MiB\n", mebibytes - 1);
        ended.expect_stdout(&got);
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_module_that_needs_more_than_its_limit_is_refused() {
    let why = "it needs 4194304 KiB of memory from the start, and the limit is 6400 KiB";
    Container::new("memory-4gib.wasm")
        .setting("memory_pages=100")
        .run()
        .expect(126, "", &cannot_start(why));
    Container::new("hello.wasm")
        .setting("memory_pages=1")
        .run()
        .expect_stdout("hello from wat\n");
}

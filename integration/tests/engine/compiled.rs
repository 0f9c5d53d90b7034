//! Modules that were compiled on the node.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podwasm_integration::measure::mappings::Rollup;

use crate::compiler::compile;
use crate::container::{BUILD, Container, Running, guest_file};

const TIERS: [&str; 2] = ["fast", "optimised"];

/// `_start` calls `proc_exit(0)`.
const EXITS: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x08\x02\x60\x01\x7f\x00\x60\x00\x00\
    \x02\x24\x01\x16wasi_snapshot_preview1\x09proc_exit\x00\x00\
    \x03\x02\x01\x01\
    \x05\x03\x01\x00\x01\
    \x07\x13\x02\x06memory\x02\x00\x06_start\x00\x01\
    \x0a\x08\x01\x06\x00\x41\x00\x10\x00\x0b";

/// `_start` reads four bytes just below 2 GiB.
const OUT_OF_BOUNDS: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x04\x01\x60\x00\x00\
    \x03\x02\x01\x00\
    \x05\x03\x01\x00\x01\
    \x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00\
    \x0a\x0e\x01\x0c\x00\x41\xff\xff\xff\xff\x07\x28\x02\x00\x1a\x0b";

fn exits_with(code: u8) -> Vec<u8> {
    let mut module = EXITS.to_vec();
    let at = module.len() - 4;
    module[at] = code;
    module
}

/// A container with native code of its module, and without the module.
fn native(tier: &str, guest: &str) -> Container {
    Container::new(guest).compiled(tier).without_module()
}

#[track_caller]
fn check_trap(container: impl Fn() -> Container, what: &str) {
    for tier in TIERS {
        let ended = container().compiled(tier).run();
        ended.expect(134, "", &format!("podwasm: trap: {what}\n"));
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn native_code_does_what_the_module_does() {
    for tier in TIERS {
        native(tier, "hello.wasm").run().expect_stdout("hello from wat\n");
        native(tier, "guest.wasm").args(["a", ""]).run().expect(
            0,
            "hello from C\nargv[0]=/app.wasm\nargv[1]=a\nargv[2]=\n",
            "hello on stderr\n",
        );
        native(tier, "guest.wasm")
            .args(["exit", "42"])
            .run()
            .expect(42, "", "");
        native(tier, "rust-hello.wasm")
            .args(["exit", "7"])
            .run()
            .expect(7, "", "");
        native(tier, "start-exits.wasm").run().expect(7, "", "");
        native(tier, "memory-4gib.wasm").run().expect(0, "", "");
        // Its custom section holds native code of another module.
        native(tier, "universal.wasm")
            .run()
            .expect_stdout("this is wasm\n");
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_best_of_its_own_build_is_taken() {
    let (fast, optimised) = (compile("fast", &exits_with(3)), compile("fast", &exits_with(4)));
    let container = || Container::new("hello.wasm").beside(&format!("{BUILD}-fast.so"), &fast);
    let told = || container().setting(&format!("compiled={BUILD}"));
    told().run().expect(3, "", "");
    told()
        .beside(&format!("{BUILD}-optimised.so"), &optimised)
        .run()
        .expect(4, "", "");
    container().run().expect_stdout("hello from wat\n");
    container()
        .setting("compiled=fedcba9876543210")
        .run()
        .expect_stdout("hello from wat\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn traps_are_those_of_the_interpreter() {
    let guest = |what: &'static str| move || Container::new("guest.wasm").args([what]);
    check_trap(guest("trap"), r#"unreachable executed in "/app.wasm""#);
    check_trap(guest("divide"), r#"integer divide by zero in "/app.wasm""#);
    check_trap(
        || Container::new("start-traps.wasm"),
        r#"unreachable executed in "/app.wasm""#,
    );
    let out_of_bounds = || Container::new("hello.wasm").module(OUT_OF_BOUNDS);
    check_trap(out_of_bounds, r#"out of bounds memory access in "/app.wasm""#);
    out_of_bounds().run().expect(
        134,
        "",
        "podwasm: trap: out of bounds memory access in \"/app.wasm\"\n",
    );
}

/// A function that calls itself, and has this many variables that it needs before and after.
pub fn large_frames(locals: u32) -> Vec<u8> {
    let mut body = [&[1][..], &leb128(locals), &[0x7e]].concat();
    for local in 0..locals {
        body.extend(
            [
                &[0x41][..],
                &leb128(local * 8),
                &[0x29, 3, 0, 0x21],
                &leb128(local),
            ]
            .concat(),
        );
    }
    body.extend([0x10, 0]);
    for local in 0..locals {
        body.extend(
            [
                &[0x41][..],
                &leb128(local * 8),
                &[0x20],
                &leb128(local),
                &[0x37, 3, 0],
            ]
            .concat(),
        );
    }
    body.push(0x0b);
    let code = [&[1][..], &leb128(length(&body)), &body].concat();
    let pages = leb128(locals / 8192 + 1);
    [
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00",
        &[5, 2 + u8::try_from(pages.len()).expect("a short number"), 1, 0][..],
        &pages,
        b"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00\x0a",
        &leb128(length(&code)),
        &code,
    ]
    .concat()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a small module")
}

/// With a bit to spare, so that it is the same for signed and unsigned numbers.
fn leb128(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x40 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn endless_recursion_is_a_trap() {
    let endless = || Container::new("endless-recursion.wasm");
    check_trap(endless, "call stack exhausted");
    check_trap(|| endless().limits("-s unlimited"), "call stack exhausted");
    check_trap(|| endless().limits("-s 256"), "call stack exhausted");
    check_trap(|| endless().setting("drain_ms=1000"), "call stack exhausted");
    let frames = large_frames(20_000);
    check_trap(
        || Container::new("hello.wasm").module(&frames),
        "call stack exhausted",
    );
    for tier in TIERS {
        native(tier, "guest.wasm")
            .args(["deep", "1000"])
            .run()
            .expect_stdout("came back from 1000\n");
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_is_told_no_at_its_memory_limit() {
    for tier in TIERS {
        let ended = native(tier, "guest.wasm")
            .args(["grow"])
            .setting("memory_pages=112")
            .run();
        ended.expect_stdout("grew by 6 MiB\n");
    }
    let refused = native("fast", "memory-4gib.wasm")
        .setting("memory_pages=100")
        .run();
    assert_eq!(refused.code, Some(126), "{refused:?}");
}

fn running(what: &str, says: &str, drain: &str) -> Running {
    let container = native("optimised", "guest.wasm").args([what]);
    let mut running = container.setting(&format!("drain_ms={drain}")).start();
    running.says(says);
    running
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_signal_ends_native_code() {
    for (what, says) in [
        ("spin", "spinning\n"),
        ("sleep", "sleeping\n"),
        ("read", "reading\n"),
    ] {
        let (status, took) = running(what, says, "0").signal(Signal::SIGTERM);
        assert_eq!(status.code(), Some(143), "{what}");
        assert!(took < Duration::from_secs(1), "{what} took {took:?}");
    }
    let (status, took) = running("spin", "spinning\n", "1000").signal(Signal::SIGTERM);
    assert_eq!(status.code(), Some(143));
    assert!(
        (Duration::from_millis(950)..Duration::from_millis(1900)).contains(&took),
        "{took:?}"
    );
}

#[track_caller]
fn check_interpreted(code: &[u8], why: &str) {
    let ended = Container::new("hello.wasm")
        .setting(&format!("compiled={BUILD}"))
        .beside(&format!("{BUILD}-fast.so"), code)
        .run();
    let stderr = format!(
        "podwasm: \"/.podwasm/module/{BUILD}-fast.so\" cannot be loaded, so the module is interpreted: {why}\n"
    );
    ended.expect(0, "hello from wat\n", &stderr);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn native_code_that_cannot_be_loaded_is_said_and_the_module_interpreted() {
    let code = compile("fast", &exits_with(3));
    let no_library = "it is not a shared library for this processor";
    check_interpreted(b"", no_library);
    check_interpreted(b"not native code", no_library);
    check_interpreted(EXITS, no_library);
    for length in [60, 100, 300, code.len() / 2, code.len() - 1] {
        check_interpreted(&code[..length], "it is cut short");
    }
    // A library that is none of WasmEdge's.
    let library = fs::read(guest_file("libpodwasm_test_answer.so.1")).expect("the guests are built");
    check_interpreted(&library, "WasmEdge does not take it: invalid wasm grammar");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn native_code_for_another_release_is_not_run() {
    let code = compile("fast", &exits_with(3));
    let version = symbol_offset(&code, b"version");
    let mut other = code;
    other[version] ^= 0x40;
    check_interpreted(&other, "WasmEdge does not take it: unknown binary version");
}

/// Where a variable lies in a library whose read-only data are at the same place in memory and in the file.
fn symbol_offset(library: &[u8], name: &[u8]) -> usize {
    let number = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&library[at..at + bytes]);
        usize::try_from(u64::from_le_bytes(value)).expect("a number in a small file")
    };
    let (sections, count) = (number(40, 8), number(60, 2));
    let section = |index: usize| sections + index * 64;
    let symbols = (0..count)
        .map(section)
        .find(|&at| number(at + 4, 4) == 11)
        .expect("it has dynamic symbols");
    let names = number(section(number(symbols + 40, 4)) + 24, 8);
    let (start, end) = (
        number(symbols + 24, 8),
        number(symbols + 24, 8) + number(symbols + 32, 8),
    );
    let found = (start..end).step_by(24).find(|&at| {
        let at = names + number(at, 4);
        library[at..].starts_with(name) && library[at + name.len()] == 0
    });
    number(found.expect("it has this symbol") + 8, 8)
}

fn waiting(milliseconds: u32) -> Container {
    Container::new("hello.wasm")
        .setting(&format!("compiled={BUILD}"))
        .setting(&format!("wait_ms={milliseconds}"))
}

const DATA_BYTES: usize = 2 << 20;

/// Looks whether its data are what they should be, the alphabet again and again, says so, and waits for input.
fn with_data(field: &str, instructions: &str) -> Vec<u8> {
    let letters: String = ('a'..='z').cycle().take(DATA_BYTES).collect();
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 40)
            (data (i32.const 0) "\10\00\00\00\03\00\00\00" "\20\00\00\00\01\00\00\00" "ok\n")
            (data (i32.const 65536) "{letters}")
            {field}
            (func (export "_start") (local $at i32)
                (loop $next
                    (if (i32.ne
                            (i32.load8_u (i32.add (i32.const 65536) (local.get $at)))
                            (i32.add (i32.const 97) (i32.rem_u (local.get $at) (i32.const 26))))
                        (then unreachable))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $at) (i32.const {DATA_BYTES}))))
                {instructions}
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 48)))
                (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 48)))))"#
    );
    wat::parse_str(text).expect("it is a module")
}

fn private_megabytes(module: &[u8], tier: &str) -> f64 {
    let container = Container::new("hello.wasm").module(module).compiled(tier);
    let mut running = container.start();
    running.says("ok\n");
    let memory = Rollup::of(&running.entry()).expect("it runs");
    running.send(Signal::SIGKILL as i32);
    memory.private_dirty_megabytes
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn data_are_in_memory_once() {
    let [once, twice] =
        [DATA_BYTES, 2 * DATA_BYTES].map(|bytes| f64::from(u32::try_from(bytes).expect("it is small")) / 1e6);
    for tier in TIERS {
        let megabytes = private_megabytes(&with_data("", ""), tier);
        assert!((once..once + 1.0).contains(&megabytes), "{megabytes} MB");
    }
    // What the guest may ask for again has to stay. It asks for all of it, over what it has.
    let kept = with_data(
        "(data $kept \"zzz\")",
        "(memory.init $kept (i32.const 65536) (i32.const 0) (i32.const 3))
         (if (i32.ne (i32.load16_u (i32.const 65537)) (i32.const 0x7a7a)) (then unreachable))",
    );
    let megabytes = private_megabytes(&kept, "fast");
    assert!(megabytes > twice, "{megabytes} MB");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn native_code_is_waited_for() {
    let code = compile("fast", &exits_with(3));
    for tier in TIERS {
        let container = waiting(60_000).start();
        thread::sleep(Duration::from_millis(300));
        container.receives(&format!("{BUILD}-{tier}.so"), &code);
        container.ends().expect(3, "", "");
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_wait_has_an_end() {
    let started = Instant::now();
    waiting(700).run().expect_stdout("hello from wat\n");
    assert!(started.elapsed() >= Duration::from_millis(700));
    let container = waiting(60_000).start();
    thread::sleep(Duration::from_millis(100));
    container.receives(&format!("{BUILD}-failed"), b"");
    container.ends().expect_stdout("hello from wat\n");
    waiting(60_000)
        .beside(&format!("{BUILD}-failed"), b"")
        .run()
        .expect_stdout("hello from wat\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_signal_ends_the_wait() {
    let container = waiting(60_000).start();
    container.handles(Signal::SIGTERM);
    let (status, took) = container.signal(Signal::SIGTERM);
    assert_eq!(status.code(), Some(143));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

//! What containers run in tests: modules of our own, and programs of others.

use crate::image::Image;
use crate::node::target;

/// A module or native program that `integration/guests/build.sh` has built.
///
/// # Panics
///
/// Where it is not built: a test that needs it must not pass without.
pub fn guest(name: &str) -> Vec<u8> {
    read("guests", name, "make guests")
}

/// A file of one of the packages that `integration/guests/fetch.sh` has fetched, by the package's folder and the path in it.
///
/// # Panics
///
/// Where it is not fetched.
pub fn program(path: &str) -> Vec<u8> {
    read("programs", path, "integration/guests/fetch.sh")
}

/// An image for Linux that holds a guest and nothing else, which is its entrypoint: `/NAME.wasm`.
pub fn guest_image(name: &str) -> Image {
    let path = format!("/{name}.wasm");
    Image::linux()
        .program(&path, guest(&path[1..]))
        .entrypoint([&path])
}

/// An image for Linux that holds a guest and nothing else, at this path, which ends with 42: one that was not routed is told by its exit code.
pub fn exits_with_42(path: &str) -> Image {
    Image::linux()
        .program(path, guest("guest.wasm"))
        .entrypoint([path, "exit", "42"])
}

/// The proposals beyond version 2.0 of WebAssembly that modules may be allowed to use.
pub const PROPOSALS: [&str; 8] = [
    "exception-handling",
    "extended-const",
    "function-references",
    "gc",
    "multi-memory",
    "relaxed-simd",
    "tail-call",
    "threads",
];

/// A module that ends with exit code 42 if this proposal works, and that is not valid without it; also for `memory64`.
///
/// # Panics
///
/// Where there is no such proposal.
pub fn proposal(name: &str) -> Vec<u8> {
    let memory = "(memory (export \"memory\") 1)";
    let (result, fields) = match name {
        "exception-handling" => (
            "(block $caught (result i32) (try_table (catch $tag $caught) (throw $tag (i32.const 42))) (i32.const 1))",
            "(memory (export \"memory\") 1) (tag $tag (param i32))",
        ),
        "extended-const" => (
            "(global.get 0)",
            "(memory (export \"memory\") 1) (global i32 (i32.mul (i32.const 6) (i32.const 7)))",
        ),
        "function-references" => (
            "(call_ref $answers (ref.func $answer))",
            "(memory (export \"memory\") 1) (type $answers (func (result i32))) (elem declare func $answer)
             (func $answer (type $answers) (i32.const 42))",
        ),
        "gc" => (
            "(struct.get $pair 1 (struct.new $pair (i32.const 1) (i32.const 42)))",
            "(memory (export \"memory\") 1) (type $pair (struct (field i32) (field i32)))",
        ),
        "memory64" => (
            "(i32.load (i64.const 8))",
            "(memory (export \"memory\") i64 1) (data (i64.const 8) \"\\2a\")",
        ),
        "multi-memory" => (
            "(i32.load $other (i32.const 8))",
            "(memory (export \"memory\") 1) (memory $other 1) (data (memory $other) (i32.const 8) \"\\2a\")",
        ),
        "relaxed-simd" => (
            "(i32x4.extract_lane 0 (i32x4.relaxed_trunc_f32x4_s (f32x4.splat (f32.const 42.5))))",
            memory,
        ),
        "tail-call" => (
            "(call $count (i32.const 1000000) (i32.const 42))",
            "(memory (export \"memory\") 1)
             (func $count (param i32 i32) (result i32)
               (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
               (return_call $count (i32.sub (local.get 0) (i32.const 1)) (local.get 1)))",
        ),
        "threads" => (
            "(i32.add (i32.atomic.rmw.add (i32.const 8) (i32.const 2)) (i32.atomic.load (i32.const 8)))",
            "(memory (export \"memory\") 1 1 shared) (data (i32.const 8) \"\\14\")",
        ),
        name => panic!("there is no module for {name}"),
    };
    exits_with(result, fields)
}

/// A module that ends with the exit code that an expression gives, with these fields beside its `_start`.
///
/// # Panics
///
/// Where that is no module.
pub fn exits_with(expression: &str, fields: &str) -> Vec<u8> {
    let text = format!(
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32))) {fields}
           (func (export \"_start\") (call $exit {expression})))"
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// What stands before the contents of a custom section of so many bytes.
pub fn custom_section_head(bytes: u32) -> Vec<u8> {
    // The length in groups of seven bits, the least first.
    let length = (0..5).map(|group| ((bytes >> (7 * group)) & 0x7f) as u8 | if group < 4 { 0x80 } else { 0 });
    std::iter::once(0).chain(length).collect()
}

/// Makes a module longer by a custom section of so many bytes, which is called by one letter and holds zeros: another module that does the same.
pub fn push_custom_section(module: &mut Vec<u8>, name: u8, bytes: u32) {
    module.extend(custom_section_head(bytes));
    let end = module.len() + bytes as usize;
    module.extend([1, name]);
    module.resize(end, 0);
}

fn read(folder: &str, name: &str, made_by: &str) -> Vec<u8> {
    let path = target().join(folder).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run {made_by}", path.display()))
}

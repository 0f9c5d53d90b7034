//! Modules that use what goes beyond version 2.0 of WebAssembly's specification.

use podwasm_integration::guests::{PROPOSALS, exits_with, proposal};

use crate::container::Container;

/// What the compiler can be asked for.
const NATIVE: [&str; 5] = [
    "extended-const",
    "function-references",
    "multi-memory",
    "relaxed-simd",
    "threads",
];

fn container(name: &str) -> Container {
    Container::new("hello.wasm").module(&proposal(name))
}

fn allowed(name: &str) -> Container {
    let container = container(name).setting(&format!("proposal={name}"));
    match name {
        "gc" => container.setting("proposal=function-references"),
        _ => container,
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn each_proposal_is_off_until_the_settings_name_it() {
    for name in PROPOSALS {
        container(name).run().expect_cannot_start("it is malformed");
        allowed(name).run().expect(42, "", "");
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn native_code_has_some_of_them() {
    for name in NATIVE {
        for tier in ["fast", "optimised"] {
            allowed(name)
                .compiled_with(tier, &[name])
                .without_module()
                .run()
                .expect(42, "", "");
        }
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn vectors_need_none() {
    let module = exits_with(
        "(i32x4.extract_lane 3 (i32x4.add (i32x4.splat (i32.const 40)) (i32x4.splat (i32.const 2))))",
        "(memory (export \"memory\") 1)",
    );
    Container::new("hello.wasm")
        .module(&module)
        .run()
        .expect(42, "", "");
    for tier in ["fast", "optimised"] {
        let container = Container::new("hello.wasm").module(&module).compiled(tier);
        container.without_module().run().expect(42, "", "");
    }
}

//! The engine is started by the bundle's own loader and finds its libraries only there, wherever it is
//! mounted and whatever the image's environment says. The compiler is handed to its loader by the daemon.

use std::env;

/// For the engine, to be found by the dynamic linker before the libraries' own: see `src/heap.rs`, `src/names.rs` and
/// `src/faults.rs`.
const ENGINE_SYMBOLS: [&str; 5] = ["_ZdlPv", "_ZdlPvm", "_Znwm", "getaddrinfo", "sigaction"];

/// For the compiler: see `src/compile/llvm.rs`.
const COMPILER_SYMBOLS: [&str; 5] = [
    "LLVMConstStringInContext",
    "LLVMCreateStringAttribute",
    "LLVMCreateTargetMachine",
    "LLVMRunPasses",
    "LLVMSetInitializer",
];

/// The development package has a linker script or link of another name for each, and is not needed for this.
const LLVM: &str = "/usr/lib/x86_64-linux-gnu/libLLVM.so.19.1";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_WASMEDGE").is_none() {
        return;
    }
    let engine = |argument: &str| println!("cargo::rustc-link-arg-bin=podwasm-engine=-Wl,{argument}");
    engine("--dynamic-linker=/.podwasm/lib/ld-linux-x86-64.so.2");
    // An RPATH, not a RUNPATH: it goes before LD_LIBRARY_PATH and also holds for what the libraries need.
    engine("--disable-new-dtags,-rpath,/.podwasm/lib");
    engine("-z,now,-z,relro");
    for symbol in ENGINE_SYMBOLS {
        engine(&format!("--export-dynamic-symbol={symbol}"));
    }
    println!("cargo::rustc-link-arg-bin=podwasm-compile={LLVM}");
    for symbol in COMPILER_SYMBOLS {
        println!("cargo::rustc-link-arg-bin=podwasm-compile=-Wl,--export-dynamic-symbol={symbol}");
    }
}

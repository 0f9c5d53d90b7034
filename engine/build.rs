//! The program is started by the bundle's own loader and finds its libraries only there, wherever it is
//! mounted and whatever the image's environment says.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_WASMEDGE").is_some() {
        let arguments = [
            "--dynamic-linker=/.podwasm/lib/ld-linux-x86-64.so.2",
            // An RPATH, not a RUNPATH: it goes before LD_LIBRARY_PATH and also holds for what the libraries need.
            "--disable-new-dtags,-rpath,/.podwasm/lib",
            "-z,now,-z,relro",
            // See src/heap.rs.
            "--export-dynamic-symbol=_Znwm",
            // See src/names.rs.
            "--export-dynamic-symbol=getaddrinfo",
        ];
        for argument in arguments {
            println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
        }
    }
}

//! Compiles the parts of containerd's API that are used, without needing `protoc`.

use std::error::Error;

const SERVICES: [&str; 8] = [
    "proto/containers.proto",
    "proto/content.proto",
    "proto/cri.proto",
    "proto/events.proto",
    "proto/images.proto",
    "proto/runc_options.proto",
    "proto/snapshots.proto",
    "proto/version.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(SERVICES, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}

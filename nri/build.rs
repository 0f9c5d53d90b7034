//! Generates the protocol's messages, without needing `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/nri.proto");
    let files = protox::compile(["nri.proto"], ["proto"])?;
    // Ordered maps, so that the same message is always the same bytes.
    prost_build::Config::new().btree_map(["."]).compile_fds(files)?;
    Ok(())
}

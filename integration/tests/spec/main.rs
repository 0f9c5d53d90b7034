//! What becomes of each field of a container's and a pod's spec when the container is a Wasm one: a test for each row of
//! `docs/container-spec.md`.

mod container;
mod documented;
mod lifecycle;
mod pod;
mod resources;
mod security;
mod volumes;

use anyhow::Result;
use podwasm_integration::prelude::*;

/// The C guest's image, `/guest.wasm`, which does what its first argument says.
async fn guest_c(node: &Node) -> Result<String> {
    node.podwasm().await?;
    node.push("guest", &guest_image("guest")).await
}

/// The image of `look`, which says what it sees.
async fn look(node: &Node) -> Result<String> {
    node.podwasm().await?;
    node.push("look", &guest_image("look")).await
}

/// Waits for a container's end, which has to be a good one, and returns what it printed.
async fn output(container: &ContainerHandle<'_>) -> Result<String> {
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    assert_eq!((code, logs.stderr.as_str()), (0, ""), "{logs:?}");
    Ok(logs.stdout)
}

/// What the kernel says of a container's first process, a file of its folder in `/proc`.
async fn proc(node: &Node, container: &ContainerHandle<'_>, file: &str) -> Result<String> {
    let info = container.info().await?;
    let path = node.path(format!("/proc/{}/{file}", info["pid"]));
    Ok(std::fs::read_to_string(path)?)
}

/// A folder of the node, to be a volume.
fn folder(node: &Node, name: &str) -> Result<String> {
    let inside = format!("/var/lib/volumes/{name}");
    std::fs::create_dir_all(node.path(&inside))?;
    Ok(inside)
}

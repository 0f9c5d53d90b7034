//! The harness itself on real nodes: what later tests take for granted.

use anyhow::Result;
use podwasm_integration::prelude::*;

on_nodes! {
    /// A native container runs, and its output, its errors and its exit code are told apart.
    async fn native_container(node: &Node) {
        let pod = node.pod("native").run().await?;
        let container = pod.container("c").image(node.busybox()).shell("echo out; echo err >&2; exit 7").start().await?;
        assert_eq!(container.wait_exit().await?, 7);
        let logs = container.logs()?;
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
        pod.remove().await?;
    }
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn dummy() -> Result<()> {
    Ok(())
}

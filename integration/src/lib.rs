//! Throw-away nodes for tests: a real containerd with runc and crun, a registry and pod networking, in namespaces of their
//! own below `target/`, a client for what a kubelet would say to them, and a builder for the images they run.
//!
//! A [`Node`] is started from a root folder of Debian packages (`integration/node/root.sh` makes it) and leaves nothing
//! behind: no process, mount, namespace or cgroup, however the test that started it ends. Tests that do nothing to the node
//! itself share one with [`on_nodes!`], which runs them on every kind of node.
//!
//! ```no_run
//! use podwasm_integration::prelude::*;
//!
//! # async fn example() -> anyhow::Result<()> {
//! let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
//! let pod = node.pod("hello").run().await?;
//! let container = pod.container("c").image(node.busybox()).command(["echo", "hi"]).start().await?;
//! assert_eq!(container.wait_exit().await?, 0);
//! assert_eq!(container.logs()?.stdout, "hi\n");
//! # Ok(())
//! # }
//! ```

pub mod authority;
pub mod chaos;
pub mod cri;
pub mod critest;
pub mod documents;
pub mod guests;
pub mod image;
pub mod load;
pub mod manifest;
pub mod measure;
pub mod node;
pub mod release;
pub mod servers;
pub mod wait;

/// What nearly every test uses.
pub mod prelude {
    pub use crate::cri::{ContainerHandle, PodHandle};
    pub use crate::guests::{exits_with_42, guest, guest_image, program};
    pub use crate::image::{Artifact, COMPONENT_LAYER, Content, Image, Index, Layer, WASM_CONFIG};
    pub use crate::node::{Flavor, Node, Runtime};
    pub use crate::{on_all_nodes, on_both, on_each, on_nodes};
}

pub use prelude::*;

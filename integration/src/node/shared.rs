//! Nodes that the tests of one program share, and running a test on each kind of node.

use super::{Flavor, Node, Runtime};
use tokio::sync::OnceCell;

/// The node of a kind that all tests of this program share, started by the first that asks. It ends with the program.
///
/// A test that restarts containerd or kills the plugin starts a node of its own.
///
/// # Panics
///
/// Where a node cannot be started: a test that needs one must not pass without.
pub async fn node(flavor: Flavor, runtime: Runtime) -> &'static Node {
    static NODES: [OnceCell<Node>; 6] = [const { OnceCell::const_new() }; 6];
    let cell = match (flavor, runtime) {
        (Flavor::Forky, Runtime::Crun) => &NODES[0],
        (Flavor::Forky, Runtime::Runc) => &NODES[1],
        (Flavor::Trixie, Runtime::Crun) => &NODES[2],
        (Flavor::Trixie, Runtime::Runc) => &NODES[3],
        (Flavor::Upstream, Runtime::Crun) => &NODES[4],
        (Flavor::Upstream, Runtime::Runc) => &NODES[5],
    };
    let start = || Node::start(flavor, runtime);
    cell.get_or_try_init(start)
        .await
        .unwrap_or_else(|error| panic!("no node for this test: {error:?}"))
}

/// Makes four tests of each function: one for each of Debian's flavors and default runtime, on the shared nodes.
///
/// ```
/// use podwasm_integration::prelude::*;
///
/// on_nodes! {
///     async fn says_hello(node: &Node) {
///         let pod = node.pod("hello").run().await?;
///         let container = pod.container("c").image(node.busybox()).command(["echo", "hi"]).start().await?;
///         assert_eq!(container.wait_exit().await?, 0);
///         pod.remove().await?;
///     }
/// }
/// ```
#[macro_export]
macro_rules! on_nodes {
    (@of $nodes:tt $($(#[$attribute:meta])* async fn $name:ident($node:ident: &Node) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn test($node: &'static $crate::node::Node) -> ::anyhow::Result<()> {
                $body
                Ok(())
            }

            $crate::on_nodes!(@tests $nodes);
        }
    )*};
    (@tests [$($name:ident $flavor:ident $runtime:ident),*]) => {$(
        #[test]
        #[ignore = "needs root and a node"]
        fn $name() -> ::anyhow::Result<()> {
            $crate::node::shared::run($crate::node::Flavor::$flavor, $crate::node::Runtime::$runtime, test)
        }
    )*};
    ($($tests:tt)*) => {
        $crate::on_nodes! {
            @of [trixie_runc Trixie Runc, trixie_crun Trixie Crun, forky_runc Forky Runc, forky_crun Forky Crun]
            $($tests)*
        }
    };
}

/// The same as [`on_nodes!`] with two more tests of each function, with upstream's containerd.
#[macro_export]
macro_rules! on_all_nodes {
    ($($tests:tt)*) => {
        $crate::on_nodes! {
            @of [trixie_runc Trixie Runc, trixie_crun Trixie Crun, forky_runc Forky Runc, forky_crun Forky Crun,
                upstream_runc Upstream Runc, upstream_crun Upstream Crun]
            $($tests)*
        }
    };
}

/// Makes two tests of each named function, which takes a [`Flavor`] and starts nodes of its own.
#[macro_export]
macro_rules! on_both {
    (@of $flavors:tt $($name:ident)*) => {$(
        mod $name {
            use super::*;

            $crate::on_both!(@tests $name $flavors);
        }
    )*};
    (@tests $name:ident [$($test:ident $flavor:ident),*]) => {$(
        #[tokio::test]
        #[ignore = "needs root and a node"]
        async fn $test() -> ::anyhow::Result<()> {
            super::$name($crate::node::Flavor::$flavor).await
        }
    )*};
    ($($name:ident)*) => { $crate::on_both! { @of [forky Forky, trixie Trixie] $($name)* } };
}

/// The same as [`on_both!`] with one more test of each function, with upstream's containerd.
#[macro_export]
macro_rules! on_each {
    ($($name:ident)*) => { $crate::on_both! { @of [forky Forky, trixie Trixie, upstream Upstream] $($name)* } };
}

/// Runs one test on the shared node of a kind. For [`on_nodes!`].
pub fn run<F: Future<Output = anyhow::Result<()>>>(
    flavor: Flavor,
    runtime: Runtime,
    test: impl FnOnce(&'static Node) -> F,
) -> anyhow::Result<()> {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    executor.block_on(async { test(node(flavor, runtime).await).await })
}

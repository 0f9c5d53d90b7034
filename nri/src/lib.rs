//! The Node Resource Interface (NRI): write plugins for containerd and CRI-O in Rust.
//!
//! An NRI plugin is a process on a node that hears of every pod and container as it is created, started,
//! changed and stopped, and that may adjust a container before it exists. This crate speaks the whole of
//! NRI 0.12, and gets along with runtimes back to containerd 1.7.
//!
//! ```no_run
//! use nri::api::{Adjustment, Container, PodSandbox};
//! use nri::{Call, Creation, Identity, Plugin, PluginError, Runner};
//!
//! struct Hello;
//!
//! #[nri::plugin]
//! impl Plugin for Hello {
//!     async fn create_container(
//!         &self,
//!         _call: Call,
//!         _pod: PodSandbox,
//!         container: Container,
//!     ) -> Result<Creation, PluginError> {
//!         Ok(Adjustment::new().replace_env("HELLO", container.name).into())
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let runner = Runner::external(Hello, Identity::new("hello", "10")?);
//! runner.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Plugin`] is the trait to implement, [`macro@plugin`] the attribute that works out the subscription.
//! - [`api`] has the messages and their builders; [`api::Adjustment`] is the one to start with.
//! - [`Runner`] registers, answers, and comes back after the runtime was restarted.
//! - [`Runtime`] asks for changes to containers outside any event.
//! - With the feature `testing`, `testing::FakeRuntime` drives a plugin without a node.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

/// ```compile_fail
/// struct Logger;
///
/// #[nri::plugin]
/// impl nri::Plugin for Logger {
///     fn events(&self) -> nri::Events {
///         nri::Events::ALL
///     }
/// }
/// ```
///
/// ```compile_fail
/// struct Logger;
///
/// // Without the attribute, and without `events`.
/// impl nri::Plugin for Logger {}
/// ```
#[cfg(doctest)]
struct Mistakes;

// So that `#[nri::plugin]` works inside this crate's own tests and fakes.
extern crate self as nri;

pub mod api;
mod backoff;
mod call;
mod dispatch;
mod event;
mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod link;
mod mux;
mod plugin;
mod preinstalled;
mod runner;
mod runtime;
mod serve;
mod session;
mod synchronize;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod ttrpc;
mod version;

pub use call::{Call, RuntimeInfo};
pub use dispatch::answer;
pub use event::Events;
pub use frame::FrameError;
pub use identity::{Identity, IdentityError};
pub use mux::MuxError;
pub use nri_macros::plugin;
pub use plugin::{Answer, Configuration, Creation, Plugin, PluginError, Updates, Verdict};
pub use preinstalled::{Preinstalled, PreinstalledError};
pub use runner::{DEFAULT_SOCKET, RunError, Runner};
pub use runtime::{Runtime, UpdateError};
pub use session::{Phase, SessionError};
pub use ttrpc::MessageError;
pub use version::known_events;

//! `podwasm-scaler`: the counts of all nodes, added up for KEDA.
//!
//! [`exporters`] keeps a stream to each exporter and tells the [`fleet`] what it hears. [`keda`] understands what a ScaledObject
//! asks ([`trigger`], [`selector`]) and answers it from the fleet, which does no I/O and so answers at once.

pub mod cluster;
pub mod exporters;
pub mod fleet;
pub mod http;
pub mod keda;
pub mod metrics;
pub mod selector;
pub mod tls;
pub mod trigger;

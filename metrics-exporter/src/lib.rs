//! Requests of pods, counted on their nodes and added up for the cluster.
//!
//! `podwasm-exporter` runs on each node. What it counts meets what it publishes in one place, the table in
//! [`counts`]: capturing threads add to it, readers look at it.

pub mod counts;
pub mod daemon;
pub mod feed;
pub mod http;
pub mod metrics;
pub mod pb;
pub mod process;
pub mod rate;
pub mod recent;
pub mod text;
pub mod workload;

//! Requests of pods, counted on their nodes and added up for the cluster.
//!
//! `podwasm-exporter` runs on each node. What it counts meets what it publishes in one place, the table in
//! [`counts`]: capturing threads add to it, readers look at it.

pub mod capture;
mod classic;
pub mod connections;
pub mod conversation;
pub mod counts;
pub mod daemon;
pub mod exclude;
pub mod feed;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hpack;
pub mod http;
pub mod http1;
pub mod http2;
mod huffman;
mod line;
mod listening;
pub mod metrics;
pub mod observe;
pub mod packet;
pub mod pb;
pub mod pods;
pub mod process;
mod program;
pub mod rate;
mod reading;
pub mod recent;
pub mod scaler;
mod socket;
pub mod stream;
pub mod tally;
pub mod text;
pub mod tls;
pub mod workload;

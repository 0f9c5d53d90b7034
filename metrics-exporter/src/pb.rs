//! Generated messages.

#![allow(missing_docs, clippy::pedantic, reason = "generated")]

/// Between exporter and scaler.
pub mod counts {
    tonic::include_proto!("podwasm.counts.v1");
}

/// Between KEDA and scaler.
pub mod keda {
    tonic::include_proto!("externalscaler");
}

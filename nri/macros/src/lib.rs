//! The `#[nri::plugin]` attribute.

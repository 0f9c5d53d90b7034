//! One connection.

/// Why a connection ended, or did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The runtime closed the connection.
    #[error("the runtime closed the connection")]
    Closed,
}

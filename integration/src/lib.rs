//! Throw-away nodes.

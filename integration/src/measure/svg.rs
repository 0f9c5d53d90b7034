//! What charts have in common.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Text that can be told from a light and from a dark page, since a document has both.
pub const TEXT: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}\
                        @media(prefers-color-scheme:dark){text{fill:#e6edf3}}";

/// Text as it stands in XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Writes a chart, or whatever else a run leaves as text.
pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

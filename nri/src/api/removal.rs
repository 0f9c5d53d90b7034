//! Removal markers.
//!
//! An adjustment is a list of things to set. To take something away, NRI sets the same key with a `-`
//! in front. Both together replace: without the marker, a second plugin that sets a key which a first
//! one has already set makes the creation fail.

/// The key that removes `key`.
///
/// ```
/// assert_eq!(nri::api::removal("PATH"), "-PATH");
/// ```
pub fn removal(key: &str) -> String {
    format!("-{key}")
}

/// The key that `key` removes, if it is a removal marker.
///
/// ```
/// assert_eq!(nri::api::is_removal("-PATH"), Some("PATH"));
/// assert_eq!(nri::api::is_removal("PATH"), None);
/// ```
pub fn is_removal(key: &str) -> Option<&str> {
    key.strip_prefix('-')
}

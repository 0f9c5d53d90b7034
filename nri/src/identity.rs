//! Who a plugin is: its name and its index.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;

/// A plugin's name and index, checked as a runtime checks them.
///
/// The index is two digits; plugins are called in ascending order.
///
/// ```
/// use nri::Identity;
///
/// assert_eq!(Identity::new("logger", "10")?.to_string(), "10-logger");
/// assert_eq!(Identity::parse("10-logger")?.name(), "logger");
/// assert!(Identity::new("logger", "1").is_err());
/// # Ok::<(), nri::IdentityError>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Identity {
    name: String,
    index: String,
}

/// Why a name or an index is no good.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// The index is not two digits.
    #[error("plugin index {0:?} is not two digits (00 to 99)")]
    Index(String),
    /// The name is empty, or has a character besides letters, digits and `_.+-`.
    #[error("plugin name {0:?} is not made of letters, digits and the characters _ . + -")]
    Name(String),
    /// A file name without a dash.
    #[error("{0:?} is not of the form INDEX-NAME, for example 10-logger")]
    Shape(String),
}

impl Identity {
    /// Checks a name and an index.
    pub fn new(name: impl Into<String>, index: impl Into<String>) -> Result<Self, IdentityError> {
        let (name, index) = (name.into(), index.into());
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(IdentityError::Index(index));
        }
        if name.is_empty()
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte))
        {
            return Err(IdentityError::Name(name));
        }
        Ok(Self { name, index })
    }

    /// Takes apart the file name of a pre-installed plugin, such as `10-logger`.
    pub fn parse(file_name: &str) -> Result<Self, IdentityError> {
        let (index, name) = file_name
            .split_once('-')
            .ok_or_else(|| IdentityError::Shape(file_name.to_owned()))?;
        Self::new(name, index)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index, two digits.
    pub fn index(&self) -> &str {
        &self.index
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.index, self.name)
    }
}

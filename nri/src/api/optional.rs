//! Wrappers for values that may be absent, and their conversions.
//!
//! `proto3` of the protocol's time had no optional scalars, so NRI wraps each in a message.

use super::{
    OptionalBool, OptionalFileMode, OptionalInt, OptionalInt32, OptionalInt64, OptionalRepeatedString,
    OptionalString, OptionalUInt32, OptionalUInt64,
};

macro_rules! wraps {
    ($($wrapper:ident: $inner:ty),* $(,)?) => {$(
        impl From<$inner> for $wrapper {
            fn from(value: $inner) -> Self {
                Self { value }
            }
        }

        impl From<$wrapper> for $inner {
            fn from(wrapper: $wrapper) -> Self {
                wrapper.value
            }
        }
    )*};
}

wraps! {
    OptionalBool: bool,
    OptionalFileMode: u32,
    OptionalInt: i64,
    OptionalInt32: i32,
    OptionalInt64: i64,
    OptionalRepeatedString: Vec<String>,
    OptionalString: String,
    OptionalUInt32: u32,
    OptionalUInt64: u64,
}

impl From<&str> for OptionalString {
    fn from(value: &str) -> Self {
        Self {
            value: value.to_owned(),
        }
    }
}

//! What is fuzzed: each function takes any bytes, and panics where a promise is broken.
#![allow(
    clippy::missing_panics_doc,
    reason = "each panics where its promise is broken, and nowhere else"
)]

use crate::header::check_header;
use crate::settings::{MAX_PAGES, Settings};

/// Settings: what is read is written again, and means the same.
pub fn settings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match text.parse::<Settings>() {
        Ok(settings) => {
            assert!(settings.memory_pages <= MAX_PAGES);
            assert_eq!(settings.to_string().parse(), Ok(settings), "{text:?}");
        }
        Err(error) => assert!(error.to_string().contains("PODWASM_SETTINGS")),
    }
    let _ = check_header(input);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::*;

    #[test]
    fn what_is_kept_of_fuzzing_keeps_all_promises() {
        replay(&[("settings", settings)]);
    }
}

//! What the guest sees of the container's environment.
//!
//! Variables that steer the dynamic loader (`LD_PRELOAD` and its like) are meant for the guest, yet the loader
//! of the engine would act on them. `launch` renames them before the engine starts, and here they get
//! their names back. The rest of the prefix `PODWASM_` belongs to the project and is not the guest's.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::settings::{self, Settings, SettingsError};

/// Stands before the name of a variable that was hidden from the engine's loader.
pub const GUEST_PREFIX: &[u8] = b"PODWASM_GUEST_";

/// Stands before the names of the project's own variables.
const OWN_PREFIX: &[u8] = b"PODWASM_";

/// The guest's environment, in the order and with the bytes of the container's.
pub fn guest_environment<'a>(variables: impl IntoIterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    variables.into_iter().filter_map(guest_variable).collect()
}

/// The settings that the environment carries; the defaults where it carries none.
pub fn settings<'a>(
    variables: impl IntoIterator<Item = &'a [u8], IntoIter: DoubleEndedIterator>,
) -> Result<Settings, SettingsError> {
    let value = variables.into_iter().rev().find_map(|variable| {
        let value = variable.strip_prefix(settings::VARIABLE.as_bytes())?;
        value.strip_prefix(b"=")
    });
    value.map_or_else(
        || Ok(Settings::default()),
        |value| String::from_utf8_lossy(value).parse(),
    )
}

fn guest_variable(variable: &[u8]) -> Option<&[u8]> {
    match variable.strip_prefix(GUEST_PREFIX) {
        Some(restored) => Some(restored),
        None if variable.starts_with(OWN_PREFIX) => None,
        None => Some(variable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_sees_the_containers_environment() {
        let container: [&[u8]; 6] = [
            b"PATH=/bin",
            b"PODWASM_DRAIN=2",
            b"PODWASM_GUEST_LD_PRELOAD=/lib/x.so",
            b"EMPTY=",
            b"no equals sign",
            b"LATIN1=\xe9",
        ];
        let guest: [&[u8]; 5] = [
            b"PATH=/bin",
            b"LD_PRELOAD=/lib/x.so",
            b"EMPTY=",
            b"no equals sign",
            b"LATIN1=\xe9",
        ];
        assert_eq!(guest_environment(container), guest);
    }

    #[test]
    fn a_prefix_is_taken_away_once() {
        let container: [&[u8]; 2] = [b"PODWASM_GUEST_PODWASM_GUEST_A=1", b"XPODWASM_B=2"];
        let guest: [&[u8]; 2] = [b"PODWASM_GUEST_A=1", b"XPODWASM_B=2"];
        assert_eq!(guest_environment(container), guest);
    }

    #[test]
    fn settings_are_one_variable_of_the_environment() {
        let none: [&[u8]; 2] = [b"PATH=/bin", b"PODWASM_SETTINGS_X=sockets=off"];
        assert_eq!(settings(none), Ok(Settings::default()));
        let some: [&[u8]; 3] = [
            b"PODWASM_SETTINGS=memory_pages=1",
            b"PODWASM_SETTINGS=sockets=off\nmemory_pages=7",
            b"A=1",
        ];
        let settings = settings(some).expect("these are settings");
        assert_eq!((settings.sockets, settings.memory_pages), (false, 7));
        let odd: [&[u8]; 1] = [b"PODWASM_SETTINGS=\xff"];
        assert!(super::settings(odd).is_err());
    }
}

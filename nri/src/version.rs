//! What a runtime of a certain version understands.
//!
//! A plugin that subscribes to an event its runtime has never heard of is dropped, so the subscription
//! has to fit. Runtimes with NRI 0.12 say so; for older ones it follows from their own version.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::call::RuntimeInfo;
use crate::event::Events;

/// The first NRI with events beyond the original eleven.
const MORE_EVENTS: (u32, u32) = (0, 10);

/// The first releases of runtimes that have it.
const FIRST_WITH_MORE_EVENTS: [(&str, (u32, u32)); 2] = [("containerd", (2, 2)), ("cri-o", (1, 34))];

/// The events that `runtime` knows. One that is not known here is taken to be new.
pub fn known_events(runtime: &RuntimeInfo) -> Events {
    let is_new = match major_minor(&runtime.nri_version) {
        Some(version) => version >= MORE_EVENTS,
        None => FIRST_WITH_MORE_EVENTS
            .iter()
            .find(|(name, _)| *name == runtime.name)
            .and_then(|(_, first)| Some(major_minor(&runtime.version)? >= *first))
            .unwrap_or(true),
    };
    if is_new { Events::ALL } else { Events::BEFORE_0_10 }
}

/// `v1.7.24~ds1` → (1, 7).
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, version: &str, nri_version: &str, expected: Events) {
        let runtime = RuntimeInfo {
            name: name.to_owned(),
            version: version.to_owned(),
            nri_version: nri_version.to_owned(),
        };
        assert_eq!(known_events(&runtime), expected, "{runtime:?}");
    }

    #[test]
    fn the_protocol_version_decides_where_it_is_told() {
        check("containerd", "v1.0.0", "v0.12.0", Events::ALL);
        check("containerd", "v9.0.0", "v0.9.1", Events::BEFORE_0_10);
        check("containerd", "v1.7.24", "(devel)", Events::BEFORE_0_10);
    }

    #[test]
    fn else_the_runtime_version_decides() {
        check("containerd", "1.7.24~ds1", "", Events::BEFORE_0_10);
        check("containerd", "v2.1.9", "", Events::BEFORE_0_10);
        check("containerd", "v2.2.0-rc.0", "", Events::ALL);
        check("containerd", "v2.10.0", "", Events::ALL);
        check("cri-o", "1.33.8", "", Events::BEFORE_0_10);
        check("cri-o", "v1.34-dev", "unknown", Events::ALL);
    }

    #[test]
    fn what_is_not_known_is_new() {
        check("another", "0.1.0", "", Events::ALL);
        check("containerd", "", "", Events::ALL);
        check("containerd", "unknown", "", Events::ALL);
    }
}

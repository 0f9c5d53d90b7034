//! The sets of capabilities.

use rustix::io::Result;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Takes from the bounding set what is not wanted, as far as that is allowed.
pub fn bound(wanted: CapabilitySet) {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !wanted.contains(one) => _ = remove_capability_from_bounding_set(one),
            Ok(_) => {}
            Err(_) => return, // the kernel has no more
        }
    }
}

/// Keeps of all other sets what is wanted, and returns that.
pub fn keep(wanted: CapabilitySet, in_effect: bool) -> Result<CapabilitySet> {
    let now = capabilities(None)?;
    let permitted = now.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: if in_effect {
                permitted
            } else {
                CapabilitySet::empty()
            },
            permitted,
            // The ambient set can hold nothing that is not in this one.
            inheritable: now.inheritable & wanted,
        },
    )?;
    Ok(permitted)
}

/// As they are written in manifests.
pub fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| name).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_manifests() {
        assert_eq!(
            names(CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN),
            "NET_RAW SYS_ADMIN"
        );
        assert_eq!(names(CapabilitySet::empty()), "");
    }
}

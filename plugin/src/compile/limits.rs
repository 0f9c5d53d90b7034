//! How much of the node one compiler may take, by the size of its module.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::Duration;

use crate::compiled::Tier;
use crate::policy::{Compile, TierPolicy};

const MEBIBYTE: u64 = 1 << 20;
/// What the compiler takes before it sees a module: its libraries, mapped, and their heap.
const BASE_ADDRESS_SPACE_BYTES: u64 = 2 << 30;
/// Either tier takes some 160 to 290 MB for each MB of module at its peak.
const ADDRESS_SPACE_BYTES_PER_BYTE: u64 = 512;
/// The least time, for starting up on a slow disk and for small modules that are hard.
const BASE_SECONDS: u64 = 20;
/// Native code has some 2 to 7 times the module's size.
const OUTPUT_BYTES_PER_BYTE: u64 = 32;
const BASE_OUTPUT_BYTES: u64 = 4 << 20;

/// What one compiler may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of address space.
    pub address_space_bytes: u64,
    /// Seconds of CPU time.
    pub cpu_seconds: u64,
    /// Whether it gets only time that nobody else wants.
    pub idle: bool,
    /// How far it stands back for others, up to 19.
    pub nice: u8,
    /// The largest file that it may write.
    pub output_bytes: u64,
    /// How long it may take in all. It is to end what hangs, so it leaves room for a node that is busy.
    pub wall: Duration,
}

/// The part of the policy that is about a tier.
pub fn of_tier(policy: &Compile, tier: Tier) -> &TierPolicy {
    match tier {
        Tier::Fast => &policy.fast,
        Tier::Optimised => &policy.optimised,
    }
}

/// The limits of a compiler for a module of so many bytes.
pub fn limits(policy: &Compile, tier: Tier, module_bytes: u64) -> Limits {
    let of_tier = of_tier(policy, tier);
    let mebibytes = module_bytes.div_ceil(MEBIBYTE);
    let cpu_seconds =
        BASE_SECONDS.saturating_add(mebibytes.saturating_mul(of_tier.cpu_seconds_per_mib.into()));
    let wanted = module_bytes
        .saturating_mul(ADDRESS_SPACE_BYTES_PER_BYTE)
        .saturating_add(BASE_ADDRESS_SPACE_BYTES);
    // What nobody else wants may be little for long.
    let patience = match tier {
        Tier::Fast => 4,
        Tier::Optimised => 10,
    };
    Limits {
        address_space_bytes: wanted.min(policy.memory.to_units()),
        cpu_seconds,
        idle: tier == Tier::Optimised,
        nice: of_tier.nice,
        output_bytes: module_bytes
            .saturating_mul(OUTPUT_BYTES_PER_BYTE)
            .saturating_add(BASE_OUTPUT_BYTES),
        wall: Duration::from_secs(cpu_seconds.saturating_mul(patience)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_grow_with_the_module_and_stay_below_the_policys() {
        let policy = Compile::default();
        let small = limits(&policy, Tier::Fast, 1);
        let expected = Limits {
            address_space_bytes: (2 << 30) + 512,
            cpu_seconds: 50,
            idle: false,
            nice: 5,
            output_bytes: (4 << 20) + 32,
            wall: Duration::from_secs(200),
        };
        assert_eq!(small, expected);
        let large = limits(&policy, Tier::Optimised, 22 << 20);
        assert_eq!((large.cpu_seconds, large.address_space_bytes), (6620, 8 << 30));
        assert!(large.idle && large.nice == 19);
        let absurd = limits(&policy, Tier::Optimised, u64::MAX);
        assert_eq!(absurd.output_bytes, u64::MAX);
    }
}

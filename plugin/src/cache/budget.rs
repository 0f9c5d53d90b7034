//! Which modules leave the node when there is too much: those that were not used for longest.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::time::SystemTime;

/// A module with its native code, as far as this matters.
#[derive(Clone, Debug)]
pub struct Held {
    /// How much disk it takes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub digest: String,
    /// Whether it has to stay whatever else.
    pub in_use: bool,
    /// When it was last asked for.
    pub last_used: SystemTime,
}

/// What has to go so that the rest fits, as far as that can be had.
pub fn to_evict(mut held: Vec<Held>, budget_bytes: u64) -> Vec<String> {
    let mut total: u64 = held.iter().map(|held| held.bytes).sum();
    held.retain(|held| !held.in_use);
    held.sort_by(|a, b| (a.last_used, &a.digest).cmp(&(b.last_used, &b.digest)));
    let mut evicted = Vec::new();
    for held in held {
        if total <= budget_bytes {
            break;
        }
        total -= held.bytes;
        evicted.push(held.digest);
    }
    evicted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn held(digest: &str, bytes: u64, last_used: u64, in_use: bool) -> Held {
        Held {
            bytes,
            digest: digest.to_owned(),
            in_use,
            last_used: UNIX_EPOCH + Duration::from_secs(last_used),
        }
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let all = || {
            vec![
                held("a", 10, 3, false),
                held("b", 10, 1, false),
                held("c", 10, 2, false),
            ]
        };
        assert_eq!(to_evict(all(), 30), [""; 0]);
        assert_eq!(to_evict(all(), 29), ["b"]);
        assert_eq!(to_evict(all(), 20), ["b"]);
        assert_eq!(to_evict(all(), 10), ["b", "c"]);
        assert_eq!(to_evict(all(), 0), ["b", "c", "a"]);
    }

    #[test]
    fn what_is_in_use_stays_even_if_nothing_else_helps() {
        let all = vec![
            held("a", 10, 1, true),
            held("b", 10, 2, false),
            held("c", 10, 3, true),
        ];
        assert_eq!(to_evict(all, 5), ["b"]);
    }

    proptest! {
        #[test]
        fn no_more_goes_than_has_to(sizes in proptest::collection::vec((0..50u64, 0..9u64, any::<bool>()), 0..12), budget in 0..300u64) {
            let all: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(number, (bytes, used, in_use))| held(&number.to_string(), *bytes, *used, *in_use))
                .collect();
            let evicted = to_evict(all.clone(), budget);
            let (gone, left): (Vec<_>, Vec<_>) = all.iter().partition(|held| evicted.contains(&held.digest));
            let left_bytes: u64 = left.iter().map(|held| held.bytes).sum();
            prop_assert!(gone.iter().all(|held| !held.in_use));
            prop_assert!(left_bytes <= budget || left.iter().all(|held| held.in_use));
            if let Some(last) = evicted.last() {
                let last = gone.iter().find(|held| held.digest == *last).unwrap();
                prop_assert!(left_bytes + last.bytes > budget);
            }
        }
    }
}

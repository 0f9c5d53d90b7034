//! The cache on a real disk: restarts, damage, others who change it, and room.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::entries::{GRACE, GRACE_WHEN_FULL, State};
use super::record::{Attempt, Outcome};
use super::*;
use crate::store::{Kept, Module, Store};

const BUILD: &str = "0123456789abcdef";
const OLD: &str = "fedcba9876543210";

fn open(state: &Path) -> Cache {
    Cache::open(state, Some(BUILD.to_owned())).unwrap()
}

/// A module of 8 bytes and some custom sections.
fn module(cache: &Cache, sections: usize) -> Module {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    bytes.extend([0, 2, 1, b'x'].repeat(sections));
    match Store::new(cache.clone(), 1 << 20).keep(bytes.as_slice()).unwrap() {
        Kept::Module(module) => module,
        Kept::NotAModule(kind) => panic!("{kind:?}"),
    }
}

fn publish(cache: &Cache, module: &Module, build: &str, tier: Tier, bytes: &[u8]) -> PathBuf {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let attempt = |bytes, sha256| Attempt {
        ended: 0,
        outcome: Outcome::Compiled {
            bytes,
            peak_bytes: 0,
            sha256,
        },
        seconds: 1.0,
        tier,
    };
    let seen = cache
        .files()
        .publish(&module.digest, build, tier, &file, attempt)
        .unwrap();
    if cache.is_ours(build) {
        cache.set(&module.digest, tier, State::Ready { seen });
    }
    cache.files().native(&module.digest, build, tier)
}

fn is_ready(cache: &Cache, module: &Module) -> bool {
    matches!(cache.hand_out(&module.digest, ""), Compiled::Ready { .. })
}

/// In place, as a bad disk does, with the time put back.
fn damage(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut permissions = fs::metadata(path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "it is the test's own file")]
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(b"?").unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn pipes_and_links_are_not_waited_for_or_followed() {
    let state = tempfile::tempdir().unwrap();
    let at = |path: &str| state.path().join(path);
    let digest = module(&open(state.path()), 0).digest;
    let pipe = |path: &str| {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, at(path), kind, mode, 0).unwrap();
    };
    fs::remove_file(at(&format!("compiled/{digest}.json"))).ok();
    for path in ["incoming/pipe", "compiling/pipe", "compiling/pipe.lock"] {
        pipe(path);
    }
    pipe(&format!("modules/{}", "0".repeat(64)));
    pipe(&format!("compiled/{digest}.json"));
    std::os::unix::fs::symlink("/", at("incoming/link")).unwrap();
    let cache = open(state.path());
    assert!(cache.digests().contains(&digest));
    assert!(cache.files().about(&digest).names.is_empty());
    assert!(!at("incoming/pipe").exists(), "what nobody holds is thrown away");
    for odd in ["compiling/gone", "incoming/link", "modules"] {
        assert!(files::open_file(&at(odd)).is_err(), "{odd}");
    }
}

#[test]
fn native_code_is_run_after_a_restart_only_when_it_was_looked_at() {
    let state = tempfile::tempdir().unwrap();
    let cache = open(state.path());
    let module = module(&cache, 0);
    let native = publish(&cache, &module, BUILD, Tier::Fast, b"native");
    assert!(is_ready(&cache, &module));

    let cache = open(state.path());
    assert!(!native.exists() && !is_ready(&cache, &module));
    assert_eq!(
        cache.missing(&module.digest).0,
        [Tier::Optimised],
        "it is there, and will be looked at"
    );
    assert!(cache.sync().unwrap().is_empty());
    assert!(native.exists() && is_ready(&cache, &module));
}

#[test]
fn damaged_native_code_is_dropped_and_made_again() {
    let state = tempfile::tempdir().unwrap();
    let cache = open(state.path());
    let module = module(&cache, 0);
    let native = publish(&cache, &module, BUILD, Tier::Optimised, b"native");
    damage(&native);
    let cache = open(state.path());
    assert!(!native.exists(), "no engine sees it");
    assert_eq!(cache.sync().unwrap(), vec![module.digest.clone()]);
    assert!(!native.exists() && !is_ready(&cache, &module));
    assert_eq!(cache.missing(&module.digest).0, Tier::ALL);
}

#[test]
fn what_others_change_is_noticed() {
    let state = tempfile::tempdir().unwrap();
    let cache = open(state.path());
    let module = module(&cache, 0);
    let beside = Cache::beside(state.path(), Some(BUILD.to_owned())).unwrap();
    let native = publish(&beside, &module, BUILD, Tier::Fast, b"native");
    assert!(!is_ready(&cache, &module));
    cache.sync().unwrap();
    assert!(is_ready(&cache, &module), "another has compiled it");

    fs::remove_file(&native).unwrap();
    fs::write(&native, b"other").unwrap();
    assert_eq!(
        cache.sync().unwrap(),
        vec![module.digest.clone()],
        "another has replaced it"
    );
    assert!(!native.exists());

    publish(&cache, &module, BUILD, Tier::Fast, b"native");
    fs::remove_file(&native).unwrap();
    assert_eq!(
        cache.sync().unwrap(),
        vec![module.digest.clone()],
        "another has removed it"
    );

    beside.files().evict(&module.digest).unwrap();
    cache.sync().unwrap();
    assert_eq!(cache.hand_out(&module.digest, ""), Compiled::Evicted);
    assert_eq!(cache.size(), (0, 0));
}

#[test]
fn native_code_without_a_record_is_not_trusted() {
    let state = tempfile::tempdir().unwrap();
    let cache = open(state.path());
    let module = module(&cache, 0);
    let native = cache.files().native(&module.digest, BUILD, Tier::Fast);
    fs::write(&native, b"native").unwrap();
    cache.sync().unwrap();
    assert!(!native.exists());
    let record = state
        .path()
        .join(format!("compiled/{}-{BUILD}-fast.json", module.digest));
    publish(&cache, &module, BUILD, Tier::Fast, b"native");
    fs::write(record, "{\"outcome\": \"comp").unwrap();
    let cache = open(state.path());
    cache.sync().unwrap();
    assert!(!native.exists());
}

#[test]
fn room_is_made_from_what_is_not_used() {
    let state = tempfile::tempdir().unwrap();
    let cache = open(state.path());
    let [first, second, third] = [1, 2, 3].map(|sections| module(&cache, sections));
    let native = publish(&cache, &first, BUILD, Tier::Fast, &[7; 1000]);
    publish(&cache, &second, BUILD, Tier::Fast, &[7; 1000]);
    let none = HashSet::new();
    assert!(
        cache.evict(&none, &none, 0, GRACE).unwrap().is_empty(),
        "all were just handed out"
    );
    cache.sync().unwrap(); // writes down that they were used
    for (module, age) in [(&first, 3), (&second, 2), (&third, 1)] {
        let about = state.path().join(format!("compiled/{}.json", module.digest));
        let then = SystemTime::now() - Duration::from_secs(age);
        File::options()
            .append(true)
            .open(about)
            .unwrap()
            .set_modified(then)
            .unwrap();
    }

    let cache = open(state.path());
    cache.sync().unwrap();
    let only = |module: &Module| HashSet::from([module.digest.clone()]);
    let evicted = cache.evict(&only(&first), &none, 1500, GRACE).unwrap();
    assert_eq!(
        evicted.iter().map(|held| &held.digest).collect::<Vec<_>>(),
        [&second.digest]
    );
    assert!(native.exists() && !second.folder.exists() && third.folder.exists());
    assert_eq!(cache.size().1, 2);
    let left: Vec<_> = fs::read_dir(state.path().join("compiled")).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert_eq!(
        cache.evict(&none, &only(&first), 0, GRACE).unwrap().len(),
        1,
        "it is being worked on"
    );
    assert_eq!(cache.evict(&none, &none, 0, GRACE).unwrap().len(), 1);
    assert_eq!(cache.size(), (0, 0));
    assert!(
        fs::read_dir(state.path().join("incoming"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn what_was_handed_out_stays_for_a_while_and_has_a_name() {
    let state = tempfile::tempdir().unwrap();
    drop(module(&open(state.path()), 1));
    let cache = open(state.path());
    cache.sync().unwrap();
    let digest = cache.digests().into_iter().next().unwrap();
    cache.hand_out(&digest, "registry/app:1");
    cache.hand_out(&digest, "registry/app:1");
    let none = HashSet::new();
    for grace in [GRACE, GRACE_WHEN_FULL] {
        assert!(cache.evict(&none, &none, 0, grace).unwrap().is_empty());
    }
    cache.sync().unwrap();
    assert_eq!(
        open(state.path()).files().about(&digest).names,
        ["registry/app:1"]
    );
}

#[test]
fn other_builds_go_when_no_container_has_them() {
    let state = tempfile::tempdir().unwrap();
    let cache = open(state.path());
    let module = module(&cache, 0);
    let old = publish(&cache, &module, OLD, Tier::Fast, b"old");
    publish(&cache, &module, BUILD, Tier::Fast, b"native");
    let cache = open(state.path());
    cache.sync().unwrap();
    assert!(
        old.exists() && cache.has_old(),
        "engines that run may look for it"
    );
    assert_eq!(cache.size().0, 8 + 3 + 6);
    assert_eq!(
        cache.drop_old(&HashSet::from([module.digest.clone()])).unwrap(),
        0
    );
    assert_eq!(cache.drop_old(&HashSet::new()).unwrap(), 3);
    assert!(!old.exists() && is_ready(&cache, &module));
    cache.sync().unwrap();
    assert!(!cache.has_old());
}

#[test]
fn what_was_left_half_made_goes_unless_another_is_at_it() {
    let state = tempfile::tempdir().unwrap();
    let files = open(state.path()).files().clone();
    let digest = "0".repeat(64);
    let held = files.try_lock(&digest, Tier::Fast).unwrap().unwrap();
    for tier in Tier::ALL {
        fs::create_dir(files.work_folder(&digest, tier)).unwrap();
        fs::write(files.work_folder(&digest, tier).join("module.so"), "").unwrap();
    }
    open(state.path());
    assert!(files.work_folder(&digest, Tier::Fast).exists());
    assert!(!files.work_folder(&digest, Tier::Optimised).exists());
    assert!(files.try_lock(&digest, Tier::Fast).unwrap().is_none());
    drop(held);
    open(state.path());
    assert!(
        fs::read_dir(state.path().join("compiling"))
            .unwrap()
            .next()
            .is_none()
    );
}

//! podwasm's own parts: daemon, engine, compiler, state, policy.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use super::Findings;
use crate::doctor::catalog::{self, Area, Severity};
use crate::doctor::facts::{Compiler, Daemon, Engine, Facts, PolicyFile, PolicyProblem, StateFolder, Trial};
use crate::inspect::show::size;
use crate::policy::Policy;

/// Below this a module of some size does not fit.
const FULL_BYTES: u64 = 64 << 20;
/// How the module that is tried ends.
pub const TRIAL_CODE: i32 = 7;
/// How the engine ends after a trap.
pub const TRAP_CODE: i32 = 134;

pub fn daemons(facts: &Facts, findings: &mut Findings) {
    let daemons = match &facts.daemons {
        Ok(daemons) => daemons,
        Err(why) => return findings.unknown(Area::Daemon, why),
    };
    if daemons.is_empty() {
        return findings.problem(&catalog::DAEMON_DOWN, "there is no process `podwasm run`");
    }
    if daemons.len() > 1 {
        several(daemons, findings);
    }
    for found in daemons {
        daemon(facts, found, findings);
    }
}

fn several(daemons: &[Daemon], findings: &mut Findings) {
    let one = |daemon: &Daemon| {
        format!(
            "pid {} ({}, engine {})",
            daemon.pid, daemon.version, daemon.engine
        )
    };
    let seen = daemons.iter().map(one).collect::<Vec<_>>().join(", ");
    let agree = |pair: &[Daemon]| pair[0].version == pair[1].version && pair[0].engine == pair[1].engine;
    let known = daemons.iter().all(|daemon| !daemon.version.is_empty());
    if known && !daemons.windows(2).all(agree) {
        findings.problem(&catalog::DAEMONS_DISAGREE, seen);
    } else {
        findings.problem(&catalog::DAEMONS_MANY, seen);
    }
}

fn daemon(facts: &Facts, daemon: &Daemon, findings: &mut Findings) {
    let seen = format!("pid {} at {}", daemon.pid, daemon.http);
    match &daemon.ready {
        None => return findings.unknown(Area::Daemon, format!("{seen} was not asked")),
        Some(Err(why)) => return findings.problem(&catalog::DAEMON_SILENT, format!("{seen}: {why}")),
        Some(Ok(said)) if said.trim() == "ok" => {
            findings.ok(
                Area::Daemon,
                format!("podwasm {} is registered with NRI ({seen})", daemon.version),
            );
        }
        Some(Ok(said)) if said.contains("not registered") => {
            findings.problem(
                &catalog::DAEMON_NOT_REGISTERED,
                format!("{seen}: {}", one_line(said)),
            );
        }
        Some(Ok(said)) => findings.problem(&catalog::DAEMON_NOT_READY, format!("{seen}: {}", one_line(said))),
    }
    if !daemon.version.is_empty() && daemon.version != facts.version {
        let seen = format!("the daemon is {}, this is {}", daemon.version, facts.version);
        findings.problem(&catalog::DAEMON_OTHER_VERSION, seen);
    }
    if let Ok(version) = &facts.engine.version
        && !daemon.engine.is_empty()
        && daemon.engine != *version
    {
        let seen = format!(
            "the daemon knows engine {}, in {} is {version}",
            daemon.engine,
            facts.engine.folder.display()
        );
        findings.problem(&catalog::DAEMON_OTHER_ENGINE, seen);
    }
    if daemon.unobserved > 0 {
        findings.problem(
            &catalog::DAEMON_UNOBSERVED,
            format!("{} containers", daemon.unobserved),
        );
    }
}

fn one_line(said: &str) -> String {
    said.trim().replace('\n', "; ")
}

pub fn engine(engine: &Engine, findings: &mut Findings) {
    let folder = engine.folder.display();
    let version = match &engine.version {
        Ok(version) => version,
        Err(why) => return findings.problem(&catalog::ENGINE_MISSING, why),
    };
    match engine.is_whole {
        Some(false) => findings.problem(
            &catalog::ENGINE_DAMAGED,
            format!("{folder} is not version {version}, which it says it is"),
        ),
        Some(true) => findings.ok(Area::Engine, format!("{folder} is whole, version {version}")),
        None => findings.unknown(Area::Engine, format!("the files in {folder} could not be read")),
    }
    if engine.noexec {
        findings.problem(
            &catalog::ENGINE_NOEXEC,
            format!("{folder} is on a mount with noexec"),
        );
    }
    if !tried(&engine.ran, TRIAL_CODE, findings) {
        return;
    }
    match &engine.trapped {
        Trial::Ended {
            code: Some(TRAP_CODE),
            ..
        } => {
            findings.ok(
                Area::Engine,
                "it runs a module in an empty root file system; exit codes and traps come through",
            );
        }
        trial => findings.problem(
            &catalog::ENGINE_EXIT_CODES,
            format!("a trap gave {}, not {TRAP_CODE}", ended(trial)),
        ),
    }
    match &engine.native {
        Trial::NotTried(_) => {}
        Trial::Ended {
            code: Some(TRIAL_CODE),
            stderr,
            ..
        } if stderr.is_empty() => {
            findings.ok(Area::Engine, "it runs native code that was compiled here");
        }
        trial => findings.problem(&catalog::NATIVE_BROKEN, ended(trial)),
    }
}

/// Whether the first module ended as it should; if not, that is said.
fn tried(trial: &Trial, expected: i32, findings: &mut Findings) -> bool {
    match trial {
        Trial::NotTried(why) => findings.problem(&catalog::ENGINE_NOT_TRIED, why),
        Trial::Ended { code, stdout, .. } if *code == Some(expected) && stdout == "podwasm\n" => return true,
        Trial::Ended {
            code: Some(code),
            stdout,
            ..
        } if stdout == "podwasm\n" => {
            findings.problem(
                &catalog::ENGINE_EXIT_CODES,
                format!("a module that ends with {expected} gave {code}"),
            );
        }
        trial => findings.problem(&catalog::ENGINE_BROKEN, ended(trial)),
    }
    false
}

fn ended(trial: &Trial) -> String {
    match trial {
        Trial::Ended { code, stderr, .. } => {
            let code = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            if stderr.is_empty() {
                code
            } else {
                format!("{code}: {}", one_line(stderr))
            }
        }
        Trial::NotTried(why) | Trial::Unstartable(why) => why.clone(),
    }
}

pub fn compiler(compiler: &Compiler, findings: &mut Findings) {
    let folder = compiler.folder.display();
    match (&compiler.build, &compiler.compiled) {
        (Err(why), _) if !why.contains("is missing") => findings.problem(&catalog::COMPILER_BROKEN, why),
        (Err(why), _) => findings.problem(&catalog::COMPILER_MISSING, why),
        (Ok(_), Err(why)) => findings.problem(&catalog::COMPILER_BROKEN, why),
        (Ok(_), Ok(said)) if said.contains("Landlock") => {
            findings.problem(&catalog::COMPILER_NO_LANDLOCK, said);
        }
        (Ok(build), Ok(_)) => {
            let seen = format!("{folder} compiles, locked in by Landlock and seccomp; build {build}");
            findings.ok(Area::Compiler, seen);
        }
    }
}

pub fn state(facts: &Facts, findings: &mut Findings) {
    let folder = facts.state.folder.display().to_string();
    let found = match &facts.state.found {
        None => return findings.problem(&catalog::STATE_MISSING, format!("there is no {folder}")),
        Some(Err(why)) => return findings.unknown(Area::State, format!("{folder}: {why}")),
        Some(Ok(found)) => found,
    };
    let before = findings.0.len();
    if found.owner != 0 || found.mode & 0o077 != 0 {
        let seen = format!("{folder} belongs to user {}, mode {:o}", found.owner, found.mode);
        findings.problem_with(
            &catalog::STATE_OPEN,
            Severity::Fail,
            seen,
            catalog::STATE_OPEN.fix.replace("FOLDER", &folder),
        );
    }
    let cache_size = facts
        .policy
        .policy
        .as_ref()
        .map_or(0, |policy| policy.cache_size.to_units());
    room(&folder, found, cache_size, findings);
    if found.noexec {
        findings.problem(
            &catalog::STATE_NOEXEC,
            format!("{folder} is on a mount with noexec"),
        );
    }
    if !found.damaged.is_empty() {
        findings.problem(&catalog::CACHE_DAMAGED, found.damaged.join(", "));
    }
    if found.unread > 0 {
        findings.unknown(
            Area::State,
            format!("{} files could not be read in time", found.unread),
        );
    }
    if findings.0.len() == before {
        let seen = format!(
            "{folder}: {} modules, {}, all as they were put there",
            found.modules,
            size(found.used_bytes)
        );
        findings.ok(Area::State, seen);
    }
}

fn room(folder: &str, found: &StateFolder, cache_size: u64, findings: &mut Findings) {
    let free = size(found.free_bytes);
    match &found.write {
        _ if found.free_bytes < FULL_BYTES => {
            findings.problem(&catalog::STATE_FULL, format!("{free} free at {folder}"));
        }
        Some(Err(why)) => findings.problem(&catalog::STATE_UNWRITABLE, format!("{folder}: {why}")),
        None => findings.unknown(
            Area::State,
            format!("{folder}: whether it can be written to was not tried"),
        ),
        Some(Ok(())) if found.free_bytes < cache_size.saturating_sub(found.used_bytes) => {
            findings.problem(
                &catalog::STATE_TIGHT,
                format!(
                    "{free} free at {folder}, and the cache may grow to {}",
                    size(cache_size)
                ),
            );
        }
        Some(Ok(())) => {}
    }
}

pub fn policy(file: &PolicyFile, findings: &mut Findings) {
    match (&file.policy, &file.path) {
        (Err(PolicyProblem::Invalid(why)), _) => findings.problem(&catalog::POLICY_INVALID, why),
        (Err(PolicyProblem::Missing(why)), _) => findings.problem(&catalog::POLICY_MISSING, why),
        (Ok(_), None) => findings.ok(Area::Policy, "there is no file, so the defaults hold"),
        (Ok(policy), Some(path)) => {
            let changed = changed(policy);
            let changed = if changed.is_empty() {
                "nothing".to_owned()
            } else {
                changed.join(", ")
            };
            findings.ok(
                Area::Policy,
                format!("{} can be followed; it changes {changed}", path.display()),
            );
        }
    }
}

/// The keys that are not as they are by default.
fn changed(policy: &Policy) -> Vec<&'static str> {
    let default = Policy::default();
    let keys = [
        ("aot", policy.aot != default.aot),
        ("cache_size", policy.cache_size != default.cache_size),
        ("compile", policy.compile != default.compile),
        ("default_cpu", policy.default_cpu != default.default_cpu),
        ("default_memory", policy.default_memory != default.default_memory),
        ("handler", policy.handler != default.handler),
        ("max_drain", policy.max_drain != default.max_drain),
        (
            "max_module_size",
            policy.max_module_size != default.max_module_size,
        ),
        ("max_wait", policy.max_wait != default.max_wait),
        ("namespaces", policy.namespaces != default.namespaces),
        ("plugins", policy.plugins != default.plugins),
        ("preopens", policy.preopens != default.preopens),
        ("sockets", policy.sockets != default.sockets),
    ];
    keys.into_iter()
        .filter_map(|(key, is_changed)| is_changed.then_some(key))
        .collect()
}

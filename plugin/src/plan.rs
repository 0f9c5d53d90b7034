//! How a module is run: the pod's wishes within the node's policy.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use podwasm_engine::proposal::{self, Proposal};
use podwasm_engine::settings::{self as engine, MAX_PAGES, PAGE_BYTES};

use crate::annotation::{Aot, Limit, Preopens, Settings};
use crate::compiled::{Compiled, Runs};
use crate::decide::Refusal;
use crate::facts::{Facts, Limits, MountFact};
use crate::module::Outline;
use crate::policy::Policy;
use crate::store::Module;

/// What the engine takes besides the guest's memory and the module itself.
const ENGINE_BYTES: u64 = 8 << 20;
/// What loading a module for the interpreter takes, for each of its bytes; measured at 26 to 30.
const INTERPRETED_BYTES_PER_BYTE: u64 = 30;
/// The period that Kubernetes uses for CPU quotas.
pub const CPU_PERIOD_MICROSECONDS: u64 = 100_000;
/// A full core's shares, by which a CPU request arrives in a container's spec.
const SHARES_PER_CORE: u64 = 1024;
/// The kernel takes no smaller quota.
const MIN_QUOTA_MICROSECONDS: u64 = 1000;

/// How a module is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Limits that the container does not set itself.
    pub added: Limits,
    /// What the engine is told.
    pub engine: engine::Settings,
    /// What the container will run, as far as that is known now.
    pub runs: Runs,
}

/// Why a module is not run, for counting and for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// For counting.
    pub kind: Refusal,
    /// For the user.
    pub reason: String,
}

impl From<String> for Unfit {
    fn from(reason: String) -> Self {
        Self {
            kind: Refusal::Policy,
            reason,
        }
    }
}

/// The limits that a container gets, if it sets none itself. A limit that is asked for is never below `need` bytes; the policy's
/// leaves half of itself besides, so that a module which is large to load can still allocate.
pub fn limits(settings: &Settings, policy: &Policy, own: &Limits, need: u64) -> Limits {
    let memory = match (settings.memory, policy.default_memory) {
        (Some(Limit::Of(asked)), _) => Some(asked.to_units().max(need)),
        (None, Limit::Of(default)) => {
            let default = default.to_units();
            Some(default.max(need.saturating_add(default / 2)))
        }
        (Some(Limit::None), _) | (None, Limit::None) => None,
    };
    let cpu = match settings.cpu.unwrap_or(policy.default_cpu) {
        Limit::None => None,
        Limit::Of(quantity) => Some(quantity.to_thousandths()),
    };
    Limits {
        cpu_quota: cpu
            .filter(|_| own.cpu_quota.is_none())
            .map(|millis| quota(millis, own.cpu_shares)),
        cpu_shares: None,
        memory: memory.filter(|_| own.memory.is_none()),
    }
}

/// A limit below what the pod requests would contradict it.
fn quota(millis: u64, shares: Option<u64>) -> u64 {
    let requested_millis = shares.unwrap_or(0).saturating_mul(1000).div_ceil(SHARES_PER_CORE);
    let quota = millis
        .max(requested_millis)
        .saturating_mul(CPU_PERIOD_MICROSECONDS / 1000);
    quota.max(MIN_QUOTA_MICROSECONDS)
}

/// Fits what the pod asks for into the policy; the error says what cannot be had.
pub fn plan(
    facts: &Facts,
    settings: &Settings,
    policy: &Policy,
    module: &Module,
    compiled: &Compiled,
) -> Result<Plan, Unfit> {
    let native = native(settings, policy, compiled)?;
    let guest_minimum = module.outline.minimum_pages.saturating_mul(PAGE_BYTES);
    let own_need = ENGINE_BYTES + loaded_bytes(module, compiled, native.runs);
    let added = limits(
        settings,
        policy,
        &facts.limits,
        own_need.saturating_add(guest_minimum),
    );
    let memory = facts.limits.memory.or(added.memory);
    let engine = engine::Settings {
        compiled: native.build,
        drain: drain(settings, policy)?,
        memory_pages: memory.map_or(MAX_PAGES, |limit| {
            pages(limit, own_need, module.outline.minimum_pages)
        }),
        plugins: plugins(settings, policy)?,
        preopens: preopens(settings, policy, &facts.mounts)?,
        proposals: proposals(policy, &module.outline)?,
        sockets: sockets(settings, policy, &facts.env),
        wait: native.wait,
        ..engine::Settings::default()
    };
    Ok(Plan {
        added,
        engine,
        runs: native.runs,
    })
}

/// What the engine may run besides the module itself.
struct Native {
    build: Option<String>,
    runs: Runs,
    wait: Duration,
}

/// Whether native code is used, and how long it is waited for. A container that needs it is tried again until it is there.
fn native(settings: &Settings, policy: &Policy, compiled: &Compiled) -> Result<Native, Unfit> {
    let aot = settings.aot.unwrap_or(policy.aot);
    let wait = wait(settings, policy)?;
    let interpreted = Native {
        build: None,
        runs: Runs::Interpreted,
        wait: Duration::ZERO,
    };
    let required = |why: String| {
        Err(Unfit {
            kind: Refusal::NotCompiled,
            reason: format!("aot: required, but {why}"),
        })
    };
    match (aot, compiled) {
        (_, Compiled::Evicted) => Err(Unfit {
            kind: Refusal::Unreadable,
            reason: "the module has just left the node's cache; it is tried again".to_owned(),
        }),
        (Aot::Off, _) | (Aot::Auto, Compiled::Failed { .. } | Compiled::Off { .. }) => Ok(interpreted),
        (Aot::Required, Compiled::Failed { why }) => {
            required(format!("the module cannot be compiled: {why}"))
        }
        (Aot::Required, Compiled::Off { why }) => required(why.clone()),
        (Aot::Required, Compiled::Coming { .. }) => {
            required("the module is being compiled; it is tried again".to_owned())
        }
        (Aot::Auto, Compiled::Coming { build }) => Ok(Native {
            build: Some(build.clone()),
            runs: if wait.is_zero() {
                Runs::Interpreted
            } else {
                Runs::Waiting
            },
            wait,
        }),
        (_, Compiled::Ready { build, tier, .. }) => Ok(Native {
            build: Some(build.clone()),
            runs: Runs::Native(*tier),
            wait,
        }),
    }
}

fn wait(settings: &Settings, policy: &Policy) -> Result<Duration, String> {
    match settings.wait.unwrap_or(policy.max_wait) {
        wait if wait > policy.max_wait => Err(format!(
            "wait: {wait:?} is more than the {:?} that this node allows",
            policy.max_wait
        )),
        wait => Ok(wait),
    }
}

/// What the loaded module takes. Of native code all might be touched, and what is first touched by a container counts as its own.
fn loaded_bytes(module: &Module, compiled: &Compiled, runs: Runs) -> u64 {
    match (runs, compiled) {
        (Runs::Native(_), Compiled::Ready { bytes, .. }) => *bytes,
        _ => module.size.saturating_mul(INTERPRETED_BYTES_PER_BYTE),
    }
}

/// The guest's share of a memory limit. What a module has from the start it gets in any case: whether that fits is not
/// known before it is touched.
fn pages(limit: u64, own_need: u64, minimum_pages: u64) -> u32 {
    let pages = (limit.saturating_sub(own_need) / PAGE_BYTES).max(minimum_pages);
    u32::try_from(pages).unwrap_or(MAX_PAGES).min(MAX_PAGES)
}

fn drain(settings: &Settings, policy: &Policy) -> Result<Duration, String> {
    match settings.drain.unwrap_or_default() {
        drain if drain > policy.max_drain => Err(format!(
            "drain: {drain:?} is more than the {:?} that this node allows",
            policy.max_drain
        )),
        drain => Ok(drain),
    }
}

fn plugins(settings: &Settings, policy: &Policy) -> Result<Vec<String>, String> {
    let asked = settings.plugins.clone().unwrap_or_default();
    match asked.iter().find(|name| !policy.plugins.contains(name)) {
        None => Ok(asked),
        Some(name) if policy.plugins.is_empty() => Err(format!(
            "plugin '{name}' is not allowed on this node, nor is any other"
        )),
        Some(name) => Err(format!(
            "plugin '{name}' is not allowed on this node; allowed are {}",
            policy.plugins.join(", ")
        )),
    }
}

fn proposals(policy: &Policy, module: &Outline) -> Result<Vec<Proposal>, String> {
    let needed = &module.proposals;
    let refused: Vec<_> = needed
        .iter()
        .filter(|one| !policy.proposals.contains(one))
        .copied()
        .collect();
    if refused.is_empty() {
        return Ok(needed.clone());
    }
    if refused.contains(&Proposal::Memory64) {
        return Err("the module has a 64-bit memory (memory64), which WasmEdge 0.14.1 cannot run".to_owned());
    }
    let allowed = match &*policy.proposals {
        [] => "none".to_owned(),
        allowed => proposal::list(allowed),
    };
    Err(format!(
        "the module uses {}, and of what goes beyond WebAssembly 2.0 this node's policy allows {allowed} (proposals)",
        proposal::list(&refused)
    ))
}

/// The annotation goes before WasmEdge's own variable, and that before the policy.
fn sockets(settings: &Settings, policy: &Policy, env: &[String]) -> bool {
    let variable = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("WASMEDGE_WASI_SOCKET="));
    let by_variable = variable.and_then(|value| value.to_ascii_lowercase().parse().ok());
    settings.sockets.or(by_variable).unwrap_or(policy.sockets)
}

fn preopens(
    settings: &Settings,
    policy: &Policy,
    mounts: &[MountFact],
) -> Result<Option<Vec<engine::Preopen>>, String> {
    if settings.preopens.unwrap_or(policy.preopens) == Preopens::All {
        return Ok(None);
    }
    mounts
        .iter()
        .filter(|mount| is_the_pods(&mount.destination))
        .map(preopen)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn preopen(mount: &MountFact) -> Result<engine::Preopen, String> {
    let can_be_told = |path: &&str| path.starts_with('/') && !path.contains('\n');
    let path = mount.destination.to_str().filter(can_be_told);
    let path =
        path.ok_or_else(|| format!("preopens: mounts cannot name '{}'", mount.destination.display()))?;
    Ok(engine::Preopen {
        path: path.to_owned(),
        read_only: mount.read_only,
    })
}

/// Mounts that every container has are no choice of the pod's.
fn is_the_pods(destination: &Path) -> bool {
    let every = ["/proc", "/sys", "/dev", "/.podwasm"];
    let files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].map(PathBuf::from);
    !every.iter().any(|folder| destination.starts_with(folder))
        && !files.iter().any(|file| file == destination)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled::Tier;
    use crate::facts::{Entrypoint, Runtime};
    use crate::quantity::Quantity;

    const MEBIBYTE: u64 = 1 << 20;

    fn module(size: u64, minimum_pages: u64) -> Module {
        let outline = Outline {
            minimum_pages,
            ..Outline::default()
        };
        Module {
            digest: "d".into(),
            folder: "/store/d".into(),
            outline,
            size,
        }
    }

    fn facts(limits: Limits) -> Facts {
        Facts {
            compiled: off(),
            crun_wasm: None,
            entrypoint: Entrypoint::Missing,
            env: Vec::new(),
            image: None,
            limits,
            mounts: Vec::new(),
            namespace: "default".into(),
            program: "/app.wasm".into(),
            runtime: Runtime::Oci {
                program: String::new(),
            },
            settings: Ok(Settings::default()),
            wanted_by_crun: None,
        }
    }

    fn planned(facts: &Facts, settings: &str, policy: &str, module: &Module) -> Result<Plan, String> {
        let settings: Settings =
            serde_saphyr::from_str(if settings.is_empty() { "{}" } else { settings }).unwrap();
        let plan = plan(
            facts,
            &settings,
            &Policy::parse(policy).unwrap(),
            module,
            &facts.compiled,
        );
        plan.map_err(|unfit| unfit.reason)
    }

    fn off() -> Compiled {
        Compiled::Off {
            why: "there is no compiler".into(),
        }
    }

    fn memory(own: Option<u64>, settings: &str, policy: &str, module: &Module) -> (Option<u64>, u32) {
        let plan = planned(
            &facts(Limits {
                memory: own,
                ..Limits::default()
            }),
            settings,
            policy,
            module,
        )
        .unwrap();
        (plan.added.memory, plan.engine.memory_pages)
    }

    #[test]
    fn a_module_gets_the_proposals_it_needs_and_no_others() {
        let needs = |proposals: &[Proposal]| Module {
            outline: Outline {
                proposals: proposals.to_vec(),
                ..Outline::default()
            },
            ..module(8, 1)
        };
        let check = |proposals: &[Proposal], policy: &str| {
            let plan = planned(&facts(Limits::default()), "", policy, &needs(proposals));
            plan.map(|plan| plan.engine.proposals)
        };
        let allowed = "proposals: [tail-call, gc]";
        assert_eq!(check(&[], allowed), Ok(vec![]));
        assert_eq!(
            check(&[Proposal::TailCall], allowed),
            Ok(vec![Proposal::TailCall])
        );
        let refused = |which: &str, allowed: &str| {
            Err(format!(
                "the module uses {which}, and of what goes beyond WebAssembly 2.0 this node's policy allows {allowed} (proposals)"
            ))
        };
        assert_eq!(check(&[Proposal::TailCall], ""), refused("tail-call", "none"));
        let three = [Proposal::MultiMemory, Proposal::TailCall, Proposal::Threads];
        assert_eq!(
            check(&three, allowed),
            refused("multi-memory, threads", "tail-call, gc")
        );
        let never = "the module has a 64-bit memory (memory64), which WasmEdge 0.14.1 cannot run";
        assert_eq!(check(&[Proposal::Memory64], allowed), Err(never.to_owned()));
    }

    #[test]
    fn a_container_without_a_memory_limit_gets_one() {
        let small = module(0, 2);
        assert_eq!(memory(None, "", "", &small), (Some(50 * MEBIBYTE), 42 * 16));
        assert_eq!(
            memory(None, "memory: 20Mi", "", &small),
            (Some(20 * MEBIBYTE), 12 * 16)
        );
        assert_eq!(memory(None, "memory: none", "", &small), (None, MAX_PAGES));
        assert_eq!(
            memory(None, "", "default_memory: none", &small),
            (None, MAX_PAGES)
        );
        assert_eq!(
            memory(None, "memory: 30Mi", "default_memory: none", &small),
            (Some(30 * MEBIBYTE), 22 * 16)
        );
    }

    #[test]
    fn a_limit_of_the_pods_own_stays() {
        assert_eq!(
            memory(Some(100 * MEBIBYTE), "memory: 20Mi", "", &module(0, 2)),
            (None, 92 * 16)
        );
        assert_eq!(memory(Some(4 * MEBIBYTE), "", "", &module(0, 17)), (None, 17));
        assert_eq!(
            memory(Some(u64::MAX / 2), "", "", &module(0, 2)),
            (None, MAX_PAGES)
        );
    }

    #[test]
    fn a_default_is_never_below_what_the_module_needs() {
        let large = module(4 * MEBIBYTE, 16 * 10);
        assert_eq!(
            memory(None, "", "", &large),
            (Some((8 + 120 + 10 + 25) * MEBIBYTE), 160 + 25 * 16)
        );
        assert_eq!(memory(None, "memory: 1Mi", "", &large).0, Some(138 * MEBIBYTE));
    }

    #[test]
    fn a_cpu_quota_is_added_where_there_is_none() {
        let quota = |own: Limits, settings: &str, policy: &str| {
            planned(&facts(own), settings, policy, &module(0, 0))
                .unwrap()
                .added
                .cpu_quota
        };
        let shares = |shares| Limits {
            cpu_shares: Some(shares),
            ..Limits::default()
        };
        assert_eq!(quota(Limits::default(), "", ""), Some(20_000));
        assert_eq!(quota(shares(2), "", ""), Some(20_000));
        assert_eq!(quota(shares(512), "", ""), Some(50_000));
        assert_eq!(
            quota(
                Limits {
                    cpu_quota: Some(5000),
                    ..Limits::default()
                },
                "cpu: 1",
                ""
            ),
            None
        );
        assert_eq!(quota(Limits::default(), "cpu: 1.5", ""), Some(150_000));
        assert_eq!(quota(Limits::default(), "cpu: none", ""), None);
        assert_eq!(quota(Limits::default(), "cpu: 1m", ""), Some(1000));
        assert_eq!(quota(Limits::default(), "", "default_cpu: none"), None);
    }

    #[test]
    fn sockets_follow_annotation_then_environment_then_policy() {
        let check = |variable: &str, settings: &str, policy: &str, expected: bool| {
            let env = if variable.is_empty() {
                vec![]
            } else {
                vec![format!("WASMEDGE_WASI_SOCKET={variable}")]
            };
            let facts = Facts {
                env,
                ..facts(Limits::default())
            };
            let plan = planned(&facts, settings, policy, &module(0, 0)).unwrap();
            assert_eq!(plan.engine.sockets, expected, "{variable} {settings} {policy}");
        };
        check("", "", "", true);
        check("", "", "sockets: false", false);
        check("true", "", "sockets: false", true);
        check("TRUE", "", "sockets: false", true);
        check("false", "", "", false);
        check("perhaps", "", "", true);
        check("true", "sockets: false", "", false);
        check("false", "sockets: true", "sockets: false", true);
    }

    #[test]
    fn what_the_policy_does_not_allow_is_said() {
        let check = |settings: &str, policy: &str, expected: &str| {
            let error = planned(&facts(Limits::default()), settings, policy, &module(0, 0)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "plugins: [a]",
            "",
            "plugin 'a' is not allowed on this node, nor is any other",
        );
        check(
            "plugins: [b, a]",
            "plugins: [b, c]",
            "plugin 'a' is not allowed on this node; allowed are b, c",
        );
        check(
            "drain: 2m",
            "",
            "drain: 120s is more than the 60s that this node allows",
        );
        check("aot: required", "", "aot: required, but there is no compiler");
        check(
            "wait: 4s",
            "",
            "wait: 4s is more than the 3s that this node allows",
        );
    }

    #[test]
    fn native_code_is_used_where_there_is_some_and_waited_for_where_there_is_none() {
        let build = || "0123456789abcdef".to_owned();
        let coming = || Compiled::Coming { build: build() };
        let failed = || Compiled::Failed {
            why: "it crashed".into(),
        };
        let ready = || Compiled::Ready {
            bytes: 6 * MEBIBYTE,
            build: build(),
            tier: Tier::Fast,
        };
        let check =
            |compiled: Compiled, settings: &str, policy: &str, expected: Result<(&str, &str), &str>| {
                let facts = Facts {
                    compiled,
                    ..facts(Limits::default())
                };
                let settings = format!("{{memory: none{settings}}}");
                let found = planned(&facts, &settings, policy, &module(MEBIBYTE, 0));
                let found = found.map(|plan| (plan.engine.to_string(), plan.runs.as_str()));
                let expected = expected.map(|(engine, runs)| (engine.to_owned(), runs));
                assert_eq!(found, expected.map_err(str::to_owned), "{settings} {policy}");
            };
        let waiting = "compiled=0123456789abcdef\nwait_ms=3000";
        check(coming(), "", "", Ok((waiting, "waiting")));
        check(ready(), "", "", Ok((waiting, "fast")));
        check(failed(), "", "", Ok(("", "interpreted")));
        check(off(), "", "", Ok(("", "interpreted")));
        check(ready(), ", aot: off", "", Ok(("", "interpreted")));
        check(ready(), "", "aot: off", Ok(("", "interpreted")));
        check(ready(), ", aot: auto", "aot: off", Ok((waiting, "fast")));
        let sooner = "compiled=0123456789abcdef\nwait_ms=500";
        check(coming(), ", wait: 500ms", "", Ok((sooner, "waiting")));
        let at_once = "compiled=0123456789abcdef";
        check(coming(), ", wait: 0s", "", Ok((at_once, "interpreted")));
        check(coming(), "", "max_wait: 0s", Ok((at_once, "interpreted")));
        check(ready(), ", aot: required", "", Ok((waiting, "fast")));
        let soon = "aot: required, but the module is being compiled; it is tried again";
        check(coming(), ", aot: required", "", Err(soon));
        check(coming(), "", "aot: required", Err(soon));
        let never = "aot: required, but the module cannot be compiled: it crashed";
        check(failed(), ", aot: required", "", Err(never));
        let gone = "the module has just left the node's cache; it is tried again";
        check(Compiled::Evicted, "", "", Err(gone));
        check(Compiled::Evicted, ", aot: off", "", Err(gone));
    }

    #[test]
    fn native_code_needs_less_memory() {
        let large = module(4 * MEBIBYTE, 16 * 10);
        let of = |compiled| {
            let facts = Facts {
                compiled,
                ..facts(Limits::default())
            };
            planned(&facts, "", "", &large).unwrap().added.memory.unwrap() / MEBIBYTE
        };
        let build = String::new;
        let tier = Tier::Optimised;
        assert_eq!(of(Compiled::Coming { build: build() }), 8 + 120 + 10 + 25);
        assert_eq!(
            of(Compiled::Ready {
                bytes: 20 * MEBIBYTE,
                build: build(),
                tier
            }),
            8 + 20 + 10 + 25
        );
    }

    #[test]
    fn preopens_can_be_the_mounts_alone() {
        let mount = |destination: &str, read_only| MountFact {
            destination: destination.into(),
            read_only,
            source: Some("/host".into()),
        };
        let mounts = vec![
            mount("/proc", false),
            mount("/dev/shm", false),
            mount("/etc/hosts", false),
            mount("/etc/app", true),
            mount("/data", false),
        ];
        let facts = Facts {
            mounts,
            ..facts(Limits::default())
        };
        let plan = planned(&facts, "preopens: mounts", "", &module(0, 0)).unwrap();
        let preopen = |path: &str, read_only| engine::Preopen {
            path: path.into(),
            read_only,
        };
        assert_eq!(
            plan.engine.preopens,
            Some(vec![preopen("/etc/app", true), preopen("/data", false)])
        );
        let plan = planned(&facts, "", "", &module(0, 0)).unwrap();
        assert_eq!(plan.engine.preopens, None);
        let plan = planned(&facts, "preopens: all", "preopens: mounts", &module(0, 0)).unwrap();
        assert_eq!(plan.engine.preopens, None);
    }

    #[test]
    fn defaults_need_not_be_told() {
        let facts = facts(Limits {
            memory: None,
            ..Limits::default()
        });
        let plan = planned(&facts, "memory: none", "", &module(0, 0)).unwrap();
        assert_eq!(plan.engine.to_string(), "");
        assert!(Quantity::units(1) > Quantity::thousandths(999));
    }
}

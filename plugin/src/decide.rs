//! What becomes of a container: the rules, in the order of their authority.
//!
//! Pure and total: the same [`Facts`] and [`Policy`] always give the same [`Decision`], and every decision says why.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};

use crate::adjust::ENGINE_FOLDER;
use crate::annotation::{Handler, Settings};
use crate::compiled::Compiled;
use crate::entrypoint::is_named_as_wasm;
use crate::facts::{Defect, Entrypoint, Facts, Limits, Runtime};
use crate::image::ImageFacts;
use crate::plan::{Plan, limits, plan};
use crate::policy::Policy;
use crate::store::Module;

/// Shims that run Wasm themselves begin so.
const WASM_SHIMS: [&str; 8] = [
    "io.containerd.lunatic.",
    "io.containerd.slight.",
    "io.containerd.spin.",
    "io.containerd.wamr.",
    "io.containerd.wasmedge.",
    "io.containerd.wasmer.",
    "io.containerd.wasmtime.",
    "io.containerd.wws.",
];

/// What becomes of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// crun's own Wasm handler runs it.
    Crun {
        /// Limits that the container does not set itself.
        added: Limits,
        /// Which rule said so.
        why: String,
    },
    /// The engine runs it.
    Engine {
        /// The path that the engine covers.
        cover: PathBuf,
        /// The module to run.
        module: Module,
        /// How to run it.
        plan: Box<Plan>,
        /// Which rule said so.
        why: String,
    },
    /// It is left exactly as it is.
    Native {
        /// Which rule said so.
        why: String,
    },
    /// It must not start.
    Refuse {
        /// A label for metrics.
        kind: Refusal,
        /// What the user reads in the pod's events.
        reason: String,
    },
    /// The Wasm shim that the pod has chosen runs it.
    Runtime {
        /// Limits that the container does not set itself.
        added: Limits,
        /// Which rule said so.
        why: String,
    },
}

/// Why containers are refused, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An annotation that cannot be followed.
    Annotation,
    /// A component, which the engine does not run.
    Component,
    /// A handler that this node cannot serve.
    Handler,
    /// What should be a module is not one.
    NotAModule,
    /// Native code was asked for, and there is none.
    NotCompiled,
    /// Something that the node's policy does not allow.
    Policy,
    /// What should be a module could not be looked at in time, or at all.
    Unreadable,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Annotation,
        Self::Component,
        Self::Handler,
        Self::NotAModule,
        Self::NotCompiled,
        Self::Policy,
        Self::Unreadable,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::Component => "component",
            Self::Handler => "handler",
            Self::NotAModule => "not_a_module",
            Self::NotCompiled => "not_compiled",
            Self::Policy => "policy",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The rules, first match wins.
pub fn decide(facts: &Facts, policy: &Policy) -> Decision {
    let settings = match &facts.settings {
        Ok(settings) => settings,
        Err(problem) => return refuse(Refusal::Annotation, problem.clone()),
    };
    by_annotation(settings)
        .or_else(|| by_runtime(facts, settings, policy))
        .or_else(|| by_bytes(facts, settings, policy))
        .unwrap_or_else(|| by_what_is_said(facts, settings))
}

/// What makes one expect a module, before or without looking at any bytes.
pub fn expectation(
    program: &str,
    settings: &Settings,
    wanted_by_crun: Option<&String>,
    image: Option<&ImageFacts>,
) -> Option<String> {
    match settings.handler {
        Some(Handler::Crun) => return Some("an annotation says handler: crun".to_owned()),
        Some(Handler::Engine) => return Some("an annotation says handler: engine".to_owned()),
        Some(Handler::None | Handler::Runtime) | None => {}
    }
    if let Some(annotation) = wanted_by_crun {
        return Some(format!("an annotation says {annotation}"));
    }
    if is_named_as_wasm(program) {
        return Some(format!("its entrypoint is named '{program}'"));
    }
    image.and_then(ImageFacts::says_wasm)
}

fn by_annotation(settings: &Settings) -> Option<Decision> {
    (settings.handler == Some(Handler::None)).then(|| native("an annotation says handler: none".to_owned()))
}

/// A pod that has chosen another runtime keeps it; one that runs Wasm is given what the pod asks for.
fn by_runtime(facts: &Facts, settings: &Settings, policy: &Policy) -> Option<Decision> {
    let insists = settings.handler == Some(Handler::Runtime);
    match &facts.runtime {
        Runtime::Oci { program } if insists => Some(refuse(
            Refusal::Handler,
            format!(
                "an annotation says handler: runtime, but the pod runs on {}",
                oci_name(program)
            ),
        )),
        Runtime::Oci { .. } => None,
        Runtime::Other { shim } if WASM_SHIMS.iter().any(|prefix| shim.starts_with(prefix)) => {
            Some(Decision::Runtime {
                added: limits(settings, policy, &facts.limits, 0),
                why: format!("the pod runs on {shim}"),
            })
        }
        Runtime::Other { shim } => Some(native(format!("the pod runs on {shim}"))),
    }
}

/// Bytes beat names: a program is native whatever the image says, a module is Wasm whatever its name.
fn by_bytes(facts: &Facts, settings: &Settings, policy: &Policy) -> Option<Decision> {
    match &facts.entrypoint {
        Entrypoint::Module { module, cover } => Some(by_handler(facts, settings, policy, module, cover)),
        Entrypoint::Native { path } => match settings.handler {
            Some(Handler::Crun | Handler::Engine) => {
                let expected = expectation(&facts.program, settings, None, None).unwrap_or_default();
                Some(not_a_module(format!(
                    "{} is a native program, though {expected}",
                    path.display()
                )))
            }
            Some(Handler::None | Handler::Runtime) | None => {
                Some(native(format!("{} is a native program", path.display())))
            }
        },
        Entrypoint::Unusable {
            path,
            defect: Defect::Component,
        } => Some(refuse(
            Refusal::Component,
            format!(
                "{path} is a component (component model), and this node runs core modules; \
                 build it for wasm32-wasip1"
            ),
        )),
        Entrypoint::Unusable {
            path,
            defect: Defect::Malformed { why },
        } => Some(not_a_module(format!(
            "{path} is not a whole WebAssembly module: {why}"
        ))),
        Entrypoint::Missing | Entrypoint::Mounted { .. } | Entrypoint::Unusable { .. } => None,
    }
}

fn by_handler(
    facts: &Facts,
    settings: &Settings,
    policy: &Policy,
    module: &Module,
    cover: &Path,
) -> Decision {
    let why = format!("{} is a WebAssembly module", cover.display());
    if !policy.namespaces.allow(&facts.namespace) {
        let reason = format!("{why}, and this node runs none in namespace {}", facts.namespace);
        return refuse(Refusal::Policy, reason);
    }
    match settings.handler.unwrap_or(policy.handler) {
        Handler::Crun => by_crun(facts, settings, policy, module, why),
        Handler::Engine | Handler::Runtime => by_engine(facts, settings, policy, module, cover, why),
        Handler::None => native(format!("{why}, and the node's policy says handler: none")),
    }
}

fn by_engine(
    facts: &Facts,
    settings: &Settings,
    policy: &Policy,
    module: &Module,
    cover: &Path,
    why: String,
) -> Decision {
    let intruder = facts
        .mounts
        .iter()
        .find(|mount| mount.destination.starts_with(ENGINE_FOLDER));
    if cover.starts_with(ENGINE_FOLDER) || intruder.is_some() {
        let place = intruder.map_or(cover, |mount| &mount.destination).display();
        return not_a_module(format!(
            "{place} is where the engine goes, and cannot be the image's or a volume's"
        ));
    }
    match plan(facts, settings, policy, module, &facts.compiled) {
        Ok(plan) => Decision::Engine {
            cover: cover.to_owned(),
            module: module.clone(),
            plan: Box::new(plan),
            why,
        },
        Err(unfit) => refuse(unfit.kind, unfit.reason),
    }
}

fn by_crun(facts: &Facts, settings: &Settings, policy: &Policy, module: &Module, why: String) -> Decision {
    let cannot = |reason: String| refuse(Refusal::Handler, format!("handler: crun cannot be had: {reason}"));
    match (&facts.runtime, &facts.crun_wasm) {
        (Runtime::Oci { program }, _) if !is_crun(program) => {
            cannot(format!("the pod runs on {}", oci_name(program)))
        }
        (_, Some(Err(reason))) => cannot(reason.clone()),
        _ if facts.image.as_ref().is_some_and(|image| image.artifact.is_some()) => {
            cannot("an OCI artifact has no files, in which crun could find the module".to_owned())
        }
        _ => {
            let interprets = Compiled::Off {
                why: "crun's handler interprets modules".to_owned(),
            };
            match plan(facts, settings, policy, module, &interprets) {
                Ok(plan) => Decision::Crun {
                    added: plan.added,
                    why,
                },
                Err(unfit) => refuse(unfit.kind, unfit.reason),
            }
        }
    }
}

/// Whether an OCI runtime's program is crun.
pub fn is_crun(program: &str) -> bool {
    let name = Path::new(program).file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("crun"))
}

fn oci_name(program: &str) -> &str {
    if program.is_empty() { "runc" } else { program }
}

/// What is neither a program nor a module is the runtime's to complain about, unless it should have
/// been a module: then nothing else may be started in its place.
fn by_what_is_said(facts: &Facts, settings: &Settings) -> Decision {
    match expectation(
        &facts.program,
        settings,
        facts.wanted_by_crun.as_ref(),
        facts.image.as_ref(),
    ) {
        None => native("nothing says that it is WebAssembly".to_owned()),
        Some(expected) => {
            let found = found_instead(&facts.entrypoint, &facts.program);
            not_a_module(format!("{found}, though {expected}"))
        }
    }
}

fn found_instead(entrypoint: &Entrypoint, program: &str) -> String {
    let (path, defect) = match entrypoint {
        Entrypoint::Missing => return format!("there is no '{program}' in the image"),
        Entrypoint::Module { cover, .. } => return format!("{} is a module", cover.display()),
        Entrypoint::Mounted { destination } => {
            return format!(
                "'{program}' lies in what is mounted at {}, which cannot be looked into",
                destination.display()
            );
        }
        Entrypoint::Native { path } => return format!("{} is a native program", path.display()),
        Entrypoint::Unusable { path, defect } => (path, defect),
    };
    match defect {
        Defect::Ambiguous { titles } => {
            format!(
                "{path} holds several modules ({}), none named '{program}'",
                titles.join(", ")
            )
        }
        Defect::Component => format!("{path} is a component"),
        Defect::Empty => format!("{path} is empty"),
        Defect::Malformed { why } => format!("{path} is not a whole WebAssembly module: {why}"),
        Defect::NotAFile { kind } => format!("{path} is a {kind}, not a regular file"),
        Defect::NotAProgram => format!("{path} is not a WebAssembly module"),
        Defect::TooLarge { limit } => format!("{path} has more than the {limit} bytes that this node allows"),
    }
}

fn native(why: String) -> Decision {
    Decision::Native { why }
}

fn not_a_module(reason: String) -> Decision {
    refuse(Refusal::NotAModule, reason)
}

fn refuse(kind: Refusal, reason: String) -> Decision {
    Decision::Refuse { kind, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::MountFact;
    use crate::image::ImageFacts;
    use crate::module::Outline;

    fn module() -> Entrypoint {
        let module = Module {
            digest: "d".into(),
            folder: "/store/d".into(),
            outline: Outline::default(),
            size: 8,
        };
        Entrypoint::Module {
            module,
            cover: "/app".into(),
        }
    }

    fn elf() -> Entrypoint {
        Entrypoint::Native { path: "/app".into() }
    }

    fn unusable(defect: Defect) -> Entrypoint {
        Entrypoint::Unusable {
            path: "/app.wasm".into(),
            defect,
        }
    }

    fn facts(program: &str, entrypoint: Entrypoint) -> Facts {
        Facts {
            compiled: Compiled::Off {
                why: "there is no compiler".into(),
            },
            crun_wasm: None,
            entrypoint,
            env: Vec::new(),
            image: Some(ImageFacts {
                platform: "linux/amd64".into(),
                ..ImageFacts::default()
            }),
            limits: Limits::default(),
            mounts: Vec::new(),
            namespace: "default".into(),
            program: program.into(),
            runtime: Runtime::Oci {
                program: String::new(),
            },
            settings: Ok(Settings::default()),
            wanted_by_crun: None,
        }
    }

    fn asking(handler: Handler, entrypoint: Entrypoint) -> Facts {
        let settings = Settings {
            handler: Some(handler),
            ..Settings::default()
        };
        Facts {
            settings: Ok(settings),
            ..facts("/app", entrypoint)
        }
    }

    fn on(runtime: &str, facts: Facts) -> Facts {
        let runtime = if runtime.starts_with("io.") {
            Runtime::Other { shim: runtime.into() }
        } else {
            let program = runtime.into();
            Runtime::Oci { program }
        };
        Facts { runtime, ..facts }
    }

    fn on_wasi(program: &str, entrypoint: Entrypoint) -> Facts {
        let image = ImageFacts {
            platform: "wasi/wasm".into(),
            ..ImageFacts::default()
        };
        Facts {
            image: Some(image),
            ..facts(program, entrypoint)
        }
    }

    /// `expected` is `native`, `engine`, `crun`, `runtime` or a part of the refusal's reason.
    fn check_with(policy: &str, facts: &Facts, expected: &str) {
        let found = match decide(facts, &Policy::parse(policy).unwrap()) {
            Decision::Crun { .. } => "crun".to_owned(),
            Decision::Engine { .. } => "engine".to_owned(),
            Decision::Native { .. } => "native".to_owned(),
            Decision::Refuse { reason, .. } => reason,
            Decision::Runtime { .. } => "runtime".to_owned(),
        };
        assert!(
            found.contains(expected),
            "{found:?} instead of {expected:?} for {facts:?}"
        );
    }

    fn check(facts: &Facts, expected: &str) {
        check_with("", facts, expected);
    }

    #[test]
    fn annotations_come_first() {
        check(&asking(Handler::None, module()), "native");
        check(&asking(Handler::Engine, module()), "engine");
        check(
            &asking(Handler::Engine, elf()),
            "/app is a native program, though an annotation says handler: engine",
        );
        check(
            &asking(Handler::Engine, Entrypoint::Missing),
            "there is no '/app' in the image, though an annotation",
        );
        let bad = Facts {
            settings: Err("annotation x: bad".into()),
            ..facts("/app", elf())
        };
        check(&bad, "annotation x: bad");
    }

    #[test]
    fn another_runtime_is_left_its_pods() {
        check(
            &on("io.containerd.kata.v2", facts("/app.wasm", module())),
            "native",
        );
        check(
            &on("io.containerd.kata.v2", on_wasi("/app.wasm", Entrypoint::Missing)),
            "native",
        );
        check(
            &on("io.containerd.wasmedge.v1", facts("/app.wasm", module())),
            "runtime",
        );
        check(
            &on("io.containerd.wasmtime.v1", asking(Handler::Runtime, module())),
            "runtime",
        );
        check(
            &asking(Handler::Runtime, module()),
            "an annotation says handler: runtime, but the pod runs on runc",
        );
        check(
            &on("/usr/bin/crun", asking(Handler::Runtime, elf())),
            "the pod runs on /usr/bin/crun",
        );
    }

    #[test]
    fn crun_runs_modules_where_it_can() {
        let asked = || on("/usr/bin/crun", asking(Handler::Crun, module()));
        check(&asked(), "crun");
        check(
            &Facts {
                crun_wasm: Some(Ok(())),
                ..asked()
            },
            "crun",
        );
        let without = Some(Err("it was built without Wasm".to_owned()));
        check(
            &Facts {
                crun_wasm: without,
                ..asked()
            },
            "handler: crun cannot be had: it was built without Wasm",
        );
        check(
            &asking(Handler::Crun, module()),
            "handler: crun cannot be had: the pod runs on runc",
        );
        let artifact = ImageFacts {
            artifact: Some(Vec::new()),
            ..ImageFacts::default()
        };
        check(
            &Facts {
                image: Some(artifact),
                ..asked()
            },
            "an OCI artifact has no files",
        );
        check(
            &on("crun", asking(Handler::Crun, elf())),
            "/app is a native program, though",
        );
        check_with("handler: crun", &on("crun", facts("/app", module())), "crun");
        check_with("handler: crun", &facts("/app", elf()), "native");
    }

    #[test]
    fn the_policy_bounds_what_is_run() {
        check_with("handler: none", &facts("/app", module()), "native");
        check_with("handler: none", &asking(Handler::Engine, module()), "engine");
        check_with(
            "namespaces: {except: [default]}",
            &facts("/app", module()),
            "this node runs none in namespace default",
        );
        check_with("namespaces: {except: [default]}", &facts("/app", elf()), "native");
        let settings = Settings {
            plugins: Some(vec!["x".into()]),
            ..Settings::default()
        };
        check(
            &Facts {
                settings: Ok(settings),
                ..facts("/app", module())
            },
            "plugin 'x' is not allowed",
        );
    }

    #[test]
    fn cruns_annotations_ask_for_wasm() {
        let wanted = |entrypoint| Facts {
            wanted_by_crun: Some("run.oci.handler=wasm".into()),
            ..facts("/app", entrypoint)
        };
        check(&wanted(module()), "engine");
        check(&wanted(elf()), "native");
        check(
            &wanted(Entrypoint::Missing),
            "though an annotation says run.oci.handler=wasm",
        );
    }

    #[test]
    fn bytes_beat_names() {
        check(&facts("/app.wasm", elf()), "native");
        check(&on_wasi("/app.wasm", elf()), "native");
        check(&facts("/app", module()), "engine");
        check(&facts("/app", unusable(Defect::Component)), "is a component");
        check(
            &facts("/app", unusable(Defect::Malformed { why: "cut".into() })),
            "not a whole WebAssembly module: cut",
        );
    }

    #[test]
    fn the_engines_place_is_taken() {
        let mount = |destination: &str| MountFact {
            destination: destination.into(),
            read_only: true,
            source: None,
        };
        let mounts = vec![mount("/data"), mount("/.podwasm/lib")];
        check(
            &Facts {
                mounts: mounts.clone(),
                ..facts("/app", module())
            },
            "/.podwasm/lib is where the engine goes",
        );
        check(
            &Facts {
                mounts,
                ..facts("/app", elf())
            },
            "native",
        );
    }

    #[test]
    fn what_should_be_a_module_is_refused_when_it_is_not() {
        for (defect, expected) in [
            (Defect::Empty, "/app.wasm is empty"),
            (Defect::NotAProgram, "/app.wasm is not a WebAssembly module"),
            (Defect::NotAFile { kind: "FIFO" }, "/app.wasm is a FIFO"),
            (Defect::TooLarge { limit: 7 }, "more than the 7 bytes"),
            (
                Defect::Ambiguous {
                    titles: vec!["a".into(), "b".into()],
                },
                "several modules (a, b)",
            ),
        ] {
            check(&facts("/app.wasm", unusable(defect.clone())), expected);
            check(&facts("/app", unusable(defect.clone())), "native");
            check(&on_wasi("/app", unusable(defect)), expected);
        }
        check(&facts("/app.wasm", Entrypoint::Missing), "there is no");
        check(&facts("/app", Entrypoint::Missing), "native");
        let mounted = Entrypoint::Mounted {
            destination: "/data".into(),
        };
        check(
            &facts("/data/app.wasm", mounted),
            "lies in what is mounted at /data",
        );
    }
}

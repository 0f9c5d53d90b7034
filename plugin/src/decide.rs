//! What becomes of a container: the rules, in the order of their authority.
//!
//! Pure and total: the same [`Facts`] always give the same [`Decision`], and every decision says why.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::PathBuf;

use crate::annotation::{Handler, Settings};
use crate::entrypoint::is_named_as_wasm;
use crate::facts::{Defect, Entrypoint, Facts, Runtime};
use crate::store::Module;

/// What becomes of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
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
    /// The engine runs it.
    Wasm {
        /// The module to run.
        module: Module,
        /// The path that the engine covers.
        cover: PathBuf,
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
    /// What should be a module is not one.
    NotAModule,
    /// What should be a module could not be looked at in time, or at all.
    Unreadable,
}

impl Refusal {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::Component => "component",
            Self::NotAModule => "not_a_module",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The rules, first match wins.
pub fn decide(facts: &Facts) -> Decision {
    let settings = match &facts.settings {
        Ok(settings) => settings,
        Err(problem) => {
            return Decision::Refuse {
                kind: Refusal::Annotation,
                reason: problem.clone(),
            };
        }
    };
    by_annotation(settings)
        .or_else(|| by_runtime(&facts.runtime))
        .or_else(|| by_bytes(facts, settings))
        .unwrap_or_else(|| by_what_is_said(facts, settings))
}

/// What makes one expect a module, before or without looking at any bytes.
pub fn expectation(
    program: &str,
    settings: &Settings,
    image: Option<&crate::image::ImageFacts>,
) -> Option<String> {
    if settings.handler == Some(Handler::Engine) {
        return Some("an annotation says handler: engine".to_owned());
    }
    if is_named_as_wasm(program) {
        return Some(format!("its entrypoint is named '{program}'"));
    }
    image.and_then(crate::image::ImageFacts::says_wasm)
}

fn by_annotation(settings: &Settings) -> Option<Decision> {
    (settings.handler == Some(Handler::None)).then(|| native("an annotation says handler: none"))
}

fn by_runtime(runtime: &Runtime) -> Option<Decision> {
    match runtime {
        Runtime::Oci { .. } => None,
        Runtime::Other { shim } => Some(native(&format!("the pod runs on {shim}"))),
    }
}

/// Bytes beat names: a program is native whatever the image says, a module is Wasm whatever its name.
fn by_bytes(facts: &Facts, settings: &Settings) -> Option<Decision> {
    match &facts.entrypoint {
        Entrypoint::Module { .. } if facts.intruder.is_some() => facts.intruder.as_ref().map(|intruder| {
            not_a_module(format!(
                "{} is where the engine goes, and cannot be the image's or a volume's",
                intruder.display()
            ))
        }),
        Entrypoint::Module { module, cover } => Some(Decision::Wasm {
            module: module.clone(),
            cover: cover.clone(),
            why: format!("{} is a WebAssembly module", cover.display()),
        }),
        Entrypoint::Native { path } if settings.handler == Some(Handler::Engine) => {
            Some(not_a_module(format!(
                "an annotation says handler: engine, but {} is a native program",
                path.display()
            )))
        }
        Entrypoint::Native { path } => Some(native(&format!("{} is a native program", path.display()))),
        Entrypoint::Unusable {
            path,
            defect: Defect::Component,
        } => Some(Decision::Refuse {
            kind: Refusal::Component,
            reason: format!(
                "{path} is a component (component model), and this node runs core modules; \
                 build it for wasm32-wasip1"
            ),
        }),
        Entrypoint::Unusable {
            path,
            defect: Defect::Malformed { why },
        } => Some(not_a_module(format!(
            "{path} is not a whole WebAssembly module: {why}"
        ))),
        Entrypoint::Missing | Entrypoint::Mounted { .. } | Entrypoint::Unusable { .. } => None,
    }
}

/// What is neither a program nor a module is the runtime's to complain about, unless it should have
/// been a module: then nothing else may be started in its place.
fn by_what_is_said(facts: &Facts, settings: &Settings) -> Decision {
    match expectation(&facts.program, settings, facts.image.as_ref()) {
        None => native("nothing says that it is WebAssembly"),
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
                "'{program}' lies in the volume at {}, not in the image",
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

fn native(why: &str) -> Decision {
    Decision::Native { why: why.to_owned() }
}

fn not_a_module(reason: String) -> Decision {
    Decision::Refuse {
        kind: Refusal::NotAModule,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            entrypoint,
            image: Some(ImageFacts {
                platform: "linux/amd64".into(),
                ..ImageFacts::default()
            }),
            intruder: None,
            program: program.into(),
            runtime: Runtime::Oci {
                program: String::new(),
            },
            settings: Ok(Settings::default()),
        }
    }

    fn asking(handler: Handler, entrypoint: Entrypoint) -> Facts {
        Facts {
            settings: Ok(Settings {
                handler: Some(handler),
            }),
            ..facts("/app", entrypoint)
        }
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

    /// `expected` is `native`, `wasm`, or a part of the refusal's reason.
    fn check(facts: &Facts, expected: &str) {
        let found = match decide(facts) {
            Decision::Native { .. } => "native".to_owned(),
            Decision::Refuse { reason, .. } => reason,
            Decision::Wasm { .. } => "wasm".to_owned(),
        };
        assert!(
            found.contains(expected),
            "{found:?} instead of {expected:?} for {facts:?}"
        );
    }

    #[test]
    fn annotations_come_first() {
        check(&asking(Handler::None, module()), "native");
        check(&asking(Handler::Engine, module()), "wasm");
        check(&asking(Handler::Engine, elf()), "but /app is a native program");
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
        let runtime = Runtime::Other {
            shim: "io.containerd.kata.v2".into(),
        };
        check(
            &Facts {
                runtime: runtime.clone(),
                ..facts("/app.wasm", module())
            },
            "native",
        );
        check(
            &Facts {
                runtime,
                ..on_wasi("/app.wasm", Entrypoint::Missing)
            },
            "native",
        );
    }

    #[test]
    fn bytes_beat_names() {
        check(&facts("/app.wasm", elf()), "native");
        check(&on_wasi("/app.wasm", elf()), "native");
        check(&facts("/app", module()), "wasm");
        check(&facts("/app", unusable(Defect::Component)), "is a component");
        check(
            &facts("/app", unusable(Defect::Malformed { why: "cut".into() })),
            "not a whole WebAssembly module: cut",
        );
    }

    #[test]
    fn the_engines_place_is_taken() {
        let intruder = Some(PathBuf::from("/.podwasm/lib"));
        check(
            &Facts {
                intruder: intruder.clone(),
                ..facts("/app", module())
            },
            "/.podwasm/lib is where the engine goes",
        );
        check(
            &Facts {
                intruder,
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
        check(&facts("/data/app.wasm", mounted), "lies in the volume at /data");
    }
}

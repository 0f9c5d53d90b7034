//! What a validator looks at: whether the sum of all plugins' adjustments still runs a container as podwasm decided.
//!
//! containerd 2.2 and later ask validators once all plugins have adjusted a container, and do not create it if one of them says no.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::Path;

use nri::api::{Adjustment, Container, Mount, PodSandbox, ValidateContainerAdjustmentRequest};
use tracing::warn;

use crate::adjust::{self, ENGINE_FOLDER, MODULE_FOLDER};

/// What became of podwasm's part of an adjustment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// There is none: podwasm left the container alone, or was not asked.
    Absent,
    /// There is one, but another plugin has taken away what it stands for.
    Broken(String),
    /// All is there.
    Whole,
}

/// Looks for podwasm's part.
///
/// Two instances of podwasm may each have set a part of it, as during a rolling update, so it is judged by what it says itself and not by
/// what this instance would have said.
pub fn mark(request: &ValidateContainerAdjustmentRequest) -> Mark {
    let (Some(container), Some(all)) = (&request.container, &request.adjust) else {
        return Mark::Absent;
    };
    let marker = adjust::marker();
    let lacks = match all.annotations.get(&marker).map(String::as_str) {
        None => return Mark::Absent,
        // The runtime carries out both, in any order.
        Some(_) if all.annotations.contains_key(&format!("-{marker}")) => Some(lost("podwasm's mark")),
        Some("engine") => lacks_engine(container, all),
        Some("crun") => lacks_crun(container, all),
        // Another runtime runs it, as its pod's runtime class says; nothing of that is podwasm's.
        Some("runtime") => None,
        Some(_) => Some(lost("podwasm's mark")),
    };
    match lacks {
        Some(lacks) => Mark::Broken(lacks),
        None => Mark::Whole,
    }
}

/// The container with the command that it was adjusted to.
pub fn as_executed(container: &Container, all: Option<&Adjustment>) -> Container {
    let mut container = container.clone();
    let words = all.map(|all| all.args.as_slice()).unwrap_or_default();
    // An empty word before it says that it replaces what another plugin has set.
    let words: Vec<_> = words.iter().skip_while(|word| word.is_empty()).cloned().collect();
    if !words.is_empty() {
        container.args = words;
    }
    container
}

/// Logs that a container is rejected, and says it as the runtime, and so the pod's events, do.
pub fn rejected(pod: &PodSandbox, container: &Container, reason: &str) -> String {
    let (namespace, name) = (&pod.namespace, &container.name);
    warn!(
        namespace,
        pod = pod.name,
        container = name,
        reason,
        "rejected as it was adjusted"
    );
    format!("podwasm: container '{name}': {reason}")
}

fn lost(what: &str) -> String {
    format!("another plugin has taken away {what}")
}

fn lacks_engine(container: &Container, all: &Adjustment) -> Option<String> {
    if as_executed(container, Some(all)).args.first() != container.args.first() {
        return Some("another plugin has changed what it executes".to_owned());
    }
    let Some(engine) = read_only_at(all, ENGINE_FOLDER) else {
        return Some(lost("the engine"));
    };
    let cover = all.annotations.get(&adjust::covered());
    let cover = cover.and_then(|cover| read_only_at(all, cover));
    let is_engines = |mount: &Mount| Path::new(&mount.source).parent() == Some(Path::new(&engine.source));
    if !cover.is_some_and(is_engines) {
        return Some(lost("the mount over its entrypoint"));
    }
    if read_only_at(all, MODULE_FOLDER).is_none() {
        return Some(lost("the mount of its module"));
    }
    let settings = podwasm_engine::settings::VARIABLE;
    let is_set = all.env.iter().any(|variable| variable.key == settings);
    (!is_set).then(|| lost("the engine's settings"))
}

fn lacks_crun(container: &Container, all: &Adjustment) -> Option<String> {
    let is_asked = adjust::CRUN_KEYS.iter().any(|key| {
        let value = all.annotations.get(*key).map(String::as_str);
        value.or_else(|| container.annotation(key)).is_some()
    });
    (!is_asked).then(|| "another plugin has taken away what crun's Wasm handler acts on".to_owned())
}

/// The last mount at this place, which is the one that is seen, if it cannot be written to.
fn read_only_at<'a>(all: &'a Adjustment, destination: &str) -> Option<&'a Mount> {
    let mounts = all.mounts.iter().rev();
    let mount = mounts
        .into_iter()
        .find(|mount| mount.destination == destination)?;
    mount.options.iter().any(|option| option == "ro").then_some(mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled::Runs;
    use crate::facts::Limits;
    use crate::module::Outline;
    use crate::plan::Plan;
    use crate::store::Module;

    fn container() -> Container {
        Container {
            name: "c".to_owned(),
            args: vec!["/bin/app".to_owned(), "serve".to_owned()],
            ..Container::default()
        }
    }

    fn routed() -> Adjustment {
        let bundle = adjust::Bundle {
            folder: "/opt/podwasm/engine".into(),
            plugins: "/opt/podwasm/plugins".into(),
            version: "v".into(),
        };
        let module = Module {
            digest: "abc".into(),
            folder: "/var/lib/podwasm/modules/abc".into(),
            outline: Outline::default(),
            size: 8,
        };
        let plan = Plan {
            added: Limits::default(),
            engine: podwasm_engine::settings::Settings::default(),
            runs: Runs::Waiting,
        };
        adjust::engine(&bundle, &module, Path::new("/bin/app"), &plan, &container())
    }

    fn judged(adjust: Option<Adjustment>) -> Mark {
        mark(&ValidateContainerAdjustmentRequest {
            container: Some(container()),
            adjust,
            ..ValidateContainerAdjustmentRequest::default()
        })
    }

    #[test]
    fn what_podwasm_adds_is_whole() {
        assert_eq!(judged(Some(routed())), Mark::Whole);
        let crun = adjust::crun(Limits::default(), &container());
        assert_eq!(judged(Some(crun)), Mark::Whole);
        let runtime = adjust::runtime(Limits::default(), &container());
        assert_eq!(judged(Some(runtime)), Mark::Whole);
    }

    #[test]
    fn without_the_marker_there_is_none() {
        assert_eq!(judged(None), Mark::Absent);
        let others = Adjustment::new().annotation("other.dev/marker", "engine");
        assert_eq!(judged(Some(others)), Mark::Absent);
    }

    #[test]
    fn whatever_is_taken_away_is_missed() {
        let without = |change: fn(&mut Adjustment)| {
            let mut all = routed();
            change(&mut all);
            judged(Some(all))
        };
        for (change, lacks) in [
            (
                (|all| all.mounts.retain(|mount| mount.destination != "/.podwasm")) as fn(&mut Adjustment),
                "the engine",
            ),
            (
                |all| all.mounts.retain(|mount| mount.destination != "/bin/app"),
                "entrypoint",
            ),
            (
                |all| all.mounts.push(Mount::bind("/host/evil", "/bin/app").read_only()),
                "entrypoint",
            ),
            (
                |all| {
                    all.mounts.retain(|mount| mount.destination != "/.podwasm/module");
                },
                "module",
            ),
            (
                |all| all.mounts.push(Mount::bind("/elsewhere", "/.podwasm/module")),
                "module",
            ),
            (
                |all| all.env.retain(|variable| variable.key != "PODWASM_SETTINGS"),
                "settings",
            ),
            (
                |all| all.args = vec![String::new(), "/bin/other".to_owned()],
                "what it executes",
            ),
        ] {
            match without(change) {
                Mark::Broken(said) => assert!(said.contains(lacks), "{said}: {lacks}"),
                other => panic!("{other:?}, not broken: {lacks}"),
            }
        }
    }

    #[test]
    fn a_mark_that_is_taken_away_or_changed_is_none() {
        let marker = adjust::marker();
        for (key, value) in [(format!("-{marker}"), ""), (marker, "other")] {
            let all = routed().annotation(key, value);
            assert!(matches!(judged(Some(all)), Mark::Broken(_)));
        }
    }

    #[test]
    fn what_is_executed_is_what_plugins_have_made_of_it() {
        let args = |all: Option<&Adjustment>| as_executed(&container(), all).args;
        assert_eq!(args(None), container().args);
        assert_eq!(args(Some(&Adjustment::new())), container().args);
        let replaced = Adjustment::new().replace_args(["/bin/sh", ""]);
        assert_eq!(args(Some(&replaced)), ["/bin/sh", ""]);
    }

    #[test]
    fn arguments_alone_may_change() {
        let mut all = routed();
        all.args = vec!["/bin/app".to_owned(), "other".to_owned()];
        assert_eq!(judged(Some(all)), Mark::Whole);
    }

    #[test]
    fn crun_without_its_annotations_would_run_something_else() {
        let mut all = adjust::crun(Limits::default(), &container());
        all.annotations.remove("run.oci.handler");
        all.annotations.remove("module.wasm.image/variant");
        assert!(matches!(judged(Some(all)), Mark::Broken(_)));
    }
}

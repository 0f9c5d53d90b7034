//! Turns what NRI says of a container into facts, and a decision into what NRI is to change.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};

use nri::api::{Adjustment, Container, LinuxResources, Mount, PodSandbox};

use crate::annotation::DOMAIN;
use crate::facts::{Limits, MountFact};
use crate::plan::{CPU_PERIOD_MICROSECONDS, Plan};
use crate::store::Module;

/// Where the engine's bundle is mounted in a container. The engine's own paths are built on it.
pub const ENGINE_FOLDER: &str = "/.podwasm";
/// Where a container's module is mounted.
pub const MODULE_FOLDER: &str = "/.podwasm/module";
/// Where the node's plugins are mounted.
const PLUGINS_FOLDER: &str = "/.podwasm/plugins";
/// Variables that change how a program is loaded, and so would change the engine instead of the guest. The
/// launcher (`engine/launch`) hides the same.
const LOADER_VARIABLES: [&str; 5] = ["GCONV_PATH=", "GLIBC_", "LD_", "LOCPATH=", "MALLOC_"];
/// The annotations that crun's Wasm handler acts on.
pub const CRUN_KEYS: [&str; 2] = ["module.wasm.image/variant", "run.oci.handler"];

/// The annotation that marks a routed container; its value is the handler.
pub fn marker() -> String {
    format!("{DOMAIN}/routed")
}

/// The annotation that says which path the engine covers.
pub fn covered() -> String {
    format!("{DOMAIN}/entrypoint")
}

/// A container's mounts, but for those that another instance of this plugin has just added.
pub fn mounts(container: &Container) -> Vec<MountFact> {
    let mut mounts: Vec<MountFact> = container.mounts.iter().map(mount).collect();
    if let Some(cover) = container.annotation(&covered()) {
        let added = [ENGINE_FOLDER, MODULE_FOLDER, PLUGINS_FOLDER, cover].map(Path::new);
        mounts.retain(|mount| !added.contains(&mount.destination.as_path()));
    }
    mounts
}

fn mount(mount: &Mount) -> MountFact {
    let is_bind = mount.r#type == "bind"
        || mount
            .options
            .iter()
            .any(|option| option == "bind" || option == "rbind");
    MountFact {
        destination: Path::new(&mount.destination).components().collect(),
        read_only: mount.options.iter().any(|option| option == "ro"),
        source: is_bind.then(|| PathBuf::from(&mount.source)),
    }
}

/// The limits that a container has before this plugin adds any.
pub fn limits(container: &Container) -> Limits {
    let resources = container
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let cpu = resources.and_then(|resources| resources.cpu.as_ref());
    let memory = resources.and_then(|resources| resources.memory.as_ref());
    Limits {
        cpu_quota: cpu
            .and_then(|cpu| cpu.quota.as_ref())
            .and_then(|quota| positive(quota.value)),
        cpu_shares: cpu.and_then(|cpu| cpu.shares.as_ref()).map(|shares| shares.value),
        memory: memory
            .and_then(|memory| memory.limit.as_ref())
            .and_then(|limit| positive(limit.value)),
    }
}

/// The annotation by which a pod asks crun's Wasm handler, if it does.
pub fn wanted_by_crun(pod: &PodSandbox, container: &Container) -> Option<String> {
    CRUN_KEYS.into_iter().find_map(|key| {
        let value = container.annotation(key).or_else(|| pod.annotation(key))?;
        let known = matches!(value, "compat" | "compat-smart" | "wasm" | "wasm-smart");
        known.then(|| format!("{key}={value}"))
    })
}

/// The engine's bundle, by its paths on the host.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder to mount.
    pub folder: PathBuf,
    /// The folder of plugins, a folder for each.
    pub plugins: PathBuf,
    /// One line that names this build.
    pub version: String,
}

impl Bundle {
    /// The program that goes over the entrypoint. With loader variables about, it is the one that
    /// hides them from the engine and keeps them for the guest.
    fn program(&self, env: &[String]) -> PathBuf {
        let is_loader_variable =
            |variable: &String| LOADER_VARIABLES.iter().any(|name| variable.starts_with(name));
        self.folder.join(if env.iter().any(is_loader_variable) {
            "launch"
        } else {
            "engine"
        })
    }
}

/// What makes the engine run `module` when the runtime starts `cover`.
///
/// Two instances of this plugin, as during a rolling update, have to agree instead of failing the container. So mounts and
/// variables are set with their removal markers; of annotations and limits, the second instance sees the first one's and adds
/// none.
pub fn engine(
    bundle: &Bundle,
    module: &Module,
    cover: &Path,
    plan: &Plan,
    container: &Container,
) -> Adjustment {
    let mut adjustment = Adjustment::new()
        .replace_mount(read_only(&bundle.folder, ENGINE_FOLDER))
        .replace_mount(read_only(&module.folder, MODULE_FOLDER))
        .replace_mount(read_only(
            &bundle.program(&container.env),
            &cover.to_string_lossy(),
        ))
        .replace_env(podwasm_engine::settings::VARIABLE, plan.engine.to_string());
    if !plan.engine.plugins.is_empty() {
        adjustment = adjustment.replace_mount(read_only(&bundle.plugins, PLUGINS_FOLDER));
    }
    // They would make crun run the engine as if it were the module.
    for key in CRUN_KEYS
        .into_iter()
        .filter(|key| container.annotations.contains_key(*key))
    {
        adjustment = adjustment.remove_annotation(key);
    }
    // It may have got better since the first instance looked, and then the two would not agree.
    let tier = (format!("{DOMAIN}/tier"), plan.runs.as_str().to_owned());
    let tier = (!container.annotations.contains_key(&tier.0)).then_some(tier);
    let annotations = [
        (marker(), "engine".to_owned()),
        (covered(), cover.to_string_lossy().into_owned()),
        (format!("{DOMAIN}/module"), format!("sha256:{}", module.digest)),
    ];
    let annotations = annotations.into_iter().chain(tier);
    with_limits(annotated(adjustment, container, annotations), plan.added)
}

/// What makes crun's own Wasm handler run the container.
pub fn crun(added: Limits, container: &Container) -> Adjustment {
    let annotations = [
        ("run.oci.handler".to_owned(), "wasm".to_owned()),
        ("module.wasm.image/variant".to_owned(), "compat".to_owned()),
        (marker(), "crun".to_owned()),
    ];
    with_limits(annotated(Adjustment::new(), container, annotations), added)
}

/// What a container of another Wasm runtime gets.
pub fn runtime(added: Limits, container: &Container) -> Adjustment {
    let annotations = [(marker(), "runtime".to_owned())];
    with_limits(annotated(Adjustment::new(), container, annotations), added)
}

/// Sets annotations, but for those that another instance of this plugin has just set alike: setting them again would fail the
/// container, and a removal marker beside the new value makes the runtime drop both now and then.
fn annotated(
    adjustment: Adjustment,
    container: &Container,
    annotations: impl IntoIterator<Item = (String, String)>,
) -> Adjustment {
    annotations
        .into_iter()
        .filter(|(key, value)| container.annotation(key) != Some(value))
        .fold(adjustment, |adjustment, (key, value)| {
            adjustment.annotation(key, value)
        })
}

fn with_limits(adjustment: Adjustment, added: Limits) -> Adjustment {
    if added == Limits::default() {
        return adjustment;
    }
    let mut resources = LinuxResources::new();
    if let Some(bytes) = added.memory {
        resources = resources.memory_limit(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    if let Some(quota) = added.cpu_quota {
        resources = resources
            .cpu_quota(i64::try_from(quota).unwrap_or(i64::MAX))
            .cpu_period(CPU_PERIOD_MICROSECONDS);
    }
    adjustment.resources(resources)
}

fn read_only(source: &Path, destination: &str) -> Mount {
    Mount::bind(source.to_string_lossy(), destination)
        .read_only()
        .option("nosuid")
        .option("nodev")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled::{Runs, Tier};
    use crate::module::Outline;
    use nri::api::{LinuxContainer, LinuxCpu, LinuxMemory};

    fn container(env: &[&str]) -> Container {
        Container {
            env: env.iter().map(ToString::to_string).collect(),
            ..Container::default()
        }
    }

    fn adjusted(plan: &Plan, container: &Container) -> Adjustment {
        let bundle = Bundle {
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
        engine(&bundle, &module, Path::new("/bin/app"), plan, container)
    }

    fn plain() -> Plan {
        Plan {
            added: Limits::default(),
            engine: podwasm_engine::settings::Settings::default(),
            runs: Runs::Waiting,
        }
    }

    fn sources(adjustment: &Adjustment) -> Vec<(&str, &str)> {
        let value = |mount: &&Mount| !mount.destination.starts_with('-');
        let pair = |mount| -> (&str, &str) {
            let mount: &Mount = mount;
            (&mount.source, &mount.destination)
        };
        adjustment.mounts.iter().filter(value).map(pair).collect()
    }

    #[test]
    fn three_mounts_settings_and_a_marker() {
        let adjustment = adjusted(&plain(), &container(&["PATH=/bin"]));
        let expected = [
            ("/opt/podwasm/engine", "/.podwasm"),
            ("/var/lib/podwasm/modules/abc", "/.podwasm/module"),
            ("/opt/podwasm/engine/engine", "/bin/app"),
        ];
        assert_eq!(sources(&adjustment), expected);
        assert_eq!(adjustment.annotations["wasm.noderesource.dev/routed"], "engine");
        assert_eq!(
            adjustment.annotations["wasm.noderesource.dev/module"],
            "sha256:abc"
        );
        let variables: Vec<_> = adjustment
            .env
            .iter()
            .map(|variable| variable.key.as_str())
            .collect();
        assert_eq!(variables, ["-PODWASM_SETTINGS", "PODWASM_SETTINGS"]);
        assert!(adjustment.linux.is_none());
    }

    #[test]
    fn every_mount_is_read_only_and_has_its_removal_marker() {
        let adjustment = adjusted(&plain(), &container(&[]));
        for mount in adjustment
            .mounts
            .iter()
            .filter(|mount| !mount.destination.starts_with('-'))
        {
            assert_eq!(mount.options, ["rbind", "ro", "nosuid", "nodev"]);
            let removal = format!("-{}", mount.destination);
            assert!(
                adjustment.mounts.iter().any(|mount| mount.destination == removal),
                "{removal}"
            );
        }
    }

    #[test]
    fn what_another_instance_has_added_is_not_the_pods() {
        let volume = Mount::bind("/host", "/data//volume/").read_only();
        let first = adjusted(&plain(), &container(&[]));
        let added = first
            .mounts
            .into_iter()
            .filter(|mount| !mount.destination.starts_with('-'));
        let seen = Container {
            annotations: first.annotations,
            mounts: std::iter::once(volume.clone()).chain(added).collect(),
            ..Container::default()
        };
        let fact = MountFact {
            destination: "/data/volume".into(),
            read_only: true,
            source: Some("/host".into()),
        };
        assert_eq!(mounts(&seen), std::slice::from_ref(&fact));
        let own = Container {
            mounts: vec![volume, Mount::tmpfs("/bin/app")],
            ..Container::default()
        };
        let tmpfs = MountFact {
            destination: "/bin/app".into(),
            read_only: false,
            source: None,
        };
        assert_eq!(mounts(&own), [fact, tmpfs]);
    }

    #[test]
    fn loader_variables_bring_the_launcher() {
        let program = |env: &[&str]| sources(&adjusted(&plain(), &container(env)))[2].0.to_owned();
        for variable in [
            "LD_PRELOAD=/x.so",
            "LD_AUDIT=",
            "GLIBC_TUNABLES=x",
            "MALLOC_ARENA_MAX=1",
            "LOCPATH=/x",
        ] {
            assert_eq!(
                program(&["A=1", variable]),
                "/opt/podwasm/engine/launch",
                "{variable}"
            );
        }
        assert_eq!(
            program(&["BUILD_LD_X=1", "LOCPATHS=1"]),
            "/opt/podwasm/engine/engine"
        );
    }

    #[test]
    fn a_second_instance_sets_no_annotation_again() {
        let first = adjusted(&plain(), &container(&[]));
        assert_eq!(first.annotations.len(), 4);
        assert_eq!(first.annotations["wasm.noderesource.dev/tier"], "waiting");
        let seen = Container {
            annotations: first.annotations,
            ..Container::default()
        };
        assert_eq!(adjusted(&plain(), &seen).annotations.len(), 0);
        let better = Plan {
            runs: Runs::Native(Tier::Fast),
            ..plain()
        };
        assert_eq!(adjusted(&better, &seen).annotations.len(), 0);
    }

    #[test]
    fn limits_are_read_and_added() {
        let resources = |quota, memory| LinuxResources {
            cpu: Some(LinuxCpu {
                quota: Some(i64::into(quota)),
                shares: Some(u64::into(512)),
                ..LinuxCpu::default()
            }),
            memory: Some(LinuxMemory {
                limit: Some(i64::into(memory)),
                ..LinuxMemory::default()
            }),
            ..LinuxResources::default()
        };
        let with = |quota, memory| Container {
            linux: Some(LinuxContainer {
                resources: Some(resources(quota, memory)),
                ..LinuxContainer::default()
            }),
            ..Container::default()
        };
        let found = limits(&with(5000, 1 << 20));
        assert_eq!(
            (found.cpu_quota, found.cpu_shares, found.memory),
            (Some(5000), Some(512), Some(1 << 20))
        );
        let found = limits(&with(-1, 0));
        assert_eq!((found.cpu_quota, found.memory), (None, None));
        assert_eq!(limits(&Container::default()), Limits::default());

        let added = Limits {
            cpu_quota: Some(20_000),
            memory: Some(50 << 20),
            ..Limits::default()
        };
        let adjustment = adjusted(&Plan { added, ..plain() }, &container(&[]));
        let resources = adjustment.linux.unwrap().resources.unwrap();
        assert_eq!(resources.memory.unwrap().limit.unwrap().value, 50 << 20);
        assert_eq!(resources.cpu.unwrap().quota.unwrap().value, 20_000);
    }

    #[test]
    fn cruns_annotations_are_understood_and_kept_from_crun() {
        let annotated = |key: &str, value: &str| Container {
            annotations: [(key.to_owned(), value.to_owned())].into(),
            ..Container::default()
        };
        let pod = PodSandbox::default();
        let wanted = |key, value| wanted_by_crun(&pod, &annotated(key, value));
        assert_eq!(
            wanted("run.oci.handler", "wasm").as_deref(),
            Some("run.oci.handler=wasm")
        );
        assert_eq!(
            wanted("module.wasm.image/variant", "compat-smart").as_deref(),
            Some("module.wasm.image/variant=compat-smart")
        );
        assert_eq!(wanted("run.oci.handler", "krun"), None);
        let adjustment = adjusted(&plain(), &annotated("run.oci.handler", "wasm"));
        assert!(adjustment.annotations.contains_key("-run.oci.handler"));
        assert!(!adjustment.annotations.contains_key("-module.wasm.image/variant"));
        let adjustment = super::crun(Limits::default(), &Container::default());
        assert_eq!(adjustment.annotations["run.oci.handler"], "wasm");
    }

    #[test]
    fn plugins_are_mounted_when_asked_for() {
        let mut plan = plain();
        plan.engine.plugins = vec!["x".into()];
        let adjustment = adjusted(&plan, &container(&[]));
        assert_eq!(
            sources(&adjustment)[3],
            ("/opt/podwasm/plugins", "/.podwasm/plugins")
        );
        assert_eq!(adjustment.env[1].value, "plugin=x");
    }
}

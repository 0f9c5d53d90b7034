//! Turns a decision into what NRI changes in a container.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};

use nri::api::{Adjustment, Container, Mount};

use crate::annotation::DOMAIN;
use crate::store::Module;

/// Where the engine's bundle is mounted in a container. The engine's own paths are built on it.
pub const ENGINE_FOLDER: &str = "/.podwasm";
/// Where a container's module is mounted.
const MODULE_FOLDER: &str = "/.podwasm/module";
/// Variables that change how a program is loaded, and so would change the engine instead of the guest.
const LOADER_VARIABLES: [&str; 3] = ["GLIBC_TUNABLES=", "LD_", "MALLOC_"];

/// The annotation that marks a routed container; its value is the handler.
pub fn marker() -> String {
    format!("{DOMAIN}/routed")
}

/// The annotation that says which path the engine covers.
fn covered() -> String {
    format!("{DOMAIN}/entrypoint")
}

/// Where a container's mounts are, but for those that another instance of this plugin has just added.
pub fn destinations(container: &Container) -> Vec<PathBuf> {
    let mut destinations: Vec<PathBuf> = container.mounts.iter().map(destination).collect();
    if let Some(cover) = container.annotation(&covered()) {
        let added = [ENGINE_FOLDER, MODULE_FOLDER, cover].map(Path::new);
        destinations.retain(|destination| !added.contains(&destination.as_path()));
    }
    destinations
}

/// Without slashes at the end and in a row.
fn destination(mount: &Mount) -> PathBuf {
    Path::new(&mount.destination).components().collect()
}

/// The engine's bundle, by its paths on the host.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder to mount.
    pub folder: PathBuf,
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
/// Every key is set with its removal marker, so that two instances of this plugin, as during a rolling
/// update, agree instead of failing the container.
pub fn adjust(bundle: &Bundle, module: &Module, cover: &Path, env: &[String]) -> Adjustment {
    Adjustment::new()
        .replace_mount(read_only(&bundle.folder, ENGINE_FOLDER))
        .replace_mount(read_only(&module.folder, MODULE_FOLDER))
        .replace_mount(read_only(&bundle.program(env), &cover.to_string_lossy()))
        .replace_annotation(marker(), "engine")
        .replace_annotation(covered(), cover.to_string_lossy())
        .replace_annotation(format!("{DOMAIN}/module"), format!("sha256:{}", module.digest))
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
    use crate::module::Outline;

    fn adjusted(env: &[&str]) -> Adjustment {
        let bundle = Bundle {
            folder: "/opt/podwasm/engine".into(),
            version: "v".into(),
        };
        let module = Module {
            digest: "abc".into(),
            folder: "/var/lib/podwasm/modules/abc".into(),
            outline: Outline::default(),
            size: 8,
        };
        let env: Vec<_> = env.iter().map(ToString::to_string).collect();
        adjust(&bundle, &module, Path::new("/bin/app"), &env)
    }

    fn mounts(adjustment: &Adjustment) -> Vec<(&str, &str)> {
        let value = |mount: &&Mount| !mount.destination.starts_with('-');
        adjustment
            .mounts
            .iter()
            .filter(value)
            .map(|m| (m.source.as_str(), m.destination.as_str()))
            .collect()
    }

    #[test]
    fn three_mounts_and_a_marker() {
        let adjustment = adjusted(&["PATH=/bin"]);
        let expected = [
            ("/opt/podwasm/engine", "/.podwasm"),
            ("/var/lib/podwasm/modules/abc", "/.podwasm/module"),
            ("/opt/podwasm/engine/engine", "/bin/app"),
        ];
        assert_eq!(mounts(&adjustment), expected);
        assert_eq!(adjustment.annotations["wasm.noderesource.dev/routed"], "engine");
        assert_eq!(
            adjustment.annotations["wasm.noderesource.dev/module"],
            "sha256:abc"
        );
    }

    #[test]
    fn every_mount_is_read_only_and_has_its_removal_marker() {
        for mount in adjusted(&[]).mounts {
            if mount.destination.starts_with('-') {
                continue;
            }
            assert_eq!(mount.options, ["rbind", "ro", "nosuid", "nodev"]);
            let removal = format!("-{}", mount.destination);
            assert!(
                adjusted(&[])
                    .mounts
                    .iter()
                    .any(|mount| mount.destination == removal),
                "{removal}"
            );
        }
    }

    #[test]
    fn what_another_instance_has_added_is_not_the_pods() {
        let volume = Mount::bind("/host", "/data//volume/");
        let first = adjusted(&[]);
        let mounts = first
            .mounts
            .into_iter()
            .filter(|mount| !mount.destination.starts_with('-'));
        let seen = Container {
            annotations: first.annotations,
            mounts: std::iter::once(volume.clone()).chain(mounts).collect(),
            ..Container::default()
        };
        assert_eq!(destinations(&seen), [PathBuf::from("/data/volume")]);
        let own = Container {
            mounts: vec![volume, Mount::tmpfs("/bin/app")],
            ..Container::default()
        };
        assert_eq!(
            destinations(&own),
            [PathBuf::from("/data/volume"), PathBuf::from("/bin/app")]
        );
    }

    #[test]
    fn loader_variables_bring_the_launcher() {
        for variable in [
            "LD_PRELOAD=/x.so",
            "LD_LIBRARY_PATH=/lib",
            "LD_AUDIT=",
            "GLIBC_TUNABLES=x",
            "MALLOC_ARENA_MAX=1",
        ] {
            assert_eq!(
                mounts(&adjusted(&["A=1", variable]))[2].0,
                "/opt/podwasm/engine/launch",
                "{variable}"
            );
        }
        assert_eq!(
            mounts(&adjusted(&["BUILD_LD_X=1"]))[2].0,
            "/opt/podwasm/engine/engine"
        );
    }
}

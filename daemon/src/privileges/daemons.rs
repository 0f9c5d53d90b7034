//! What each of podwasm's daemons needs. The chart gives no more, and no kernel's feature is used that is not for one of these.

use std::path::Path;

use rustix::thread::CapabilitySet;

use super::{Calls, Files, Needs};

/// The exporter.
///
/// `SYS_ADMIN`: to enter a pod's network namespace, and to load the filter. `NET_RAW`: for the socket there. `NET_ADMIN`: for a buffer that holds
/// what comes between two looks. It writes no file, starts no program and opens no connection but that to NRI's socket: scalers come to it.
pub fn exporter() -> Needs {
    Needs {
        calls: Calls {
            looks_into_pods: true,
            ..Calls::default()
        },
        capabilities: CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN,
        files: Files::default(),
        in_effect: true,
    }
}

/// The front of the plugin's daemon, which needs none of its capabilities itself: they are for workers.
///
/// `SYS_ADMIN`: overlayfs marks folders that hide what lies below with trusted attributes, which nobody else is shown. `DAC_READ_SEARCH`: files in
/// images belong to anyone. `SYS_NICE`: what answers containerd comes before all else on a busy node. The others start each compiler as a user of its own, give it a folder, end it, and clear up after it.
///
/// `/proc` is written to when a compiler is made the first to go where memory runs out. Over TCP it connects to nothing but the Kubernetes API,
/// and only where it was told to ask that.
pub fn plugin(state: &Path, asks_kubernetes: bool) -> Needs {
    Needs {
        calls: Calls {
            starts_programs: true,
            ..Calls::default()
        },
        capabilities: CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::KILL
            | CapabilitySet::SETGID
            | CapabilitySet::SETUID
            | CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_NICE,
        files: Files {
            connects: asks_kubernetes,
            written: vec!["/dev/null".into(), "/proc".into(), state.to_owned()],
        },
        in_effect: false,
    }
}

/// The scaler: it asks exporters, and answers.
pub fn scaler() -> Needs {
    Needs {
        calls: Calls::default(),
        capabilities: CapabilitySet::empty(),
        files: Files {
            connects: true,
            ..Files::default()
        },
        in_effect: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What a container's manifest gives it, for each distribution.
    fn given(container: &str) -> Vec<(String, CapabilitySet)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rendered");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for object in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                let containers = &object["spec"]["template"]["spec"]["containers"];
                for found_container in containers.as_array().into_iter().flatten() {
                    if found_container["name"] == container {
                        let context = &found_container["securityContext"];
                        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
                        assert_eq!(context["allowPrivilegeEscalation"], false);
                        let added = context["capabilities"]["add"].as_array().into_iter().flatten();
                        let added =
                            added.map(|name| CapabilitySet::from_name(name.as_str().unwrap()).unwrap());
                        found.push((path.display().to_string(), added.collect()));
                    }
                }
            }
        }
        found
    }

    #[test]
    fn the_chart_gives_exactly_what_is_kept() {
        for (container, needs) in [
            ("exporter", exporter()),
            ("podwasm", plugin(Path::new("/var/lib/podwasm"), false)),
            ("scaler", scaler()),
        ] {
            let given = given(container);
            assert!(given.len() > 5, "{container} is in {} manifests", given.len());
            for (path, capabilities) in given {
                assert_eq!(capabilities, needs.capabilities, "{container} in {path}");
            }
        }
    }
}

//! Where Kubernetes distributions keep containerd, and how it is configured and restarted there.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};

/// Who runs containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// k0s.
    K0s,
    /// K3s.
    K3s,
    /// MicroK8s.
    MicroK8s,
    /// The machine's own package.
    Plain,
    /// RKE2, which has its socket where K3s has it.
    Rke2,
}

/// The sockets that are looked for, in this order.
pub const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];

impl Distribution {
    /// Whose socket that is. K3s and RKE2 share one; `has_rke2` says whether RKE2's folder is there.
    pub fn of(socket: &Path, has_rke2: bool) -> Self {
        let socket = socket.to_string_lossy();
        let socket = socket
            .strip_prefix("/var")
            .filter(|rest| rest.starts_with("/run/"))
            .unwrap_or(&socket);
        match socket {
            "/run/k3s/containerd/containerd.sock" if has_rke2 => Self::Rke2,
            "/run/k3s/containerd/containerd.sock" => Self::K3s,
            "/run/k0s/containerd.sock" => Self::K0s,
            "/var/snap/microk8s/common/run/containerd.sock" => Self::MicroK8s,
            _ => Self::Plain,
        }
    }

    /// The configuration that containerd reads.
    pub fn config(self) -> &'static str {
        match self {
            Self::K0s => "/etc/k0s/containerd.toml",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            Self::MicroK8s => "/var/snap/microk8s/current/args/containerd.toml",
            Self::Plain => "/etc/containerd/config.toml",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        }
    }

    /// What restarts containerd. Pods go on running.
    pub fn restart(self) -> &'static str {
        match self {
            Self::K0s => "systemctl restart k0sworker   # or k0scontroller",
            Self::K3s => "systemctl restart k3s   # or k3s-agent",
            Self::MicroK8s => "snap restart microk8s.daemon-containerd",
            Self::Plain => "systemctl restart containerd",
            Self::Rke2 => "systemctl restart rke2-agent   # or rke2-server",
        }
    }

    /// How it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::K0s => "k0s",
            Self::K3s => "K3s",
            Self::MicroK8s => "MicroK8s",
            Self::Plain => "containerd",
            Self::Rke2 => "RKE2",
        }
    }

    /// What switches NRI on: commands to paste.
    pub fn switch_nri_on(self, config: &ConfigFile) -> String {
        let restart = self.restart();
        if config.has_nri_section && !matches!(self, Self::K3s | Self::Rke2) {
            let path = config.path.display();
            return format!(
                "sed -i '/io.containerd.nri.v1.nri/,/^ *\\[/ s/disable = true/disable = false/' {path}\n{restart}"
            );
        }
        match self {
            // The generated file is written anew at each start; the template is not.
            Self::K3s | Self::Rke2 => {
                let folder = Path::new(self.config())
                    .parent()
                    .unwrap_or(Path::new("/"))
                    .display();
                format!(
                    "printf '%s\\n' '{{{{ template \"base\" . }}}}' '{SECTION}' '{SETTING}' > {folder}/config.toml.tmpl\n{restart}\n\
                     (if there is a config.toml.tmpl already, add the last two lines to it instead)"
                )
            }
            Self::K0s => append("/etc/k0s/containerd.d/podwasm-nri.toml", true, restart),
            Self::MicroK8s => append(
                "/var/snap/microk8s/current/args/containerd-template.toml",
                false,
                restart,
            ),
            Self::Plain => match config
                .imports
                .as_deref()
                .and_then(|imports| imports.strip_suffix("/*.toml"))
            {
                Some(folder) => append(&format!("{folder}/podwasm-nri.toml"), true, restart),
                None => append(&config.path.to_string_lossy(), !config.exists, restart),
            },
        }
    }
}

fn append(file: &str, with_version: bool, restart: &str) -> String {
    let version = if with_version { "'version = 2' " } else { "" };
    let folder = Path::new(file).parent().unwrap_or(Path::new("/")).display();
    format!("mkdir -p {folder}\nprintf '%s\\n' {version}'{SECTION}' '{SETTING}' >> {file}\n{restart}")
}

/// What is known of containerd's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Whether it is there.
    pub exists: bool,
    /// Whether it has a section about NRI.
    pub has_nri_section: bool,
    /// Where it takes further files from, if it does: a path with a wildcard.
    pub imports: Option<String>,
}

const SECTION: &str = "[plugins.\"io.containerd.nri.v1.nri\"]";
const SETTING: &str = "  disable = false";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_tell_distributions() {
        let check = |socket: &str, has_rke2, expected| {
            assert_eq!(
                Distribution::of(Path::new(socket), has_rke2),
                expected,
                "{socket}"
            );
        };
        check("/run/containerd/containerd.sock", false, Distribution::Plain);
        check(
            "/var/run/k3s/containerd/containerd.sock",
            false,
            Distribution::K3s,
        );
        check("/run/k3s/containerd/containerd.sock", true, Distribution::Rke2);
        check("/run/k0s/containerd.sock", false, Distribution::K0s);
        check(
            "/var/snap/microk8s/common/run/containerd.sock",
            false,
            Distribution::MicroK8s,
        );
        for socket in SOCKETS {
            Distribution::of(Path::new(socket), false);
        }
    }

    #[test]
    fn nri_is_switched_on_where_the_node_reads_it() {
        let check = |distribution: Distribution, change: fn(&mut ConfigFile), expected: &[&str]| {
            let mut config = ConfigFile {
                path: distribution.config().into(),
                exists: true,
                ..ConfigFile::default()
            };
            change(&mut config);
            let text = distribution.switch_nri_on(&config);
            assert!(text.contains("io.containerd.nri.v1.nri"), "{text}");
            for part in expected {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
        };
        let plain = Distribution::Plain;
        check(
            plain,
            |_| (),
            &[
                "\\n' '[plugins",
                ">> /etc/containerd/config.toml\nsystemctl restart containerd",
            ],
        );
        check(plain, |config| config.exists = false, &["'version = 2'"]);
        let importing =
            |config: &mut ConfigFile| config.imports = Some("/etc/containerd/conf.d/*.toml".to_owned());
        check(
            plain,
            importing,
            &["'version = 2'", ">> /etc/containerd/conf.d/podwasm-nri.toml"],
        );
        // A second section of the same name would keep containerd from starting.
        check(
            plain,
            |config| config.has_nri_section = true,
            &["sed -i", "/etc/containerd/config.toml"],
        );
        check(
            Distribution::K3s,
            |_| (),
            &[
                "'{{ template \"base\" . }}'",
                "/k3s/agent/etc/containerd/config.toml.tmpl",
                "restart k3s",
            ],
        );
        check(
            Distribution::Rke2,
            |_| (),
            &["/rke2/agent/etc/containerd/config.toml.tmpl", "rke2-agent"],
        );
        check(
            Distribution::K0s,
            |_| (),
            &["/etc/k0s/containerd.d/podwasm-nri.toml", "k0sworker"],
        );
        check(
            Distribution::MicroK8s,
            |_| (),
            &["containerd-template.toml", "snap restart"],
        );
    }
}

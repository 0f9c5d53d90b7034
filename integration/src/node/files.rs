//! The files that make a root folder this node: laid over it, so the root itself stays as it was.

use super::{Flavor, REGISTRY, Runtime};
use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum as _;
use std::fs;
use std::io;
use std::path::Path;

/// The file that says what kind of node this is.
const KIND: &str = "etc/podwasm-node";

/// Makes a node's folder: `files`, which lies over its root, and `log`.
pub(super) fn write(folder: &Path, flavor: Flavor, runtime: Runtime) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().display().to_string();
    let files = [
        (KIND, format!("{flavor} {runtime}\n")),
        ("etc/hostname", format!("{name}\n")),
        ("etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {name}\n")),
        // The node reaches nothing outside, and its pods say themselves which name server they ask.
        ("etc/resolv.conf", "nameserver 127.0.0.1\n".to_owned()),
        ("etc/containerd/config.toml", containerd(flavor, runtime)),
        ("etc/cni/net.d/10-bridge.conflist", NETWORK.to_owned()),
        ("etc/docker/registry/config.yml", registry()),
    ];
    for (path, content) in files {
        let path = folder.join("files").join(path);
        fs::create_dir_all(path.parent().expect("it lies in a folder"))?;
        fs::write(path, content)?;
    }
    fs::create_dir_all(folder.join("log"))
}

/// What kind of node the folder of a running one is for.
pub(super) fn read(folder: &Path) -> Result<(Flavor, Runtime)> {
    let kind = fs::read_to_string(folder.join("files").join(KIND)).context("read the node's kind")?;
    let (flavor, runtime) = kind
        .trim()
        .split_once(' ')
        .context("a node's kind is two words")?;
    let parse = |error| anyhow!("a node's kind: {error}");
    Ok((
        Flavor::from_str(flavor, false).map_err(parse)?,
        Runtime::from_str(runtime, false).map_err(parse)?,
    ))
}

/// Stock but for: NRI on (1.7 has it off), our pause image, both runtimes, Debian's folder of network plugins, the
/// annotations that crun's own Wasm handler wants to see, and what a machine without `CAP_SYS_RESOURCE` needs. containerd 2
/// reads this version of the format too. Of the default validator, which nothing older than 2.2 knows, all but what pods ask of it is off.
fn containerd(flavor: Flavor, runtime: Runtime) -> String {
    let validator = match flavor {
        Flavor::Forky | Flavor::Trixie => "",
        Flavor::Upstream => VALIDATOR,
    };
    format!(
        r#"version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{REGISTRY}/pause:latest"
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "{runtime}"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      pod_annotations = ["module.wasm.image/variant", "run.oci.handler"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "/usr/bin/crun"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
{validator}"#
    )
}

const VALIDATOR: &str = r#"
  [plugins."io.containerd.nri.v1.nri".default_validator]
    enable = true
"#;

/// A bridge with addresses by number; the node has no way out, so there is nothing to masquerade.
const NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "fd88::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        "dataDir": "/run/cni"
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#;

fn registry() -> String {
    format!(
        "version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
http:
  addr: {REGISTRY}
"
    )
}

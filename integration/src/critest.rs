//! The validation suite of the CRI, `critest` of cri-tools, on a node: its images made from Debian's busybox, under the names that it pulls.
//!
//! The registries that it pulls from are not asked: containerd is told that the node's own registry is their mirror.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::image::{Image, Layer};
use crate::node::{Node, REGISTRY, target};

/// Where the node sees the suite.
const PROGRAM: &str = "/opt/critest";
/// Where it leaves its report, inside the node.
const REPORT: &str = "/tmp/critest.json";
const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";
/// Whose images it pulls.
const REGISTRIES: [&str; 3] = ["gcr.io", "k8s.gcr.io", "registry.k8s.io"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/sh
default-user:x:1000:1000::/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
";
const GROUP: &str = "root:x:0:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nogroup:x:65534:
";

/// What became of each of the suite's specs, by its full name.
pub type Outcomes = BTreeMap<String, Outcome>;

/// What became of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In ginkgo's words: `passed`, `failed`, `skipped`, and less usual ones.
    pub state: String,
    /// Why it is neither passed nor skipped, in one line.
    pub message: String,
}

/// One file of a report that ginkgo writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    leaf_node_type: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: Option<String>,
}

/// Makes a node ready for [`run`].
pub async fn prepare(node: &Node) -> Result<()> {
    let program = target().join("upstream/critest");
    fs::copy(&program, node.path(PROGRAM)).with_context(|| {
        format!(
            "no {}: run integration/upstream/build.sh critest",
            program.display()
        )
    })?;
    mirror(node)?;
    node.restart_containerd().await?;
    for (name, tag, image) in images(&node.path("/"))? {
        node.push_as(name, tag, &image).await?;
    }
    Ok(())
}

fn mirror(node: &Node) -> Result<()> {
    let configuration = node.path("/etc/containerd/config.toml");
    let mut text = fs::read_to_string(&configuration)?;
    text.push_str(
        r#"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/certs.d"
"#,
    );
    fs::write(&configuration, text)?;
    for registry in REGISTRIES {
        let folder = node.path(format!("/etc/containerd/certs.d/{registry}"));
        fs::create_dir_all(&folder)?;
        let mirror = format!("[host.\"http://{REGISTRY}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        fs::write(folder.join("hosts.toml"), mirror)?;
    }
    Ok(())
}

/// The images that the suite pulls, but for those that it names by their digest, and one with a setuid program.
fn images(root: &Path) -> Result<Vec<(&'static str, &'static str, Image)>> {
    let base = busybox(root)?;
    let marked = |name: &str| base.clone().program(&format!("/{name}"), name);
    let user = |name: &str| base.clone().user(name);
    let tags = marked("tags");
    Ok(vec![
        ("e2e-test-images/busybox", "1.29-2", base.clone()),
        ("e2e-test-images/httpd", "2.4.39-4", server(&base, "httpd", 80)),
        ("e2e-test-images/nginx", "1.14-2", server(&base, "nginx", 80)),
        (
            "k8s-staging-cri-tools/hostnet-nginx-amd64",
            "latest",
            server(&base, "nginx", 12003),
        ),
        (
            "k8s-staging-cri-tools/hostnet-nginx-arm64",
            "latest",
            server(&base, "nginx", 12003),
        ),
        ("k8s-staging-cri-tools/test-image-1", "latest", marked("one")),
        ("k8s-staging-cri-tools/test-image-2", "latest", marked("two")),
        ("k8s-staging-cri-tools/test-image-3", "latest", marked("three")),
        (
            "k8s-staging-cri-tools/test-image-latest",
            "latest",
            marked("latest"),
        ),
        (
            "k8s-staging-cri-tools/test-image-predefined-group",
            "latest",
            user("1000"),
        ),
        ("k8s-staging-cri-tools/test-image-tag", "all", marked("all")),
        ("k8s-staging-cri-tools/test-image-tag", "test", marked("test")),
        ("k8s-staging-cri-tools/test-image-tags", "1", tags.clone()),
        ("k8s-staging-cri-tools/test-image-tags", "2", tags.clone()),
        ("k8s-staging-cri-tools/test-image-tags", "3", tags),
        (
            "k8s-staging-cri-tools/test-image-user-uid",
            "latest",
            user("1002"),
        ),
        (
            "k8s-staging-cri-tools/test-image-user-uid-group",
            "latest",
            user("1003:users"),
        ),
        (
            "k8s-staging-cri-tools/test-image-user-username",
            "latest",
            user("www-data"),
        ),
        (
            "k8s-staging-cri-tools/test-image-user-username-group",
            "latest",
            user("www-data:www-data"),
        ),
        // Not the node's own under another name: the suite counts an image's names.
        ("pause", "3.9", Image::pause(root)?.env("SUITE", "critest")),
    ])
}

/// Debian's static busybox with every applet that it has.
fn busybox(root: &Path) -> Result<Image> {
    let program = root.join("bin/busybox");
    let list = Command::new(&program)
        .arg("--list")
        .output()
        .context("run busybox")?;
    let mut layer = Layer::new()
        .directory("/tmp", 0o1777)
        .directory("/run", 0o755)
        .symlink("/var/run", "/run")
        .file("/etc/passwd", PASSWD, 0o644)
        .file("/etc/group", GROUP, 0o644)
        .file("/bin/busybox", fs::read(&program)?, 0o755);
    for applet in String::from_utf8(list.stdout)?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        layer = layer.symlink(&format!("/bin/{applet}"), "busybox");
    }
    Ok(Image::linux()
        .env("PATH", "/bin:/usr/sbin")
        .cmd(["sh"])
        .layer(layer))
}

/// A web server that goes by another's name, with its pid file.
fn server(base: &Image, name: &str, port: u16) -> Image {
    let script = format!(
        "#!/bin/sh\necho $$ >/var/run/{name}.pid\ntrap 'exit 0' TERM QUIT\nbusybox httpd -p {port} -h /www\n\
         while :; do sleep 1; done\n"
    );
    let program = format!("/usr/sbin/{name}");
    let page = Layer::new().file("/www/index.html", "<h1>It works!</h1>\n", 0o644);
    base.clone()
        .layer(page)
        .program(&program, script)
        .entrypoint([program.as_str(), "master process"]) // as nginx calls itself
}

/// Runs the suite, or those of its specs that `focus` matches. What it says is in the log of this name.
pub async fn run(node: &Node, log: &str, focus: Option<&str>) -> Result<Outcomes> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-runtime-endpoint", CONTAINERD, "-image-endpoint", CONTAINERD])
        .args(["-nri-socket", "/run/nri/nri.sock"])
        .args(["-ginkgo.no-color", "-ginkgo.json-report", REPORT])
        .args(focus.map(|focus| format!("-ginkgo.focus={focus}")));
    let _ = fs::remove_file(node.path(REPORT));
    let output = node.output_of(command).await?;
    fs::write(node.logs().join(log), [output.stdout, output.stderr].concat())?;
    let report =
        fs::read(node.path(REPORT)).with_context(|| format!("critest wrote no report: see {log}"))?;
    let outcomes = read(&report)?;
    ensure!(!outcomes.is_empty(), "critest ran nothing: see {log}");
    Ok(outcomes)
}

/// What a report says.
fn read(report: &[u8]) -> Result<Outcomes> {
    let suites: Vec<Suite> = serde_json::from_slice(report).context("critest's report")?;
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports);
    let specs = specs.filter(|spec| spec.leaf_node_type == "It");
    Ok(specs
        .map(|spec| {
            let mut words = spec.container_hierarchy_texts.unwrap_or_default();
            words.push(spec.leaf_node_text);
            let message = spec
                .failure
                .and_then(|failure| failure.message)
                .unwrap_or_default();
            let message = message.lines().collect::<Vec<_>>().join(" ");
            let outcome = Outcome {
                state: spec.state,
                message,
            };
            (words.join(" "), outcome)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_by_full_names() {
        let report = br#"[{"SuitePath": "x", "SpecReports": [
            {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
            {"ContainerHierarchyTexts": ["[k8s.io] Container", "runtime"], "LeafNodeType": "It", "LeafNodeText": "starts",
             "State": "failed", "Failure": {"Message": "not\nso"}}]}]"#;
        let wanted = Outcome {
            state: "failed".to_owned(),
            message: "not so".to_owned(),
        };
        let outcomes = read(report).unwrap();
        assert_eq!(outcomes.len(), 1);
        assert_eq!(outcomes["[k8s.io] Container runtime starts"], wanted);
    }
}

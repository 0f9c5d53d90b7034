//! `podwasm inspect` on real nodes: every form of image in containerd, archives that containerd writes, files, and that nothing
//! stays behind.

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::image::Content;
use podwasm_integration::prelude::*;
use serde_json::Value;

const PROGRAM: &str = "/opt/podwasm/bin/podwasm";

/// What `podwasm inspect` says in a node, and its exit code.
async fn inspect(node: &Node, args: &[&str]) -> Result<(i32, String, String)> {
    let output = node.exec(PROGRAM, ["inspect"].iter().chain(args)).await?;
    let code = output.status.code().context("a signal ended it")?;
    Ok((
        code,
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

/// The same as JSON, after a look at the exit code and the verdict.
async fn check(node: &Node, args: &[&str], code: i32, verdict: &str) -> Result<Value> {
    let (found, stdout, stderr) = inspect(node, &[args, &["--json"]].concat()).await?;
    let report: Value =
        serde_json::from_str(&stdout).with_context(|| format!("{args:?}: {stdout}{stderr}"))?;
    ensure!(
        (found, report["verdict"].as_str()) == (code, Some(verdict)),
        "{args:?}: {found} {report:#}"
    );
    Ok(report)
}

async fn ctr(node: &Node, args: &[&str]) -> Result<String> {
    let output = node
        .exec("ctr", ["--namespace", "k8s.io"].iter().chain(args))
        .await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ctr {args:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// All that an inspection might leave in containerd.
async fn kept(node: &Node) -> Result<[String; 4]> {
    Ok([
        ctr(node, &["snapshots", "list"]).await?,
        ctr(node, &["leases", "list"]).await?,
        ctr(node, &["content", "list", "--quiet"]).await?,
        ctr(node, &["images", "list", "--quiet"]).await?,
    ])
}

/// How often an inspection has asked containerd to show a snapshot.
fn views(node: &Node) -> Result<usize> {
    let log = std::fs::read_to_string(node.logs().join("containerd.log"))?;
    Ok(log.matches("prepare view snapshot\" key=podwasm-").count())
}

fn app(image: Image) -> Image {
    image
        .program("/app.wasm", guest("guest.wasm"))
        .entrypoint(["/app.wasm"])
}

async fn pulled(node: &Node, name: &str, image: &impl Content) -> Result<String> {
    let reference = node.push(name, image).await?;
    node.cri().pull(&reference).await?;
    Ok(reference)
}

/// Fetches what no kubelet would, as someone does who looks for the reason.
async fn fetched(node: &Node, name: &str, image: &impl Content) -> Result<String> {
    let reference = node.push(name, image).await?;
    let error = node.cri().pull(&reference).await.err().context("it was pulled")?;
    ensure!(
        format!("{error:#}").contains("no match for platform in manifest"),
        "{error:#}"
    );
    ctr(
        node,
        &["content", "fetch", "--plain-http", "--all-platforms", &reference],
    )
    .await?;
    Ok(reference)
}

async fn every_form_in_containerd(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let linux = app(Image::linux());
    let wasi = app(Image::platform("wasi", "wasm"));
    let unpacked_nowhere = app(Image::platform("wasi", "wasm").env("ANOTHER", "config"));
    // More than one layer: then containerd shows an overlay instead of a folder.
    let layered = Image::linux()
        .program("/usr/bin/real", guest("guest.wasm"))
        .layer(Layer::new().symlink("/app.wasm", "usr/bin/real").file(
            "/gone.wasm",
            guest("hello.wasm"),
            0o755,
        ))
        .layer(Layer::new().whiteout("/gone.wasm"))
        .entrypoint(["/app.wasm"]);
    let linux_image = pulled(node, "linux", &linux).await?;
    let layered_image = pulled(node, "layered", &layered).await?;
    let wasi_image = pulled(node, "wasi", &wasi).await?;
    let artifact = pulled(node, "artifact", &Artifact::wasm(guest("guest.wasm"))).await?;
    let component = pulled(node, "component", &Artifact::wasm(guest("component.wasm"))).await?;
    let both = pulled(node, "both", &Index::new().image(&wasi).image(&linux)).await?;
    let only = fetched(
        node,
        "only",
        &Index::new()
            .image(&unpacked_nowhere)
            .provenance(&unpacked_nowhere),
    )
    .await?;
    let native = node.busybox();
    node.cri().ensure_image(native).await?;
    let before = kept(node).await?;

    assert_eq!(views(node)?, 0);
    let report = check(node, &[&linux_image], 0, "wasm").await?;
    ensure!(
        report["image"]["form"] == "linux_image" && report["source"] == "containerd",
        "{report:#}"
    );
    ensure!(
        report["program"]["module"]["imports"][0]["provider"] == "engine",
        "{report:#}"
    );
    ensure!(report["missing"] == serde_json::json!([]), "{report:#}");
    let report = check(node, &[&layered_image], 0, "wasm").await?;
    ensure!(report["entrypoint"]["path"] == "/usr/bin/real", "{report:#}");
    check(node, &[&layered_image, "--command", "/gone.wasm"], 1, "refused").await?;
    let report = check(node, &[&wasi_image], 0, "wasm").await?;
    ensure!(report["image"]["form"] == "wasm_image", "{report:#}");
    let report = check(node, &[&artifact], 1, "no_command").await?;
    ensure!(report["image"]["form"] == "wasm_artifact", "{report:#}");
    check(node, &[&artifact, "--command", "/app.wasm"], 0, "wasm").await?;
    let report = check(node, &[&component, "--command", "/app.wasm"], 1, "refused").await?;
    ensure!(report["decision"]["refusal"] == "component", "{report:#}");
    check(node, &[&both], 0, "wasm").await?;
    let report = check(node, &[native], 0, "native").await?;
    ensure!(report["entrypoint"]["path"] == "/bin/busybox", "{report:#}");
    // What is unpacked is looked at where it is, what is not is read from its blobs.
    let from_snapshots = views(node)?;
    ensure!(from_snapshots >= 5, "{from_snapshots}");
    let report = check(node, &[&only], 1, "not_pulled").await?;
    assert_eq!(views(node)?, from_snapshots);
    ensure!(report["image"]["form"] == "wasm_only_index", "{report:#}");
    ensure!(report["program"]["kind"] == "module", "{report:#}");
    check(node, &["127.0.0.1:5000/none:1"], 2, "unreadable").await?;

    let (code, stdout, _) = inspect(node, &[&only]).await?;
    let last = stdout.lines().last().context("it says something")?;
    ensure!(
        code == 1 && last.starts_with("verdict     would not be pulled: "),
        "{stdout}"
    );
    let fixes: Vec<_> = stdout.lines().filter(|line| line.starts_with("fix ")).collect();
    let repository = only.rsplit_once(':').map(|(repository, _)| repository);
    let repository = repository.context("a name has a tag")?;
    ensure!(fixes.len() == 3, "{stdout}");
    ensure!(
        fixes[0].contains(&format!("podwasm image fix {repository}:")),
        "{stdout}"
    );
    ensure!(
        fixes[2].contains(&format!("image: {repository}@sha256:")),
        "{stdout}"
    );
    let (code, stdout, stderr) = inspect(node, &["none:1"]).await?;
    ensure!((code, stdout.as_str()) == (2, ""), "{stdout}");
    ensure!(
        stderr.contains("it is no file here") && stderr.lines().count() == 1,
        "{stderr}"
    );

    let after = kept(node).await?;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
    ensure!(
        node.exec("sh", ["-c", "ls -d /tmp/podwasm-inspect-*"])
            .await?
            .stdout
            .is_empty()
    );
    Ok(())
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn every_form_in_containerd_1_7() -> Result<()> {
    every_form_in_containerd(Flavor::Trixie).await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn every_form_in_containerd_2_1() -> Result<()> {
    every_form_in_containerd(Flavor::Forky).await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn an_inspection_says_what_the_daemon_does() -> Result<()> {
    let node = &Node::start(Flavor::Forky, Runtime::Runc).await?;
    node.podwasm().await?;
    let reference = pulled(node, "app", &app(Image::linux())).await?;
    for annotation in [
        "plugins: [wasi_nn]",
        "drain: 1h",
        "handler: runtime",
        "handler: crun",
        "memory: 50MB",
    ] {
        let key = "wasm.noderesource.dev/pod";
        let pair = format!("{key}={annotation}");
        let report = check(
            node,
            &[
                &reference,
                "--annotation",
                &pair,
                "--container",
                "c",
                "--runtime",
                "/usr/sbin/runc",
            ],
            1,
            "refused",
        )
        .await?;
        let reason = report["reason"].as_str().context("a refusal has a reason")?;
        let pod = node.pod("refused").annotation(key, annotation).run().await?;
        let error = pod.container("c").image(&reference).create().await.err();
        let error = format!("{:#}", error.context("it was created")?);
        ensure!(error.contains(reason), "{annotation}: {reason}\n{error}");
        pod.remove().await?;
    }
    let report = check(node, &[&reference], 0, "wasm").await?;
    let pod = node.pod("app").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .args(["sleep"])
        .start()
        .await?;
    let info = container.info().await?;
    let spec = &info["runtimeSpec"];
    let module = format!(
        "sha256:{}",
        report["program"]["sha256"]
            .as_str()
            .context("a module has a hash")?
    );
    ensure!(
        spec["annotations"]["wasm.noderesource.dev/module"] == module.as_str(),
        "{spec:#}"
    );
    ensure!(
        spec["linux"]["resources"]["memory"]["limit"] == report["decision"]["added_memory_bytes"],
        "{spec:#}"
    );
    pod.remove().await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn archives_and_files_need_no_containerd() -> Result<()> {
    let node = &Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let reference = pulled(node, "app", &app(Image::linux())).await?;
    ctr(node, &["images", "export", "/tmp/app.tar", &reference]).await?;
    let prepare = "mkdir /tmp/layout && tar -C /tmp/layout -xf /tmp/app.tar && head -c 15000 /tmp/app.tar >/tmp/cut.tar && \
                   gzip -k /tmp/app.tar && mkfifo /tmp/fifo";
    let output = node.exec("sh", ["-c", prepare]).await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (name, guest_name) in [
        ("/tmp/app.wasm", "guest.wasm"),
        ("/tmp/text.wasm", "text.wasm"),
        ("/tmp/native", "native"),
    ] {
        std::fs::write(node.path(name), guest(guest_name))?;
    }

    let archived = check(node, &["/tmp/app.tar"], 0, "wasm").await?;
    ensure!(archived["source"] == "archive", "{archived:#}");
    let stored = check(node, &[&reference], 0, "wasm").await?;
    for key in ["image", "entrypoint", "program", "decision"] {
        assert_eq!(archived[key], stored[key], "{key}");
    }
    check(node, &["/tmp/layout"], 0, "wasm").await?;
    check(node, &["/tmp/app.wasm"], 0, "wasm").await?;
    check(node, &["/tmp/text.wasm"], 1, "refused").await?;
    check(node, &["/tmp/native"], 0, "native").await?;
    for (target, why) in [
        ("/tmp/cut.tar", "it is cut off"),
        ("/tmp/app.tar.gz", "decompress it first"),
        ("/tmp/fifo", "no regular file"),
        ("/tmp/none", "No such file"),
    ] {
        let report = check(node, &[target], 2, "unreadable").await?;
        ensure!(
            report["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(why)),
            "{report:#}"
        );
    }

    node.kill_containerd(podwasm_integration::node::Signal::SIGTERM)
        .await?;
    let report = check(node, &["/tmp/app.tar", "--engine", "/none"], 0, "wasm").await?;
    let missing: Vec<_> = report["missing"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(missing.len() == 2, "{report:#}");
    ensure!(
        missing[0].contains("/none/engine") && missing[1].contains("containerd.sock"),
        "{report:#}"
    );
    check(node, &[&reference], 2, "unreadable").await?;
    Ok(())
}

//! `podwasm image` on real nodes: images of every form go to the node's registry, are pulled as a kubelet would, and run; an index
//! that holds only Wasm is made one that is pulled; registries that want credentials or speak TLS; what is broken.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::authority::{Authority, Certified};
use podwasm_integration::node::{Process, REGISTRY};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::Value;

const PROGRAM: &str = "/opt/podwasm/bin/podwasm";
const FORMS: [&str; 3] = ["artifact", "compat", "wasi"];
/// Where a registry of the test's own listens, in the node.
const LOCKED: &str = "127.0.0.1:5443";
/// Without any credential file.
const NOTHING: [(&str, &str); 2] = [("HOME", "/tmp/empty"), ("XDG_RUNTIME_DIR", "/tmp/empty")];

/// What `podwasm image` says in a node, and its exit code.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

async fn say(node: &Node, env: &[(&str, &str)], args: &[&str]) -> Result<Said> {
    let mut command = Command::new(PROGRAM);
    command.arg("image").args(args).envs(env.iter().copied());
    let output = node.output_of(command).await?;
    Ok(Said {
        code: output.status.code().context("a signal ended it")?,
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// The JSON of what has to succeed.
async fn done(node: &Node, args: &[&str]) -> Result<Value> {
    // What follows `--` is the image's.
    let at = args.iter().position(|word| *word == "--").unwrap_or(args.len());
    let said = say(node, &[], &[&args[..at], &["--json"], &args[at..]].concat()).await?;
    ensure!(
        said.code == 0,
        "{args:?}: {} {}{}",
        said.code,
        said.stdout,
        said.stderr
    );
    Ok(serde_json::from_str(&said.stdout)?)
}

async fn check_failure(
    node: &Node,
    env: &[(&str, &str)],
    args: &[&str],
    code: i32,
    expected: &str,
) -> Result<()> {
    let said = say(node, env, args).await?;
    ensure!(
        said.code == code && said.stderr.contains(expected) && said.stderr.lines().count() == 1,
        "{args:?}: {} instead of {code} with {expected:?}: {}",
        said.code,
        said.stderr
    );
    Ok(())
}

/// Runs what was pulled to its end.
async fn run(node: &Node, reference: &str, command: &[&str], args: &[&str]) -> Result<(i32, String)> {
    let pod = node.pod("image").run().await?;
    let container = pod.container("c").image(reference).without_pull();
    let container = container
        .command(command.iter().copied())
        .args(args.iter().copied());
    let container = container.start().await?;
    let code = container.wait_exit().await?;
    let stdout = container.logs()?.stdout;
    pod.remove().await?;
    Ok((code, stdout))
}

fn put(node: &Node, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(node.path(path), bytes).with_context(|| format!("write {path}"))
}

async fn forms_and_fix(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    node.podwasm().await?;
    put(node, "/tmp/guest.wasm", guest("guest.wasm"))?;
    put(node, "/tmp/greeting", "good morning\n")?;
    for form in FORMS {
        every_form_is_pulled_and_runs(node, form).await?;
    }
    settings_and_files_arrive(node).await?;
    archives_are_what_others_read(node).await?;
    an_index_of_wasm_alone_is_made_one_that_is_pulled(node).await
}

on_both! { forms_and_fix }

async fn every_form_is_pulled_and_runs(node: &Node, form: &str) -> Result<()> {
    let name = format!("{REGISTRY}/built-{form}:1");
    let pushed = done(node, &["push", "/tmp/guest.wasm", &name, "--form", form]).await?;
    let digest = pushed["digest"].as_str().context("it has a digest")?;
    ensure!(pushed["reference"] == format!("{name}@{digest}"), "{pushed:#}");
    let again = done(node, &["push", "/tmp/guest.wasm", &name, "--form", form]).await?;
    ensure!(
        again["digest"] == digest && again["sent"]["blobs_sent"] == 0,
        "{again:#}"
    );
    node.cri().pull(&name).await?;
    let command: &[&str] = if form == "artifact" { &["/guest.wasm"] } else { &[] };
    let ran = run(node, &name, command, &["exit", "7"]).await?;
    ensure!(ran.0 == 7, "{form}: {ran:?}");
    let inspected = done_or_not(node, &["inspect", &name, "--json"]).await?;
    let expected = if form == "artifact" { "no_command" } else { "wasm" };
    ensure!(
        inspected["verdict"] == expected && inspected["source"] == "registry",
        "{inspected:#}"
    );
    ensure!(inspected["image"]["digest"] == digest, "{inspected:#}");
    Ok(())
}

/// The JSON of what may be a verdict.
async fn done_or_not(node: &Node, args: &[&str]) -> Result<Value> {
    let said = say(node, &[], args).await?;
    serde_json::from_str(&said.stdout).with_context(|| format!("{args:?}: {}", said.stderr))
}

async fn settings_and_files_arrive(node: &Node) -> Result<()> {
    let name = &format!("{REGISTRY}/settings:1");
    let recipe = [
        "--path",
        "/opt/app.wasm",
        "--env",
        "COLOUR=blue",
        "--file",
        "/tmp/greeting:/srv/greeting",
        "--user",
        "65534:65534",
        "--workdir",
        "/srv",
        "--label",
        "org.example.team=a",
        "--annotation",
        "org.example.kind=test",
    ];
    let push = ["push", "/tmp/guest.wasm", name];
    done(node, &[&push[..], &recipe].concat()).await?;
    node.cri().pull(name).await?;
    let (code, stdout) = run(node, name, &[], &["env"]).await?;
    ensure!(code == 0 && stdout.contains("COLOUR=blue\n"), "{stdout}");
    let ran = run(node, name, &[], &["cat", "greeting"]).await?;
    ensure!(ran == (0, "good morning\n".to_owned()), "{ran:?}");
    done(
        node,
        &[&push[..], &recipe, &["--", "cat", "/srv/greeting"]].concat(),
    )
    .await?;
    node.cri().pull(name).await?;
    let ran = run(node, name, &[], &[]).await?;
    ensure!(ran == (0, "good morning\n".to_owned()), "{ran:?}");
    Ok(())
}

/// containerd itself judges an archive, and skips the registry.
async fn archives_are_what_others_read(node: &Node) -> Result<()> {
    let name = "podwasm.example/archived:1";
    for (output, form) in [("/tmp/built.tar", "compat"), ("/tmp/built-wasi.tar", "wasi")] {
        let words = [
            "build",
            "/tmp/guest.wasm",
            "-o",
            output,
            "--form",
            form,
            "--tag",
            name,
        ];
        let told = done(node, &words).await?;
        ensure!(told["output"] == output, "{told:#}");
        let import = ["--namespace", "k8s.io", "images", "import", "--no-unpack", output];
        let imported = node.exec("ctr", import).await?;
        ensure!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
        until("the image is known", PATIENCE, async || {
            node.cri().image(name).await
        })
        .await?;
        let ran = run(node, name, &[], &["exit", "3"]).await?;
        ensure!(ran.0 == 3, "{form}: {ran:?}");
        node.cri().remove_image(name).await?;
    }
    let built = done(
        node,
        &[
            "build",
            "/tmp/guest.wasm",
            "-o",
            "/tmp/layout",
            "--form",
            "compat",
        ],
    )
    .await?;
    let to = &format!("{REGISTRY}/from-layout:1");
    let from = &format!("{REGISTRY}/built-compat");
    let pushed = done(node, &["push", "/tmp/layout", to, "--mount-from", from]).await?;
    ensure!(pushed["digest"] == built["digest"], "{pushed:#}");
    ensure!(pushed["sent"]["blobs_mounted"] == 3, "{pushed:#}");
    Ok(())
}

async fn an_index_of_wasm_alone_is_made_one_that_is_pulled(node: &Node) -> Result<()> {
    let image = Image::platform("wasi", "wasm")
        .program("/app.wasm", guest("guest.wasm"))
        .env("ONLY", "wasm")
        .entrypoint(["/app.wasm"]);
    let index = Index::new().image(&image).provenance(&image);
    let manifest = image.stored().manifest.digest();
    let name = &node.push_as("only", "1", &index).await?;
    let error = node.cri().pull(name).await.err().context("it was pulled")?;
    ensure!(
        format!("{error:#}").contains("no match for platform in manifest"),
        "{error:#}"
    );

    // All that is left of it: containerd 2.1 keeps a name, 1.7 nothing.
    let images = node
        .exec("ctr", ["--namespace", "k8s.io", "images", "list", "--quiet"])
        .await?;
    let is_named = String::from_utf8(images.stdout)?.contains("/only");
    let keeps_names = node.flavor() == Flavor::Forky;
    ensure!(images.status.success() && is_named == keeps_names, "{is_named}");

    // What a pod's author can do alone.
    let inspected = done_or_not(node, &["inspect", name, "--json"]).await?;
    let fix = inspected["image"]["fix"].as_str().context("it tells a fix")?;
    let by_digest = format!("{REGISTRY}/only@{manifest}");
    ensure!(
        inspected["verdict"] == "not_pulled" && fix.contains(&format!("image: {by_digest}")),
        "{inspected:#}"
    );
    node.cri().pull(&by_digest).await?;
    let ran = run(node, &by_digest, &[], &["exit", "5"]).await?;
    ensure!(ran.0 == 5, "{ran:?}");
    node.cri().remove_image(&by_digest).await?;

    // What its owner can do.
    let dry = say(node, &[], &["fix", name, "--dry-run"]).await?;
    ensure!(
        dry.code == 0 && dry.stdout.contains("no layer would be sent"),
        "{}{}",
        dry.stdout,
        dry.stderr
    );
    ensure!(node.cri().pull(name).await.is_err(), "a dry run fixed it");
    let fixed = say(node, &[], &["fix", name, "--json"]).await?;
    let fixed: Value = serde_json::from_str(&fixed.stdout).with_context(|| fixed.stderr.clone())?;
    ensure!(fixed["fixed"] == true, "{fixed:#}");
    let listed = serde_json::json!(["wasi/wasm", "linux/amd64", "linux/arm64"]);
    ensure!(fixed["platforms"] == listed, "{fixed:#}");
    node.cri().pull(name).await?;
    let ran = run(node, name, &[], &["env"]).await?;
    ensure!(ran.0 == 0 && ran.1.contains("ONLY=wasm\n"), "{ran:?}");
    let again = say(node, &[], &["fix", name]).await?;
    ensure!(
        again.code == 0 && again.stdout.contains("nothing to fix"),
        "{}{}",
        again.stdout,
        again.stderr
    );
    let inspected = done_or_not(node, &["inspect", name, "--json"]).await?;
    ensure!(inspected["verdict"] == "wasm", "{inspected:#}");
    // What stood there stays under its digest.
    let old = format!("{REGISTRY}/only@{}", index.stored().manifest.digest());
    let inspected = done_or_not(node, &["inspect", &old, "--json"]).await?;
    ensure!(inspected["verdict"] == "not_pulled", "{inspected:#}");
    Ok(())
}

/// A registry in the node that speaks TLS and knows one user. Its authority's certificate is at `/tmp/ca.pem`.
async fn locked_registry(node: &Node) -> Result<Process> {
    let authority = Authority::new()?;
    let Certified { certificate, key } = authority.certify("127.0.0.1", "registry")?;
    put(node, "/tmp/ca.pem", authority.pem())?;
    put(node, "/tmp/server.pem", certificate)?;
    put(node, "/tmp/server.key", key)?;
    let mut htpasswd = node.tool("htpasswd")?;
    htpasswd.args(["-Bbn", "me", "secret"]);
    let hash = node.output_of(htpasswd).await?;
    ensure!(hash.status.success(), "{}", String::from_utf8_lossy(&hash.stderr));
    put(node, "/tmp/htpasswd", hash.stdout)?;
    put(
        node,
        "/tmp/registry.yml",
        format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /tmp/registry\nauth:\n  htpasswd:\n    realm: test\n    \
             path: /tmp/htpasswd\nhttp:\n  addr: {LOCKED}\n  tls:\n    certificate: /tmp/server.pem\n    key: /tmp/server.key\n"
        ),
    )?;
    let mut command = Command::new("docker-registry");
    command.args(["serve", "/tmp/registry.yml"]);
    let registry = node.spawn("locked-registry", command)?;
    until("the locked registry listens", PATIENCE, async || {
        Ok(node.connect(LOCKED.parse()?).await.ok())
    })
    .await?;
    Ok(registry)
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn registries_that_want_credentials_and_speak_tls() -> Result<()> {
    let node = &Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let _registry = locked_registry(node).await?;
    put(node, "/tmp/guest.wasm", guest("guest.wasm"))?;
    // me:secret and me:wrong, and a helper that has the first.
    put(
        node,
        "/tmp/right.json",
        format!(r#"{{"auths": {{"{LOCKED}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#),
    )?;
    put(
        node,
        "/tmp/wrong.json",
        format!(r#"{{"auths": {{"{LOCKED}": {{"auth": "bWU6d3Jvbmc="}}}}}}"#),
    )?;
    put(
        node,
        "/tmp/helped.json",
        format!(r#"{{"credHelpers": {{"{LOCKED}": "test"}}}}"#),
    )?;
    put(node, "/tmp/stored.json", r#"{"credsStore": "test"}"#)?;
    let helper = "#!/bin/sh\nread -r server\n[ \"$server\" = 127.0.0.1:5443 ] || exit 1\necho '{\"Username\":\"me\",\"Secret\":\"secret\"}'\n";
    put(node, "/usr/local/bin/docker-credential-test", helper)?;
    node.exec("chmod", ["755", "/usr/local/bin/docker-credential-test"])
        .await?;
    node.exec(
        "mkdir",
        ["-p", "/tmp/run/containers", "/tmp/docker", "/tmp/empty"],
    )
    .await?;
    put(
        node,
        "/tmp/run/containers/auth.json",
        std::fs::read(node.path("/tmp/right.json"))?,
    )?;
    put(
        node,
        "/tmp/docker/config.json",
        std::fs::read(node.path("/tmp/right.json"))?,
    )?;

    let nothing = NOTHING;
    let name = &format!("{LOCKED}/team/app:1");
    let push = &["push", "/tmp/guest.wasm", name, "--ca", "/tmp/ca.pem"];
    let with = |file| [&push[..], &["--authfile", file]].concat();
    check_failure(node, &nothing, push, 3, "asks for credentials").await?;
    check_failure(
        node,
        &nothing,
        &with("/tmp/wrong.json"),
        3,
        "does not accept the credentials from /tmp/wrong.json",
    )
    .await?;
    check_failure(
        node,
        &nothing,
        &with("/tmp/none.json"),
        2,
        "cannot read /tmp/none.json",
    )
    .await?;
    check_failure(
        node,
        &nothing,
        &with("/tmp/guest.wasm"),
        2,
        "is no credential file",
    )
    .await?;
    check_failure(
        node,
        &nothing,
        &["push", "/tmp/guest.wasm", name],
        3,
        "perhaps it speaks TLS: use --tls",
    )
    .await?;
    check_failure(
        node,
        &nothing,
        &["push", "/tmp/guest.wasm", name, "--tls"],
        2,
        "trusts no certificate authority",
    )
    .await?;
    let wrong = ["push", "/tmp/guest.wasm", name, "--ca", "/tmp/htpasswd"];
    check_failure(node, &nothing, &wrong, 2, "holds no certificate").await?;
    let at = format!("{REGISTRY}/x:1");
    let plain = ["push", "/tmp/guest.wasm", &at, "--ca", "/tmp/ca.pem"];
    check_failure(node, &nothing, &plain, 3, "it does not speak TLS").await?;

    credentials_are_found(node, push).await
}

/// Wherever Docker and Podman leave them.
async fn credentials_are_found(node: &Node, push: &[&str]) -> Result<()> {
    let nothing = NOTHING;
    let name = push[2];
    for file in ["/tmp/right.json", "/tmp/helped.json", "/tmp/stored.json"] {
        let said = say(node, &nothing, &[push, &["--authfile", file]].concat()).await?;
        ensure!(said.code == 0, "{file}: {}", said.stderr);
    }
    let path = ("PATH", "/usr/local/bin:/usr/bin:/bin");
    for env in [
        ("REGISTRY_AUTH_FILE", "/tmp/right.json"),
        ("XDG_RUNTIME_DIR", "/tmp/run"),
        ("DOCKER_CONFIG", "/tmp/docker"),
    ] {
        let said = say(node, &[nothing[0], nothing[1], path, env], push).await?;
        ensure!(said.code == 0, "{env:?}: {}", said.stderr);
    }
    let piped = format!(
        "echo secret | {PROGRAM} image inspect {name} --ca /tmp/ca.pem --username me --password-stdin"
    );
    let said = node.exec("sh", ["-c", &piped]).await?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn what_cannot_be_written_leaves_nothing_behind() -> Result<()> {
    let node = &Node::start(Flavor::Trixie, Runtime::Runc).await?;
    put(node, "/tmp/guest.wasm", guest("guest.wasm"))?;
    let mount =
        "mkdir /tmp/small && mount -t tmpfs -o size=16k none /tmp/small && echo before >/tmp/small/app.tar";
    ensure!(node.exec("sh", ["-c", mount]).await?.status.success());
    let listed = async || -> Result<String> {
        let listed = node
            .exec("sh", ["-c", "ls -A /tmp/small && cat /tmp/small/app.tar"])
            .await?;
        Ok(String::from_utf8(listed.stdout)?)
    };
    for output in ["/tmp/small/app.tar", "/tmp/small/layout"] {
        let build = ["build", "/tmp/guest.wasm", "-o", output, "--form", "artifact"];
        check_failure(node, &[], &build, 2, "No space left on device").await?;
        ensure!(listed().await? == "app.tar\nbefore\n", "{}", listed().await?);
    }
    // No disk for the layer, which is larger than the memory that may be used for it.
    let build = ["build", "/tmp/guest.wasm", "-o", "/tmp/app.tar"];
    check_failure(
        node,
        &[("TMPDIR", "/tmp/small")],
        &[&build[..], &["--file", "/usr/bin/containerd:/x"]].concat(),
        2,
        "No space left",
    )
    .await?;
    ensure!(
        !node.path("/tmp/app.tar").exists(),
        "a half-written archive is there"
    );
    let unreadable = format!(
        "chmod 600 /tmp/guest.wasm && setpriv --reuid 65534 --clear-groups {PROGRAM} image build /tmp/guest.wasm -o /tmp/app.tar"
    );
    let said = node.exec("sh", ["-c", &unreadable]).await?;
    let stderr = String::from_utf8(said.stderr)?;
    ensure!(
        said.status.code() == Some(2) && stderr.contains("Permission denied"),
        "{stderr}"
    );
    // The largest that a module may be is no more than named.
    let huge = "truncate -s 3G /tmp/huge.wasm && printf '\\0asm\\1\\0\\0\\0\\0\\370\\377\\377\\377\\13' | dd of=/tmp/huge.wasm conv=notrunc status=none";
    ensure!(node.exec("sh", ["-c", huge]).await?.status.success());
    check_failure(
        node,
        &[],
        &["build", "/tmp/huge.wasm", "-o", "/tmp/app.tar"],
        1,
        "/tmp/huge.wasm",
    )
    .await?;
    Ok(())
}

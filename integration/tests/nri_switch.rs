//! NRI is switched on in a containerd that has it off, from a pod without the node's processes, and everything goes back to what it
//! was: at the end, and wherever something fails before.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use podwasm_integration::manifest::Manifest;
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

const CONFIG: &str = "/etc/containerd/config.toml";
/// A service manager's client, as far as podwasm needs one.
const SYSTEMCTL: &str = r#"#!/bin/sh
[ "$*" = 'restart containerd' ] || exit 2
: >/run/manager/wanted
while [ ! -e /run/manager/done ]; do sleep 0.02; done
code=$(cat /run/manager/done)
rm /run/manager/done
exit "$code"
"#;

/// The service manager itself: it restarts containerd when it is asked to, for ever.
async fn manage(node: &Node) -> Result<()> {
    loop {
        let (wanted, done) = (node.path("/run/manager/wanted"), node.path("/run/manager/done"));
        if wanted.exists() {
            fs::remove_file(wanted)?;
            let _ = node.kill_containerd(Signal::SIGTERM).await; // or it has ended by itself
            let code = u8::from(node.start_containerd().await.is_err());
            fs::write(done.with_extension("new"), code.to_string())?;
            fs::rename(done.with_extension("new"), done)?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A node of containerd 1.7 as it comes, with NRI off, and a service manager.
async fn node_without_nri() -> Result<Node> {
    let node = Node::start_bare(Flavor::Trixie, Runtime::Runc).await?;
    fs::create_dir_all(node.path("/var/lib/kubelet"))?;
    fs::create_dir_all(node.path("/run/manager"))?;
    let systemctl = node.path("/usr/local/bin/systemctl");
    fs::write(&systemctl, SYSTEMCTL)?;
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
    let config = fs::read_to_string(node.path(CONFIG))?;
    let (off, _) = config
        .split_once("\n[plugins.\"io.containerd.nri.v1.nri\"]")
        .expect("the harness switches it on");
    fs::write(node.path(CONFIG), format!("# Ours: byte for byte.\n{off}"))?;
    fs::set_permissions(node.path(CONFIG), fs::Permissions::from_mode(0o640))?;
    node.restart_containerd().await?;
    fs::remove_file(node.path("/run/nri/nri.sock"))?;
    Ok(node)
}

/// Mode, owner, time and bytes of everything in containerd's folder, by name.
type Configuration = BTreeMap<String, (u32, u32, i64, i64, Vec<u8>)>;

fn configuration(node: &Node) -> Result<Configuration> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(node.path("/etc/containerd"))? {
        let path = entry?.path();
        let about = fs::symlink_metadata(&path)?;
        if about.is_dir() {
            // What comes and goes in it leaves its time behind.
            let same = (about.mode(), about.uid(), 0, 0, Vec::new());
            found.insert(path.display().to_string(), same);
            continue;
        }
        let bytes = fs::read(&path)?;
        let name = path.file_name().unwrap_or_default().display().to_string();
        found.insert(
            name,
            (
                about.mode(),
                about.uid(),
                about.mtime(),
                about.mtime_nsec(),
                bytes,
            ),
        );
    }
    Ok(found)
}

fn is_on(node: &Node) -> bool {
    node.path("/run/nri/nri.sock").exists()
}

/// Runs `podwasm nri` on the node. Returns whether it succeeded, and what it said.
async fn switch(node: &Node, words: &[&str]) -> Result<(bool, String)> {
    let output = node.exec("/srv/bin/podwasm", ["nri"].iter().chain(words)).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), said))
}

async fn managed(node: &Node, test: impl AsyncFnOnce(&Node) -> Result<()>) -> Result<()> {
    tokio::select! {
        managing = manage(node) => managing,
        tested = test(node) => tested,
    }
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn the_chart_switches_it_on_and_back() -> Result<()> {
    let node = node_without_nri().await?;
    node.load_image("podwasm").await?;
    managed(&node, async |node| {
        let before = configuration(node)?;
        let manifest = Manifest::read("deploy/rendered/nri.yaml")?.only("DaemonSet", "podwasm");
        let plugin = manifest.run(node).await?;
        let said = plugin[0].container("enable-nri")?.logs()?.stderr;
        ensure!(said.contains("NRI is switched on"), "{said}");
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("first").run().await?;
        let container = pod
            .container("c")
            .image(&image)
            .args(["0.0.0.0:8080"])
            .env("NAME", "x")
            .start()
            .await?;
        container.wait_stdout("listening").await?;
        let answer = node.http(SocketAddr::new(pod.ip().await?, 8080), "/").await?;
        ensure!(answer.text() == "hello from x\n", "{answer:?}");
        // Pods that are made anew find it on.
        plugin[0].delete().await?;
        let again = manifest.run(node).await?;
        let said = again[0].container("enable-nri")?.logs()?.stderr;
        ensure!(said.contains("was switched on before"), "{said}");
        again[0].delete().await?;

        let cleanup =
            Manifest::read("deploy/rendered/nri-cleanup.yaml")?.only("DaemonSet", "podwasm-cleanup");
        let pods = cleanup.run(node).await?;
        let said = pods[0].container("restore-nri")?.logs()?.stderr;
        ensure!(said.contains("is as it was"), "{said}");
        pods[0].delete().await?;
        ensure!(
            configuration(node)? == before,
            "containerd's configuration is not what it was"
        );
        // What ran goes on through both restarts.
        let answer = node.http(SocketAddr::new(pod.ip().await?, 8080), "/").await?;
        ensure!(answer.status == 200);
        pod.remove().await
    })
    .await?;
    node.stop().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn whatever_fails_goes_back() -> Result<()> {
    let node = node_without_nri().await?;
    managed(&node, async |node| {
        // A configuration that is not understood.
        let good = fs::read(node.path(CONFIG))?;
        let other = node.path("/etc/containerd/other.toml");
        fs::write(&other, "disabled_plugins = []\n")?;
        refused(node, &["enable", "--config", "/etc/containerd/other.toml"], "version 1").await?;
        fs::remove_file(other)?;
        // One that containerd itself does not accept, by a file that it imports.
        let imports = [b"imports = [\"/etc/containerd/more/*.toml\"]\n", &good[..]].concat();
        replace(node, &imports)?;
        fs::create_dir(node.path("/etc/containerd/more"))?;
        fs::write(node.path("/etc/containerd/more/z.toml"), "version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n")?;
        refused(node, &["enable"], "NRI would still be off").await?;
        fs::remove_dir_all(node.path("/etc/containerd/more"))?;
        // One with which it does not come up: NRI's socket cannot be made there.
        let broken = "\n[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n  socket_path = \"/proc/nri.sock\"\n";
        replace(node, &[&good[..], broken.as_bytes()].concat())?;
        refused(node, &["enable", "--patience", "5s"], "its old configuration is back, and it runs").await?;
        // A restart that fails, and one that never ends.
        replace(node, &good)?;
        refused(node, &["enable", "--restart", "false"], "is back, but it is still not up").await?;
        refused(node, &["enable", "--restart", "sleep", "--restart", "60", "--patience", "1s"], "had not ended").await?;
        ensure!(!is_on(node) && node.cri().version().await.is_ok());
        Ok(())
    })
    .await?;
    node.stop().await
}

/// The configuration of the moment, with an old time that has to come back.
fn replace(node: &Node, bytes: &[u8]) -> Result<()> {
    fs::write(node.path(CONFIG), bytes)?;
    let file = fs::File::options().write(true).open(node.path(CONFIG))?;
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    Ok(file.set_times(fs::FileTimes::new().set_modified(time))?)
}

async fn refused(node: &Node, words: &[&str], reason: &str) -> Result<()> {
    let before = configuration(node)?;
    let (succeeded, said) = switch(node, words).await?;
    ensure!(
        !succeeded && said.contains(reason),
        "it was not refused because {reason:?}: {said}"
    );
    ensure!(
        configuration(node)? == before,
        "something has changed after {said}"
    );
    Ok(())
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn an_interrupted_try_is_taken_back_first() -> Result<()> {
    let node = node_without_nri().await?;
    managed(&node, async |node| {
        let before = configuration(node)?;
        let mut command = Command::new("/srv/bin/podwasm");
        command.args(["nri", "enable", "--restart", "sleep", "--restart", "60"]);
        let interrupted = node.spawn("interrupted", command)?;
        let config = || fs::read_to_string(node.path(CONFIG));
        until("the configuration is changed", PATIENCE, async || {
            if let Some(status) = interrupted.exited() {
                bail!("it ended: {status}\n{}", interrupted.log_tail());
            }
            Ok(config()?.contains("podwasm-nri.toml").then_some(()))
        })
        .await?;
        drop(interrupted);
        let (succeeded, said) = switch(node, &["enable"]).await?;
        ensure!(
            succeeded && said.contains("an earlier try was interrupted"),
            "{said}"
        );
        ensure!(is_on(node), "{said}");
        // An administrator changes something in the meantime, which stays.
        fs::write(node.path(CONFIG), config()? + "\n# Theirs.\n")?;
        let (succeeded, said) = switch(node, &["restore"]).await?;
        ensure!(succeeded && said.contains("changed by somebody else"), "{said}");
        let ours = String::from_utf8(before["config.toml"].4.clone())?;
        ensure!(config()? == ours + "\n# Theirs.\n", "it is {}", config()?);
        ensure!(configuration(node)?.len() == before.len(), "something was left");
        let (succeeded, said) = switch(node, &["restore"]).await?;
        ensure!(succeeded && said.contains("has changed nothing"), "{said}");
        Ok(())
    })
    .await?;
    node.stop().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn containerd_2_is_left_alone() -> Result<()> {
    let node = Node::start_bare(Flavor::Forky, Runtime::Runc).await?;
    let before = configuration(&node)?;
    let (succeeded, said) = switch(&node, &["enable", "--restart", "false"]).await?;
    ensure!(succeeded && said.contains("nothing to do"), "{said}");
    ensure!(configuration(&node)? == before && is_on(&node));
    node.stop().await
}

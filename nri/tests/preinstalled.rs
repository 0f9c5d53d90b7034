//! A plugin that its runtime starts.

mod plugins;

use std::os::fd::OwnedFd;
use std::process::Stdio;

use nri::testing::FakeConnection;
use nri::{Events, Plugin, Preinstalled, PreinstalledError, Runner};
use plugins::in_time;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

struct Quiet;

#[nri::plugin]
impl Plugin for Quiet {}

/// Starts this program's test `child` the way a runtime starts a plugin: socket, name and index.
fn start(socket: std::os::unix::net::UnixStream, name: &str, number: &str) -> Child {
    Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("NRI_PLUGIN_NAME", name)
        .env("NRI_PLUGIN_IDX", "07")
        .env("NRI_PLUGIN_SOCKET", number)
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "the plugin that the tests below start"]
async fn child() {
    let preinstalled = Preinstalled::from_env()
        .unwrap()
        .expect("started by one of the tests below");
    assert!(matches!(Preinstalled::from_env(), Err(PreinstalledError::Taken)));
    Runner::preinstalled(Quiet, preinstalled)
        .run(std::future::pending())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_plugin_that_the_runtime_started_ends_with_it() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut child = start(theirs, "quiet", "3");
    let plugin = FakeConnection::over(UnixStream::from_std(ours).unwrap()).unwrap();
    let request = plugin.register().await.unwrap();
    assert_eq!(
        (request.plugin_name.as_str(), request.plugin_idx.as_str()),
        ("quiet", "07")
    );
    assert_eq!(plugin.configure().await.unwrap(), Events::REMOVE_POD_SANDBOX);
    // NRI before 0.7 does not synchronize such plugins.
    plugin.close();
    assert!(in_time(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn an_environment_that_makes_no_sense_is_explained() {
    for (name, number, expected) in [
        ("quiet", "three", "Number(\"three\")"),
        ("quiet", "1", "Number(\"1\")"),
        ("quiet", "999", "NotASocket(999)"),
        ("not a name", "3", "Identity(Name(\"not a name\"))"),
    ] {
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let output = in_time(start(theirs, name, number).wait_with_output())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains(expected),
            "{name} {number}: {text}"
        );
    }
}

#[test]
fn without_the_environment_nothing_was_started() {
    assert!(Preinstalled::from_env().unwrap().is_none());
}

//! The installer is killed.

use std::process::Command;
use std::time::Duration;

use crate::script;
use anyhow::{Result, ensure};
use podwasm_integration::node::Signal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::PATIENCE;

/// When it is killed, in milliseconds after its start: most of what it does falls into these.
const MOMENTS: [u64; 7] = [3, 10, 30, 60, 120, 250, 500];

/// Whenever that happens, what the links lead to is whole, or they are not there; and the next one brings it to its end.
async fn an_installer_that_is_killed_leaves_nothing_half(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let mut killed = 0;
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        let to = format!("/tmp/installed-{number}");
        let install = || {
            let mut command = Command::new("/opt/podwasm/bin/podwasm");
            command.args(["install", "--compiler", "--from", "/opt/podwasm", "--to", &to]);
            command
        };
        let installer = node.spawn(&format!("install-{number}"), install())?;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        if installer.signal(Signal::SIGKILL).is_ok() {
            killed += 1;
        }
        installer.wait(PATIENCE).await?;
        let whole =
            |kind: &str| format!("test ! -e {to}/{kind} || diff -r /opt/podwasm/{kind}/ {to}/{kind}/");
        script(&node, &whole("engine")).await?;
        script(&node, &whole("compiler")).await?;
        let output = node.output_of(install()).await?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        script(
            &node,
            &format!(
                "test -e {to}/engine && test -e {to}/compiler; {}",
                whole("engine")
            ),
        )
        .await?;
        script(&node, &format!("{}; rm -rf {to}", whole("compiler"))).await?;
    }
    println!("{flavor:?}: killed {killed} times of {}", MOMENTS.len());
    ensure!(killed > 2, "it was too fast to be killed");
    node.stop().await
}

on_both! {
    an_installer_that_is_killed_leaves_nothing_half
}

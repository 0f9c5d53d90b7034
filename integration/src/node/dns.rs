//! A name server on the node, which knows the names that tests give to pods, as a cluster's knows its services.

use super::{Node, Process};
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, bail};
use std::net::IpAddr;
use std::process::Command;

/// The name server's address as pods see it: the node's own on their bridge.
pub const DNS_SERVER: &str = "10.88.0.1";

/// What it knows, one file for each name.
const NAMES: &str = "/run/names";

impl Node {
    /// Makes a name known to the node's name server, which is started by the first call. The name is a whole one;
    /// it stays until the node ends.
    pub async fn publish(&self, name: &str, address: IpAddr) -> Result<()> {
        let server = self.dns.get_or_try_init(async || self.spawn_dns()).await?;
        let file = format!("{name}-{address}").replace(':', "-");
        let path = self.path(NAMES);
        std::fs::write(path.join(format!(".{file}")), format!("{address} {name}\n"))?;
        std::fs::rename(path.join(format!(".{file}")), path.join(&file))?;
        until(&format!("{name} is known"), PATIENCE, async || {
            if let Some(status) = server.exited() {
                bail!("dnsmasq ended: {status}\n{}", server.log_tail());
            }
            let answer = self.exec("busybox", ["nslookup", name, "127.0.0.1"]).await?;
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            Ok(text.contains(&format!("Address: {address}\n")).then_some(()))
        })
        .await
    }

    fn spawn_dns(&self) -> Result<Process> {
        std::fs::create_dir_all(self.path(NAMES)).context("make the folder of names")?;
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--user=root",
                "--log-facility=-",
                "--log-queries",
            ])
            .args(["--no-hosts", "--no-resolv", "--local=/#/"])
            .arg(format!("--hostsdir={NAMES}"));
        self.spawn("dnsmasq", command)
    }
}

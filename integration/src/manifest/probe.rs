//! Probes, as the kubelet carries them out.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::Full;
use hyper::{Request, header};

use super::objects::{Container, Probe};
use super::pods::port_number;
use crate::cri::ContainerHandle;
use crate::node::Node;
use crate::wait::{PATIENCE, until};

/// What kubelets call themselves: those who count requests pass over it.
const USER_AGENT: &str = "kube-probe/1.34";
const DEFAULT_TIMEOUT_SECONDS: u32 = 1;

/// A container with what is needed to probe it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probed<'a> {
    pub(super) node: &'a Node,
    pub(super) spec: &'a Container,
    pub(super) container: &'a ContainerHandle<'a>,
    pub(super) address: IpAddr,
}

impl Probed<'_> {
    /// Waits until a probe succeeds. Its delays and periods, made for clusters, are not kept to: the question is whether it succeeds.
    pub(super) async fn wait(&self, what: &str, probe: &Probe) -> Result<()> {
        let said = RefCell::new(String::new());
        let ask = async || match self.once(probe).await {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                *said.borrow_mut() = format!("{error:#}");
                Ok(None)
            }
        };
        until(
            &format!("the {what} of {} succeeds", self.spec.name),
            PATIENCE,
            ask,
        )
        .await
        .with_context(|| {
            format!(
                "last it was: {}; logs: {:?}",
                said.borrow(),
                self.container.logs()
            )
        })
    }

    /// Carries a probe out once.
    pub(super) async fn once(&self, probe: &Probe) -> Result<()> {
        let seconds = probe.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        let timeout = Duration::from_secs(seconds.into());
        tokio::time::timeout(timeout, self.ask(probe))
            .await
            .with_context(|| format!("no answer within {seconds} s"))?
    }

    async fn ask(&self, probe: &Probe) -> Result<()> {
        if let Some(exec) = &probe.exec {
            let said = self.container.exec(exec.command.iter().cloned()).await?;
            return match said.code {
                0 => Ok(()),
                code => bail!(
                    "{:?} ended with {code}: {}{}",
                    exec.command,
                    said.stdout,
                    said.stderr
                ),
            };
        }
        if let Some(get) = &probe.http_get {
            let address = SocketAddr::new(self.address, port_number(&get.port, self.spec)?);
            let request = Request::get(&get.path).header(header::USER_AGENT, USER_AGENT);
            let answer = self.node.request(address, request.body(Full::default())?).await?;
            return match answer.status {
                200..400 => Ok(()),
                status => bail!("GET {} was answered with {status}", get.path),
            };
        }
        let socket = probe.tcp_socket.as_ref().context("a probe of no kind")?;
        let address = SocketAddr::new(self.address, port_number(&socket.port, self.spec)?);
        self.node.connect(address).await.map(drop)
    }
}

//! The Kubernetes API, as far as podwasm asks it, if it was told to: an event on a pod whose container was created without podwasm, and the
//! pod's eviction, so that its controller makes it anew.

pub mod objects;

use std::fmt::{self, Display};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::flags::Run;
use objects::{Missed, Pod};

/// How long the API server may take for an answer. It tries an eviction for some 10 s before it says that the pod is another one.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often an eviction is asked for that a disruption budget does not allow yet.
const EVICTION_ATTEMPTS: u32 = 30;
/// How long to wait before it is asked for again.
const EVICTION_PAUSE: Duration = Duration::from_secs(10);
/// Where Kubernetes tells pods of its API.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT_HTTPS";

/// Why the API was not of use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authority's certificate is none.
    #[error("{} is no certificate", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: reqwest::Error,
    },
    /// It could not be asked.
    #[error("cannot ask the Kubernetes API")]
    Ask(#[source] reqwest::Error),
    /// It would be asked in the clear.
    #[error("{0} would be told podwasm's token in the clear")]
    Clear(Url),
    /// No client could be made.
    #[error("cannot prepare to ask the Kubernetes API")]
    Prepare(#[source] reqwest::Error),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("the Kubernetes API said {status}: {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// Nobody has told where it is.
    #[error("nothing says where the Kubernetes API is: neither --kubernetes-server nor {HOST}")]
    Unknown,
    /// The address makes no sense.
    #[error("the Kubernetes API cannot be at '{0}'")]
    Where(String),
}

impl Error {
    /// Whether it is the API's answer of this status.
    fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

/// What came of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    Accepted,
    Disallowed,
    Gone,
    Irreplaceable,
}

impl Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Disallowed => "a disruption budget does not allow it",
            Self::Gone => "it is gone, or another pod has its name now",
            Self::Irreplaceable => "no controller would make it anew: delete it by hand",
        })
    }
}

/// The API, with what was asked for.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    account: PathBuf,
    evicts: bool,
    http: Client,
    instance: String,
    pause: Duration,
    server: Url,
    tells: bool,
}

impl Kubernetes {
    /// As the flags say; nothing if they ask for nothing.
    pub fn open(flags: &Run) -> Result<Option<Self>, Error> {
        if !flags.asks_kubernetes() {
            return Ok(None);
        }
        let server = match &flags.kubernetes_server {
            Some(server) => server.clone(),
            None => told_to_pods(std::env::var(HOST).ok(), std::env::var(PORT).ok()).ok_or(Error::Unknown)?,
        };
        let server = Url::parse(&server).map_err(|_| Error::Where(server))?;
        let opened = Self::at(server, &flags.kubernetes_account)?;
        Ok(Some(Self {
            evicts: flags.evict,
            tells: flags.events,
            ..opened
        }))
    }

    fn at(server: Url, account: &Path) -> Result<Self, Error> {
        // Another part of this program may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = Client::builder().timeout(PATIENCE).no_proxy();
        if server.scheme() == "https" {
            let path = account.join("ca.crt");
            let pem = read(&path)?;
            let authorities = Certificate::from_pem_bundle(pem.as_bytes());
            let authorities = authorities.map_err(|source| Error::Authority { path, source })?;
            http = http.tls_certs_only(authorities);
        } else if !is_loopback(&server) {
            return Err(Error::Clear(server));
        }
        Ok(Self {
            account: account.to_owned(),
            evicts: false,
            http: http.build().map_err(Error::Prepare)?,
            instance: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pause: EVICTION_PAUSE,
            server,
            tells: false,
        })
    }

    /// Tells of these containers, and evicts their pods if that was asked for. What fails is a warning.
    pub async fn take_care(&self, missed: &[Missed]) {
        if self.tells {
            for missed in missed {
                let Missed { namespace, pod, .. } = missed;
                if let Err(error) = self.tell(missed).await {
                    let error = &error as &dyn std::error::Error;
                    warn!(namespace, pod, error, "no event on an unadjusted container's pod");
                }
            }
        }
        if self.evicts {
            self.evict_all(missed).await;
        }
    }

    /// Makes the event, once for each container however often podwasm is started: its name is made of the container's id.
    async fn tell(&self, missed: &Missed) -> Result<(), Error> {
        let event = objects::event(missed, &self.instance, SystemTime::now());
        let path = format!("api/v1/namespaces/{}/events", missed.namespace);
        match self.post(&path, &event).await {
            Err(error) if error.is(StatusCode::CONFLICT) => Ok(()),
            told => told.map(drop),
        }
    }

    /// Evicts each pod once. Those that a disruption budget keeps do not hold up others. What would be refused stays: made anew it would
    /// not run at all.
    async fn evict_all(&self, missed: &[Missed]) {
        let mut waiting: Vec<&Missed> = missed.iter().filter(|missed| !missed.is_refused).collect();
        waiting.sort_by_key(|missed| &missed.uid);
        waiting.dedup_by_key(|missed| &missed.uid);
        for attempt in 1..=EVICTION_ATTEMPTS {
            let mut still = Vec::new();
            for missed in waiting {
                let Missed { namespace, pod, .. } = missed;
                match self.evict(missed).await {
                    Ok(Eviction::Accepted) => {
                        info!(namespace, pod, "evicted, so that it is made anew with podwasm");
                    }
                    Ok(Eviction::Disallowed) if attempt < EVICTION_ATTEMPTS => still.push(missed),
                    Ok(outcome) => warn!(namespace, pod, %outcome, "not evicted"),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        warn!(namespace, pod, error, "not evicted");
                    }
                }
            }
            if still.is_empty() {
                return;
            }
            waiting = still;
            sleep(self.pause).await;
        }
    }

    async fn evict(&self, missed: &Missed) -> Result<Eviction, Error> {
        let path = format!("api/v1/namespaces/{}/pods/{}", missed.namespace, missed.pod);
        let pod: Pod = match self.get(&path).await {
            Err(error) if error.is(StatusCode::NOT_FOUND) => return Ok(Eviction::Gone),
            found => found?,
        };
        if !pod.is(missed) {
            return Ok(Eviction::Gone);
        }
        if !pod.is_made_anew() {
            return Ok(Eviction::Irreplaceable);
        }
        match self
            .post(&format!("{path}/eviction"), &objects::eviction(missed))
            .await
        {
            Ok(_) => Ok(Eviction::Accepted),
            Err(error) if error.is(StatusCode::TOO_MANY_REQUESTS) => Ok(Eviction::Disallowed),
            Err(error) if error.is(StatusCode::CONFLICT) || error.is(StatusCode::NOT_FOUND) => {
                Ok(Eviction::Gone)
            }
            Err(error) => Err(error),
        }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let answer = self.send(self.http.get(self.url(path)?)).await?;
        answer.json().await.map_err(Error::Ask)
    }

    async fn post(&self, path: &str, object: &Value) -> Result<Response, Error> {
        self.send(self.http.post(self.url(path)?).json(object)).await
    }

    fn url(&self, path: &str) -> Result<Url, Error> {
        self.server.join(path).map_err(|_| Error::Where(path.to_owned()))
    }

    /// The token is read each time: Kubernetes replaces it every hour.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let token = read(&self.account.join("token"))?;
        let answer = request
            .bearer_auth(token.trim())
            .send()
            .await
            .map_err(Error::Ask)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said: Value = answer.json().await.unwrap_or_default();
        let message = said["message"].as_str().unwrap_or("no reason").to_owned();
        Err(Error::Refused { status, message })
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let path = path.to_owned();
    std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
}

fn told_to_pods(host: Option<String>, port: Option<String>) -> Option<String> {
    let (host, port) = (host?, port.unwrap_or_else(|| "443".to_owned()));
    let is_ipv6 = host.contains(':');
    Some(if is_ipv6 {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    })
}

fn is_loopback(server: &Url) -> bool {
    let host = server.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;

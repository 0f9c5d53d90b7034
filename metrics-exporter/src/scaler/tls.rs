//! TLS for KEDA's connections, with certificates that are read again when they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use podwasm_daemon::listener::{Connection, Limited};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::metrics::Metrics;

/// How often the files are looked at. A `Secret` is replaced by moving links, which file watches miss.
const INTERVAL: Duration = Duration::from_secs(2);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have shaken hands and are not taken yet.
const PENDING: usize = 64;

/// Where the certificates are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate and those between it and its authority, as PEM.
    pub certificates: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    /// The authorities of which clients have to have a certificate. Without it, they need none.
    pub client_authorities: Option<PathBuf>,
}

/// What is in the files.
#[derive(PartialEq)]
struct Contents {
    certificates: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Option<Vec<u8>>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that holds nothing.
    #[error("there is no certificate in {0}")]
    Empty(PathBuf),
    /// Something in a file that is no PEM.
    #[error("{path} cannot be understood: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// A certificate that cannot be used, or does not belong to the key.
    #[error("the certificates cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// Authorities that cannot be used.
    #[error("the clients' authorities cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// The certificates in force; whoever holds it sees changes.
pub type Current = watch::Sender<Arc<ServerConfig>>;

impl Files {
    /// Reads the certificates for the first time. A mistake is an error.
    pub fn read(&self) -> Result<Current, Error> {
        Ok(watch::Sender::new(self.configure(&self.contents()?)?))
    }

    /// Follows changes of the files for ever. What cannot be used leaves the old certificates in force, and is said once.
    pub async fn follow(self, current: Arc<Current>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.contents().ok();
        loop {
            ticks.tick().await;
            let contents = self.contents();
            if contents.as_ref().ok() == seen.as_ref() {
                continue;
            }
            let config = contents
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|contents| self.configure(contents).map_err(|error| error.to_string()));
            match config {
                Ok(config) => {
                    current.send_replace(config);
                    info!("certificates read again");
                }
                Err(error) => warn!(
                    error,
                    "the new certificates cannot be used; the old ones stay in force"
                ),
            }
            seen = contents.ok();
        }
    }

    fn contents(&self) -> Result<Contents, Error> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })
        };
        Ok(Contents {
            certificates: read(&self.certificates)?,
            key: read(&self.key)?,
            client_authorities: self.client_authorities.as_deref().map(read).transpose()?,
        })
    }

    fn configure(&self, contents: &Contents) -> Result<Arc<ServerConfig>, Error> {
        let provider = Arc::new(ring::default_provider());
        let certificates = certificates(&self.certificates, &contents.certificates)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|source| Error::Pem {
            path: self.key.clone(),
            source,
        })?;
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match self
            .client_authorities
            .as_deref()
            .zip(contents.client_authorities.as_deref())
        {
            None => builder.with_no_client_auth(),
            Some((path, pem)) => {
                let mut roots = RootCertStore::empty();
                for authority in self::certificates(path, pem)? {
                    roots.add(authority)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder.with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|source| Error::Pem {
        path: path.to_owned(),
        source,
    })?;
    if certificates.is_empty() {
        return Err(Error::Empty(path.to_owned()));
    }
    Ok(certificates)
}

/// Connections that have shaken hands. One that is slow to do so keeps no other waiting.
pub fn incoming(
    listener: TcpListener,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = io::Result<TlsStream<Connection>>> {
    let (done, pending) = mpsc::channel(PENDING);
    tokio::spawn(accept(listener, current, metrics, done));
    stream::unfold(pending, async |mut pending| {
        Some((Ok(pending.recv().await?), pending))
    })
}

async fn accept(
    listener: TcpListener,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    done: mpsc::Sender<TlsStream<Connection>>,
) {
    let listener = Limited::new(listener);
    loop {
        let (stream, client) = tokio::select! {
            () = done.closed() => return,
            connection = listener.next() => connection,
        };
        let acceptor = TlsAcceptor::from(current.borrow().clone());
        let (metrics, done) = (metrics.clone(), done.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(done.send(stream).await),
                failed => {
                    metrics.handshake_failed();
                    debug!(%client, ?failed, "TLS handshake failed");
                }
            }
        });
    }
}

//! KEDA's connections are encrypted, certificates may change, and clients have to have one.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use podwasm_daemon::listener::MAX_OF_CLIENT;
use podwasm_metrics_exporter::scaler::cluster::Cluster;
use podwasm_metrics_exporter::scaler::fleet::{Partial, Patience};
use podwasm_metrics_exporter::scaler::metrics::Metrics;
use podwasm_metrics_exporter::scaler::tls::{self, Files};
use podwasm_metrics_exporter::text::Format;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const SOON: Duration = Duration::from_secs(10);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `scaler`, and its key.
fn certificate(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["scaler".to_owned()]).unwrap();
    (
        params.signed_by(&key, authority).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn write(folder: &Path, authority: &Authority) {
    let (certificate, key) = certificate(authority);
    fs::write(folder.join("tls.crt"), certificate).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
    fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
}

fn files(folder: &Path, with_clients: bool) -> Files {
    Files {
        certificates: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        client_authorities: with_clients.then(|| folder.join("ca.crt")),
    }
}

/// A server that says `hello` to whoever has shaken hands.
struct Server {
    address: SocketAddr,
    folder: TempDir,
    metrics: Arc<Metrics>,
}

impl Server {
    async fn start(authority: &Authority, with_clients: bool) -> Self {
        let folder = TempDir::new().unwrap();
        write(folder.path(), authority);
        let files = files(folder.path(), with_clients);
        let current = Arc::new(files.read().unwrap());
        tokio::spawn(files.follow(current.clone()));
        let patience = Patience {
            stale_after: SOON,
            forget_after: SOON,
            partial: Partial::Refuse,
        };
        let metrics = Arc::new(Metrics::new(Arc::new(Cluster::new(patience))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tls::incoming(listener, current, metrics.clone());
        tokio::spawn(incoming.for_each(async |stream| drop(stream.unwrap().write_all(b"hello").await)));
        Self {
            address,
            folder,
            metrics,
        }
    }

    /// What a client is told that trusts one authority, and has a certificate of another.
    async fn greet(&self, trusted: &Authority, own: Option<&Authority>) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let (certificate, key) = certificate(own);
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect("scaler".try_into().unwrap(), stream)
            .await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await?;
        Ok(String::from_utf8_lossy(&hello).into_owned())
    }
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let (old, new) = (authority(), authority());
    let server = Server::start(&old, false).await;
    assert_eq!(server.greet(&old, None).await.unwrap(), "hello");
    assert!(server.greet(&new, None).await.is_err());
    fs::write(server.folder.path().join("tls.crt"), "half a certif").unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        server.greet(&old, None).await.unwrap(),
        "hello",
        "a bad file leaves the old certificate"
    );
    write(server.folder.path(), &new);
    let changed = async {
        while server.greet(&new, None).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, changed)
        .await
        .expect("the new certificate is never used");
    assert!(server.greet(&old, None).await.is_err());
}

#[tokio::test]
async fn clients_have_to_have_a_certificate() {
    let (ours, theirs) = (authority(), authority());
    let server = Server::start(&ours, true).await;
    assert_eq!(server.greet(&ours, Some(&ours)).await.unwrap(), "hello");
    assert!(server.greet(&ours, None).await.is_err());
    assert!(server.greet(&ours, Some(&theirs)).await.is_err());
    let text = server.metrics.text(Format::Text);
    assert!(
        text.contains("podwasm_scaler_handshake_failures_total 2"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_that_says_nothing_keeps_no_other_waiting() {
    let ours = authority();
    let server = Server::start(&ours, false).await;
    let mut silent = Vec::new();
    // As many as one client may have, but for the one that greets.
    for _ in 1..MAX_OF_CLIENT {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let greeted = timeout(Duration::from_secs(3), server.greet(&ours, None)).await;
    assert_eq!(greeted.unwrap().unwrap(), "hello");
}

#[test]
fn mistakes_are_found_at_the_start() {
    let (ours, theirs) = (authority(), authority());
    let folder = TempDir::new().unwrap();
    let check = |expected: &str| {
        let error = files(folder.path(), true)
            .read()
            .map(drop)
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("cannot read");
    write(folder.path(), &ours);
    assert!(files(folder.path(), true).read().is_ok());
    fs::write(folder.path().join("tls.key"), certificate(&theirs).1).unwrap();
    check("the certificates cannot be used");
    fs::write(folder.path().join("tls.key"), "").unwrap();
    check("tls.key cannot be understood");
    write(folder.path(), &ours);
    fs::write(folder.path().join("ca.crt"), "").unwrap();
    check("there is no certificate in");
}

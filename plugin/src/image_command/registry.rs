//! A registry: what is in it, and sending it what it lacks.

use std::error::Error as StdError;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::{Reference, RegistryOperation};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::authorities;
use super::bundle::Item;
use super::credentials::{self, Login};
use super::flags::RegistryFlags;
use super::progress::Progress;
use crate::inspect::blob::{self, Blobs};

/// How long to wait before what failed for a moment is tried again.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// A registry that says nothing for so long has gone.
const READ_PATIENCE: Duration = Duration::from_secs(120);
/// Blobs that are sent at once.
const SENT_AT_ONCE: usize = 3;
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks of a blob that are under way.
const CHUNKS_UNDER_WAY: usize = 8;
/// What is taken for a manifest or index.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Longer answers of a registry are cut.
const MAX_ANSWER_CHARACTERS: usize = 200;

/// Why a registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody to vouch for it.
    #[error(transparent)]
    Authorities(#[from] authorities::Error),
    /// A part of the image could not be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// It is not known who one is.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// It wants to know who one is.
    #[error(
        "{registry} asks for credentials, and there are none for it (looked in {searched}): log in with podman login or docker \
         login, or use --username and --password-stdin"
    )]
    LoginNeeded {
        /// The registry.
        registry: String,
        /// Where credentials were looked for.
        searched: String,
    },
    /// It does not believe who one is.
    #[error("{registry} does not accept the credentials from {from}")]
    LoginRefused {
        /// The registry.
        registry: String,
        /// Where they are from.
        from: String,
    },
    /// The name is none.
    #[error("{name:?} is no name of an image: {why}")]
    Name {
        /// As it was given.
        name: String,
        /// Why.
        why: String,
    },
    /// It has no such image.
    #[error("{registry} has no {what}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// It cannot be reached.
    #[error("cannot reach {registry}: {why}{hint}")]
    NotReached {
        /// The registry.
        registry: String,
        /// What to do, with what leads to it.
        hint: &'static str,
        /// Why.
        why: String,
    },
    /// It refused.
    #[error("{registry} refused {what}: {why}{hint}")]
    Refused {
        /// The registry.
        registry: String,
        /// What to do, with what leads to it.
        hint: &'static str,
        /// What it was asked for.
        what: String,
        /// Its answer.
        why: String,
    },
}

/// What was sent, and what was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blobs taken from another repository of the registry.
    pub mounted: usize,
    /// Blobs that were there.
    pub present: usize,
    /// Blobs that were sent.
    pub uploaded: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What became of a blob.
enum Fate {
    Mounted,
    Present,
    Sent(u64),
}

/// An image's place in a registry.
pub struct Registry {
    client: Client,
    login: Login,
    speaks_tls: bool,
    /// The image's name.
    pub image: Reference,
}

/// Parses a name, which is completed as Docker completes it.
pub fn reference(name: &str) -> Result<Reference, Error> {
    let why = |error: &dyn StdError| Error::Name {
        name: name.to_owned(),
        why: error.to_string(),
    };
    name.parse().map_err(|error| why(&error))
}

impl Registry {
    /// Finds out how the registry of an image is reached, and says who one is.
    pub async fn connect(
        image: Reference,
        flags: &RegistryFlags,
        operation: RegistryOperation,
    ) -> Result<Self, Error> {
        let address = image.resolve_registry().to_owned();
        let speaks_tls = speaks_tls(&address, flags);
        authorities::ensure_some(flags, speaks_tls)?;
        // Whoever was first has chosen the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            connect_timeout: Some(CONNECT_PATIENCE),
            extra_root_certificates: authorities::of_registry(image.registry(), flags)?,
            protocol: if speaks_tls {
                ClientProtocol::Https
            } else {
                ClientProtocol::Http
            },
            read_timeout: Some(READ_PATIENCE),
            use_monolithic_push: true,
            user_agent: concat!("podwasm/", env!("CARGO_PKG_VERSION")),
            ..proxied(|name| std::env::var(name).ok())
        };
        let registry = Self {
            login: credentials::find(&image, flags)?,
            client: Client::try_from(config).map_err(|error| Error::NotReached {
                registry: address,
                hint: "",
                why: chain(&error),
            })?,
            speaks_tls,
            image,
        };
        let login = async || {
            registry
                .client
                .auth(&registry.image, &registry.login.auth, operation)
                .await
        };
        retried(login)
            .await
            .map_err(|error| registry.explain("the login", &error))?;
        Ok(registry)
    }

    /// A manifest or index, by a tag or digest of the image's repository, with its digest.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Bytes, String), Error> {
        let pull = async || {
            self.client
                .pull_manifest_raw(reference, &self.login.auth, &MANIFESTS)
                .await
        };
        retried(pull)
            .await
            .map_err(|error| self.explain(&reference.to_string(), &error))
    }

    /// The same repository under a digest.
    pub fn at(&self, digest: &str) -> Reference {
        self.image.clone_with_digest(digest.to_owned())
    }

    /// A blob's bytes, in pieces.
    async fn blob(&self, digest: &str) -> Result<stream::BoxStream<'static, io::Result<Bytes>>, Error> {
        let pull = async || self.client.pull_blob_stream(&self.image, digest).await;
        let sized = retried(pull)
            .await
            .map_err(|error| self.explain(digest, &error))?;
        // It takes a second end for bytes that are missing.
        Ok(sized.stream.fuse().boxed())
    }

    /// Sends what the registry lacks of an image: blobs some at once, then manifests, and the last of them under a name in the
    /// image's repository.
    pub async fn push(
        &self,
        name: &Reference,
        blobs: &Arc<dyn Blobs + Send + Sync>,
        items: &[Item],
        others: &[Reference],
        progress: &Progress,
    ) -> Result<Sent, Error> {
        let send = |item| self.send(blobs, item, others, progress);
        let done = stream::iter(items.iter().filter(|item| item.document.is_none()))
            .map(send)
            .buffer_unordered(SENT_AT_ONCE)
            .try_fold(Sent::default(), async |so_far, fate| Ok(so_far.and(&fate)));
        let done = done.await?;
        let documents: Vec<_> = items
            .iter()
            .filter_map(|item| Some((item, item.document.as_ref()?)))
            .collect();
        for (number, (item, bytes)) in documents.iter().enumerate() {
            let is_last = number + 1 == documents.len();
            let by_digest = self.at(&item.digest);
            let reference = if is_last { name } else { &by_digest };
            self.push_manifest(reference, bytes, &item.media_type).await?;
        }
        Ok(done)
    }

    /// Sends a manifest or index.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<(), Error> {
        let bytes = Bytes::copy_from_slice(bytes);
        let what = format!("the manifest {reference}");
        let content_type = HeaderValue::from_str(media_type)
            .map_err(|_| self.refused(&what, "its type is malformed".to_owned()))?;
        let push = async || {
            self.client
                .push_manifest_raw(reference, bytes.clone(), content_type.clone())
                .await
        };
        retried(push).await.map_err(|error| self.explain(&what, &error))?;
        Ok(())
    }

    async fn send(
        &self,
        blobs: &Arc<dyn Blobs + Send + Sync>,
        item: &Item,
        others: &[Reference],
        progress: &Progress,
    ) -> Result<Fate, Error> {
        let digest = &item.digest;
        let bar = progress.bar(digest, item.size_bytes);
        let exists = async || self.client.blob_exists(&self.image, digest).await;
        if retried(exists)
            .await
            .map_err(|error| self.explain(digest, &error))?
        {
            bar.done("is there already");
            return Ok(Fate::Present);
        }
        for other in others {
            // What cannot be taken from there is sent.
            if self.client.mount_blob(&self.image, other, digest).await.is_ok() {
                bar.done(&format!("taken from {}", other.repository()));
                return Ok(Fate::Mounted);
            }
        }
        let push = async || {
            bar.restart();
            let bar = bar.clone();
            let pieces = pieces(blobs, digest, move |bytes| bar.advance(bytes));
            self.client
                .push_blob_stream(&self.image, pieces, digest, Some(item.size_bytes))
                .await
        };
        retried(push)
            .await
            .map_err(|error| self.explain(digest, &error))?;
        bar.done("sent");
        Ok(Fate::Sent(item.size_bytes))
    }

    fn refused(&self, what: &str, why: String) -> Error {
        // So Go's servers answer who speaks plain HTTP to their TLS; with words only where the answer may have some.
        let is_misunderstood = !self.speaks_tls && why.contains("400");
        let hint = if is_misunderstood {
            "; perhaps it speaks TLS: use --tls, or --ca FILE"
        } else {
            ""
        };
        Error::Refused {
            registry: self.registry(),
            hint,
            what: what.to_owned(),
            why,
        }
    }

    fn registry(&self) -> String {
        self.image.registry().to_owned()
    }

    /// What an error of the client means.
    fn explain(&self, what: &str, error: &OciDistributionError) -> Error {
        let registry = self.registry();
        let not_found = || Error::NotFound {
            registry: self.registry(),
            what: what.to_owned(),
        };
        match (status(error), error) {
            (Some(401), _) | (_, OciDistributionError::AuthenticationFailure(_)) => self.unauthorized(),
            (Some(404), _) => not_found(),
            (_, OciDistributionError::RegistryError { envelope, .. }) => {
                let codes = || envelope.errors.iter().map(|error| &error.code);
                if codes().any(|code| matches!(code, OciErrorCode::Unauthorized)) {
                    return self.unauthorized();
                }
                if codes().any(is_unknown) {
                    return not_found();
                }
                let told: Vec<_> = envelope
                    .errors
                    .iter()
                    .map(|error| error.message.as_str())
                    .collect();
                self.refused(what, cut(&told.join(", ")))
            }
            (_, OciDistributionError::ServerError { code, message, .. }) => {
                self.refused(what, cut(&format!("{code} {}", message.trim())))
            }
            (_, OciDistributionError::RequestError(request)) if request.status().is_none() => {
                let why = chain(error);
                Error::NotReached {
                    registry,
                    hint: hint(&why),
                    why,
                }
            }
            _ => self.refused(what, cut(&chain(error))),
        }
    }

    fn unauthorized(&self) -> Error {
        let registry = self.registry();
        if self.login.is_anonymous() {
            let searched = self.login.from.clone();
            return Error::LoginNeeded { registry, searched };
        }
        let from = self.login.from.clone();
        Error::LoginRefused { registry, from }
    }
}

impl Sent {
    fn and(mut self, fate: &Fate) -> Self {
        match fate {
            Fate::Mounted => self.mounted += 1,
            Fate::Present => self.present += 1,
            Fate::Sent(bytes) => {
                self.uploaded += 1;
                self.bytes += bytes;
            }
        }
        self
    }
}

/// An image's blobs and manifests as they are in a registry, for a thread that may wait.
pub struct Remote {
    handle: Handle,
    registry: Registry,
    /// What the image's name stands for, so that it is asked for once.
    top: (String, Bytes),
    /// What the image's name stands for.
    pub media_type: String,
}

impl Remote {
    /// Looks an image's name up.
    pub async fn open(registry: Registry) -> Result<Self, Error> {
        let (bytes, digest) = registry.manifest(&registry.image).await?;
        Ok(Self {
            handle: Handle::current(),
            media_type: media_type(&bytes),
            registry,
            top: (digest, bytes),
        })
    }

    /// The digest of what the image's name stands for.
    pub fn digest(&self) -> &str {
        &self.top.0
    }

    /// What the image's name stands for.
    pub fn bytes(&self) -> &[u8] {
        &self.top.1
    }

    /// The registry that it is in.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Blobs for Remote {
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, blob::Error> {
        if digest == self.top.0 {
            return Ok(Box::new(io::Cursor::new(&self.top.1)));
        }
        let failed = |error: Error| match error {
            Error::NotFound { .. } => blob::Error::Missing {
                digest: digest.to_owned(),
            },
            error => blob::Error::Read {
                digest: digest.to_owned(),
                source: io::Error::other(error),
            },
        };
        // A registry has manifests in another place than blobs, and a digest does not tell which it is. Configs and layers are asked
        // for most, so they are looked for first.
        match self.handle.block_on(self.registry.blob(digest)) {
            Ok(source) => Ok(Box::new(Pieces {
                handle: &self.handle,
                left: Bytes::new(),
                source,
            })),
            Err(Error::NotFound { .. }) => {
                let found = self
                    .handle
                    .block_on(self.registry.manifest(&self.registry.at(digest)));
                Ok(Box::new(io::Cursor::new(found.map_err(failed)?.0)))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// A stream, read by a thread that may wait.
struct Pieces<'a> {
    handle: &'a Handle,
    left: Bytes,
    source: stream::BoxStream<'static, io::Result<Bytes>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.handle.block_on(self.source.next()) {
                Some(piece) => self.left = piece?,
                None => return Ok(0),
            }
        }
        let length = self.left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.left.split_to(length));
        Ok(length)
    }
}

/// The type of a manifest or index, as it says itself or by what it holds.
pub fn media_type(document: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
    let by_content = if value["manifests"].is_array() {
        MANIFESTS[0]
    } else {
        MANIFESTS[1]
    };
    value["mediaType"].as_str().unwrap_or(by_content).to_owned()
}

/// A blob in pieces, read by a thread of its own.
fn pieces(
    blobs: &Arc<dyn Blobs + Send + Sync>,
    digest: &str,
    advance: impl Fn(u64) + Send + 'static,
) -> impl stream::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    let (to, mut from) = mpsc::channel(CHUNKS_UNDER_WAY);
    let (blobs, digest) = (Arc::clone(blobs), digest.to_owned());
    tokio::task::spawn_blocking(move || {
        let read = || -> io::Result<()> {
            let mut blob = blob::open(&*blobs, &digest).map_err(io::Error::other)?;
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let length = blob.read(&mut chunk)?;
                chunk.truncate(length);
                // A registry that takes no more has said why.
                if length == 0 || to.blocking_send(Ok(chunk.into())).is_err() {
                    return Ok(());
                }
                advance(length as u64);
            }
        };
        if let Err(error) = read() {
            let _ = to.blocking_send(Err(OciDistributionError::IoError(error)));
        }
    });
    stream::poll_fn(move |context| from.poll_recv(context))
}

/// Tries again what failed for a reason that may pass.
async fn retried<T>(
    attempt: impl AsyncFn() -> Result<T, OciDistributionError>,
) -> Result<T, OciDistributionError> {
    for pause in PAUSES {
        match attempt().await {
            Err(error) if may_pass(&error) => {
                tracing::debug!(error = &error as &dyn StdError, "tried again");
                tokio::time::sleep(pause).await;
            }
            settled => return settled,
        }
    }
    attempt().await
}

fn may_pass(error: &OciDistributionError) -> bool {
    match (status(error), error) {
        (Some(429 | 500..), _) => true,
        (None, OciDistributionError::RequestError(error)) => {
            let why = chain(error);
            // A certificate does not become better, and a name not known, by waiting.
            !why.contains("certificate") && !why.contains("dns error") && !why.contains("InvalidContentType")
        }
        (None, OciDistributionError::RegistryError { envelope, .. }) => envelope
            .errors
            .iter()
            .any(|error| error.code == OciErrorCode::Toomanyrequests),
        _ => false,
    }
}

/// The HTTP status of a registry's answer, where that is what went wrong.
fn status(error: &OciDistributionError) -> Option<u16> {
    match error {
        OciDistributionError::RequestError(error) => error.status().map(|status| status.as_u16()),
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::UnauthorizedError { .. } => Some(401),
        OciDistributionError::ImageManifestNotFoundError(_) => Some(404),
        _ => None,
    }
}

fn is_unknown(code: &OciErrorCode) -> bool {
    use OciErrorCode::{BlobUnknown, ManifestBlobUnknown, ManifestUnknown, NameUnknown, NotFound};
    matches!(
        code,
        BlobUnknown | ManifestBlobUnknown | ManifestUnknown | NameUnknown | NotFound
    )
}

/// An error with what caused it, each thing once.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

fn hint(why: &str) -> &'static str {
    if why.contains("certificate") {
        "; if its certificate is from an authority of your own, give that with --ca FILE"
    } else if why.contains("InvalidContentType") {
        "; it does not speak TLS: use --plain-http if that is meant"
    } else {
        ""
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_ANSWER_CHARACTERS).collect()
}

fn speaks_tls(registry: &str, flags: &RegistryFlags) -> bool {
    let asked = flags.tls || flags.ca.is_some();
    asked || !flags.plain_http && !is_loopback(registry)
}

/// Whether a registry is on this machine, so that nobody can listen in.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    let is_address = |address: std::net::IpAddr| address.is_loopback();
    host == "localhost" || host.parse().is_ok_and(is_address)
}

/// The proxies that the environment names, none of which is asked for what is on this machine.
fn proxied(variable: impl Fn(&str) -> Option<String>) -> ClientConfig {
    let of = |name: &str| {
        variable(name)
            .or_else(|| variable(&name.to_uppercase()))
            .filter(|value| !value.is_empty())
    };
    let all = of("all_proxy");
    let spared = of("no_proxy").map_or_else(String::new, |hosts| hosts + ",");
    ClientConfig {
        http_proxy: of("http_proxy").or_else(|| all.clone()),
        https_proxy: of("https_proxy").or(all),
        no_proxy: Some(spared + "localhost,127.0.0.0/8,::1"),
        ..ClientConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_needs_no_tls() {
        let none = RegistryFlags::default();
        for registry in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]:5000",
        ] {
            assert!(!speaks_tls(registry, &none), "{registry}");
        }
        for registry in [
            "ghcr.io",
            "localhost.example:5000",
            "10.0.0.1:5000",
            "127.evil.example",
        ] {
            assert!(speaks_tls(registry, &none), "{registry}");
        }
        let flags = |tls, plain_http| RegistryFlags {
            plain_http,
            tls,
            ..RegistryFlags::default()
        };
        assert!(speaks_tls("localhost", &flags(true, false)));
        assert!(!speaks_tls("ghcr.io", &flags(false, true)));
    }

    #[test]
    fn a_document_says_its_type() {
        assert_eq!(media_type(br#"{"mediaType":"x","manifests":[]}"#), "x");
        assert_eq!(media_type(br#"{"manifests":[]}"#), MANIFESTS[0]);
        assert_eq!(media_type(br#"{"layers":[]}"#), MANIFESTS[1]);
        assert_eq!(media_type(b"no JSON"), MANIFESTS[1]);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let server = |code| OciDistributionError::ServerError {
            code,
            url: String::new(),
            message: String::new(),
        };
        assert!(may_pass(&server(503)) && may_pass(&server(429)));
        assert!(!may_pass(&server(401)) && !may_pass(&server(400)));
        assert!(!may_pass(&OciDistributionError::UnauthorizedError {
            url: String::new()
        }));
    }

    #[test]
    fn proxies_are_not_asked_for_the_loopback() {
        let config = proxied(|name| (name == "HTTPS_PROXY").then(|| "http://p:1".to_owned()));
        assert_eq!(config.https_proxy.as_deref(), Some("http://p:1"));
        assert_eq!(config.http_proxy, None);
        let config = proxied(|name| (name == "no_proxy").then(|| "a.example".to_owned()));
        assert_eq!(
            config.no_proxy.as_deref(),
            Some("a.example,localhost,127.0.0.0/8,::1")
        );
    }
}

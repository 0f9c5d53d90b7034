//! HTTP to what listens in a node: its registry, the plugin, a pod.

use super::Node;
use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, header};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Node {
    /// `GET path` over a new connection.
    pub async fn http(&self, address: SocketAddr, path: &str) -> Result<Answer> {
        self.request(address, Request::get(path).body(Full::default())?)
            .await
    }

    /// One request over a new connection.
    pub async fn request(&self, address: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        let stream = self.connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        request
            .headers_mut()
            .insert(header::HOST, address.to_string().parse()?);
        let what = format!("{} {}", request.method(), request.uri());
        let (head, body) = sender
            .send_request(request)
            .await
            .with_context(|| what.clone())?
            .into_parts();
        let body = body
            .collect()
            .await
            .with_context(|| format!("read the answer to {what}"))?
            .to_bytes();
        connection.abort();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

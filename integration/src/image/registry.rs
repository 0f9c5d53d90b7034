//! Pushing to the node's registry by the distribution API: blobs first, then the manifests that name them.

use super::{Blob, Content, Stored};
use crate::node::{Answer, Node, REGISTRY};
use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::{Method, Request, Uri, header};

/// What an image is pulled by if its tag is made of its digest.
pub(crate) fn reference(name: &str, content: &impl Content) -> String {
    format!("{REGISTRY}/{name}:{}", tag(&content.stored()))
}

/// Pushes an image under such a tag, and returns what to pull it by.
pub(crate) async fn push_by_digest(node: &Node, name: &str, content: &impl Content) -> Result<String> {
    let stored = content.stored();
    let tag = tag(&stored);
    push_stored(node, name, &stored, &tag).await?;
    Ok(format!("{REGISTRY}/{name}:{tag}"))
}

/// Pushes an image under a tag of one's choice.
pub(crate) async fn push(node: &Node, name: &str, content: &impl Content, tag: &str) -> Result<()> {
    push_stored(node, name, &content.stored(), tag).await
}

fn tag(stored: &Stored) -> String {
    stored.manifest.digest()["sha256:".len()..][..12].to_owned()
}

async fn push_stored(node: &Node, name: &str, stored: &Stored, reference: &str) -> Result<()> {
    for child in &stored.children {
        Box::pin(push_stored(node, name, child, &child.manifest.digest())).await?;
    }
    for blob in &stored.blobs {
        push_blob(node, name, blob)
            .await
            .with_context(|| format!("push blob {}", blob.digest()))?;
    }
    let manifest = &stored.manifest;
    let uri = format!("/v2/{name}/manifests/{reference}");
    let request = Request::put(uri).header(header::CONTENT_TYPE, &manifest.media_type);
    let answer = send(node, request.body(manifest.bytes.clone().into())?).await?;
    ensure!(
        answer.status == 201,
        "manifest refused with {}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

async fn push_blob(node: &Node, name: &str, blob: &Blob) -> Result<()> {
    let digest = blob.digest();
    let head = Request::head(format!("/v2/{name}/blobs/{digest}")).body(Full::default())?;
    if send(node, head).await?.status == 200 {
        return Ok(());
    }
    let start = Request::post(format!("/v2/{name}/blobs/uploads/")).body(Full::default())?;
    let begun = send(node, start).await?;
    ensure!(
        begun.status == 202,
        "upload refused with {}: {}",
        begun.status,
        begun.text()
    );
    let location: Uri = begun
        .headers
        .get(header::LOCATION)
        .context("no place to upload to")?
        .to_str()?
        .parse()?;
    let place = location.path_and_query().context("no path to upload to")?;
    let put = Request::builder()
        .method(Method::PUT)
        .uri(format!(
            "{place}{}digest={digest}",
            if place.query().is_some() { '&' } else { '?' }
        ))
        .header(header::CONTENT_TYPE, "application/octet-stream");
    let done = send(node, put.body(blob.bytes.clone().into())?).await?;
    ensure!(
        done.status == 201,
        "refused with {}: {}",
        done.status,
        done.text()
    );
    Ok(())
}

async fn send(node: &Node, request: Request<Full<hyper::body::Bytes>>) -> Result<Answer> {
    node.request(REGISTRY.parse()?, request).await
}

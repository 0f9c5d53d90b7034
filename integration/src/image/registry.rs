//! Pushing to the node's registry by the distribution API: blobs first, then the manifests that name them.

use super::{Blob, Content, Stored};
use crate::node::{Answer, Node, REGISTRY};
use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::{Method, Request, Uri, header};

/// Pushes `content` as `name` and returns what to pull it by. Without a tag, one is made of its digest.
pub(crate) async fn push(
    node: &Node,
    name: &str,
    content: &impl Content,
    tag: Option<&str>,
) -> Result<String> {
    let stored = content.stored();
    let digest = stored.manifest.digest();
    let tag = tag.unwrap_or(&digest["sha256:".len()..][..12]);
    push_stored(node, name, &stored, tag).await?;
    Ok(format!("{REGISTRY}/{name}:{tag}"))
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
    let begin = Request::post(format!("/v2/{name}/blobs/uploads/")).body(Full::default())?;
    let begun = send(node, begin).await?;
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

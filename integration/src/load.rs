//! Requests to a server in a node, at a steady rate.

use crate::node::Node;
use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How many requests may wait for their answers at once.
const AT_ONCE: usize = 8;

/// Sends so many requests a second for so long, evenly, each over a connection of its own, and returns how many there were. All
/// have to be answered well.
pub async fn send(node: &Node, server: SocketAddr, per_second: u32, duration: Duration) -> Result<u32> {
    let start = Instant::now();
    let requests = u32::try_from(duration.as_millis() * u128::from(per_second) / 1_000)?;
    let request = async |number| {
        sleep_until(start + Duration::from_secs(1) * number / per_second).await;
        let answer = node.http(server, "/").await?;
        ensure!(
            answer.status == 200,
            "request {number} was answered with {}",
            answer.status
        );
        Ok(())
    };
    let sent = stream::iter(0..requests).map(request).buffered(AT_ONCE);
    sent.try_collect::<Vec<()>>().await?;
    sleep_until(start + duration).await;
    Ok(requests)
}

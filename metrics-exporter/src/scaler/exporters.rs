//! Finds the exporters, and keeps a stream to each.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::Endpoint;
use tracing::{debug, info, warn};

use super::cluster::Cluster;
use super::fleet::Fleet;
use super::metrics::Metrics;
use crate::pb::counts as pb;
use pb::counts_client::CountsClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// An exporter speaks several times a second, so this long a silence is a broken connection.
const MAX_SILENCE: Duration = Duration::from_secs(3);
/// A stream that lasted so long was a good one.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// Looks the names up again and again, for ever, and listens to every exporter that they lead to.
pub async fn follow(names: Vec<String>, every: Duration, cluster: Arc<Cluster>, metrics: Arc<Metrics>) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = String::new();
    loop {
        ticks.tick().await;
        match look_up(&names).await {
            Ok(addresses) => {
                failed.clear();
                for address in cluster.tell(|fleet, now| fleet.listed(&addresses, now)) {
                    tokio::spawn(listen_while_expected(address, cluster.clone()));
                }
            }
            Err(error) => {
                metrics.lookup_failed();
                if failed != error {
                    warn!(error, "exporters cannot be looked up; those known stay");
                    failed = error;
                }
            }
        }
        cluster.tell(Fleet::forget);
    }
}

/// The addresses of all names, of one family: with both, every exporter would be heard twice.
async fn look_up(names: &[String]) -> Result<BTreeSet<SocketAddr>, String> {
    let mut addresses = BTreeSet::new();
    for name in names {
        let found = timeout(LOOKUP_TIMEOUT, lookup_host(name)).await;
        let found = found.map_err(|_| format!("{name}: no answer within {LOOKUP_TIMEOUT:?}"))?;
        addresses.extend(found.map_err(|error| format!("{name}: {error}"))?);
    }
    if addresses.iter().any(SocketAddr::is_ipv4) {
        addresses.retain(SocketAddr::is_ipv4);
    }
    Ok(addresses)
}

async fn listen_while_expected(address: SocketAddr, cluster: Arc<Cluster>) {
    let mut backoff = MIN_BACKOFF;
    while cluster.ask(|fleet, _| fleet.expects(address)) {
        let started = Instant::now();
        let error = match listen(address, &cluster).await {
            Ok(()) => "the exporter ended the stream".to_owned(),
            Err(error) => error,
        };
        if started.elapsed() > GOOD_STREAM {
            backoff = MIN_BACKOFF;
        }
        if backoff == MIN_BACKOFF {
            warn!(%address, error, "exporter lost");
        } else {
            debug!(%address, error, "exporter still lost");
        }
        cluster.tell(|fleet, _| fleet.disconnected(address, error));
        sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
    info!(%address, "exporter forgotten");
}

async fn listen(address: SocketAddr, cluster: &Cluster) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .connect()
        .await;
    let channel = channel.map_err(|error| with_causes(&error))?;
    let mut client = CountsClient::new(channel);
    let mut updates = match timeout(MAX_SILENCE, client.watch(pb::WatchRequest {})).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(status.message().to_owned()),
        Err(_) => return Err(silent()),
    };
    cluster.tell(|fleet, _| fleet.connected(address));
    let mut is_first = true;
    loop {
        let update = match timeout(MAX_SILENCE, updates.message()).await {
            Ok(Ok(Some(update))) => update,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Err(_) => return Err(silent()),
        };
        if std::mem::take(&mut is_first) {
            info!(%address, node = update.node, "exporter heard");
        }
        cluster.tell(|fleet, now| fleet.update(address, update, now));
    }
}

fn silent() -> String {
    format!("it said nothing for {MAX_SILENCE:?}")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = text + ": " + &error.to_string();
        cause = error.source();
    }
    text
}

/// Between half of it and all, so that scalers do not come back all at once.
fn jittered(backoff: Duration) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let noise = now.map_or(0, |now| now.subsec_nanos()) % 1_000;
    backoff / 2 + backoff * noise / 2_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_lookup() {
        let found = look_up(&[
            "127.0.0.1:1".to_owned(),
            "127.0.0.2:1".to_owned(),
            "[::1]:1".to_owned(),
        ])
        .await;
        let expected = ["127.0.0.1:1", "127.0.0.2:1"].map(|address| address.parse().unwrap());
        assert_eq!(found, Ok(expected.into()), "of one family");
        assert!(look_up(&["no.such.name.invalid:1".to_owned()]).await.is_err());
        assert!(
            look_up(&["127.0.0.1".to_owned()]).await.is_err(),
            "there is no port"
        );
    }

    #[test]
    fn pauses_are_of_different_length() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(1));
            assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&pause));
        }
    }
}

//! The exporter's side of the stream to scalers: all pods at first, then what changes, in every interval.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::counts::Pod;
use crate::pb::counts as pb;
use crate::recent::{Counted, Recent};

/// gRPC's customary limit is 4 MiB for a message, and a pod's labels may take 1.5 MiB of it.
const MAX_UPDATE_BYTES: usize = 2 << 20;

/// The service that scalers watch.
#[derive(Clone, Debug)]
pub struct Feed {
    node: Arc<str>,
    recent: Arc<Recent>,
    run: u64,
}

impl Feed {
    /// What was counted on the node of this name.
    pub fn new(node: &str, recent: Arc<Recent>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let run = now.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        Self {
            node: node.into(),
            recent,
            run,
        }
    }

    /// The service, to be added to a server.
    pub fn service(self) -> pb::counts_server::CountsServer<Self> {
        pb::counts_server::CountsServer::new(self)
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<pb::Update, Status>> + Send>>;

#[tonic::async_trait]
impl pb::counts_server::Counts for Feed {
    type WatchStream = Updates;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Updates>, Status> {
        info!(scaler = ?request.remote_addr(), "watched");
        let session = Session::new(self.clone());
        let updates = stream::unfold(session, async |mut session| {
            let update = session.next().await?;
            Some((Ok(update), session))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

/// One scaler's stream.
struct Session {
    feed: Feed,
    pending: VecDeque<pb::Update>,
    reads: watch::Receiver<u64>,
    sent: HashMap<String, pb::Reading>,
    next_id: u32,
}

impl Session {
    fn new(feed: Feed) -> Self {
        let mut reads = feed.recent.reads();
        reads.mark_changed(); // the state is sent at once
        Self {
            feed,
            pending: VecDeque::new(),
            reads,
            sent: HashMap::new(),
            next_id: 0,
        }
    }

    async fn next(&mut self) -> Option<pb::Update> {
        if self.pending.is_empty() {
            self.reads.changed().await.ok()?;
            self.pending = self.updates(Instant::now());
        }
        self.pending.pop_front()
    }

    /// What has changed since the last time, in as many messages as it takes.
    fn updates(&mut self, now: Instant) -> VecDeque<pb::Update> {
        let recent = self.feed.recent.clone();
        let past = recent.past();
        let empty = pb::Update {
            node: self.feed.node.to_string(),
            run: self.feed.run,
            read_ms: past.read_ms(),
            unknown: recent.unknown(now).unwrap_or_default(),
            ..pb::Update::default()
        };
        let (mut updates, mut update, mut bytes) = (VecDeque::new(), empty.clone(), 0);
        let mut still_sent = HashMap::with_capacity(self.sent.len());
        for counted in past.pods() {
            let uid = &counted.pod.identity().uid;
            let before = self.sent.remove(uid);
            let id = before.map_or(self.next_id, |reading| reading.id);
            let reading = reading(id, counted);
            if before.is_none() {
                self.next_id += 1;
                let pod = started(reading, counted, past.read_ms());
                bytes += pod.encoded_len();
                update.started.push(pod);
            } else if before != Some(reading) {
                bytes += reading.encoded_len();
                update.readings.push(reading);
            }
            still_sent.insert(uid.clone(), reading);
            if bytes > MAX_UPDATE_BYTES {
                let full = std::mem::replace(&mut update, empty.clone());
                updates.push_back(pb::Update { more: true, ..full });
                bytes = 0;
            }
        }
        self.sent = still_sent;
        updates.push_back(update);
        updates
    }
}

fn reading(id: u32, counted: &Counted) -> pb::Reading {
    pb::Reading {
        id,
        requests: counted.requests,
        tls_connections: counted.pod.tls_connections(),
        state: state(&counted.pod).into(),
    }
}

fn state(pod: &Pod) -> pb::State {
    if pod.has_ended() {
        pb::State::Ended
    } else if pod.is_attached() {
        pb::State::Counted
    } else {
        pb::State::Unseen
    }
}

fn started(reading: pb::Reading, counted: &Counted, read_ms: u64) -> pb::Pod {
    let identity = counted.pod.identity();
    let seconds = counted.ring.seconds();
    pb::Pod {
        id: reading.id,
        uid: identity.uid.clone(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        labels: identity.labels.clone().into_iter().collect(),
        workload_kind: identity.workload.kind.clone(),
        workload: identity.workload.name.clone(),
        since_ms: counted.ring.since(),
        reading: Some(reading),
        past: seconds
            .flat_map(|(begin, count)| [read_ms.saturating_sub(begin), count.into()])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Identity, Protocol, Table};
    use std::time::Duration;

    fn identity(uid: &str, label: String) -> Identity {
        let labels = [("app".to_owned(), label)].into();
        Identity {
            uid: uid.to_owned(),
            labels,
            ..Identity::default()
        }
    }

    fn session() -> (Arc<Table>, Arc<Recent>, Session, Instant) {
        let now = Instant::now();
        let table = Arc::new(Table::new(100, now));
        table.set_synchronized(true);
        let recent = Arc::new(Recent::new(table.clone(), now));
        let session = Session::new(Feed::new("n1", recent.clone()));
        (table, recent, session, now)
    }

    #[test]
    fn at_first_comes_the_state_and_then_what_changes() {
        let (table, recent, mut session, now) = session();
        let after = |ms| now + Duration::from_millis(ms);
        let pod = table.start(identity("a", "web".to_owned()));
        table.start(identity("b", "db".to_owned()));
        pod.add_requests(Protocol::Http1, 3);
        recent.read(after(1_000));
        let first = session.updates(now).pop_front().unwrap();
        assert_eq!(
            (first.node.as_str(), first.read_ms, first.started.len()),
            ("n1", 1_000, 2)
        );
        assert_eq!(first.started[0].reading.unwrap().requests, 3);
        assert_eq!(first.started[0].past, [1_000, 3]);
        assert_eq!(first.started[0].reading.unwrap().state(), pb::State::Unseen);

        recent.read(after(1_250));
        let second = session.updates(now).pop_front().unwrap();
        assert!(
            second.started.is_empty() && second.readings.is_empty(),
            "nothing has changed: {second:?}"
        );
        pod.add_requests(Protocol::Http2, 1);
        table.end("b", after(1_400));
        recent.read(after(1_500));
        let third = session.updates(now).pop_front().unwrap();
        let said = |reading: &pb::Reading| (reading.id, reading.requests, reading.state());
        let said: Vec<_> = third.readings.iter().map(said).collect();
        assert_eq!(said, [(0, 4, pb::State::Unseen), (1, 0, pb::State::Ended)]);
    }

    #[test]
    fn a_large_state_comes_in_parts() {
        let (table, recent, mut session, now) = session();
        for pod in 0..10 {
            table.start(identity(&pod.to_string(), "x".repeat(600_000)));
        }
        recent.read(now);
        let updates = session.updates(now);
        assert_eq!(
            updates.iter().map(|update| update.started.len()).sum::<usize>(),
            10
        );
        let more: Vec<_> = updates.iter().map(|update| update.more).collect();
        assert_eq!(more, [true, true, false]);
        assert!(updates.iter().all(|update| update.encoded_len() < 4 << 20));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let (table, recent, mut session, now) = session();
        recent.read(now);
        assert_eq!(session.updates(now)[0].unknown, "");
        table.set_synchronized(false);
        assert!(session.updates(now)[0].unknown.contains("has not told"));
    }
}

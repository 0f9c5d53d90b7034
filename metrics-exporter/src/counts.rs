//! What was counted, by pod: the one place where counting and publishing meet.
//!
//! A capturing thread holds the [`Pod`] it counts for and adds to it without a lock. Readers take the list of
//! pods and read each number as it stands; a number never falls while its pod lives. A pod that ended stays for a while,
//! so that its last requests are still read by whoever asks only now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// What a request was spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// gRPC, over HTTP/2.
    Grpc,
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2 that is not gRPC.
    Http2,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Grpc, Self::Http1, Self::Http2];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// Why a request is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exclusion {
    /// A call of gRPC's health service.
    GrpcHealth,
    /// A kubelet's probe over HTTP.
    HttpProbe,
    /// A scrape by Prometheus.
    Scrape,
}

impl Exclusion {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::GrpcHealth, Self::HttpProbe, Self::Scrape];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::GrpcHealth => "grpc_health",
            Self::HttpProbe => "http_probe",
            Self::Scrape => "scrape",
        }
    }
}

/// Who a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The pod's uid in Kubernetes.
    pub uid: String,
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The container that requests are ascribed to.
    pub container: String,
    /// What it belongs to.
    pub workload: Workload,
}

/// What a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// `Deployment`, `StatefulSet` and so on; `Pod` for one that belongs to nothing.
    pub kind: String,
    /// The name, in the pod's namespace.
    pub name: String,
}

/// The numbers of one pod.
#[derive(Debug, Default)]
pub struct Pod {
    identity: Identity,
    attached: AtomicBool,
    ended: RwLock<Option<Instant>>,
    excluded: [AtomicU64; Exclusion::ALL.len()],
    lost_packets: AtomicU64,
    requests: [AtomicU64; Protocol::ALL.len()],
    tls_connections: AtomicU64,
    unparsed_bytes: AtomicU64,
}

impl Pod {
    fn new(identity: Identity) -> Self {
        Self {
            identity,
            ..Self::default()
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Counts requests.
    pub fn add_requests(&self, protocol: Protocol, count: u64) {
        self.requests[protocol as usize].fetch_add(count, Relaxed);
    }

    /// Counts requests that are not to be counted.
    pub fn add_excluded(&self, reason: Exclusion, count: u64) {
        self.excluded[reason as usize].fetch_add(count, Relaxed);
    }

    /// Counts connections whose requests cannot be seen.
    pub fn add_tls_connections(&self, count: u64) {
        self.tls_connections.fetch_add(count, Relaxed);
    }

    /// Counts bytes that were seen and are in no protocol that is understood.
    pub fn add_unparsed_bytes(&self, count: u64) {
        self.unparsed_bytes.fetch_add(count, Relaxed);
    }

    /// Counts packets that were not seen: what they held is not in the other numbers.
    pub fn add_lost_packets(&self, count: u64) {
        self.lost_packets.fetch_add(count, Relaxed);
    }

    /// Says whether its traffic is seen. A pod that is not attached has requests that nobody knows of.
    pub fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Relaxed);
    }

    /// Whether its traffic is seen.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Relaxed)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// How long ago it ended, if it has.
    pub fn ended_for(&self, now: Instant) -> Option<Duration> {
        self.ended().map(|ended| now.saturating_duration_since(ended))
    }

    /// Requests so far in one protocol.
    pub fn requests(&self, protocol: Protocol) -> u64 {
        self.requests[protocol as usize].load(Relaxed)
    }

    /// Requests so far in all protocols.
    pub fn total_requests(&self) -> u64 {
        Protocol::ALL.map(|protocol| self.requests(protocol)).iter().sum()
    }

    /// Requests so far that were excluded for a reason.
    pub fn excluded(&self, reason: Exclusion) -> u64 {
        self.excluded[reason as usize].load(Relaxed)
    }

    /// Connections so far whose requests cannot be seen.
    pub fn tls_connections(&self) -> u64 {
        self.tls_connections.load(Relaxed)
    }

    /// Bytes so far that were not understood.
    pub fn unparsed_bytes(&self) -> u64 {
        self.unparsed_bytes.load(Relaxed)
    }

    /// Packets so far that were not seen.
    pub fn lost_packets(&self) -> u64 {
        self.lost_packets.load(Relaxed)
    }

    fn ended(&self) -> Option<Instant> {
        *self.ended.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_ended(&self, ended: Option<Instant>) {
        *self.ended.write().unwrap_or_else(PoisonError::into_inner) = ended;
    }

    /// The same numbers under another identity.
    fn renamed(&self, identity: Identity) -> Self {
        let pod = Self::new(identity);
        for protocol in Protocol::ALL {
            pod.add_requests(protocol, self.requests(protocol));
        }
        for reason in Exclusion::ALL {
            pod.add_excluded(reason, self.excluded(reason));
        }
        pod.add_tls_connections(self.tls_connections());
        pod.add_unparsed_bytes(self.unparsed_bytes());
        pod.add_lost_packets(self.lost_packets());
        pod
    }
}

/// All pods that are counted on this node, or were not long ago.
#[derive(Debug)]
pub struct Table {
    beyond: RwLock<BTreeSet<String>>,
    max_pods: usize,
    overflow: Arc<Pod>,
    pods: RwLock<BTreeMap<String, Arc<Pod>>>,
    sampled_ms: AtomicU64,
    since: Instant,
    synchronized: AtomicBool,
}

impl Table {
    /// The name under which pods are counted together that the table has no room for.
    pub const OVERFLOW: &str = "_overflow";

    /// A table with room for so many pods. Until [`Table::sampled`] is first called, the last sample is `now`.
    pub fn new(max_pods: usize, now: Instant) -> Self {
        let overflow = Pod::new(Identity {
            name: Self::OVERFLOW.to_owned(),
            ..Identity::default()
        });
        Self {
            beyond: RwLock::default(),
            max_pods,
            overflow: Arc::new(overflow),
            pods: RwLock::default(),
            sampled_ms: AtomicU64::new(0),
            since: now,
            synchronized: AtomicBool::new(false),
        }
    }

    /// The pod to count for, from now until [`Table::end`]. Known by its uid already, it goes on with its numbers. Where there
    /// is no room, it is the one that all such pods share.
    pub fn start(&self, identity: Identity) -> Arc<Pod> {
        let mut pods = write(&self.pods);
        match pods.get(&identity.uid) {
            Some(pod) if pod.identity == identity => {
                pod.set_ended(None);
                return pod.clone();
            }
            Some(pod) => {
                let pod = Arc::new(pod.renamed(identity));
                pods.insert(pod.identity.uid.clone(), pod.clone());
                return pod;
            }
            None => {}
        }
        if pods.len() >= self.max_pods {
            pods.retain(|_, pod| !pod.has_ended());
        }
        if pods.len() >= self.max_pods {
            write(&self.beyond).insert(identity.uid);
            return self.overflow.clone();
        }
        write(&self.beyond).remove(&identity.uid);
        let pod = Arc::new(Pod::new(identity));
        pods.insert(pod.identity.uid.clone(), pod.clone());
        pod
    }

    /// Says that a pod has ended. Its numbers stay until [`Table::forget`].
    pub fn end(&self, uid: &str, now: Instant) {
        write(&self.beyond).remove(uid);
        if let Some(pod) = read(&self.pods).get(uid) {
            pod.set_attached(false);
            pod.set_ended(Some(now));
        }
    }

    /// Drops the pods that ended longer ago than this.
    pub fn forget(&self, ago: Duration, now: Instant) {
        let is_old = |pod: &Pod| pod.ended_for(now).is_some_and(|ended| ended > ago);
        write(&self.pods).retain(|_, pod| !is_old(pod));
    }

    /// All pods in the order of their uids, without the one that others share.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        read(&self.pods).values().cloned().collect()
    }

    /// What the pods share that the table has no room for.
    pub fn overflow(&self) -> &Arc<Pod> {
        &self.overflow
    }

    /// How many pods the table has no room for.
    pub fn pods_beyond(&self) -> usize {
        read(&self.beyond).len()
    }

    /// Says that all that was seen until now is counted.
    pub fn sampled(&self, now: Instant) {
        let since = now.saturating_duration_since(self.since);
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.sampled_ms.fetch_max(since, Relaxed);
    }

    /// How long ago [`Table::sampled`] was last called.
    pub fn sample_age(&self, now: Instant) -> Duration {
        let sampled = self.since + Duration::from_millis(self.sampled_ms.load(Relaxed));
        now.saturating_duration_since(sampled)
    }

    /// Says whether the table knows of all pods of the node.
    pub fn set_synchronized(&self, synchronized: bool) {
        self.synchronized.store(synchronized, Relaxed);
    }

    /// Whether the table knows of all pods of the node. Until it does, a pod that is not in it may exist.
    pub fn is_synchronized(&self) -> bool {
        self.synchronized.load(Relaxed)
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uid: &str) -> Identity {
        Identity {
            uid: uid.to_owned(),
            name: format!("pod-{uid}"),
            ..Identity::default()
        }
    }

    fn after(seconds: u64, start: Instant) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_pod_that_comes_back_goes_on_counting() {
        let now = Instant::now();
        let table = Table::new(10, now);
        table.start(identity("a")).add_requests(Protocol::Http1, 2);
        table.end("a", now);
        assert!(table.pods()[0].has_ended());
        let pod = table.start(identity("a"));
        assert_eq!((pod.total_requests(), pod.has_ended()), (2, false));
        table.forget(Duration::ZERO, after(1, now));
        assert_eq!(table.pods().len(), 1);
    }

    #[test]
    fn a_pod_of_another_name_keeps_its_numbers() {
        let table = Table::new(10, Instant::now());
        let pod = table.start(identity("a"));
        pod.add_requests(Protocol::Grpc, 3);
        pod.add_excluded(Exclusion::Scrape, 4);
        let renamed = Identity {
            container: "app".to_owned(),
            ..identity("a")
        };
        let pod = table.start(renamed);
        assert_eq!(pod.requests(Protocol::Grpc), 3);
        assert_eq!(pod.excluded(Exclusion::Scrape), 4);
        assert_eq!(table.pods().len(), 1);
    }

    #[test]
    fn ended_pods_go_after_a_while() {
        let now = Instant::now();
        let table = Table::new(10, now);
        table.start(identity("a"));
        table.end("a", now);
        table.forget(Duration::from_secs(60), after(60, now));
        assert_eq!(table.pods().len(), 1);
        table.forget(Duration::from_secs(60), after(61, now));
        assert!(table.pods().is_empty());
    }

    #[test]
    fn pods_without_room_share_one_series() {
        let table = Table::new(1, Instant::now());
        table.start(identity("a"));
        table.start(identity("b")).add_requests(Protocol::Http2, 1);
        table.start(identity("c")).add_requests(Protocol::Http2, 1);
        assert_eq!(table.overflow().total_requests(), 2);
        assert_eq!((table.pods().len(), table.pods_beyond()), (1, 2));
        table.end("b", Instant::now());
        assert_eq!(table.pods_beyond(), 1);
        table.end("a", Instant::now());
        assert_eq!(table.start(identity("c")).total_requests(), 0);
        assert_eq!(table.pods_beyond(), 0);
    }

    #[test]
    fn the_last_sample_ages() {
        let now = Instant::now();
        let table = Table::new(1, now);
        assert_eq!(table.sample_age(after(2, now)), Duration::from_secs(2));
        table.sampled(after(5, now));
        assert_eq!(table.sample_age(after(6, now)), Duration::from_secs(1));
    }
}

//! What was counted lately on this node: the table, read at regular intervals, and kept as rates.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::counts::{Identity, Pod, Table, Workload};
use crate::rate::{self, Known, Ring};

/// Older than this, a sample says nothing of now.
const MAX_SAMPLE_AGE: Duration = Duration::from_secs(3);

/// The table's recent past.
#[derive(Debug)]
pub struct Recent {
    past: RwLock<Past>,
    reads: watch::Sender<u64>,
    since: Instant,
    table: Arc<Table>,
}

/// What is known at one moment. Times are milliseconds by the exporter's own clock.
#[derive(Debug, Default)]
pub struct Past {
    pods: BTreeMap<String, Counted>,
    read_ms: u64,
}

/// One pod.
#[derive(Debug)]
pub struct Counted {
    /// Its numbers.
    pub pod: Arc<Pod>,
    /// When its requests were counted.
    pub ring: Ring,
    /// How many there were when they were last read.
    pub requests: u64,
}

/// How busy some pods are together.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// How many there are, those that have ended left out.
    pub pods: usize,
    /// How many of them have requests that are not seen.
    pub unseen: usize,
    /// Their requests so far.
    pub requests: u64,
    /// Their requests per second, for each of the windows asked for.
    pub rates: Vec<f64>,
}

impl Recent {
    /// The past of a table, which begins now.
    pub fn new(table: Arc<Table>, now: Instant) -> Self {
        Self {
            past: RwLock::default(),
            reads: watch::Sender::new(0),
            since: now,
            table,
        }
    }

    /// What is counted.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What is known.
    pub fn past(&self) -> RwLockReadGuard<'_, Past> {
        self.past.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the table was read again.
    pub fn reads(&self) -> watch::Receiver<u64> {
        self.reads.subscribe()
    }

    /// Reads the table.
    pub fn read(&self, now: Instant) {
        self.table.forget(rate::MAX_WINDOW, now);
        let since = now.saturating_duration_since(self.since).as_millis();
        let read_ms = u64::try_from(since).unwrap_or(u64::MAX);
        let mut past = self.past.write().unwrap_or_else(PoisonError::into_inner);
        let read_ms = read_ms.max(past.read_ms); // who was first may have been held up
        past.read(self.table.pods(), read_ms);
        drop(past);
        self.reads.send_replace(read_ms);
    }

    /// Reads the table when nobody else has for this long, for ever: others then hear why nothing is known.
    pub async fn watch_over(&self, patience: Duration) {
        let mut ticks = interval(patience);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await.into_std();
            let read = self.since + Duration::from_millis(self.past().read_ms);
            if now.saturating_duration_since(read) >= patience {
                self.read(now);
            }
        }
    }

    /// Why the table is not all that there is to know, if it is not.
    pub fn unknown(&self, now: Instant) -> Option<String> {
        let age = self.table.sample_age(now);
        let beyond = self.table.pods_beyond();
        if !self.table.is_synchronized() {
            Some("the container runtime has not told of its pods".to_owned())
        } else if age > MAX_SAMPLE_AGE {
            Some(format!("no traffic was looked at for {} s", age.as_secs()))
        } else if beyond > 0 {
            Some(format!("{beyond} pods are more than the table takes"))
        } else {
            None
        }
    }
}

impl Past {
    fn read(&mut self, pods: Vec<Arc<Pod>>, read_ms: u64) {
        let before = std::mem::replace(&mut self.read_ms, read_ms);
        let mut known = std::mem::take(&mut self.pods);
        for pod in pods {
            let uid = pod.identity().uid.clone();
            let (ring, requests) = match known.remove(&uid) {
                Some(counted) => (counted.ring, counted.requests),
                None => (Ring::new(before), 0),
            };
            let mut counted = Counted {
                requests: pod.total_requests(),
                ring,
                pod,
            };
            counted
                .ring
                .add(rate::increase(requests, counted.requests), before, read_ms);
            self.pods.insert(uid, counted);
        }
    }

    /// When the table was read.
    pub fn read_ms(&self) -> u64 {
        self.read_ms
    }

    /// All pods, those that ended not long ago among them.
    pub fn pods(&self) -> impl Iterator<Item = &Counted> {
        self.pods.values()
    }

    /// How busy the selected pods are together.
    pub fn load(&self, windows: &[Duration], select: impl Fn(&Identity) -> bool) -> Load {
        let selected: Vec<_> = self
            .pods()
            .filter(|counted| select(counted.pod.identity()))
            .collect();
        let known = selected.iter().map(|counted| self.known(counted));
        let living = || selected.iter().filter(|counted| !counted.pod.has_ended());
        Load {
            pods: living().count(),
            unseen: living().filter(|counted| !counted.pod.is_attached()).count(),
            requests: selected.iter().map(|counted| counted.requests).sum(),
            rates: windows
                .iter()
                .map(|&window| rate::rate(known.clone(), window))
                .collect(),
        }
    }

    /// Requests per second of every workload, with its namespace.
    pub fn rates(&self, window: Duration) -> BTreeMap<(&str, &Workload), f64> {
        let mut workloads: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for counted in self.pods() {
            let identity = counted.pod.identity();
            let key = (identity.namespace.as_str(), &identity.workload);
            workloads.entry(key).or_default().push(self.known(counted));
        }
        let rates = workloads
            .into_iter()
            .map(|(key, pods)| (key, rate::rate(pods.into_iter(), window)));
        rates.collect()
    }

    fn known<'a>(&self, counted: &'a Counted) -> Known<'a> {
        Known {
            ring: &counted.ring,
            until: self.read_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Protocol;

    fn identity(uid: &str, workload: &str) -> Identity {
        Identity {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            workload: Workload {
                kind: "Deployment".to_owned(),
                name: workload.to_owned(),
            },
            ..Identity::default()
        }
    }

    /// A table, its past, and a function that reads it after so many milliseconds.
    fn recent() -> (Arc<Table>, Recent, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let table = Arc::new(Table::new(10, start));
        let recent = Recent::new(table.clone(), start);
        (table, recent, move |ms| start + Duration::from_millis(ms))
    }

    #[test]
    fn workloads_are_as_busy_as_their_pods() {
        let (table, recent, at) = recent();
        let pods =
            [("a", "web"), ("b", "web"), ("c", "db")].map(|(uid, name)| table.start(identity(uid, name)));
        for second in 0..=10 {
            recent.read(at(second * 1_000));
            for (pod, count) in pods.iter().zip([10, 20, 5]) {
                pod.set_attached(true);
                pod.add_requests(Protocol::Http1, count);
            }
        }
        let past = recent.past();
        let web = past.load(&[Duration::from_secs(1), Duration::from_secs(10)], |pod| {
            pod.workload.name == "web"
        });
        let expected = Load {
            pods: 2,
            unseen: 0,
            requests: 300,
            rates: vec![30.0, 30.0],
        };
        assert_eq!(web, expected);
        let rates: Vec<_> = past.rates(Duration::from_secs(10)).into_values().collect();
        assert_eq!(rates, [5.0, 30.0]);
    }

    #[test]
    fn a_pod_that_ended_is_in_the_window_still() {
        let (table, recent, at) = recent();
        recent.read(at(0));
        table
            .start(identity("a", "web"))
            .add_requests(Protocol::Grpc, 100);
        recent.read(at(1_000));
        table.end("a", at(1_000));
        recent.read(at(10_000));
        let load = |window_s| recent.past().load(&[Duration::from_secs(window_s)], |_| true);
        assert_eq!((load(10).pods, load(10).rates[0]), (0, 10.0));
        recent.read(at(602_000));
        assert_eq!(load(600).requests, 0);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let (table, recent, at) = recent();
        let said = |ms| recent.unknown(at(ms)).unwrap_or_default();
        assert!(said(0).contains("has not told"));
        table.set_synchronized(true);
        assert_eq!(recent.unknown(at(0)), None);
        assert!(said(4_000).contains("for 4 s"));
        table.sampled(at(4_000));
        for pod in 0..12 {
            table.start(identity(&pod.to_string(), "web"));
        }
        assert!(said(4_000).contains("2 pods"));
    }
}

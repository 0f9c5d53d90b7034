//! What all exporters have told, and what follows from it.
//!
//! The rule that everything here serves: a number is told only if it is known. An error leaves a workload's replicas alone; a zero
//! takes them away. Times are milliseconds by the scaler's own clock.
//!
//! A question may be about a thousand pods, and comes often. So pods that nothing tells apart, those of one node with the same
//! labels, have their requests added up as these come in, in a pool, and a question is about a few pools.

#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::trigger::{Pods, Trigger};
use crate::counts::Workload;
use crate::pb::counts as pb;
use crate::rate::{self, Known, Ring};

/// What to answer while exporters are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Partial {
    /// An error to those whose pods are, or lately were, on the missing exporters' nodes.
    Affected,
    /// The rate, with what was last known of the missing ones.
    Answer,
    /// An error to everyone.
    #[default]
    Refuse,
}

/// When exporters are missing, and what then.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After which silence an exporter is missing.
    pub stale_after: Duration,
    /// How long an exporter that is no longer listed is missed, before its node is taken for gone.
    pub forget_after: Duration,
    /// What to answer meanwhile.
    pub partial: Partial,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Pods whose requests are inside TLS.
    #[error("the requests of {pod} are inside TLS, where they cannot be counted")]
    Encrypted {
        /// One of them.
        pod: String,
    },
    /// An exporter that says nothing, or not enough.
    #[error("the exporter on {node} is missing: {why}")]
    Missing {
        /// Its node, or its address.
        node: String,
        /// What is wrong.
        why: String,
    },
    /// None is there.
    #[error("no exporter is known")]
    Nobody,
    /// A pod that its exporter cannot look at.
    #[error("the requests of {pod} are not seen by the exporter on its node")]
    Unseen {
        /// The pod.
        pod: String,
    },
}

/// All exporters, and all pods they told of.
#[derive(Debug)]
pub struct Fleet {
    nodes: BTreeMap<SocketAddr, Node>,
    patience: Patience,
    pods: BTreeMap<Key, Pod>,
    pools: BTreeMap<Arc<Likeness>, Pool>,
}

/// A pod's namespace and uid.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Node {
    ids: HashMap<u32, Key>,
    name: String,
    /// Parts of a state that is not whole yet.
    parts: Vec<pb::Update>,
    /// When it last told all that there is to know.
    read: Option<u64>,
    /// When its last message came.
    heard: u64,
    /// Whether a state has been told in the present stream.
    is_whole: bool,
    /// Since when it is not listed any more.
    unlisted: Option<u64>,
    /// What is wrong with it.
    why: String,
}

#[derive(Debug)]
struct Pod {
    /// Which pool it is in.
    like: Arc<Likeness>,
    name: String,
    requests: u64,
    ring: Ring,
    run: u64,
    /// When it ended, if it has.
    ended: Option<u64>,
    state: pb::State,
    tls_connections: u64,
}

/// What pods have in common that are in one pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    namespace: Arc<str>,
    workload: Workload,
    labels: BTreeMap<String, String>,
    /// The exporter that told of them.
    node: SocketAddr,
    has_ended: bool,
}

/// Pods that are alike, and the requests of all of them.
#[derive(Debug)]
struct Pool {
    pods: usize,
    ring: Ring,
    /// Since when how many of them are known.
    since: BTreeMap<u64, usize>,
    standing: Standing,
}

/// How many pods are in a way that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// Had requests.
    busy: usize,
    /// Have connections whose requests cannot be seen.
    encrypted: usize,
    /// Are not seen.
    unseen: usize,
}

/// How many there are, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Exporters that tell all there is to know.
    pub current_nodes: usize,
    /// Those that should.
    pub missing_nodes: usize,
    /// Pods that run.
    pub pods: usize,
}

impl Fleet {
    /// Nobody is known.
    pub fn new(patience: Patience) -> Self {
        Self {
            nodes: BTreeMap::new(),
            patience,
            pods: BTreeMap::new(),
            pools: BTreeMap::new(),
        }
    }

    /// Takes the exporters' addresses, as they are listed now. Returns those that are new.
    pub fn listed(&mut self, addresses: &BTreeSet<SocketAddr>, now: u64) -> Vec<SocketAddr> {
        for (address, node) in &mut self.nodes {
            node.unlisted = match node.unlisted {
                _ if addresses.contains(address) => None,
                since => since.or(Some(now)),
            };
        }
        let known = |address: &&SocketAddr| !self.nodes.contains_key(address);
        let new: Vec<_> = addresses.iter().filter(known).copied().collect();
        for &address in &new {
            self.nodes.insert(address, Node::new(now));
        }
        new
    }

    /// Whether an exporter is still to be listened to.
    pub fn expects(&self, address: SocketAddr) -> bool {
        self.nodes.contains_key(&address)
    }

    /// A stream to an exporter begins.
    pub fn connected(&mut self, address: SocketAddr) {
        if let Some(node) = self.nodes.get_mut(&address) {
            node.ids.clear();
            node.parts.clear();
            node.is_whole = false;
        }
    }

    /// A stream to an exporter has ended, or did not begin.
    pub fn disconnected(&mut self, address: SocketAddr, why: String) {
        if let Some(node) = self.nodes.get_mut(&address) {
            node.is_whole = false;
            node.why = why;
        }
    }

    /// Takes what an exporter says.
    pub fn update(&mut self, address: SocketAddr, update: pb::Update, now: u64) {
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        if update.more {
            node.parts.push(update);
            return;
        }
        let before = std::mem::replace(&mut node.heard, now);
        node.name.clone_from(&update.node);
        node.why.clone_from(&update.unknown);
        if update.unknown.is_empty() {
            node.read = Some(now);
        }
        let is_first = !std::mem::replace(&mut node.is_whole, true);
        let parts = std::mem::take(&mut node.parts);
        for part in parts.iter().chain([&update]) {
            for pod in &part.started {
                self.start(address, part, pod, now);
            }
            for reading in &part.readings {
                self.read(address, reading, before, now);
            }
        }
        if is_first {
            self.end_unmentioned(address, now);
        }
    }

    /// Forgets what is too old to matter.
    pub fn forget(&mut self, now: u64) {
        let patience = self.patience;
        let is_gone = |(_, node): &(&SocketAddr, &Node)| {
            let unlisted = node
                .unlisted
                .is_some_and(|since| now.saturating_sub(since) > millis(patience.forget_after));
            node.missing(patience, now).is_some() && (unlisted || self.is_replaced(node, now))
        };
        let gone: Vec<_> = self
            .nodes
            .iter()
            .filter(is_gone)
            .map(|(&address, _)| address)
            .collect();
        for address in gone {
            self.remove(address, now);
        }
        let is_old = |ended: u64| now.saturating_sub(ended) > millis(rate::MAX_WINDOW);
        self.pods.retain(|_, pod| {
            let is_gone = pod.ended.is_some_and(is_old);
            if is_gone {
                leave(&mut self.pools, pod);
            }
            !is_gone
        });
        // A stream may last as long as the exporter does, and names pods by numbers that are never used again.
        for node in self.nodes.values_mut().filter(|node| node.is_whole) {
            node.ids.retain(|_, key| self.pods.contains_key(key));
        }
    }

    /// The rate that a trigger in a namespace asks for.
    pub fn rate(&self, namespace: &str, trigger: &Trigger, now: u64) -> Result<f64, Unknown> {
        let pools: Vec<_> = self.select(namespace, &trigger.pods).collect();
        self.check(&pools, now)?;
        let known = pools.iter().map(|(like, pool)| Known {
            ring: &pool.ring,
            until: self.until(like, now),
        });
        Ok(match trigger.panic {
            None => rate::rate(known, trigger.window),
            Some(panic) => rate::rate_or_burst(known, trigger.window, panic),
        })
    }

    /// How many there are.
    pub fn census(&self, now: u64) -> Census {
        let missing_nodes = self.missing(now).len();
        Census {
            current_nodes: self.nodes.len() - missing_nodes,
            missing_nodes,
            pods: self.pods.values().filter(|pod| pod.ended.is_none()).count(),
        }
    }

    /// Whether every exporter that is listed has had its chance to speak.
    pub fn has_begun(&self, now: u64) -> bool {
        let settled = |node: &Node| {
            node.read.is_some() || now.saturating_sub(node.heard) > millis(self.patience.stale_after)
        };
        !self.nodes.is_empty() && self.nodes.values().all(settled)
    }

    fn select<'a>(
        &'a self,
        namespace: &str,
        wanted: &'a Pods,
    ) -> impl Iterator<Item = (&'a Likeness, &'a Pool)> {
        let first = Likeness::first_of(namespace);
        let namespace = first.namespace.clone();
        self.pools
            .range(first..)
            .map(|(like, pool)| (&**like, pool))
            .take_while(move |(like, _)| like.namespace == namespace)
            .filter(|(like, _)| wanted.select(&like.labels, &like.workload))
    }

    /// Until when pods' requests are known. What has ended is known for ever.
    fn until(&self, like: &Likeness, now: u64) -> u64 {
        let node = self.nodes.get(&like.node).filter(|_| !like.has_ended);
        node.map_or(now, |node| node.heard)
    }

    /// The exporters that do not tell all there is to know, and what is wrong with them.
    fn missing(&self, now: u64) -> Vec<(SocketAddr, &Node, String)> {
        let why = |node: &Node| {
            node.missing(self.patience, now)
                .filter(|_| !self.is_replaced(node, now))
        };
        let missing = self
            .nodes
            .iter()
            .filter_map(|(&address, node)| Some((address, node, why(node)?)));
        missing.collect()
    }

    /// Whether another exporter has taken a missing one's place.
    fn is_replaced(&self, missing: &Node, now: u64) -> bool {
        let is_current =
            |node: &Node| node.name == missing.name && node.missing(self.patience, now).is_none();
        !missing.name.is_empty() && self.nodes.values().any(is_current)
    }

    /// Whether what is known of these pods is all that there is to know.
    fn check(&self, pools: &[(&Likeness, &Pool)], now: u64) -> Result<(), Unknown> {
        if self.nodes.is_empty() {
            return Err(Unknown::Nobody);
        }
        let living = || pools.iter().filter(|(like, _)| !like.has_ended);
        let missing = self.missing(now);
        let none_is_left = missing.len() == self.nodes.len();
        let matters = |address: SocketAddr| match self.patience.partial {
            Partial::Affected => none_is_left || living().any(|(like, _)| like.node == address),
            Partial::Answer => none_is_left,
            Partial::Refuse => true,
        };
        if let Some((address, node, why)) = missing.into_iter().find(|&(address, ..)| matters(address)) {
            let node = if node.name.is_empty() {
                address.to_string()
            } else {
                node.name.clone()
            };
            return Err(Unknown::Missing { node, why });
        }
        let unseen = living().find(|(_, pool)| pool.standing.unseen > 0);
        if let Some((like, _)) = unseen.filter(|_| self.patience.partial != Partial::Answer) {
            let pod = self.name(like, |pod| pod.state == pb::State::Unseen);
            return Err(Unknown::Unseen { pod });
        }
        let encrypted = living().find(|(_, pool)| pool.standing.encrypted > 0);
        match encrypted.filter(|_| pools.iter().all(|(_, pool)| pool.standing.busy == 0)) {
            Some((like, _)) => Err(Unknown::Encrypted {
                pod: self.name(like, |pod| pod.tls_connections > 0),
            }),
            None => Ok(()),
        }
    }

    /// The name of the first pod in a pool of which something is true.
    fn name(&self, like: &Likeness, is_so: impl Fn(&Pod) -> bool) -> String {
        let mut pods = self.pods.values();
        let pod = pods.find(|pod| *pod.like == *like && is_so(pod));
        pod.map_or_else(String::new, |pod| pod.name.clone())
    }

    fn start(&mut self, address: SocketAddr, update: &pb::Update, started: &pb::Pod, now: u64) {
        let key: Key = (started.namespace.as_str().into(), started.uid.as_str().into());
        if let Some(node) = self.nodes.get_mut(&address) {
            node.ids.insert(started.id, key.clone());
        }
        let before = self.pods.remove(&key);
        if let Some(pod) = &before {
            leave(&mut self.pools, pod);
        }
        let reading = started.reading.unwrap_or_default();
        let ended = before.as_ref().and_then(|pod| pod.ended).unwrap_or(now);
        let ring = match before {
            Some(pod) if pod.run != update.run => pod.ring,
            _ => Ring::new(now.saturating_sub(update.read_ms.saturating_sub(started.since_ms))),
        };
        let ended = (reading.state() == pb::State::Ended).then_some(ended);
        let mut pod = Pod {
            like: Arc::new(Likeness {
                namespace: key.0.clone(),
                workload: Workload {
                    kind: started.workload_kind.clone(),
                    name: started.workload.clone(),
                },
                labels: started.labels.clone().into_iter().collect(),
                node: address,
                has_ended: ended.is_some(),
            }),
            name: started.name.clone(),
            requests: reading.requests,
            ring: with_past(ring, &started.past, now),
            run: update.run,
            ended,
            state: reading.state(),
            tls_connections: reading.tls_connections,
        };
        join(&mut self.pools, &mut pod);
        self.pods.insert(key, pod);
    }

    fn read(&mut self, address: SocketAddr, reading: &pb::Reading, before: u64, now: u64) {
        let key = self
            .nodes
            .get(&address)
            .and_then(|node| node.ids.get(&reading.id));
        let pod = key.and_then(|key| self.pods.get_mut(key));
        // A pod may have been told of by another exporter since, as while one takes the other's place.
        let Some(pod) = pod.filter(|pod| pod.like.node == address) else {
            return;
        };
        let increase = rate::increase(pod.requests, reading.requests);
        pod.ring.add(increase, before, now);
        if let Some(pool) = self.pools.get_mut(&pod.like) {
            pool.ring.add(increase, before, now);
            pool.standing.take(pod.standing());
        }
        pod.requests = reading.requests;
        pod.state = reading.state();
        pod.tls_connections = reading.tls_connections;
        if let Some(pool) = self.pools.get_mut(&pod.like) {
            pool.standing.add(pod.standing());
        }
        let ended = (pod.state == pb::State::Ended).then(|| pod.ended.unwrap_or(now));
        end(&mut self.pools, pod, ended);
    }

    /// Ends the exporter's pods that its new state does not have.
    fn end_unmentioned(&mut self, address: SocketAddr, now: u64) {
        let Some(node) = self.nodes.get(&address) else {
            return;
        };
        let mentioned: BTreeSet<_> = node.ids.values().collect();
        for (key, pod) in &mut self.pods {
            if pod.like.node == address && !mentioned.contains(key) {
                end(&mut self.pools, pod, pod.ended.or(Some(now)));
            }
        }
    }

    fn remove(&mut self, address: SocketAddr, now: u64) {
        self.nodes.remove(&address);
        for pod in self.pods.values_mut().filter(|pod| pod.like.node == address) {
            end(&mut self.pools, pod, pod.ended.or(Some(now)));
        }
    }
}

impl Likeness {
    /// What comes before all of a namespace.
    fn first_of(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            workload: Workload::default(),
            labels: BTreeMap::new(),
            node: SocketAddr::from(([0; 4], 0)),
            has_ended: false,
        }
    }
}

impl Pod {
    fn standing(&self) -> Standing {
        Standing {
            busy: (self.requests > 0).into(),
            encrypted: (self.tls_connections > 0).into(),
            unseen: (self.state == pb::State::Unseen).into(),
        }
    }
}

impl Standing {
    fn add(&mut self, other: Self) {
        self.busy += other.busy;
        self.encrypted += other.encrypted;
        self.unseen += other.unseen;
    }

    fn take(&mut self, other: Self) {
        self.busy -= other.busy;
        self.encrypted -= other.encrypted;
        self.unseen -= other.unseen;
    }
}

impl Pool {
    fn new() -> Self {
        Self {
            pods: 0,
            ring: Ring::new(0),
            since: BTreeMap::new(),
            standing: Standing::default(),
        }
    }

    fn know_since(&mut self) {
        let first = self.since.keys().next();
        self.ring.know_since(first.copied().unwrap_or(0));
    }
}

type Pools = BTreeMap<Arc<Likeness>, Pool>;

/// Adds a pod to the pool of those that are like it.
fn join(pools: &mut Pools, pod: &mut Pod) {
    // One likeness is shared by all, as labels may be long.
    if let Some((like, _)) = pools.get_key_value(&pod.like) {
        pod.like = like.clone();
    }
    let pool = pools.entry(pod.like.clone()).or_insert_with(Pool::new);
    pool.pods += 1;
    pool.ring.merge(&pod.ring);
    pool.standing.add(pod.standing());
    *pool.since.entry(pod.ring.since()).or_default() += 1;
    pool.know_since();
}

/// Takes a pod out of its pool.
fn leave(pools: &mut Pools, pod: &Pod) {
    let Some(pool) = pools.get_mut(&pod.like) else {
        return;
    };
    pool.pods -= 1;
    if pool.pods == 0 {
        pools.remove(&pod.like);
        return;
    }
    pool.ring.separate(&pod.ring);
    pool.standing.take(pod.standing());
    if let Entry::Occupied(mut since) = pool.since.entry(pod.ring.since()) {
        *since.get_mut() -= 1;
        if *since.get() == 0 {
            since.remove();
        }
    }
    pool.know_since();
}

/// Notes when a pod ended, if it has, which makes it one of another pool.
fn end(pools: &mut Pools, pod: &mut Pod, ended: Option<u64>) {
    pod.ended = ended;
    if pod.like.has_ended == ended.is_some() {
        return;
    }
    leave(pools, pod);
    pod.like = Arc::new(Likeness {
        has_ended: ended.is_some(),
        ..(*pod.like).clone()
    });
    join(pools, pod);
}

impl Node {
    fn new(now: u64) -> Self {
        Self {
            ids: HashMap::new(),
            name: String::new(),
            parts: Vec::new(),
            read: None,
            heard: now,
            is_whole: false,
            unlisted: None,
            why: "it has told nothing yet".to_owned(),
        }
    }

    /// What is wrong with it, if anything is. A break that is over before the next message was due is nothing.
    fn missing(&self, patience: Patience, now: u64) -> Option<String> {
        let Some(read) = self.read else {
            return Some(self.why.clone());
        };
        let silent = now.saturating_sub(read);
        if silent <= millis(patience.stale_after) {
            return None;
        }
        let why = if self.why.is_empty() {
            "it is silent"
        } else {
            &self.why
        };
        Some(format!("{why} (for {} s)", silent / 1_000))
    }
}

/// A ring with what an exporter says of the past: pairs of a second's age and what was counted in it.
fn with_past(mut ring: Ring, past: &[u64], now: u64) -> Ring {
    for pair in past.chunks_exact(2) {
        let begin = now.saturating_sub(pair[0]);
        ring.add(pair[1], begin, (begin + 1_000).min(now));
    }
    ring
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Patience = Patience {
        stale_after: Duration::from_secs(3),
        forget_after: Duration::from_secs(60),
        partial: Partial::Refuse,
    };

    /// A cluster that speaks to a fleet, by verbs.
    struct Cluster {
        fleet: Fleet,
        now: u64,
    }

    fn address(node: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], node))
    }

    impl Cluster {
        /// Exporters with these numbers are listed.
        fn of<const N: usize>(nodes: [u16; N]) -> Self {
            let mut cluster = Self {
                fleet: Fleet::new(PATIENCE),
                now: 1_000_000,
            };
            cluster.list(nodes);
            cluster
        }

        fn with(mut self, partial: Partial) -> Self {
            self.fleet.patience.partial = partial;
            self
        }

        fn list<const N: usize>(&mut self, nodes: [u16; N]) {
            self.fleet.listed(&nodes.map(address).into(), self.now);
        }

        fn wait(&mut self, ms: u64) -> &mut Self {
            self.now += ms;
            self.fleet.forget(self.now);
            self
        }

        fn says(&mut self, node: u16, update: pb::Update) {
            self.fleet.update(address(node), update, self.now);
        }

        /// A new stream begins with pods, by their numbers, that have had so many requests.
        fn state<const N: usize>(&mut self, node: u16, run: u64, pods: [(u32, u64); N]) {
            self.fleet.connected(address(node));
            let update = update(node, run);
            self.says(
                node,
                pb::Update {
                    started: pods.map(|(id, requests)| pod(id, requests)).into(),
                    ..update
                },
            );
        }

        fn reads<const N: usize>(&mut self, node: u16, pods: [(u32, u64); N]) {
            let readings = pods
                .map(|(id, requests)| pb::Reading {
                    id,
                    requests,
                    ..pb::Reading::default()
                })
                .into();
            self.says(
                node,
                pb::Update {
                    readings,
                    ..update(node, 1)
                },
            );
        }

        fn ask(&self, trigger: &str) -> Result<f64, String> {
            self.ask_in("shop", trigger)
        }

        fn ask_in(&self, namespace: &str, trigger: &str) -> Result<f64, String> {
            self.fleet
                .rate(namespace, &parse(trigger), self.now)
                .map_err(|unknown| unknown.to_string())
        }

        /// The same without pools.
        fn ask_one_by_one(&self, trigger: &str) -> Result<f64, String> {
            let trigger = parse(trigger);
            let all: Vec<_> = self.fleet.pods.values().collect();
            let chosen = all
                .iter()
                .filter(|pod| trigger.pods.select(&pod.like.labels, &pod.like.workload));
            let pools = self.fleet.select("shop", &trigger.pods).collect::<Vec<_>>();
            let count = |pools: &[(&Likeness, &Pool)]| pools.iter().map(|(_, pool)| pool.pods).sum::<usize>();
            assert_eq!(count(&pools), chosen.clone().count(), "pods are in one pool each");
            self.fleet
                .check(&pools, self.now)
                .map_err(|unknown| unknown.to_string())?;
            let known = chosen.map(|pod| Known {
                ring: &pod.ring,
                until: self.fleet.until(&pod.like, self.now),
            });
            Ok(match trigger.panic {
                None => rate::rate(known, trigger.window),
                Some(panic) => rate::rate_or_burst(known, trigger.window, panic),
            })
        }

        #[track_caller]
        fn check(&self, trigger: &str, expected: f64) {
            let rate = self.ask(trigger).unwrap();
            assert!((rate - expected).abs() < 1e-6, "{rate} instead of {expected}");
        }

        #[track_caller]
        fn check_unknown(&self, trigger: &str, expected: &str) {
            let unknown = self.ask(trigger).expect_err("it is not known");
            assert!(unknown.contains(expected), "{unknown}");
        }
    }

    /// What pods leave behind is bounded by how many there were in the longest window, however long a stream lasts.
    #[test]
    fn pods_that_came_and_went_are_forgotten_in_one_stream() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, []);
        for id in 0..1_300 {
            let started = vec![pod(id, 1)];
            cluster.says(
                1,
                pb::Update {
                    started,
                    ..update(1, 1)
                },
            );
            let end = pb::Reading {
                id,
                requests: 1,
                state: pb::State::Ended.into(),
                ..pb::Reading::default()
            };
            let readings = vec![end];
            cluster.wait(500).says(
                1,
                pb::Update {
                    readings,
                    ..update(1, 1)
                },
            );
            cluster.wait(500);
        }
        let most = usize::try_from(rate::MAX_WINDOW.as_secs()).unwrap() + 2;
        let fleet = &cluster.fleet;
        assert!(fleet.pods.len() <= most, "{} pods", fleet.pods.len());
        assert!(
            fleet.nodes[&address(1)].ids.len() <= most,
            "{} numbers",
            fleet.nodes[&address(1)].ids.len()
        );
        let since: usize = fleet.pools.values().map(|pool| pool.since.len()).sum();
        assert!(since <= most, "{since} moments");
    }

    fn parse(trigger: &str) -> Trigger {
        let pairs = trigger.split(';').filter_map(|pair| pair.split_once(':'));
        let pairs = pairs.chain([("targetRequestsPerSecond", "1")]);
        let metadata = pairs
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Trigger::parse(&metadata).unwrap()
    }

    fn update(node: u16, run: u64) -> pb::Update {
        pb::Update {
            node: format!("n{node}"),
            run,
            read_ms: 500_000,
            ..pb::Update::default()
        }
    }

    /// Pods 0 to 9 are the Deployment's `web`, others the StatefulSet's `db`.
    fn pod(id: u32, requests: u64) -> pb::Pod {
        let (kind, workload) = if id < 10 {
            ("Deployment", "web")
        } else {
            ("StatefulSet", "db")
        };
        pb::Pod {
            id,
            uid: format!("u{id}"),
            namespace: "shop".to_owned(),
            name: format!("{workload}-{id}"),
            labels: [("app".to_owned(), workload.to_owned())].into(),
            workload_kind: kind.to_owned(),
            workload: workload.to_owned(),
            reading: Some(pb::Reading {
                id,
                requests,
                ..pb::Reading::default()
            }),
            ..pb::Pod::default()
        }
    }

    #[test]
    fn nodes_are_added_up_by_workload_and_by_labels() {
        let mut cluster = Cluster::of([1, 2]);
        cluster.state(1, 1, [(0, 100), (10, 100)]);
        cluster.state(2, 1, [(1, 100)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 110), (10, 105)]);
        cluster.reads(2, [(1, 120)]);
        cluster.check("workload: web; window: 1s", 30.0);
        cluster.check("workload: Deployment/web; window: 10s", 3.0);
        cluster.check("workload: StatefulSet/db; window: 1s", 5.0);
        cluster.check("selector: app in (web, db); window: 1s", 35.0);
        cluster.check("selector: app=none; window: 1s", 0.0);
    }

    #[test]
    fn only_the_namespace_that_asks_is_told() {
        let mut cluster = Cluster::of([1]);
        let mut theirs = pod(1, 0);
        theirs.namespace = "other".to_owned();
        cluster.says(
            1,
            pb::Update {
                started: vec![pod(0, 0), theirs],
                ..update(1, 1)
            },
        );
        cluster.wait(1_000);
        cluster.reads(1, [(0, 1), (1, 50)]);
        cluster.check("workload: web; window: 1s", 1.0);
        for (namespace, expected) in [("other", 50.0), ("oth", 0.0), ("other2", 0.0), ("", 0.0)] {
            assert_eq!(
                cluster.ask_in(namespace, "workload: web; window: 1s"),
                Ok(expected),
                "{namespace}"
            );
        }
    }

    #[test]
    fn nothing_is_told_before_all_have_told() {
        let mut cluster = Cluster::of([]);
        cluster.check_unknown("workload: web", "no exporter is known");
        cluster.list([1, 2]);
        assert!(!cluster.fleet.has_begun(cluster.now));
        cluster.check_unknown("workload: web", "10.0.0.1:1 is missing: it has told nothing yet");
        cluster.state(1, 1, []);
        cluster.check_unknown("workload: web", "10.0.0.1:2 is missing");
        let first = pb::Update {
            more: true,
            started: vec![pod(0, 5)],
            ..update(2, 1)
        };
        cluster.says(2, first);
        cluster.check_unknown("workload: web", "10.0.0.1:2 is missing");
        cluster.says(
            2,
            pb::Update {
                started: vec![pod(1, 5)],
                ..update(2, 1)
            },
        );
        cluster.check("workload: web", 0.0);
        assert!(cluster.fleet.has_begun(cluster.now));
        assert_eq!(
            cluster.fleet.census(cluster.now),
            Census {
                current_nodes: 2,
                missing_nodes: 0,
                pods: 2
            }
        );
    }

    #[test]
    fn an_exporter_that_is_silent_is_missing_after_a_while() {
        let mut cluster = Cluster::of([1, 2]);
        cluster.state(1, 1, [(0, 0)]);
        cluster.state(2, 1, [(10, 0)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 100)]);
        cluster.wait(3_000);
        cluster.reads(2, []);
        cluster.check("workload: web; window: 1s", 100.0);
        cluster.wait(1_000);
        cluster.check_unknown("workload: web", "n1 is missing: it is silent (for 4 s)");
        cluster.check_unknown("workload: db", "n1 is missing");
        cluster.reads(1, [(0, 500)]);
        cluster.check("workload: web; window: 1s", 100.0);
    }

    #[test]
    fn policies_tolerate_what_is_missing() {
        for (partial, web, db) in [
            (Partial::Refuse, false, false),
            (Partial::Affected, false, true),
            (Partial::Answer, true, true),
        ] {
            let mut cluster = Cluster::of([1, 2]).with(partial);
            cluster.state(1, 1, [(0, 0)]);
            cluster.state(2, 1, [(10, 0)]);
            cluster.wait(1_000);
            cluster.reads(1, [(0, 100)]);
            cluster.wait(9_000);
            cluster.reads(2, []);
            assert_eq!(
                cluster.ask("workload: web; window: 1s").is_ok(),
                web,
                "{partial:?}"
            );
            assert_eq!(cluster.ask("workload: db; window: 1s").is_ok(), db, "{partial:?}");
            if web {
                cluster.check("workload: web; window: 1s", 100.0);
            }
            cluster.wait(9_000);
            assert!(
                cluster.ask("workload: db").is_err(),
                "nobody is left, so not even {partial:?} answers"
            );
        }
    }

    #[test]
    fn an_exporter_that_says_it_does_not_know_is_missing() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 0)]);
        for _ in 0..5 {
            cluster.wait(1_000);
            cluster.says(
                1,
                pb::Update {
                    unknown: "it is blind".to_owned(),
                    ..update(1, 1)
                },
            );
        }
        cluster.check_unknown("workload: web", "n1 is missing: it is blind (for 5 s)");
    }

    #[test]
    fn a_node_that_vanishes_is_missed_and_then_forgotten() {
        let mut cluster = Cluster::of([1, 2]);
        cluster.state(1, 1, [(0, 0)]);
        cluster.state(2, 1, [(1, 0)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 60)]);
        cluster.reads(2, [(1, 60)]);
        cluster.list([2]);
        cluster
            .fleet
            .disconnected(address(1), "it does not answer".to_owned());
        for _ in 0..50 {
            cluster.wait(1_000);
            cluster.reads(2, []);
        }
        cluster.check_unknown("workload: web", "n1 is missing: it does not answer (for 50 s)");
        for _ in 0..11 {
            cluster.wait(1_000);
            cluster.reads(2, []);
        }
        assert!(!cluster.fleet.expects(address(1)));
        cluster.check("workload: web; window: 2m", 1.0);
        cluster.check("workload: web; window: 10s", 0.0);
    }

    #[test]
    fn an_exporter_that_comes_back_elsewhere_takes_its_nodes_place() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 100), (1, 100)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 160), (1, 160)]);
        cluster.list([2]);
        cluster.fleet.disconnected(address(1), "it has ended".to_owned());
        cluster.wait(5_000);
        cluster.check_unknown("workload: web", "n1 is missing");
        // Pod 1 ended while nobody looked, and the counter of pod 0 began again.
        cluster.fleet.connected(address(2));
        let back = pb::Update {
            node: "n1".to_owned(),
            started: vec![pod(0, 6)],
            ..update(2, 2)
        };
        cluster.says(2, back);
        cluster.check("workload: web; window: 1m", 2.0);
        cluster.wait(1_000);
        assert!(!cluster.fleet.expects(address(1)));
        assert_eq!(
            cluster.fleet.census(cluster.now),
            Census {
                current_nodes: 1,
                missing_nodes: 0,
                pods: 1
            }
        );
        let reading = pb::Reading {
            id: 0,
            requests: 26,
            ..pb::Reading::default()
        };
        let next = pb::Update {
            node: "n1".to_owned(),
            readings: vec![reading],
            ..update(2, 2)
        };
        cluster.says(2, next);
        cluster.check("workload: web; window: 1s", 20.0);
    }

    #[test]
    fn a_stream_that_breaks_costs_no_count() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 0)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 10)]);
        cluster.fleet.disconnected(address(1), "it broke".to_owned());
        cluster.wait(2_000);
        let mut again = pod(0, 30);
        again.since_ms = 497_000; // 3 s before the reading
        again.past = vec![3_000, 10, 2_000, 10, 1_000, 10];
        cluster.fleet.connected(address(1));
        cluster.says(
            1,
            pb::Update {
                started: vec![again],
                ..update(1, 1)
            },
        );
        cluster.check("workload: web; window: 1m", 10.0);
        cluster.check("workload: web; window: 1s", 10.0);
    }

    #[test]
    fn a_scaler_that_has_just_started_knows_the_past() {
        let mut cluster = Cluster::of([1]);
        let mut old = pod(0, 1_000);
        old.since_ms = 400_000;
        old.past = (1..=60).flat_map(|second| [second * 1_000, 5]).collect();
        cluster.says(
            1,
            pb::Update {
                started: vec![old],
                ..update(1, 1)
            },
        );
        cluster.check("workload: web; window: 1m", 5.0);
        cluster.check("workload: web; window: 1s", 5.0);
    }

    #[test]
    fn counters_that_begin_again_are_no_loss() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 1_000)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 7)]);
        cluster.check("workload: web; window: 1s", 7.0);
    }

    #[test]
    fn ended_pods_stay_in_the_window() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 0)]);
        cluster.wait(1_000);
        let ended = pb::Reading {
            id: 0,
            requests: 100,
            state: pb::State::Ended.into(),
            ..pb::Reading::default()
        };
        cluster.says(
            1,
            pb::Update {
                readings: vec![ended],
                ..update(1, 1)
            },
        );
        cluster.wait(9_000);
        cluster.reads(1, []);
        cluster.check("workload: web; window: 10s", 10.0);
        cluster.wait(1_000);
        cluster.reads(1, []);
        cluster.check("workload: web; window: 10s", 0.0);
        assert_eq!(cluster.fleet.census(cluster.now).pods, 0);
        cluster.wait(600_000);
        assert!(cluster.fleet.pods.is_empty());
    }

    #[test]
    fn what_cannot_be_counted_is_no_zero() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 0), (10, 0)]);
        let unseen = pb::Reading {
            id: 0,
            state: pb::State::Unseen.into(),
            ..pb::Reading::default()
        };
        let encrypted = pb::Reading {
            id: 10,
            tls_connections: 1,
            ..pb::Reading::default()
        };
        cluster.says(
            1,
            pb::Update {
                readings: vec![unseen, encrypted],
                ..update(1, 1)
            },
        );
        cluster.check_unknown("workload: web", "the requests of web-0 are not seen");
        cluster.check_unknown("workload: db", "the requests of db-10 are inside TLS");
        let plain = pb::Reading {
            id: 10,
            tls_connections: 1,
            requests: 1,
            ..pb::Reading::default()
        };
        cluster.says(
            1,
            pb::Update {
                readings: vec![plain],
                ..update(1, 1)
            },
        );
        assert!(cluster.ask("workload: db").is_ok());
    }

    #[test]
    fn two_exporters_that_tell_of_one_pod_are_not_added_up() {
        let mut cluster = Cluster::of([1, 2]);
        cluster.state(1, 1, [(0, 0)]);
        cluster.state(2, 2, [(0, 0)]);
        cluster.wait(1_000);
        cluster.reads(1, [(0, 10)]);
        cluster.reads(2, [(0, 10)]);
        cluster.check("workload: web; window: 1s", 10.0);
    }

    #[test]
    fn strangers_are_not_listened_to() {
        let mut cluster = Cluster::of([1]);
        cluster.state(1, 1, [(0, 0)]);
        cluster.state(9, 1, [(1, 0)]);
        cluster.reads(1, [(77, 5)]);
        assert_eq!(
            cluster.fleet.census(cluster.now),
            Census {
                current_nodes: 1,
                missing_nodes: 0,
                pods: 1
            }
        );
    }

    /// What may happen to a fleet.
    #[derive(Clone, Debug)]
    enum Event {
        Connected(u16),
        Disconnected(u16),
        Listed(BTreeSet<u16>),
        Update(u16, pb::Update),
        Wait(u64),
    }

    fn a_reading() -> impl Strategy<Value = pb::Reading> {
        // Less than a second of it can hold: beyond that, sums are what they are.
        (0..4_u32, 0..1_u64 << 24, 0..2_u64, -1..4_i32).prop_map(|(id, requests, tls_connections, state)| {
            pb::Reading {
                id,
                requests: requests >> (requests % 24),
                tls_connections,
                state,
            }
        })
    }

    fn a_pod() -> impl Strategy<Value = pb::Pod> {
        let past = prop::collection::vec((0..1_u64 << 24).prop_map(|number| number >> (number % 24)), 0..5);
        (a_reading(), any::<u64>(), past).prop_map(|(reading, since_ms, past)| pb::Pod {
            since_ms: since_ms >> (since_ms % 64),
            past,
            ..pb::Pod {
                reading: Some(reading),
                ..pod(reading.id, 0)
            }
        })
    }

    fn an_event() -> impl Strategy<Value = Event> {
        let updates = (
            (
                0..3_u16,
                0..3_u16,
                0..2_u64,
                any::<u32>(),
                any::<bool>(),
                any::<bool>(),
            ),
            prop::collection::vec(a_pod(), 0..3),
            prop::collection::vec(a_reading(), 0..3),
        );
        let updates = updates.prop_map(
            |((from, node, run, read_ms, more, is_blind), started, readings)| {
                let unknown = if is_blind {
                    "blind".to_owned()
                } else {
                    String::new()
                };
                let said = pb::Update {
                    read_ms: read_ms.into(),
                    more,
                    unknown,
                    started,
                    readings,
                    ..update(node, run)
                };
                Event::Update(from, said)
            },
        );
        prop_oneof![
            1 => (0..3_u16).prop_map(Event::Connected),
            1 => (0..3_u16).prop_map(Event::Disconnected),
            1 => prop::collection::btree_set(0..3_u16, 0..4).prop_map(Event::Listed),
            4 => updates,
            1 => (0..700_000_u64).prop_map(|ms| Event::Wait(ms >> (ms % 20))),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_rate_is_a_rate(events in prop::collection::vec(an_event(), 0..60)) {
            for partial in [Partial::Affected, Partial::Answer, Partial::Refuse] {
                let mut cluster = Cluster::of([0, 1]).with(partial);
                for event in events.clone() {
                    match event {
                        Event::Connected(node) => cluster.fleet.connected(address(node)),
                        Event::Disconnected(node) => cluster.fleet.disconnected(address(node), "lost".to_owned()),
                        Event::Listed(nodes) => drop(cluster.fleet.listed(&nodes.into_iter().map(address).collect(), cluster.now)),
                        Event::Update(node, update) => cluster.says(node, update),
                        Event::Wait(ms) => drop(cluster.wait(ms)),
                    }
                    for trigger in ["workload: web; window: 1s", "selector: app; panicWindow: 6s"] {
                        let rate = cluster.ask(trigger);
                        let one_by_one = cluster.ask_one_by_one(trigger);
                        prop_assert_eq!(rate.is_ok(), one_by_one.is_ok(), "{:?} and {:?}", rate, one_by_one);
                        if let (Ok(rate), Ok(one_by_one)) = (&rate, one_by_one) {
                            prop_assert!((rate - one_by_one).abs() <= rate.abs() * 1e-9, "{} and {}", rate, one_by_one);
                        }
                        prop_assert!(rate.clone().is_ok_and(|rate| rate >= 0.0 && rate.is_finite()) || rate.is_err(), "{:?}", rate);
                    }
                }
            }
        }
    }
}

//! How long the scaler takes for an answer: medians of many, for workloads of many pods with ten minutes of requests each.
//!
//! `cargo bench -p podwasm-metrics-exporter`; with a number, for that many pods.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podwasm_metrics_exporter::pb::counts as pb;
use podwasm_metrics_exporter::scaler::fleet::{Fleet, Partial, Patience};
use podwasm_metrics_exporter::scaler::trigger::Trigger;

const PODS_PER_NODE: usize = 50;
const ROUNDS: usize = 2_000;
const NOW: u64 = 2_000_000;

fn main() {
    let number = std::env::args().find_map(|argument| argument.parse().ok());
    println!("pods   labels     window  panic   median µs  99th µs");
    for pods in number.map_or(vec![100, 1_000, 10_000], |pods| vec![pods]) {
        for alike in [true, false] {
            let fleet = fleet(pods, alike);
            for (window, panic) in [("1m", ""), ("10m", ""), ("1m", "6s"), ("5m", "30s")] {
                let trigger = trigger(window, panic);
                let times = times(|| drop(black_box(fleet.rate("shop", &trigger, NOW))));
                let labels = if alike { "alike" } else { "different" };
                let (median, late) = (times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
                println!("{pods:<6} {labels:<10} {window:<7} {panic:<7} {median:>9.1} {late:>8.1}");
            }
        }
        let mut fleet = fleet(pods, true);
        let update = next(pods);
        let times = times(|| fleet.update(address(0), update.clone(), NOW + 250));
        println!(
            "{pods:<6} an update of {} pods: {:.1} µs",
            update.readings.len(),
            times[ROUNDS / 2]
        );
    }
}

fn times(mut work: impl FnMut()) -> Vec<f64> {
    let time = |_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64() * 1e6
    };
    let mut times: Vec<f64> = (0..ROUNDS).map(time).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn trigger(window: &str, panic: &str) -> Trigger {
    let metadata = [
        ("workload", "web"),
        ("targetRequestsPerSecond", "1"),
        ("window", window),
        ("panicWindow", panic),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Trigger::parse(&metadata.into()).expect("it is right")
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], u16::try_from(node + 1).expect("nodes are few")))
}

/// Pods of a Deployment, or, if not alike, of a StatefulSet, where each has labels of its own.
fn fleet(pods: usize, alike: bool) -> Fleet {
    let nodes = pods.div_ceil(PODS_PER_NODE);
    let mut fleet = Fleet::new(Patience {
        stale_after: Duration::from_secs(3),
        forget_after: Duration::from_secs(60),
        partial: Partial::Refuse,
    });
    fleet.listed(&(0..nodes).map(address).collect(), NOW);
    for node in 0..nodes {
        let started = (node..pods).step_by(nodes).map(|number| pod(number, alike));
        let update = pb::Update {
            node: format!("node-{node}"),
            run: 1,
            read_ms: 700_000,
            started: started.collect(),
            ..pb::Update::default()
        };
        fleet.connected(address(node));
        fleet.update(address(node), update, NOW);
    }
    fleet
}

fn pod(number: usize, alike: bool) -> pb::Pod {
    let id = u32::try_from(number).expect("pods are few");
    let of_its_own = if alike {
        String::new()
    } else {
        format!("web-{number}")
    };
    let labels = [
        ("app.kubernetes.io/name", "web".to_owned()),
        ("pod-template-hash", "6d4b9c7f5d".to_owned()),
        ("statefulset.kubernetes.io/pod-name", of_its_own),
    ];
    pb::Pod {
        id,
        uid: format!("0e9b5d0c-{:08x}-{number}", number.wrapping_mul(2_654_435_761)),
        namespace: "shop".to_owned(),
        name: format!("web-{number}"),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        workload_kind: "Deployment".to_owned(),
        workload: "web".to_owned(),
        since_ms: 1,
        reading: Some(reading(id, 6_000)),
        past: (1..=600).flat_map(|second| [second * 1_000, 10]).collect(),
    }
}

fn reading(id: u32, requests: u64) -> pb::Reading {
    pb::Reading {
        id,
        requests,
        ..pb::Reading::default()
    }
}

/// What the first node tells next.
fn next(pods: usize) -> pb::Update {
    let ids = (0..pods).step_by(pods.div_ceil(PODS_PER_NODE));
    let id = |number| u32::try_from(number).expect("pods are few");
    pb::Update {
        node: "node-0".to_owned(),
        run: 1,
        read_ms: 700_250,
        readings: ids.map(|number| reading(id(number), 6_010)).collect(),
        ..pb::Update::default()
    }
}

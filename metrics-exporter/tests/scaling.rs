//! An exporter's stream, the scaler and KEDA's questions, over real sockets in one process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podwasm_metrics_exporter::counts::{Identity, Pod, Protocol, Table, Workload};
use podwasm_metrics_exporter::feed::Feed;
use podwasm_metrics_exporter::pb::keda as pb;
use podwasm_metrics_exporter::recent::Recent;
use podwasm_metrics_exporter::scaler::cluster::Cluster;
use podwasm_metrics_exporter::scaler::exporters;
use podwasm_metrics_exporter::scaler::fleet::{Partial, Patience};
use podwasm_metrics_exporter::scaler::keda::Keda;
use podwasm_metrics_exporter::scaler::metrics::Metrics;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};

use pb::external_scaler_client::ExternalScalerClient;

const SOON: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(50);

/// A node with one pod of the Deployment `web`.
struct Node {
    address: SocketAddr,
    pod: Arc<Pod>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(name, listener)
    }

    /// Its exporter starts, with counters at zero.
    fn start_on(name: &str, listener: TcpListener) -> Self {
        let table = Arc::new(Table::new(10, Instant::now()));
        let pod = table.start(Identity {
            uid: format!("uid-{name}"),
            namespace: "shop".to_owned(),
            name: format!("web-{name}"),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            workload: Workload {
                kind: "Deployment".to_owned(),
                name: "web".to_owned(),
            },
            ..Identity::default()
        });
        pod.set_attached(true);
        table.set_synchronized(true);
        let recent = Arc::new(Recent::new(table.clone(), Instant::now()));
        let feed = Feed::new(name, recent.clone());
        let address = listener.local_addr().unwrap();
        let sampling = tokio::spawn(async move {
            loop {
                table.sampled(Instant::now());
                recent.read(Instant::now());
                sleep(TICK).await;
            }
        });
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(feed.service());
            server
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            pod,
            tasks: vec![sampling, serving],
        }
    }

    /// As if its machine lost power.
    async fn vanish(self) -> SocketAddr {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        self.address
    }

    /// So many requests each second, until the task is aborted.
    fn load(&self, per_second: u64) -> JoinHandle<()> {
        let pod = self.pod.clone();
        let start = Instant::now();
        tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let due = u64::try_from(start.elapsed().as_millis()).unwrap() * per_second / 1_000;
                pod.add_requests(Protocol::Http1, due - sent);
                sent = due;
                sleep(Duration::from_millis(5)).await;
            }
        })
    }
}

/// A scaler, and KEDA's client of it.
struct Scaler {
    client: ExternalScalerClient<Channel>,
    close: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Scaler {
    async fn start(nodes: &[SocketAddr]) -> Self {
        let patience = Patience {
            stale_after: Duration::from_millis(500),
            forget_after: Duration::from_secs(60),
            partial: Partial::Refuse,
        };
        let cluster = Arc::new(Cluster::new(patience));
        let metrics = Arc::new(Metrics::new(cluster.clone()));
        let (close, closing) = watch::channel(false);
        let names = nodes.iter().map(ToString::to_string).collect();
        tokio::spawn(exporters::follow(
            names,
            Duration::from_millis(200),
            cluster.clone(),
            metrics.clone(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keda = Keda {
            cluster,
            metrics,
            closing: closing.clone(),
        };
        let served = tokio::spawn(async move {
            let mut closing = closing;
            let closed = async move { drop(closing.wait_for(|closing| *closing).await) };
            let server = Server::builder().add_service(keda.service());
            server
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), closed)
                .await
                .unwrap();
        });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let client = ExternalScalerClient::new(channel.connect().await.unwrap());
        Self {
            client,
            close,
            served,
        }
    }

    async fn rate(&self) -> Result<f64, Status> {
        self.rate_over("1s").await
    }

    async fn rate_over(&self, window: &str) -> Result<f64, Status> {
        let request = pb::GetMetricsRequest {
            scaled_object_ref: Some(web(window, "0")),
            metric_name: "requests-per-second".to_owned(),
        };
        let answer = self.client.clone().get_metrics(request).await?.into_inner();
        assert_eq!(answer.metric_values.len(), 1);
        Ok(answer.metric_values[0].metric_value_float)
    }

    /// Waits for a rate within a twentieth of what is expected.
    async fn wait_rate(&self, expected: f64) {
        let is_right = |rate: &Result<f64, Status>| {
            rate.as_ref()
                .is_ok_and(|rate| (rate - expected).abs() <= expected / 20.0)
        };
        let wait = async {
            while !is_right(&self.rate().await) {
                sleep(TICK).await;
            }
        };
        let waited = timeout(SOON, wait).await;
        assert!(
            waited.is_ok(),
            "not {expected} requests per second, but {:?}",
            self.rate().await
        );
    }

    /// Waits until there is no answer, and returns why.
    async fn wait_unavailable(&self) -> String {
        let wait = async {
            loop {
                match self.rate().await {
                    Err(status) => break status,
                    Ok(_) => sleep(TICK).await,
                }
            }
        };
        let status = timeout(SOON, wait).await.expect("an answer for ever");
        assert_eq!(status.code(), Code::Unavailable);
        status.message().to_owned()
    }
}

fn web(window: &str, activation: &str) -> pb::ScaledObjectRef {
    let metadata = [
        ("workload", "Deployment/web"),
        ("targetRequestsPerSecond", "10"),
        ("activationRequestsPerSecond", activation),
        ("window", window),
        ("scalerAddress", "scaler:9468"),
    ];
    pb::ScaledObjectRef {
        name: "web-scaling".to_owned(),
        namespace: "shop".to_owned(),
        scaler_metadata: metadata
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_added_up() {
    let nodes = [Node::start("n1").await, Node::start("n2").await];
    let scaler = Scaler::start(&[nodes[0].address, nodes[1].address]).await;
    scaler.wait_rate(0.0).await;
    let loads = [nodes[0].load(100), nodes[1].load(300)];
    scaler.wait_rate(400.0).await;
    loads[1].abort();
    scaler.wait_rate(100.0).await;
    loads[0].abort();
    scaler.wait_rate(0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_scaler_knows_as_much() {
    let node = Node::start("n1").await;
    let first = Scaler::start(&[node.address]).await;
    let load = node.load(200);
    first.wait_rate(200.0).await;
    let second = Scaler::start(&[node.address]).await;
    second.wait_rate(200.0).await;
    load.abort();
    let third = Scaler::start(&[node.address]).await;
    third.wait_rate(0.0).await;
    let rates = [
        first.rate_over("1m").await.unwrap(),
        third.rate_over("1m").await.unwrap(),
    ];
    assert!((rates[0] / rates[1] - 1.0).abs() < 0.1, "{rates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_vanishes_is_no_zero() {
    let nodes = [Node::start("n1").await, Node::start("n2").await];
    let scaler = Scaler::start(&[nodes[0].address, nodes[1].address]).await;
    scaler.wait_rate(0.0).await;
    let [first, second] = nodes;
    let load = second.load(50);
    scaler.wait_rate(50.0).await;
    let address = first.vanish().await;
    let why = scaler.wait_unavailable().await;
    assert!(why.contains("the exporter on n1 is missing"), "{why}");
    let listener = TcpListener::bind(address).await.unwrap();
    let back = Node::start_on("n1", listener);
    scaler.wait_rate(50.0).await;
    let more = back.load(50);
    scaler.wait_rate(100.0).await;
    load.abort();
    more.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_is_pushed_when_it_changes() {
    let node = Node::start("n1").await;
    let scaler = Scaler::start(&[node.address]).await;
    let mut client = scaler.client.clone();
    let mut activity = client
        .stream_is_active(web("1s", "5"))
        .await
        .unwrap()
        .into_inner();
    let mut next = async || timeout(SOON, activity.message()).await.unwrap().unwrap();
    assert!(!next().await.unwrap().result, "at first, what is");
    let load = node.load(100);
    let began = Instant::now();
    assert!(next().await.unwrap().result);
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    load.abort();
    assert!(!next().await.unwrap().result);
    scaler.close.send_replace(true);
    assert!(next().await.is_none(), "the stream ends well");
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_in_kedas_way() {
    let node = Node::start("n1").await;
    let scaler = Scaler::start(&[node.address]).await;
    scaler.wait_rate(0.0).await;
    let mut client = scaler.client.clone();
    let specs = client
        .get_metric_spec(web("10s", "0"))
        .await
        .unwrap()
        .into_inner()
        .metric_specs;
    let expected = pb::MetricSpec {
        metric_name: "requests-per-second".to_owned(),
        target_size: 10,
        target_size_float: 10.0,
    };
    assert_eq!(specs, [expected]);
    assert!(
        !client
            .is_active(web("10s", "0"))
            .await
            .unwrap()
            .into_inner()
            .result
    );
    node.pod.add_requests(Protocol::Grpc, 1);
    let active = async {
        while !client
            .is_active(web("10s", "0"))
            .await
            .unwrap()
            .into_inner()
            .result
        {
            sleep(TICK).await;
        }
    };
    timeout(SOON, active).await.expect("one request is activity");

    let mut wrong = web("10s", "0");
    wrong
        .scaler_metadata
        .insert("windows".to_owned(), "1s".to_owned());
    let status = client.get_metric_spec(wrong.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .contains("\"windows\" is not understood; selector, workload"),
        "{status}"
    );
    assert_eq!(
        client.stream_is_active(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let nowhere = pb::ScaledObjectRef {
        namespace: String::new(),
        ..web("10s", "0")
    };
    assert_eq!(
        client.is_active(nowhere).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let request = pb::GetMetricsRequest {
        scaled_object_ref: Some(web("1s", "0")),
        metric_name: "cpu".to_owned(),
    };
    assert_eq!(
        client.get_metrics(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let request = pb::GetMetricsRequest::default();
    assert_eq!(
        client.get_metrics(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_known_before_an_exporter_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap(); // accepts, and says nothing
    let scaler = Scaler::start(&[silent]).await;
    let why = scaler.wait_unavailable().await;
    assert!(
        why.contains(&silent.to_string()) || why.contains("no exporter is known"),
        "{why}"
    );
    scaler.served.abort();
}

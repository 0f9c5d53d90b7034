//! From requests to real pods to what KEDA and Prometheus are told, each asked by a client that is independent of the project.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::authority::{Authority, Certified};
use podwasm_integration::load;
use podwasm_integration::node::{Exporter, Keda, Process, Scaler, Signal, lines, scaled_object};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::{Value, json};

const HASH: &str = "6d4cf56db6";

/// A pod of a Deployment of this name, with a Wasm server in it.
async fn web<'a>(node: &'a Node, deployment: &str) -> Result<(PodHandle<'a>, SocketAddr)> {
    node.podwasm().await?;
    let image = node.push("server", &guest_image("server")).await?;
    let pod = node.pod(&format!("{deployment}-{HASH}-x2x8k"));
    let pod = pod
        .namespace("shop")
        .label("app", deployment)
        .label("pod-template-hash", HASH)
        .run()
        .await?;
    let server = pod
        .container("server")
        .image(&image)
        .args(["0.0.0.0:8080"])
        .start()
        .await?;
    server.wait_stdout("listening").await?;
    let address = SocketAddr::new(pod.ip().await?, 8080);
    Ok((pod, address))
}

/// The trigger of a Deployment.
fn trigger(deployment: &str, window: &str) -> Value {
    let metadata = json!({"workload": format!("Deployment/{deployment}"), "targetRequestsPerSecond": "10", "window": window});
    scaled_object("shop", &metadata)
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later")
        .as_secs_f64()
}

fn is_near(value: f64, expected: f64) -> bool {
    (value - expected).abs() <= expected * 0.1
}

/// Waits until KEDA is told a rate that is near to what is expected.
async fn wait_rate(keda: &Keda<'_>, trigger: &Value, expected: f64) -> Result<()> {
    until(&format!("a rate of {expected}"), PATIENCE, async || {
        let rate = keda.rate(trigger).await?;
        Ok(rate.as_f64().filter(|&rate| is_near(rate, expected)).map(drop))
    })
    .await
}

/// Waits for a line that a client says, from the line of this number on.
async fn wait_line(
    client: &Process,
    from: usize,
    what: &str,
    is_it: impl Fn(&Value) -> bool,
) -> Result<Value> {
    until(what, PATIENCE, async || {
        let found = lines(client)?.into_iter().skip(from).find(&is_it);
        if found.is_none() && client.exited().is_some() {
            bail!("the client ended\n{}", client.log_tail());
        }
        Ok(found)
    })
    .await
}

on_nodes! {
    /// All that KEDA asks is answered, about requests that were really sent.
    async fn keda_is_told_what_was_sent(node: &Node) {
        let exporter = node.exporter().await?;
        let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
        let keda = node.keda(scaler.grpc());
        let (pod, server) = web(node, "told").await?;
        let trigger = trigger("told", "10s");
        wait_rate(&keda, &trigger, 0.0).await?;
        assert_eq!(keda.call("IsActive", &trigger).await?, json!({"answer": {"result": false}}));
        let spec = json!([{"metricName": "requests-per-second", "targetSize": "10", "targetSizeFloat": 10.0}]);
        assert_eq!(keda.call("GetMetricSpec", &trigger).await?["answer"]["metricSpecs"], spec);

        let (sent, steady) = tokio::join!(load::send(node, server, 50, Duration::from_secs(12)), async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            let active = keda.call("IsActive", &trigger).await?;
            Ok::<_, anyhow::Error>((keda.rate(&trigger).await?, active))
        });
        let (rate, active) = steady?;
        ensure!(rate.as_f64().is_some_and(|rate| is_near(rate, 50.0)), "{rate} instead of 50");
        assert_eq!(active, json!({"answer": {"result": true}}));

        // All that was sent, and nothing else, is in a window that holds it all.
        let by_label = json!({"selector": "app=told,pod-template-hash", "targetRequestsPerSecond": "10", "window": "10m"});
        let by_label = scaled_object("shop", &by_label);
        let metadata = pod.config().metadata.as_ref().context("metadata")?;
        let label = format!("pod=\"{}\"", metadata.name);
        let counted = node.settled_metric(exporter, "podwasm_requests_total", &[&label]).await?;
        ensure!((counted - f64::from(sent?)).abs() < 0.5, "{counted} were counted");
        let (path, location) = sample_location()?;
        let path = path.replace("/web", "/told");
        let told: Value = serde_json::from_slice(&node.http(exporter.http().parse()?, &path).await?.body)?;
        assert_eq!(told["requests"].as_f64(), Some(counted), "{told}");
        ensure!(told.pointer(&location).is_some_and(Value::is_number), "no {location} in {told}");
        ensure!(keda.rate(&by_label).await?.as_f64().is_some_and(|rate| rate > 1.0));

        let mut theirs = trigger.clone();
        theirs["namespace"] = "other".into();
        assert_eq!(keda.rate(&theirs).await?, json!(0.0), "another namespace is told nothing");
        pod.remove().await?;
    }

    /// KEDA opens the streams of all triggers over one connection.
    async fn many_triggers_share_a_connection(node: &Node) {
        let exporter = node.exporter().await?;
        let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
        let many = node.keda(scaler.grpc()).spawn("many", ["watch-many", &trigger("many", "10s").to_string(), "500"])?;
        wait_line(&many, 0, "500 streams are answered", |line| line["answered"] == 500).await?;
        let beside = wait_line(&many, 1, "a question beside them is answered", |_| true).await?;
        assert_eq!(beside, json!({"answer": {"result": false}}));
    }

    async fn wrong_triggers_are_explained(node: &Node) {
        let exporter = node.exporter().await?;
        let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
        let keda = node.keda(scaler.grpc());
        for (metadata, expected) in [
            (json!({"workload": "a"}), "it needs targetRequestsPerSecond"),
            (json!({"targetRequestsPerSecond": "1"}), "either selector or workload"),
            (json!({"targetRequestsPerSecond": "1", "workload": "a", "windw": "1s"}), "selector, workload, targetRequestsPerSecond"),
            (json!({"targetRequestsPerSecond": "1", "workload": "a", "window": "1h"}), "1s to 10m"),
        ] {
            for method in ["IsActive", "GetMetricSpec"] {
                let said = keda.call(method, &scaled_object("shop", &metadata)).await?;
                assert_eq!(said["code"], "INVALID_ARGUMENT", "{said}");
                let message = said["message"].as_str().unwrap_or_default();
                ensure!(message.contains(expected), "{message}");
            }
        }
    }
}

/// The first request is told in half a second, and a change of load in a second and a half.
async fn keda_is_told_at_once(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let exporter = node.exporter().await?;
    let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
    let keda = node.keda(scaler.grpc());
    let (_pod, server) = web(&node, "fresh").await?;
    let trigger = trigger("fresh", "1s");
    let watcher = keda.spawn("watch", ["watch", &trigger.to_string()])?;
    wait_line(&watcher, 0, "KEDA is told that nothing is active", |line| {
        line["active"] == false
    })
    .await?;

    let mut pushes = Vec::new();
    for _ in 0..5 {
        let said = lines(&watcher)?.len();
        let first = now();
        load::send(&node, server, 10, Duration::from_millis(100)).await?;
        let line = wait_line(&watcher, said, "activity", |line| line["active"] == true).await?;
        pushes.push(line["time"].as_f64().context("a time")? - first);
        wait_line(&watcher, said, "calm", |line| line["active"] == false).await?;
    }
    eprintln!("{flavor}: from the first request to StreamIsActive: true, in seconds: {pushes:.3?}");
    ensure!(pushes.iter().all(|&took| took <= 0.5), "{pushes:?}");

    let poller = keda.spawn("poll", ["poll", &trigger.to_string(), "requests-per-second", "9"])?;
    wait_line(&poller, 0, "KEDA asks", |_| true).await?;
    let slow = now();
    load::send(&node, server, 20, Duration::from_secs(3)).await?;
    let fast = now();
    load::send(&node, server, 80, Duration::from_secs(3)).await?;
    poller.wait(PATIENCE).await?;
    let answers = lines(&poller)?;
    let mut took = Vec::new();
    for (since, until, expected) in [(slow, fast, 20.0), (fast, fast + 3.0, 80.0)] {
        let right = answers.iter().find(|line| {
            let time = line["time"].as_f64().unwrap_or(0.0);
            (since..until).contains(&time)
                && line["value"]
                    .as_f64()
                    .is_some_and(|value| is_near(value, expected))
        });
        let right = right.with_context(|| format!("never told {expected}\n{}", poller.log_tail()))?;
        took.push(right["time"].as_f64().context("a time")? - since);
    }
    let mut asked: Vec<_> = answers.iter().filter_map(|line| line["took"].as_f64()).collect();
    asked.sort_by(f64::total_cmp);
    let median = asked[asked.len() / 2] * 1e3;
    eprintln!(
        "{flavor}: from a change of load to the right GetMetrics, in seconds: {took:.3?}; {} calls, median {median:.2} ms",
        asked.len()
    );
    ensure!(took.iter().all(|&took| took <= 1.5), "{took:?}");
    Ok(())
}

/// Exporters, scalers and nodes come and go: KEDA is told the rate, or an error, and never a zero that is none.
async fn restarts_are_no_zero(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let exporter = node
        .start_exporter_on(EXPORTER_PORT, ["--node-name", "n1"])
        .await?;
    let (second, second_exporter) = node.start_fake_exporter(&second_node()).await?;
    let exporters = [exporter.grpc(), &second];
    let (scaler, other) = tokio::try_join!(
        node.start_scaler_on(SCALER_PORT, SCALER_PORT + 1, &exporters, &[]),
        node.start_scaler(&exporters, &[]),
    )?;
    let (_pod, server) = web(&node, "life").await?;
    let keda = node.keda(&format!("ipv4:{},{}", scaler.grpc(), other.grpc()));
    let trigger = trigger("life", "10m");
    let told = keda.rate(&trigger).await?;
    ensure!(
        told.as_f64().is_some_and(|rate| rate > 2.0),
        "{told}: what was counted before the scalers began is known"
    );

    let life = async {
        let poller = keda.spawn(
            "poll",
            ["poll", &trigger.to_string(), "requests-per-second", "60"],
        )?;
        let exporter = exporter_is_killed(&node, exporter, &poller).await?;
        let scaler = scaler_is_ended(
            &node,
            scaler,
            &exporters_of(&exporter, &second),
            &poller,
            &trigger,
        )
        .await?;
        let [one, two] = [scaler.grpc(), other.grpc()].map(|address| node.keda(address));
        let (one, two) = tokio::try_join!(one.rate(&trigger), two.rate(&trigger))?;
        let both = one.as_f64().zip(two.as_f64());
        ensure!(
            both.is_some_and(|(one, two)| one > 2.0 && is_near(one, two)),
            "they know the same: {one} {two}"
        );
        node_vanishes(second_exporter, &poller).await?;
        never_a_zero(&poller)?;
        Ok(())
    };
    tokio::select! {
        sent = load::send(&node, server, 20, Duration::from_secs(90)) => bail!("the load ended first: {sent:?}"),
        lived = life => lived,
    }
}

const EXPORTER_PORT: u16 = 9_700;
const SCALER_PORT: u16 = 9_710;

fn exporters_of<'a>(first: &'a Exporter, second: &'a str) -> [&'a str; 2] {
    [first.grpc(), second]
}

/// What an exporter on a second node says, where a pod had 5 requests a second.
fn second_node() -> Value {
    let past: Vec<_> = (1..=60).flat_map(|second| [second * 1_000, 5]).collect();
    let pod = json!({
        "uid": "u2", "namespace": "shop", "name": "life-2", "workload": "life", "workload_kind": "Deployment",
        "since_ms": 1, "reading": {"requests": 300}, "past": past,
    });
    json!({"node": "n2", "run": 7, "read_ms": 100_000, "started": [pod]})
}

fn is_unavailable(line: &Value) -> bool {
    line["code"] == "UNAVAILABLE"
}

/// First there is an error, and then the rate again.
async fn exporter_is_killed(node: &Node, exporter: Exporter, poller: &Process) -> Result<Exporter> {
    wait_line(poller, 50, "a rate", |line| line["value"].is_number()).await?;
    drop(exporter);
    let line = wait_line(poller, 0, "the exporter is missed", is_unavailable).await?;
    ensure!(
        line.to_string().contains("the exporter on n1 is missing"),
        "{line}"
    );
    let exporter = node
        .start_exporter_on(EXPORTER_PORT, ["--node-name", "n1"])
        .await?;
    let said = lines(poller)?.len();
    wait_line(poller, said, "the exporter is heard again", |line| {
        line["value"].is_number()
    })
    .await?;
    Ok(exporter)
}

/// The other scaler answers until it is back.
async fn scaler_is_ended(
    node: &Node,
    scaler: Scaler,
    exporters: &[&str],
    poller: &Process,
    trigger: &Value,
) -> Result<Scaler> {
    let watcher = node
        .keda(scaler.grpc())
        .spawn("watch", ["watch", &trigger.to_string()])?;
    wait_line(&watcher, 0, "activity", |line| line["active"] == true).await?;
    scaler.process().signal(Signal::SIGTERM)?;
    wait_line(&watcher, 0, "the stream ends well", |line| line["ended"] == "OK").await?;
    scaler.process().wait(PATIENCE).await?;
    let said = lines(poller)?.len();
    wait_line(poller, said + 20, "the other scaler answers", |line| {
        line["value"].is_number()
    })
    .await?;
    node.start_scaler_on(SCALER_PORT, SCALER_PORT + 1, exporters, &[])
        .await
}

async fn node_vanishes(exporter: Process, poller: &Process) -> Result<()> {
    let said = lines(poller)?.len();
    drop(exporter);
    let line = wait_line(poller, said, "the node is missed", is_unavailable).await?;
    ensure!(
        line.to_string().contains("the exporter on n2 is missing"),
        "{line}"
    );
    Ok(())
}

/// All through, KEDA was told the rate or that it is not available.
fn never_a_zero(poller: &Process) -> Result<()> {
    let answers = lines(poller)?;
    let is_fine =
        |line: &&Value| is_unavailable(line) || line["value"].as_f64().is_some_and(|rate| rate > 0.5);
    let wrong: Vec<_> = answers.iter().filter(|line| !is_fine(line)).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

on_both! { keda_is_told_at_once restarts_are_no_zero }

/// The sample's query, as it is, gives the rate that was sent; and a change takes the query's range to show.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn prometheus_gives_the_rate_that_was_sent() -> Result<()> {
    let node = Node::start(Flavor::Forky, Runtime::Runc).await?;
    let exporter = node.exporter().await?;
    let config = json!({"scrape_configs": [{
        "job_name": "podwasm", "scrape_interval": "1s", "scrape_timeout": "1s", "honor_labels": true,
        "static_configs": [{"targets": [exporter.http()]}],
    }]});
    std::fs::write(node.path("/tmp/prometheus.yml"), config.to_string())?;
    let mut command = node.tool("prometheus")?;
    let address = "127.0.0.1:9790";
    command.args([
        "--config.file=/tmp/prometheus.yml",
        "--storage.tsdb.path=/tmp/prometheus",
    ]);
    command.arg(format!("--web.listen-address={address}"));
    let _prometheus = node.spawn("prometheus", command)?;
    let (_pod, server) = web(&node, "web").await?;
    let query = sample_query()?;
    let ask = async |query: &str| {
        let path = format!("/api/v1/query?query={}", percent_encoded(query));
        let answer = node.http(address.parse()?, &path).await?;
        Ok::<Value, anyhow::Error>(serde_json::from_slice(&answer.body)?)
    };
    let told = async || {
        let answer = ask(&query).await?;
        let rate = answer["data"]["result"][0]["value"][1].as_str();
        Ok::<_, anyhow::Error>(rate.and_then(|rate| rate.parse::<f64>().ok()))
    };
    until(
        "the series is there before the first request",
        PATIENCE,
        async || Ok(told().await.ok().flatten().filter(|&rate| rate == 0.0)),
    )
    .await?;

    for query in dashboard_queries()? {
        let answer = ask(&query).await?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
    }

    let start = now();
    let watch = async {
        let right = async || Ok(told().await?.filter(|&rate| is_near(rate, 20.0)).map(drop));
        until("the rate is right", Duration::from_secs(75), right).await?;
        let took = now() - start;
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok::<_, anyhow::Error>((took, told().await?))
    };
    let (took, rate) = tokio::select! {
        sent = load::send(&node, server, 20, Duration::from_secs(100)) => bail!("the load ended first: {sent:?}"),
        watched = watch => watched?,
    };
    eprintln!("from a change of load to the right answer of Prometheus: {took:.1} s; then {rate:?}");
    ensure!(
        rate.is_some_and(|rate| (rate - 20.0).abs() < 0.5),
        "{rate:?} instead of 20"
    );
    Ok(())
}

/// A name leads to the exporters, and what it leads to may change.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn exporters_are_found_by_name() -> Result<()> {
    let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let exporter = node.start_exporter(["--node-name", "n1"]).await?;
    let (_, port) = exporter.grpc().rsplit_once(':').context("a port")?;
    let second = format!("127.0.0.2:{port}");
    let state = json!({"node": "n2", "run": 1, "read_ms": 1});
    let _second = node.start_fake_exporter_on(&second, &state).await?;
    let hosts = node.path("/etc/hosts");
    let localhost = std::fs::read_to_string(&hosts)?;
    let lead_to = |addresses: &[&str]| {
        let lines: Vec<_> = addresses
            .iter()
            .map(|address| format!("{address} exporters.test\n"))
            .collect();
        std::fs::write(&hosts, localhost.clone() + &lines.concat())
    };
    lead_to(&["127.0.0.1"])?;
    let name = format!("exporters.test:{port}");
    let scaler = node
        .start_scaler(&[&name], &["--refresh", "200ms", "--forget-after", "1s"])
        .await?;
    let wait = async |current: u32, missing: u32| {
        let expected = [("current", current), ("missing", missing)]
            .map(|(state, number)| format!("podwasm_scaler_exporters{{state=\"{state}\"}} {number}\n"));
        until(
            &format!("{current} exporters are heard and {missing} missed"),
            PATIENCE,
            async || {
                let text = node.http(scaler.http().parse()?, "/metrics").await?.text();
                Ok(expected.iter().all(|line| text.contains(line)).then_some(()))
            },
        )
        .await
    };
    wait(1, 0).await?;
    lead_to(&["127.0.0.1", "127.0.0.2", "127.0.0.3"])?;
    wait(2, 1).await?;
    lead_to(&["127.0.0.1", "127.0.0.2"])?;
    wait(2, 0).await?;
    lead_to(&[])?; // a name that leads nowhere is a mistake, and the exporters are still there
    tokio::time::sleep(Duration::from_secs(2)).await;
    wait(2, 0).await
}

/// Prometheus' own checker has nothing to say against metrics and rules.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn promtool_is_content() -> Result<()> {
    let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let exporter = node.exporter().await?;
    let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;
    let (_pod, _server) = web(&node, "checked").await?;
    let rules: Value = serde_saphyr::from_str(include_str!("../../deploy/samples/prometheus-rules.yaml"))?;
    std::fs::write(node.path("/tmp/rules.yml"), rules["spec"].to_string())?;
    let mut check = node.tool("promtool")?;
    check.args(["check", "rules", "/tmp/rules.yml"]);
    let mut checks = vec![check];
    for (name, address) in [("exporter", exporter.http()), ("scaler", scaler.http())] {
        let file = format!("/tmp/{name}.txt");
        std::fs::write(
            node.path(&file),
            node.http(address.parse()?, "/metrics").await?.body,
        )?;
        let promtool = node.tool("promtool")?;
        let mut check = std::process::Command::new("sh");
        check.envs(
            promtool
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        check.args([
            "-c",
            &format!("exec {} check metrics <{file}", promtool.get_program().display()),
        ]);
        checks.push(check);
    }
    for check in checks {
        let output = node.output_of(check).await?;
        let said = [output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat();
        ensure!(output.status.success(), "{said}");
    }
    Ok(())
}

/// The query of the sample for KEDA's `prometheus` trigger.
fn sample_query() -> Result<String> {
    let sample: Value =
        serde_saphyr::from_str(include_str!("../../deploy/samples/scaledobject-prometheus.yaml"))?;
    let query = sample["spec"]["triggers"][0]["metadata"]["query"].as_str();
    Ok(query.context("a query")?.to_owned())
}

/// The path in the sample for KEDA's `metrics-api` trigger, and where the number is in the answer.
fn sample_location() -> Result<(String, String)> {
    let sample: Value =
        serde_saphyr::from_str(include_str!("../../deploy/samples/scaledobject-metrics-api.yaml"))?;
    let metadata = &sample["spec"]["triggers"][0]["metadata"];
    let url = metadata["url"].as_str().context("a url")?;
    let (_, path) = url.split_once(":9466").context("the exporter's port")?;
    let location = metadata["valueLocation"].as_str().context("a location")?;
    Ok((path.to_owned(), format!("/{}", location.replace('.', "/"))))
}

/// What the dashboard asks, with its variables set.
fn dashboard_queries() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(include_str!("../../deploy/samples/grafana-dashboard.json"))?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let queries = targets.filter_map(|target| target["expr"].as_str());
    let set = |query: &str| {
        let query = query.replace("$__rate_interval", "1m");
        query.replace("$namespace", ".*").replace("$workload", ".*")
    };
    let queries: Vec<_> = queries.map(set).collect();
    ensure!(queries.len() == panels.len(), "a panel without a query");
    Ok(queries)
}

fn percent_encoded(text: &str) -> String {
    let bytes: Vec<_> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    bytes.concat()
}

/// KEDA comes with a certificate, as from a `TriggerAuthentication`; who has none is not answered.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn keda_comes_with_a_certificate() -> Result<()> {
    let node = Node::start(Flavor::Trixie, Runtime::Runc).await?;
    let exporter = node.exporter().await?;
    write_certificates(&node.path("/tmp"))?;
    let flags = [
        "--tls-cert",
        "/tmp/server.crt",
        "--tls-key",
        "/tmp/server.key",
        "--tls-client-ca",
        "/tmp/ca.crt",
    ];
    let scaler = node.start_scaler(&[exporter.grpc()], &flags).await?;
    let trigger = trigger("tls", "10s");
    let with = |flags: &[&str]| node.keda(scaler.grpc()).with_flags(flags);
    let certified = with(&[
        "--ca",
        "/tmp/ca.crt",
        "--cert",
        "/tmp/client.crt",
        "--key",
        "/tmp/client.key",
    ]);
    assert_eq!(
        certified.call("IsActive", &trigger).await?,
        json!({"answer": {"result": false}})
    );
    for stranger in [with(&["--ca", "/tmp/ca.crt"]), with(&[])] {
        let said = stranger.call("IsActive", &trigger).await?;
        ensure!(
            ["UNAVAILABLE", "DEADLINE_EXCEEDED"].contains(&said["code"].as_str().unwrap_or_default()),
            "{said}"
        );
    }
    Ok(())
}

/// An authority, and certificates of it for the scaler and for KEDA.
fn write_certificates(folder: &Path) -> Result<()> {
    let authority = Authority::new()?;
    std::fs::write(folder.join("ca.crt"), authority.pem())?;
    for name in ["server", "client"] {
        let Certified { certificate, key } = authority.certify("localhost", name)?;
        std::fs::write(folder.join(format!("{name}.crt")), certificate)?;
        std::fs::write(folder.join(format!("{name}.key")), key)?;
    }
    Ok(())
}

//! What is counted is what was sent: real servers in real pods, several kinds of clients, every time.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::Request;
use podwasm_integration::node::{Exporter, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::servers::{self, Server, tool, tool_behind_rough_network};
use podwasm_integration::wait::{PATIENCE, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;

const REQUESTS: &str = "podwasm_requests_total";
const EXCLUDED: &str = "podwasm_excluded_requests_total";

/// What is said of a pod in a metric, once it has settled.
async fn metric(exporter: &Exporter, pod: &PodHandle<'_>, name: &str, label: &str) -> Result<u64> {
    let pod_label = format!(
        "pod=\"{}\"",
        pod.config().metadata.as_ref().context("a name")?.name
    );
    let value = pod
        .node()
        .settled_metric(exporter, name, &[&pod_label, label])
        .await?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a count"
    )]
    Ok(value as u64)
}

/// The requests that were counted for a pod.
async fn counted(exporter: &Exporter, pod: &PodHandle<'_>) -> Result<u64> {
    metric(exporter, pod, REQUESTS, "").await
}

/// Checks that so many requests were counted, and that nothing was lost or not understood.
async fn check(exporter: &Exporter, pod: &PodHandle<'_>, expected: u64, what: &str) -> Result<()> {
    check_between(exporter, pod, expected..=expected, what)
        .await
        .map(drop)
}

/// The same where it is not known to the last one. Returns how many they are.
async fn check_between(
    exporter: &Exporter,
    pod: &PodHandle<'_>,
    expected: RangeInclusive<u64>,
    what: &str,
) -> Result<u64> {
    let found = counted(exporter, pod).await?;
    let lost = metric(exporter, pod, "podwasm_lost_packets_total", "").await?;
    let unparsed = metric(exporter, pod, "podwasm_unparsed_bytes_total", "").await?;
    ensure!(
        expected.contains(&found) && (lost, unparsed) == (0, 0),
        "{what}: {expected:?} requests were sent, {found} counted, {lost} packets lost, {unparsed} bytes not understood\n{}",
        exporter.process().log_tail()
    );
    Ok(found)
}

/// Writes a stream in pieces, each of which becomes a segment of its own, and reads until `answers` answers have come.
async fn send_in_pieces(
    node: &Node,
    address: SocketAddr,
    stream: &[u8],
    size: usize,
    answers: usize,
) -> Result<()> {
    let mut client = node.connect(address).await?;
    client.set_nodelay(true)?;
    let (mut reading, mut writing) = client.split();
    let write = async {
        for piece in stream.chunks(size) {
            writing.write_all(piece).await?;
            writing.flush().await?;
        }
        anyhow::Ok(())
    };
    let read = async {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while text.windows(9).filter(|window| window == b"HTTP/1.1 ").count() < answers {
            let length = reading.read(&mut buffer).await?;
            ensure!(
                length > 0,
                "the server hung up: {}",
                String::from_utf8_lossy(&text)
            );
            text.extend(&buffer[..length]);
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, async { tokio::try_join!(write, read) }).await??;
    Ok(())
}

/// Sends a stream, and returns all that comes until the server hangs up.
async fn answers(node: &Node, address: SocketAddr, stream: &str) -> Result<String> {
    let mut client = node.connect(address).await?;
    client.write_all(stream.as_bytes()).await?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        // What the server had not read when it hung up makes that a reset, which is an end too.
        while let Ok(length @ 1..) = client.read(&mut buffer).await {
            text.extend(&buffer[..length]);
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .context("the server hangs up")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// On a machine with no time left, packets are lost, which is then said and is no fault: one node at a time.
static HEAVY: Mutex<()> = Mutex::const_new(());

on_nodes! {
    async fn requests_to_a_wasm_server(node: &Node) {
        node.podwasm().await?;
        let exporter = node.exporter().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod(&servers::unique("wasm")).run().await?;
        let container = pod.container("server").image(&image).args(["[::]:8080"]).env("NAME", "x");
        let container = container.start().await?;
        container.wait_stdout("listening").await?;
        let address = SocketAddr::new(pod.ip().await?, 8080);
        for _ in 0..25 {
            ensure!(node.http(address, "/").await?.status == 200);
        }
        let url = format!("http://{address}/");
        for _ in 0..5 {
            tool(node, "curl", &["-sf", "-o", "/dev/null", &url]).await?;
        }
        tool(node, "h2load", &["--h1", "-n", "200", "-c", "10", &url]).await?;
        check(exporter, &pod, 230, "a Wasm server").await?;
        let sixth = SocketAddr::new(pod.ipv6().await?, 8080);
        until("the pod is reached by IPv6", PATIENCE, async || Ok(node.connect(sixth).await.ok())).await?;
        for _ in 0..5 {
            ensure!(node.http(sixth, "/").await?.status == 200);
        }
        check(exporter, &pod, 235, "a Wasm server by IPv6").await?;
        pod.remove().await?;
    }

    async fn generators_against_nginx_with_probes_beside(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nginx(node).await?;
        let url = server.url("/");
        let done = AtomicBool::new(false);
        let probes = async {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let probe = Request::get("/").header("user-agent", "kube-probe/1.33").body(Full::default())?;
                ensure!(node.request(server.address, probe).await?.status == 200);
                count += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(count)
        };
        let load = async {
            // (arguments of h2load, how many requests they send)
            let runs: [(&[&str], u64); 5] = [
                (&["-n", "500", "-c", "1"], 500),
                (&["-n", "5000", "-c", "100"], 5_000),
                (&["-n", "20000", "-c", "50", "-m", "16"], 20_000), // pipelining
                (&["-n", "3000", "-c", "1000", "-t", "2"], 3_000),
                (&["-n", "60", "-c", "6", "-d", "/tmp/megabyte"], 60),
            ];
            let mut sent = 0;
            for (arguments, count) in runs {
                tool(node, "h2load", &[&["--h1"], arguments, &[&url]].concat()).await?;
                sent += count;
                check(exporter, &server.pod, sent, &format!("h2load {arguments:?}")).await?;
            }
            for arguments in [&["-T", "/tmp/megabyte"][..], &["-T", "/tmp/megabyte", "-H", "Transfer-Encoding: chunked"], &["-I"], &["-0"]] {
                tool(node, "curl", &[&["-s", "-o", "/dev/null"], arguments, &[&url, &url, &url]].concat()).await?;
                sent += 3;
                check(exporter, &server.pod, sent, &format!("curl {arguments:?}")).await?;
            }
            done.store(true, Ordering::Relaxed);
            anyhow::Ok(())
        };
        let (probes, ()) = tokio::try_join!(probes, load)?;
        assert_eq!(metric(exporter, &server.pod, EXCLUDED, "http_probe").await?, probes);
        server.pod.remove().await?;
    }

    async fn wrk_against_nginx(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nginx(node).await?;
        let mut so_far = 0;
        for connections in [1_u64, 20, 500] {
            let number = connections.to_string();
            let output = tool(node, "wrk", &["-t1", "-c", &number, "-d", "2s", &server.url("/")]).await?;
            let answered = output.lines().find_map(|line| line.trim().split_once(" requests in"));
            let answered: u64 = answered.context("wrk says how many")?.0.parse()?;
            // It hangs up with one request under way on each connection.
            let expected = so_far + answered..=so_far + answered + connections;
            so_far = check_between(exporter, &server.pod, expected, &format!("wrk -c {connections}")).await?;
        }
        server.pod.remove().await?;
    }

    async fn streams_in_pieces_of_any_size(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nginx(node).await?;
        let body = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let length = body.len();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n\
             PUT /upload/a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}\
             \r\nPUT /upload/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{length:x};a=b\r\n{body}\r\n0\r\n\r\n\
             GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        let stream = request.repeat(4);
        let mut sent = 0;
        for size in [1, 2, 3, 5, 13, 100, 10_000] {
            send_in_pieces(node, server.address, stream.as_bytes(), size, 16).await?;
            sent += 16;
            check(exporter, &server.pod, sent, &format!("pieces of {size} bytes")).await?;
        }
        server.pod.remove().await?;
    }

    async fn http2_by_prior_knowledge_and_by_upgrade(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nghttpd(node).await?;
        let url = server.url("/");
        tool(node, "h2load", &["-n", "10000", "-c", "20", "-m", "50", &url]).await?;
        tool(node, "h2load", &["-n", "40", "-c", "4", "-m", "10", "-d", "/tmp/megabyte", &url]).await?;
        tool(node, "curl", &["-sf", "--http2-prior-knowledge", "-o", "/dev/null", &url]).await?;
        check(exporter, &server.pod, 10_041, "HTTP/2").await?;
        assert_eq!(metric(exporter, &server.pod, REQUESTS, "http2").await?, 10_041);
        tool(node, "nghttp", &["-n", "--continuation", "--trailer", "a: b", "-d", "/tmp/megabyte", "-m", "10", &url]).await?;
        check(exporter, &server.pod, 10_051, "trailers and continuations").await?;
        // The proxy's own connections to the server are within the pod, and count too.
        let proxied = Server::nghttpx(node).await?;
        let url = proxied.url("/");
        tool(node, "nghttp", &["-n", "-u", &url, &proxied.url("/index.html")]).await?;
        for _ in 0..3 {
            tool(node, "curl", &["-sf", "--http2", "-o", "/dev/null", &url, &url]).await?;
        }
        let by_port = |protocol| metric(exporter, &proxied.pod, REQUESTS, protocol);
        assert_eq!((by_port("http1").await?, by_port("http2").await?), (4, 4 + 8));
        proxied.pod.remove().await?;
        server.pod.remove().await?;
    }

    async fn grpc_with_health_checks_beside(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::grpc(node).await?;
        let address = server.address.to_string();
        tool(node, "python3", &["-c", servers::GRPC_CLIENT, &address, "300", "40"]).await?;
        check(exporter, &server.pod, 300, "gRPC").await?;
        assert_eq!(metric(exporter, &server.pod, REQUESTS, "grpc").await?, 300);
        assert_eq!(metric(exporter, &server.pod, EXCLUDED, "grpc_health").await?, 40);
        server.pod.remove().await?;
    }

    async fn what_containers_of_a_pod_ask_each_other_counts_once(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nginx(node).await?;
        let other = Server::nginx(node).await?;
        let script = format!(
            "for n in 1 2 3 4 5 6 7; do wget -q -O /dev/null http://127.0.0.1:8080/; wget -q -O /dev/null {}; done",
            other.url("/")
        );
        let client = server.pod.container("client").image(node.busybox()).shell(&script).start().await?;
        assert_eq!(client.wait_exit().await?, 0);
        check(exporter, &server.pod, 7, "loopback").await?;
        check(exporter, &other.pod, 7, "from another pod").await?;
        server.pod.remove().await?;
        other.pod.remove().await?;
    }

    async fn bodies_that_are_skipped_in_the_kernel(node: &Node) {
        let exporter = node.exporter().await?;
        let _alone = HEAVY.lock().await;
        let server = Server::nginx(node).await?;
        let url = server.url("/discard");
        // 25 MB of request lines, three times over one connection, with small requests between.
        let script = format!(
            "yes 'GET / HTTP/1.1' | head -c 25000000 >/tmp/lines &&
             curl -sf -o /dev/null -T /tmp/lines {url} -T /tmp/lines {url} -T /tmp/lines {url} &&
             curl -sf -o /dev/null {url} -T /tmp/lines {url} {url}"
        );
        tool(node, "sh", &["-c", &script]).await?;
        check(exporter, &server.pod, 6, "large bodies").await?;
        server.pod.remove().await?;
    }

    async fn what_a_server_refuses_hides_nothing_and_adds_nothing(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nginx(node).await?;
        // nginx answers each with an error, and hangs up before the request that is hidden in what follows.
        let fields = [
            "Transfer-Encoding : chunked",
            "Content-Length : 0",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Content-Length: 0x0",
            "Content-Length: -0",
            "Content-Length: 0\r\nContent-Length: 5",
            "Content-Length: 18446744073709551616",
        ];
        let hidden = "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
        for field in fields {
            let stream = format!("POST / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n{hidden}");
            let text = answers(node, server.address, &stream).await?;
            ensure!(text.matches("HTTP/1.1 ").count() <= 1 && !text.contains(" 200 "), "{field}: {text}");
        }
        assert_eq!(counted(exporter, &server.pod).await?, fields.len() as u64);
        // It refuses tunnels too.
        let text = answers(node, server.address, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").await?;
        ensure!(text.starts_with("HTTP/1.1 4"), "{text}");
        assert_eq!(counted(exporter, &server.pod).await?, fields.len() as u64 + 1);
        server.pod.remove().await?;
    }

    async fn tls_is_counted_by_connection(node: &Node) {
        let exporter = node.exporter().await?;
        let server = Server::nginx(node).await?;
        for _ in 0..3 {
            let url = format!("https://{}/", server.address);
            ensure!(tool(node, "curl", &["-sk", &url]).await.is_err(), "nginx speaks no TLS here");
        }
        tool(node, "curl", &["-sf", &server.url("/")]).await?;
        check(exporter, &server.pod, 1, "beside TLS").await?;
        assert_eq!(metric(exporter, &server.pod, "podwasm_tls_connections_total", "").await?, 3);
        server.pod.remove().await?;
    }
}

// These register exporters while pods run, and so have nodes of their own: containerd 2.1 waits for ever when a plugin registers
// while another test's pod is being stopped.
async fn the_plain_filter_counts_the_same(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let best = node.exporter().await?;
    let plain = node.start_exporter(["--filter", "classic"]).await?;
    let server = Server::nginx(node).await?;
    tool(
        node,
        "h2load",
        &["--h1", "-n", "5000", "-c", "20", "-m", "4", &server.url("/")],
    )
    .await?;
    tool(
        node,
        "curl",
        &["-s", "-o", "/dev/null", "-T", "/tmp/megabyte", &server.url("/")],
    )
    .await?;
    for (exporter, filter) in [(best, "program"), (&plain, "classic")] {
        check(exporter, &server.pod, 5_001, filter).await?;
        let log = std::fs::read_to_string(exporter.process().log())?;
        ensure!(log.contains(&format!("filter=\"{filter}\"")), "{log}");
    }
    server.pod.remove().await?;
    Ok(())
}

async fn connections_that_were_there_before_are_picked_up(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let server = Server::nginx(node).await?;
    let mut client = node.connect(server.address).await?;
    let mut answer = [0; 4096];
    client
        .write_all(b"PUT /upload/a HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\nGET / HTTP/1.1\r\n")
        .await?;
    let exporter = node.start_exporter([]).await?;
    let name = format!("pod=\"{}\"", server.pod.config().hostname);
    until("the pod is counted", PATIENCE, async || {
        node.metric(&exporter, REQUESTS, &[&name]).await
    })
    .await?;
    until("traffic is seen", PATIENCE, async || {
        let attached = node
            .metric(&exporter, "podwasm_pods", &["state=\"unseen\""])
            .await?;
        Ok(attached.filter(|unseen| *unseen < 1.0))
    })
    .await?;
    client.write_all(b"body\r\nbody..body..body..").await?;
    ensure!(client.read(&mut answer).await? > 0);
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        ensure!(client.read(&mut answer).await? > 0);
    }
    assert_eq!(counted(&exporter, &server.pod).await?, 3);
    assert_eq!(
        metric(&exporter, &server.pod, "podwasm_unparsed_bytes_total", "").await?,
        24
    );
    server.pod.remove().await?;
    Ok(())
}

/// While the exporter sleeps, more comes than the ring holds, and what follows stays in the pod's socket.
async fn an_exporter_that_was_asleep_has_missed_nothing(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let exporter = node.exporter().await?;
    let _alone = HEAVY.lock().await;
    let server = Server::nginx(node).await?;
    let url = server.url("/");
    let load = ["--h1", "-n", "45000", "-c", "20", "-m", "2", &url];
    exporter.process().signal(Signal::SIGSTOP)?;
    let sent = tool(node, "h2load", &load).await;
    exporter.process().signal(Signal::SIGCONT)?;
    sent?;
    check(exporter, &server.pod, 45_000, "while it was asleep").await?;
    let log = std::fs::read_to_string(exporter.process().log())?;
    ensure!(
        log.contains("the ring was full"),
        "the ring was not full, and this shows nothing"
    );
    tool(node, "h2load", &["--h1", "-n", "500", "-c", "5", &url]).await?;
    check(exporter, &server.pod, 45_500, "afterwards").await?;
    server.pod.remove().await?;
    Ok(())
}

/// Packets between client and pod are lost, come twice, late, and in pieces that overlap; the kernels at both ends make streams of them.
async fn a_bad_network_changes_no_count(flavor: Flavor) -> Result<()> {
    let node = &Node::start(flavor, Runtime::Runc).await?;
    let best = node.exporter().await?;
    let plain = node.start_exporter(["--filter", "classic"]).await?;
    let first = Server::nginx(node).await?;
    let second = Server::nghttpd(node).await?;
    let sixth = format!("http://{}/", SocketAddr::new(first.pod.ipv6().await?, 8080));
    // (server, its URL, arguments of h2load, how many requests they send)
    let runs: [(&Server<'_>, &str, &[&str], u64); 5] = [
        (
            &first,
            &first.url("/"),
            &["--h1", "-n", "1000", "-c", "25"],
            1_000,
        ),
        (
            &first,
            &sixth,
            &["--h1", "-n", "3000", "-c", "20", "-m", "8"],
            3_000,
        ),
        (
            &first,
            &first.url("/"),
            &["--h1", "-n", "12", "-c", "6", "-d", "/tmp/megabyte"],
            12,
        ),
        (
            &second,
            &second.url("/"),
            &["-n", "3000", "-c", "10", "-m", "20"],
            3_000,
        ),
        (
            &second,
            &second.url("/"),
            &["-n", "12", "-c", "6", "-d", "/tmp/megabyte"],
            12,
        ),
    ];
    let mut sent = [0, 0];
    for (seed, (server, url, arguments, count)) in (1..).zip(runs) {
        let arguments = [arguments, &[url][..]].concat();
        let output = tool_behind_rough_network(node, seed, "h2load", &arguments).await?;
        ensure!(output.contains(&format!(" {count} succeeded")), "{output}");
        let total = &mut sent[usize::from(std::ptr::eq(server, &raw const second))];
        *total += count;
        for exporter in [best, &plain] {
            check(exporter, &server.pod, *total, &format!("h2load {arguments:?}")).await?;
        }
    }
    first.pod.remove().await?;
    second.pod.remove().await?;
    Ok(())
}

on_both! {
    a_bad_network_changes_no_count
    an_exporter_that_was_asleep_has_missed_nothing
    connections_that_were_there_before_are_picked_up
    the_plain_filter_counts_the_same
}

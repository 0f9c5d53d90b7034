//! WASI sockets in Wasm containers whose images hold nothing but the module, under the strictest security profile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::Request;
use podwasm_integration::node::{Answer, DNS_SERVER};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The user of all containers here.
const USER: i64 = 10_001;
const PORT: u16 = 8080;

/// A pod as a kubelet would make it for a namespace.
fn pod<'a>(
    node: &'a Node,
    name: &str,
    namespace: &str,
    ndots: &str,
) -> podwasm_integration::cri::PodBuilder<'a> {
    let searches = [
        &format!("{namespace}.svc.cluster.local"),
        "svc.cluster.local",
        "cluster.local",
    ];
    node.pod(name)
        .namespace(namespace)
        .dns(&[DNS_SERVER], &searches, &[ndots])
}

/// A name no other test has.
fn namespace(node: &Node, test: &str) -> String {
    format!("{test}-{}", node.name())
}

/// A folder of the node that belongs to the containers' user, as a kubelet makes for an emptyDir.
fn empty_dir(node: &Node, name: &str) -> Result<String> {
    let inside = format!("/var/lib/volumes/{name}");
    std::fs::create_dir_all(node.path(&inside))?;
    std::os::unix::fs::chown(node.path(&inside), Some(USER.try_into()?), None)?;
    Ok(inside)
}

/// Starts the HTTP server in a pod of its own, and waits until it listens.
async fn serve<'a>(pod: &PodHandle<'a>, image: &str, address: &str) -> Result<ContainerHandle<'a>> {
    let container = pod
        .container("server")
        .image(image)
        .args([address])
        .env("NAME", &pod.config().hostname);
    let container = container.restricted(USER).start().await?;
    container.wait_stdout("listening").await?;
    Ok(container)
}

/// What the `net` guest prints with these arguments, in a pod.
async fn net(pod: &PodHandle<'_>, arguments: &[&str]) -> Result<(i32, String, String)> {
    static CONTAINERS: AtomicU32 = AtomicU32::new(0); // two of one name would share a log
    let name = format!("net-{}", CONTAINERS.fetch_add(1, Ordering::Relaxed));
    let image = pod.node().push("net", &guest_image("net")).await?;
    let container = pod.container(&name).image(&image).args(arguments.iter().copied());
    let container = container.restricted(USER).start().await?;
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    container.remove().await?;
    Ok((code, logs.stdout, logs.stderr))
}

/// The same where it succeeds.
async fn net_says(pod: &PodHandle<'_>, arguments: &[&str], expected: &str) -> Result<()> {
    let (code, stdout, stderr) = net(pod, arguments).await?;
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (0, expected, ""),
        "{arguments:?}"
    );
    Ok(())
}

async fn put(node: &Node, address: SocketAddr, path: &str, body: &'static str) -> Result<Answer> {
    node.request(address, Request::put(path).body(Full::from(body))?)
        .await
}

on_nodes! {
    async fn a_server_answers_on_the_pods_address(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("server").run().await?;
        let server = serve(&pod, &image, &format!("0.0.0.0:{PORT}")).await?;
        let address = SocketAddr::new(pod.ip().await?, PORT);
        for _ in 0..20 {
            let answer = node.http(address, "/").await?;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello from server\n"));
        }
        assert_eq!(node.http(address, "/nothing").await?.status, 404);
        server.stop(Duration::from_secs(20)).await?;
        assert_eq!(server.wait_exit().await?, 143);
        pod.remove().await?;
    }

    async fn a_server_serves_many_clients_at_once(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("many").run().await?;
        serve(&pod, &image, &format!("0.0.0.0:{PORT}")).await?;
        let address = SocketAddr::new(pod.ip().await?, PORT);
        // All have sent half a request before the first, which is the last to connect, sends the rest.
        let mut clients = Vec::new();
        for _ in 0..16 {
            let mut client = node.connect(address).await?;
            client.write_all(b"GET / HTTP/1.1\r\nHo").await?;
            clients.push(client);
        }
        for mut client in clients.into_iter().rev() {
            client.write_all(b"st: x\r\n\r\n").await?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await?;
            ensure!(answer.ends_with("\r\n\r\nhello from many\n"), "{answer}");
        }
        let requests: Vec<_> = (0..16).map(|_| tokio::spawn(node.http(address, "/"))).collect();
        for request in requests {
            assert_eq!(request.await??.text(), "hello from many\n");
        }
        pod.remove().await?;
    }

    async fn a_server_answers_on_the_pods_ipv6_address(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("six").run().await?;
        serve(&pod, &image, &format!("[::]:{PORT}")).await?;
        let address = SocketAddr::new(pod.ipv6().await?, PORT);
        // Now and then the first IPv6 connection to a new pod times out, and the next one does not.
        until("the pod is reached by IPv6", PATIENCE, async || Ok(node.connect(address).await.ok())).await?;
        let answer = node.http(address, "/").await?;
        assert_eq!(answer.text(), "hello from six\n");
        pod.remove().await?;
    }

    async fn tcp_and_udp_work_in_both_families(node: &Node) {
        node.podwasm().await?;
        let pod = node.pod("families").run().await?;
        net_says(&pod, &["tcp", "127.0.0.1:7001"], "a line through TCP\n").await?;
        net_says(&pod, &["tcp", "[::1]:7002"], "a line through TCP\n").await?;
        net_says(&pod, &["udp", "127.0.0.1:7003", "127.0.0.1:7004"], "a datagram and back\n").await?;
        net_says(&pod, &["udp", "[::1]:7005", "[::1]:7006"], "a datagram and back\n").await?;
        net_says(&pod, &["open"], "Stream Inet4\nStream Inet6\nDatagram Inet4\nDatagram Inet6\n").await?;
        pod.remove().await?;
    }

    async fn a_refused_connection_is_an_error_with_its_number(node: &Node) {
        node.podwasm().await?;
        let pod = node.pod("refused").run().await?;
        let (code, stdout, stderr) = net(&pod, &["connect", "127.0.0.1:1"]).await?;
        assert_eq!((code, stdout.as_str()), (1, ""));
        ensure!(stderr.contains("Connection refused"), "{stderr}");
        pod.remove().await?;
    }

    async fn the_engine_resolves_through_the_search_list(node: &Node) {
        node.podwasm().await?;
        let namespace = namespace(node, "search");
        node.publish(&format!("web.{namespace}.svc.cluster.local"), "10.96.0.1".parse()?).await?;
        node.publish(&format!("web.{namespace}.svc.cluster.local"), "fd96::1".parse()?).await?;
        node.publish("db.other.svc.cluster.local", "10.96.0.2".parse()?).await?;
        let pod = pod(node, "search", &namespace, "ndots:5").run().await?;
        for (name, family, address) in [
            ("web".to_owned(), "4", "10.96.0.1\n"),
            ("web".to_owned(), "6", "fd96::1\n"),
            (format!("web.{namespace}"), "4", "10.96.0.1\n"),
            (format!("web.{namespace}.svc"), "4", "10.96.0.1\n"),
            (format!("web.{namespace}.svc.cluster.local"), "4", "10.96.0.1\n"),
            (format!("web.{namespace}.svc.cluster.local."), "4", "10.96.0.1\n"),
            ("db.other".to_owned(), "4", "10.96.0.2\n"),
            ("localhost".to_owned(), "4", "127.0.0.1\n"),
        ] {
            net_says(&pod, &["resolve", &name, family], address).await?;
        }
        let (code, stdout, stderr) = net(&pod, &["resolve", "nobody", "4"]).await?;
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        pod.remove().await?;
    }

    async fn ndots_says_which_name_comes_first(node: &Node) {
        node.podwasm().await?;
        let namespace = namespace(node, "ndots");
        let (absolute, searched) = ("10.96.1.1", "10.96.1.2");
        node.publish(&format!("api.{namespace}"), absolute.parse()?).await?;
        node.publish(&format!("api.{namespace}.{namespace}.svc.cluster.local"), searched.parse()?).await?;
        for (ndots, address) in [("ndots:1", absolute), ("ndots:2", searched)] {
            let pod = pod(node, "ndots", &namespace, ndots).run().await?;
            net_says(&pod, &["resolve", &format!("api.{namespace}"), "4"], &format!("{address}\n")).await?;
            pod.remove().await?;
        }
    }

    async fn the_engine_resolves_from_the_hosts_file(node: &Node) {
        node.podwasm().await?;
        let namespace = namespace(node, "hosts");
        let file = format!("/var/lib/volumes/{namespace}");
        std::fs::create_dir_all(node.path("/var/lib/volumes"))?;
        std::fs::write(node.path(&file), "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.96.2.1 backend backend.example\nfd96::2 backend\n")?;
        let image = node.push("net", &guest_image("net")).await?;
        let pod = pod(node, "hosts", &namespace, "ndots:5").run().await?;
        for (at, (name, family, expected)) in
            [("backend", "4", "10.96.2.1\n"), ("backend.example", "4", "10.96.2.1\n"), ("backend", "6", "fd96::2\n"), ("localhost", "6", "::1\n")].into_iter().enumerate()
        {
            let container = pod.container(&format!("net-{at}")).image(&image).args(["resolve", name, family]);
            let container = container.mount(&file, "/etc/hosts", false).restricted(USER).start().await?;
            assert_eq!((container.wait_exit().await?, container.logs()?.stdout.as_str()), (0, expected), "{name}");
            container.remove().await?;
        }
        pod.remove().await?;
    }

    async fn a_guest_can_ask_the_name_server_itself(node: &Node) {
        node.podwasm().await?;
        let namespace = namespace(node, "ask");
        let name = format!("web.{namespace}.svc.cluster.local");
        node.publish(&name, "10.96.3.1".parse()?).await?;
        let image = node.push("ask", &guest_image("ask")).await?;
        let pod = pod(node, "ask", &namespace, "ndots:5").run().await?;
        let container = pod.container("pods").image(&image).args([&name]).restricted(USER).start().await?;
        assert_eq!(container.wait_exit().await?, 0, "{:?}", container.logs()?);
        assert_eq!(container.logs()?.stdout, format!("{DNS_SERVER}:53 says 10.96.3.1\n"));

        // What the container says itself is not changed.
        let container = pod.container("own").image(&image).args([&name]).env("DNS_SERVER", "127.0.0.1:5353").restricted(USER);
        let container = container.start().await?;
        assert_eq!(container.wait_exit().await?, 1);
        ensure!(container.logs()?.stderr.starts_with("ask: 127.0.0.1:5353: Connection refused"), "{:?}", container.logs()?);
        pod.remove().await?;
    }

    async fn sockets_can_be_switched_off(node: &Node) {
        node.podwasm().await?;
        let pod = node.pod("off").annotation("wasm.noderesource.dev/pod", "sockets: false").run().await?;
        for arguments in [&["open"][..], &["connect", "127.0.0.1:1"], &["resolve", "localhost", "4"]] {
            let (code, stdout, stderr) = net(&pod, arguments).await?;
            assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}");
            ensure!(stderr.contains("Permission denied"), "{arguments:?}: {stderr}");
        }
        pod.remove().await?;
    }

    async fn one_wasm_pod_calls_another_by_name(node: &Node) {
        node.podwasm().await?;
        let namespace = namespace(node, "call");
        let image = node.push("server", &guest_image("server")).await?;
        let callee = pod(node, "callee", &namespace, "ndots:5").run().await?;
        serve(&callee, &image, &format!("0.0.0.0:{PORT}")).await?;
        node.publish(&format!("backend.{namespace}.svc.cluster.local"), callee.ip().await?).await?;
        let caller = pod(node, "caller", &namespace, "ndots:5").run().await?;
        serve(&caller, &image, &format!("0.0.0.0:{PORT}")).await?;
        let address = SocketAddr::new(caller.ip().await?, PORT);
        for name in ["backend".to_owned(), format!("backend.{namespace}"), format!("backend.{namespace}.svc.cluster.local")] {
            let answer = node.http(address, &format!("/from/{name}:{PORT}/")).await?;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello from callee\n"), "{name}");
        }
        let answer = node.http(address, &format!("/from/nobody:{PORT}/")).await?;
        assert_eq!(answer.status, 500, "{}", answer.text());
        callee.remove().await?;
        caller.remove().await?;
    }

    async fn a_server_reads_a_secret_and_writes_to_an_empty_dir(node: &Node) {
        node.podwasm().await?;
        let namespace = namespace(node, "secret");
        let (secret, work) = (empty_dir(node, &format!("{namespace}-secret"))?, empty_dir(node, &namespace)?);
        let (token, foreign) = (node.path(format!("{secret}/token")), node.path(format!("{secret}/foreign")));
        for (path, owner) in [(&token, USER), (&foreign, USER + 1)] {
            std::fs::write(path, "s3cret")?;
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o400))?;
            std::os::unix::fs::chown(path, Some(owner.try_into()?), None)?;
        }
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("secret").run().await?;
        let server = pod
            .container("server")
            .image(&image)
            .args([format!("0.0.0.0:{PORT}")])
            .mount(&secret, "/run/secrets/app", true)
            .mount(&work, "/work", false)
            .restricted(USER)
            .start()
            .await?;
        server.wait_stdout("listening").await?;
        let address = SocketAddr::new(pod.ip().await?, PORT);
        let answer = node.http(address, "/file/run/secrets/app/token").await?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "s3cret"));
        let limits = server.info().await?["runtimeSpec"]["linux"]["resources"].clone();
        assert_eq!(limits["memory"]["limit"], 50 << 20, "the default limit is enough");
        let answer = node.http(address, "/file/run/secrets/app/foreign").await?;
        assert_eq!(answer.status, 500, "{}", answer.text());
        ensure!(answer.text().contains("Permission denied"), "{}", answer.text());

        assert_eq!(put(node, address, "/file/work/report", "done\n").await?.status, 201);
        assert_eq!(std::fs::read_to_string(node.path(format!("{work}/report")))?, "done\n");
        for (path, reason) in [("/file/run/secrets/app/token", "Read-only file system"), ("/file/report", "Read-only file system")] {
            let answer = put(node, address, path, "x").await?;
            assert_eq!(answer.status, 500, "{path}");
            ensure!(answer.text().contains(reason), "{path}: {}", answer.text());
        }
        pod.remove().await?;
    }

    async fn a_probe_from_the_node_finds_the_server(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("probed").run().await?;
        let address = SocketAddr::new(pod.ip().await?, PORT);
        ensure!(node.connect(address).await.is_err(), "nobody listens yet");
        let container = pod.container("server").image(&image).args([format!("0.0.0.0:{PORT}")]).restricted(USER);
        let container = container.start().await?;
        until("the TCP probe succeeds", PATIENCE, async || Ok(node.connect(address).await.ok())).await?;
        let answer = node.http(address, "/").await.context("HTTP probe")?;
        ensure!((200..400).contains(&answer.status), "{}", answer.status);
        container.stop(Duration::from_secs(20)).await?;
        ensure!(node.connect(address).await.is_err(), "nobody listens any more");
        pod.remove().await?;
    }
}

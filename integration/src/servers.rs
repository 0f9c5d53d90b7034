//! Native servers in pods, and the tools that send them load.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::prelude::*;
use crate::wait::{PATIENCE, until};
use anyhow::{Context as _, Result, ensure};

const PORT: u16 = 8080;

const NGINX: &str = "
user root;
daemon off;
worker_processes 1;
error_log stderr;
pid /tmp/nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 1g;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    server {
        listen 8080 backlog=4096;
        listen [::]:8080 backlog=4096;
        location / { proxy_pass http://unix:/tmp/inner.sock; }
        location /discard { return 200 'gone\n'; }
    }
    server {
        listen unix:/tmp/inner.sock backlog=4096;
        location / { return 200 'hello\n'; }
    }
}
";

/// A server of calls with and without streams, by their last letter.
const GRPC_SERVER: &str = "
import grpc
from concurrent import futures
class Any(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method.endswith('Stream'):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: (b'x' for _ in requests))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b'x')
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Any(),))
assert server.add_insecure_port('[::]:8080')
server.start()
server.wait_for_termination()
";

/// Sends calls, every third of them a stream of messages, and health checks: `ADDRESS CALLS CHECKS`.
pub const GRPC_CLIENT: &str = "
import grpc, sys
channel = grpc.insecure_channel(sys.argv[1])
unary = channel.unary_unary('/a.B/Unary')
stream = channel.stream_stream('/a.B/Stream')
health = channel.unary_unary('/grpc.health.v1.Health/Check')
for number in range(int(sys.argv[2])):
    if number % 3 == 0:
        assert len(list(stream(iter([b'y' * 1000] * 5), wait_for_ready=True))) == 5
    else:
        assert unary(b'y', wait_for_ready=True, metadata=(('x-number', str(number)),)) == b'x'
for _ in range(int(sys.argv[3])):
    health(b'')
";

/// A server in a pod of its own.
#[derive(Debug)]
pub struct Server<'a> {
    /// The pod.
    pub pod: PodHandle<'a>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl<'a> Server<'a> {
    /// nginx, which takes bodies of any size.
    pub async fn nginx(node: &'a Node) -> Result<Self> {
        let start = "exec chroot /tools /usr/sbin/nginx -e stderr -c /tmp/nginx.conf";
        Self::start(node, "nginx", start, &[("nginx.conf", NGINX)]).await
    }

    /// nghttp2's server, without TLS.
    pub async fn nghttpd(node: &'a Node) -> Result<Self> {
        let start = "mkdir /tools/tmp/www && echo hello >/tools/tmp/www/index.html &&
            exec chroot /tools /usr/sbin/nghttpd --no-tls -d /tmp/www 8080";
        Self::start(node, "nghttpd", start, &[]).await
    }

    /// nghttp2's proxy, which lets clients upgrade, in front of its server.
    pub async fn nghttpx(node: &'a Node) -> Result<Self> {
        let start = "mkdir /tools/tmp/www && echo hello >/tools/tmp/www/index.html &&
            chroot /tools /usr/sbin/nghttpd --no-tls -D -d /tmp/www 8081 &&
            exec chroot /tools /usr/sbin/nghttpx --frontend='0.0.0.0,8080;no-tls' --backend='127.0.0.1,8081;;proto=h2' --conf=/dev/null";
        Self::start(node, "nghttpx", start, &[]).await
    }

    /// A gRPC server.
    pub async fn grpc(node: &'a Node) -> Result<Self> {
        let start = "exec chroot /tools python3 /tmp/server.py";
        Self::start(node, "grpc", start, &[("server.py", GRPC_SERVER)]).await
    }

    /// Starts a pod that is to be counted, and waits until something listens in it.
    async fn start(node: &'a Node, kind: &str, script: &str, files: &[(&str, &str)]) -> Result<Self> {
        let name = unique(kind);
        let temporary = format!("/var/lib/volumes/{name}");
        fs::create_dir_all(node.path(&temporary))?;
        for (file, content) in files {
            fs::write(node.path(&temporary).join(file), content)?;
        }
        let pod = node
            .pod(&name)
            .annotation("requests.noderesource.dev/count", "true")
            .run()
            .await?;
        let container = pod
            .container("server")
            .image(node.busybox())
            .mount("/opt/tools", "/tools", true)
            .mount(&temporary, "/tools/tmp", false)
            .shell(script)
            .start()
            .await?;
        let address = SocketAddr::new(pod.ip().await?, PORT);
        until("the server listens", PATIENCE, async || {
            Ok(node.connect(address).await.ok())
        })
        .await
        .with_context(|| format!("{:?}", container.logs()))?;
        Ok(Self { pod, address })
    }

    /// A URL of the server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A name that no other pod of this program has.
pub fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Runs one of the tools in the node, to its end, and returns what it prints. `/tmp/megabyte` is a file of that size.
pub async fn tool(node: &Node, name: &str, arguments: &[&str]) -> Result<String> {
    tool_behind(node, &["env"], name, arguments).await
}

/// The same behind a network that loses, repeats, reorders and cuts up packets, the same way for the same seed.
pub async fn tool_behind_rough_network(
    node: &Node,
    seed: u64,
    name: &str,
    arguments: &[&str],
) -> Result<String> {
    let seed = format!("--seed={seed}");
    let program = "/opt/podwasm/bin/podwasm-rough-network";
    tool_behind(node, &[program, &seed, "--"], name, arguments).await
}

async fn tool_behind(node: &Node, before: &[&str], name: &str, arguments: &[&str]) -> Result<String> {
    ensure!(
        node.path("/opt/tools/usr").exists(),
        "no tools: run integration/node/tools.sh"
    );
    let megabyte = "
        mount -t tmpfs tmp /opt/tools/tmp && head -c 1048576 /dev/zero | tr '\\0' 'G' >/opt/tools/tmp/megabyte &&
        exec chroot /opt/tools \"$@\"";
    let script = ["unshare", "-m", "sh", "-c", megabyte, "sh", name];
    let command = [before, &script, arguments].concat();
    let output = node.exec(command[0], &command[1..]).await?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} {arguments:?}: {}\n{stdout}\n{stderr}",
        output.status
    );
    Ok(stdout)
}

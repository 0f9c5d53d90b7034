//! What a pod gives all its containers: host name, names, ports, namespaces.

use std::net::SocketAddr;

use anyhow::ensure;
use podwasm_integration::prelude::*;

use super::{folder, guest_c, look, output};

on_nodes! {
    async fn hostname_is_the_pods(node: &Node) {
        let image = look(node).await?;
        let pod = node.pod("named").hostname("web-0").run().await?;
        let container = pod.container("c").image(&image).args(["read", "/etc/hostname", "/proc/sys/kernel/hostname"]).start().await?;
        assert_eq!(output(&container).await?, "/etc/hostname: web-0\n/proc/sys/kernel/hostname: web-0\n");
        pod.remove().await?;
    }

    async fn dns_config_is_the_pods(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("dns").dns(&["10.96.0.10"], &["a.example", "b.example"], &["ndots:5"]).run().await?;
        let container = pod.container("c").image(&image).args(["cat", "/etc/resolv.conf"]).start().await?;
        assert_eq!(output(&container).await?, "search a.example b.example\nnameserver 10.96.0.10\noptions ndots:5\n");
        pod.remove().await?;
    }

    async fn host_aliases_are_in_the_hosts_file(node: &Node) {
        let image = look(node).await?;
        let file = format!("{}/hosts", folder(node, "aliases")?);
        std::fs::write(node.path(&file), "10.0.0.1 alias\n")?;
        let pod = node.pod("aliases").run().await?;
        let container = pod.container("c").image(&image).args(["read", "/etc/hosts"]).mount(&file, "/etc/hosts", false);
        assert_eq!(output(&container.start().await?).await?, "/etc/hosts: 10.0.0.1 alias\n");
        pod.remove().await?;
    }

    async fn host_ports_lead_to_the_guest(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("ports").port(8080, 30080).run().await?;
        let container = pod.container("c").image(&image).env("NAME", "behind the port").start().await?;
        container.wait_stdout("listening").await?;
        let answer = node.http(SocketAddr::new("10.88.0.1".parse()?, 30080), "/").await?;
        assert_eq!(answer.text(), "hello from behind the port\n");
        pod.remove().await?;
    }

    async fn host_network_is_the_nodes(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("host-network").hostname("").host_network().run().await?;
        let container = pod.container("c").image(&image).args(["127.0.0.1:30081"]).env("NAME", "the node").start().await?;
        container.wait_stdout("listening").await?;
        assert_eq!(node.http("127.0.0.1:30081".parse()?, "/").await?.text(), "hello from the node\n");
        pod.remove().await?;
    }

    async fn shared_process_namespace_shows_the_others(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("shared").share_process_namespace().run().await?;
        let container = pod.container("c").image(&image).args(["sleep", "well"]).start().await?;
        container.wait_stdout("sleeping").await?;
        let native = pod.container("native").image(node.busybox()).command(["ps"]).start().await?;
        let seen = output(&native).await?;
        ensure!(seen.contains("/guest.wasm sleep well"), "{seen}");
        pod.remove().await?;
    }

    async fn sysctls_are_seen_by_the_guest(node: &Node) {
        let image = look(node).await?;
        let pod = node.pod("sysctls").sysctl("net.ipv4.ip_unprivileged_port_start", "1000").run().await?;
        let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let container = pod.container("c").image(&image).args(["read", path]).start().await?;
        assert_eq!(output(&container).await?, format!("{path}: 1000\n"));
        pod.remove().await?;
    }
}

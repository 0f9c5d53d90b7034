//! `resources`: limits in the container's cgroup, and their change while it runs.

use anyhow::{Result, ensure};
use podwasm_integration::cri::proto::LinuxContainerResources;
use podwasm_integration::prelude::*;

use super::guest_c;

const MEBIBYTE: i64 = 1 << 20;

/// A value of the container's cgroup: a file of cgroup v1's controller, or one of v2. The node's own view is asked, whose
/// cgroups start elsewhere than this process's.
async fn cgroup(
    node: &Node,
    container: &ContainerHandle<'_>,
    controller: &str,
    v1: &str,
    v2: &str,
) -> Result<String> {
    let pid = container.info().await?["pid"].clone();
    let script = format!(
        "path() {{ awk -F: \"$1\" /proc/{pid}/cgroup; }}
        v1=$(path '$2 ~ /(^|,){controller}(,|$)/ {{ print $3 }}') v2=$(path '$1 == 0 {{ print $3 }}')
        if [ -n \"$v1\" ]; then cat /sys/fs/cgroup/{controller}$v1/{v1}; else cat /sys/fs/cgroup$v2/{v2}; fi"
    );
    let output = node.exec("sh", ["-c", &script]).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn memory(node: &Node, container: &ContainerHandle<'_>) -> Result<i64> {
    Ok(
        cgroup(node, container, "memory", "memory.limit_in_bytes", "memory.max")
            .await?
            .parse()?,
    )
}

/// The quota in microseconds for each period of 100 ms.
async fn cpu(node: &Node, container: &ContainerHandle<'_>) -> Result<i64> {
    let value = cgroup(node, container, "cpu", "cpu.cfs_quota_us", "cpu.max").await?;
    Ok(value.split(' ').next().unwrap_or_default().parse()?)
}

on_nodes! {
    async fn memory_limit_is_the_cgroups(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("memory").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).memory_limit(96 * MEBIBYTE).start().await?;
        container.wait_stdout("sleeping").await?;
        assert_eq!(memory(node, &container).await?, 96 * MEBIBYTE);
        pod.remove().await?;
    }

    async fn cpu_limit_is_the_cgroups(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("cpu").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).cpu_limit(350).start().await?;
        container.wait_stdout("sleeping").await?;
        assert_eq!(cpu(node, &container).await?, 35_000);
        pod.remove().await?;
    }

    async fn requests_reach_the_runtime(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("requests").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).config(|config| {
            let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
            resources.cpu_shares = 512;
        });
        let container = container.start().await?;
        let cpu = container.info().await?["runtimeSpec"]["linux"]["resources"]["cpu"].clone();
        assert_eq!(cpu["shares"], 512, "{cpu}");
        // Half a CPU was asked for, so the node's default limit of a fifth gives way.
        let (quota, period) = (cpu["quota"].as_i64(), cpu["period"].as_i64());
        ensure!(quota.zip(period).is_none_or(|(quota, period)| quota * 2 >= period), "{cpu}");
        pod.remove().await?;
    }

    async fn limits_change_in_place(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("resize").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).memory_limit(64 * MEBIBYTE).cpu_limit(200);
        let container = container.start().await?;
        container.wait_stdout("sleeping").await?;
        let pid = container.info().await?["pid"].clone();
        for (mebibytes, quota) in [(128, 50_000), (80, 10_000)] {
            let resources = LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: quota,
                memory_limit_in_bytes: mebibytes * MEBIBYTE,
                ..Default::default()
            };
            container.update_resources(resources).await?;
            assert_eq!(memory(node, &container).await?, mebibytes * MEBIBYTE);
            assert_eq!(cpu(node, &container).await?, quota);
        }
        assert_eq!(container.info().await?["pid"], pid, "it is the same process");
        pod.remove().await?;
    }
}

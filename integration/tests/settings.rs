//! What podwasm adds to a Wasm container, what pods may ask for, and what a node's policy says to that.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podwasm_integration::guests::proposal;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

const MEBIBYTE: i64 = 1 << 20;

async fn push(node: &Node) -> Result<String> {
    node.push(
        "settings",
        &Image::linux()
            .program("/app.wasm", guest("guest.wasm"))
            .entrypoint(["/app.wasm"]),
    )
    .await
}

/// The memory limit and the CPU quota of a container, as containerd has put them into its spec.
async fn limits(container: &ContainerHandle<'_>) -> Result<(Option<i64>, Option<i64>)> {
    let info = container.info().await?;
    let resources = &info["runtimeSpec"]["linux"]["resources"];
    let positive = |value: &serde_json::Value| value.as_i64().filter(|value| *value > 0);
    Ok((
        positive(&resources["memory"]["limit"]),
        positive(&resources["cpu"]["quota"]),
    ))
}

/// What the kernel says of the same container: the cgroup of its process, on cgroup v1 or v2.
async fn cgroup_memory_limit(node: &Node, container: &ContainerHandle<'_>) -> Result<i64> {
    let pid = container.info().await?["pid"]
        .as_i64()
        .expect("a running container has a process");
    let script = format!(
        "v1=$(awk -F: '$2 == \"memory\" {{ print $3 }}' /proc/{pid}/cgroup); v2=$(awk -F: '$1 == 0 {{ print $3 }}' /proc/{pid}/cgroup); \
         cat /sys/fs/cgroup/memory$v1/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup$v2/memory.max"
    );
    let output = node.exec("sh", ["-c", &script]).await?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// What the plugin says about a container.
async fn annotation(container: &ContainerHandle<'_>, name: &str) -> Result<String> {
    let info = container.info().await?;
    let value = info["runtimeSpec"]["annotations"][name].as_str();
    Ok(value.unwrap_or_default().to_owned())
}

/// What the engine is told.
async fn engine_settings(container: &ContainerHandle<'_>) -> Result<String> {
    let info = container.info().await?;
    let env = info["runtimeSpec"]["process"]["env"].as_array();
    let mut variables = env.into_iter().flatten().filter_map(serde_json::Value::as_str);
    let found = variables.find_map(|variable| variable.strip_prefix("PODWASM_SETTINGS="));
    Ok(found.unwrap_or_default().to_owned())
}

on_nodes! {
    async fn a_wasm_container_without_limits_gets_the_nodes(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node.pod("defaults").run().await?;
        let wasm = pod.container("wasm").image(&image).args(["sleep"]).start().await?;
        assert_eq!(limits(&wasm).await?, (Some(50 * MEBIBYTE), Some(20_000)));
        assert_eq!(cgroup_memory_limit(node, &wasm).await?, 50 * MEBIBYTE);

        let native = pod.container("native").image(node.busybox()).command(["sleep", "600"]).start().await?;
        assert_eq!(limits(&native).await?, (None, None));

        let own = pod.container("own").image(&image).args(["sleep"]).memory_limit(90 * MEBIBYTE).cpu_limit(700).start().await?;
        assert_eq!(limits(&own).await?, (Some(90 * MEBIBYTE), Some(70_000)));
        pod.remove().await?;
    }

    async fn annotations_set_limits_or_switch_them_off(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node
            .pod("annotated")
            .annotation("wasm.noderesource.dev/pod", "memory: none\ncpu: none")
            .annotation("wasm.noderesource.dev/container.small", "memory: 30Mi\ncpu: 1.5")
            .run()
            .await?;
        let unlimited = pod.container("unlimited").image(&image).args(["sleep"]).start().await?;
        assert_eq!(limits(&unlimited).await?, (None, None));
        let small = pod.container("small").image(&image).args(["sleep"]).start().await?;
        assert_eq!(limits(&small).await?, (Some(30 * MEBIBYTE), Some(150_000)));
        pod.remove().await?;
    }

    async fn limits_are_changed_in_place(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node.pod("resized").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).start().await?;
        container.wait_stdout("sleep").await?;
        let more = podwasm_integration::cri::proto::LinuxContainerResources {
            memory_limit_in_bytes: 80 * MEBIBYTE,
            ..Default::default()
        };
        container.update_resources(more).await?;
        assert_eq!(cgroup_memory_limit(node, &container).await?, 80 * MEBIBYTE);
        pod.remove().await?;
    }

    async fn memory_grow_fails_before_the_kernel_kills(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node.pod("greedy").run().await?;
        for (name, limit) in [("default", None), ("own", Some(64 * MEBIBYTE))] {
            let mut container = pod.container(name).image(&image).args(["grow"]);
            if let Some(limit) = limit {
                container = container.memory_limit(limit);
            }
            let container = container.start().await?;
            assert_eq!(container.wait_exit().await?, 0, "{name}: {:?}", container.logs()?);
            let stdout = container.logs()?.stdout;
            let grew: i64 = stdout.split_whitespace().filter_map(|word| word.parse().ok()).next_back().unwrap_or(0);
            let limit = limit.unwrap_or(50 * MEBIBYTE) / MEBIBYTE;
            ensure!(grew > limit / 2 && grew < limit, "{name}: {stdout}");
        }
        pod.remove().await?;
    }

    async fn a_guest_drains_as_long_as_its_pod_says(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node.pod("drain").annotation("wasm.noderesource.dev/container.c", "drain: 1s").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).start().await?;
        container.wait_stdout("sleep").await?;
        let asked = Instant::now();
        container.stop(Duration::from_secs(20)).await?;
        assert_eq!(container.wait_exit().await?, 143);
        ensure!(asked.elapsed() >= Duration::from_secs(1), "it went on for only {:?}", asked.elapsed());
        pod.remove().await?;
    }

    async fn what_a_node_does_not_allow_is_refused(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        for (annotation, expected) in [
            ("plugins: [wasi_nn]", "plugin 'wasi_nn' is not allowed on this node, nor is any other"),
            ("drain: 1h", "drain: 3600s is more than the 60s that this node allows"),
            ("wait: 1m", "wait: 60s is more than the 3s that this node allows"),
            ("handler: runtime", "an annotation says handler: runtime, but the pod runs on"),
            ("memory: 50MB", "'50MB' is not a quantity such as 50Mi"),
        ] {
            let pod = node.pod("denied").annotation("wasm.noderesource.dev", annotation).run().await?;
            let error = pod.container("c").image(&image).create().await.expect_err("it is refused");
            let error = format!("{error:#}");
            ensure!(error.contains(expected), "{annotation}: {error}");
            pod.remove().await?;
        }
    }

    async fn a_module_may_come_from_a_volume(node: &Node) {
        node.podwasm().await?;
        let pod = node.pod("volume").run().await?;
        // As the kubelet lays out a ConfigMap.
        let folder = format!("/tmp/volume-{}", pod.id());
        let script = format!(
            "mkdir -p {folder}/..2024_01 && cp /proc/self/fd/0 {folder}/..2024_01/app.wasm && cd {folder} && \
             ln -s ..2024_01 ..data && ln -s ..data/app.wasm app.wasm && ln -s /etc/shadow shadow.wasm"
        );
        let module = node.path(format!("{folder}-module"));
        std::fs::write(&module, guest("guest.wasm"))?;
        node.exec("sh", ["-c", &script.replace("/proc/self/fd/0", &format!("{folder}-module"))]).await?;
        let image = node.push("empty", &Image::linux().layer(Layer::new().directory("/tmp", 0o777))).await?;
        let container = |name: &str, program: &'static str| {
            pod.container(name).image(&image).command([program]).args(["exit", "42"]).mount(&folder, "/modules", true)
        };
        let running = container("link", "/modules/app.wasm").start().await?;
        assert_eq!(running.wait_exit().await?, 42, "{:?}", running.logs()?);
        let running = container("file", "/modules/..2024_01/app.wasm").start().await?;
        assert_eq!(running.wait_exit().await?, 42, "{:?}", running.logs()?);
        let error = container("shadow", "/modules/shadow.wasm").create().await.expect_err("it is refused");
        ensure!(format!("{error:#}").contains("there is no '/modules/shadow.wasm'"), "{error:#}");

        // Another module under the same name: nothing is remembered of volumes.
        let other = guest("hello.wasm");
        std::fs::write(node.path(format!("{folder}/..2024_01/app.wasm")), &other)?;
        let running = container("changed", "/modules/app.wasm").start().await?;
        assert_eq!(running.wait_exit().await?, 0, "{:?}", running.logs()?);

        let single = pod
            .container("single")
            .image(&image)
            .command(["/srv/job"])
            .args(["exit", "42"])
            .mount(&format!("{folder}-module"), "/srv/job", true)
            .start()
            .await?;
        assert_eq!(single.wait_exit().await?, 42, "{:?}", single.logs()?);
        pod.remove().await?;
    }

    async fn cruns_annotations_ask_for_wasm_and_do_not_reach_crun(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node.pod("crun").annotation("run.oci.handler", "wasm").run().await?;
        let container = pod.container("c").image(&image).args(["exit", "42"]).annotation("run.oci.handler", "wasm").start().await?;
        assert_eq!(container.wait_exit().await?, 42, "{:?}", container.logs()?);
        pod.remove().await?;
    }

    async fn the_crun_handler_is_used_where_there_is_one(node: &Node) {
        node.podwasm().await?;
        let image = push(node).await?;
        let pod = node.pod("crun").annotation("wasm.noderesource.dev/pod", "handler: crun\nmemory: none").run().await?;
        let container = pod.container("c").image(&image).args(["hello"]);
        match node.runtime() {
            Runtime::Crun => {
                let container = container.start().await?;
                assert_eq!(container.wait_exit().await?, 0, "{:?}", container.logs()?);
                ensure!(container.logs()?.stdout.contains("hello from C"), "{:?}", container.logs()?);
                let info = container.info().await?;
                ensure!(info["runtimeSpec"]["annotations"]["run.oci.handler"] == "wasm", "{info}");
            }
            Runtime::Runc => {
                let error = format!("{:#}", container.create().await.expect_err("runc has no such handler"));
                ensure!(error.contains("handler: crun cannot be had: the pod runs on ") && error.contains("runc"), "{error}");
            }
        }
        pod.remove().await?;
    }
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn the_policy_is_followed_and_bad_ones_are_not() -> Result<()> {
    let node = Node::start(Flavor::Forky, Runtime::Runc).await?;
    let file = "/tmp/policy.yaml";
    let write = |text: &str| std::fs::write(node.path(file), text);
    write("namespaces: {only: [team-a]}\ndefault_memory: none\n")?;
    let plugin = node.start_podwasm_with(["--config", file]).await?;
    let image = push(&node).await?;

    let create = async |namespace: &str| {
        let pod = node.pod("policy").namespace(namespace).run().await?;
        let created = pod.container("c").image(&image).args(["sleep"]).start().await;
        let found = match created {
            Ok(container) => Ok(limits(&container).await?),
            Err(error) => Err(format!("{error:#}")),
        };
        pod.remove().await?;
        anyhow::Ok(found)
    };
    assert_eq!(create("team-a").await?, Ok((None, Some(20_000))));
    let refused = create("team-b").await?.expect_err("the policy names team-a only");
    ensure!(
        refused.contains("this node runs none in namespace team-b"),
        "{refused}"
    );

    write("namespaces: {onyl: [team-b]}\n")?;
    let logged = async |text: &str| {
        until(text, PATIENCE, async || {
            Ok(std::fs::read_to_string(plugin.process().log())?
                .contains(text)
                .then_some(()))
        })
        .await
    };
    logged("the new policy has mistakes; the old one stays in force").await?;
    assert_eq!(create("team-a").await?, Ok((None, Some(20_000))));

    write("default_memory: 40Mi\n")?;
    logged("policy read again").await?;
    assert_eq!(create("team-b").await?, Ok((Some(40 * MEBIBYTE), Some(20_000))));
    node.stop().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn proposals_that_the_policy_names_are_on_for_modules_that_need_them() -> Result<()> {
    let node = Node::start(Flavor::Trixie, Runtime::Crun).await?;
    std::fs::write(
        node.path("/tmp/policy.yaml"),
        "proposals: [gc, function-references, multi-memory]\n",
    )?;
    let _plugin = node.start_podwasm_with(["--config", "/tmp/policy.yaml"]).await?;
    for (name, is_interpreted) in [("multi-memory", false), ("gc", true)] {
        let image = node.push(name, &proposal_image(name)).await?;
        let pod = node.pod("proposals").run().await?;
        let container = pod.container("c").image(&image).start().await?;
        assert_eq!(
            container.wait_exit().await?,
            42,
            "{name}: {:?}",
            container.logs()?
        );
        let settings = engine_settings(&container).await?;
        ensure!(settings.contains(&format!("proposal={name}")), "{settings}");
        // Whether it can be compiled is known soon after it was first asked for.
        until(name, PATIENCE, async || {
            let container = pod.container("again").image(&image).start().await?;
            assert_eq!(
                container.wait_exit().await?,
                42,
                "{name}: {:?}",
                container.logs()?
            );
            let tier = annotation(&container, "wasm.noderesource.dev/tier").await?;
            container.remove().await?;
            Ok(((tier == "interpreted") == is_interpreted && tier != "waiting").then_some(()))
        })
        .await?;
        pod.remove().await?;
    }
    let pod = node.pod("proposals").run().await?;
    for (name, expected) in [
        (
            "memory64",
            "a 64-bit memory (memory64), which WasmEdge 0.14.1 cannot run",
        ),
        (
            "threads",
            "the module uses threads, and of what goes beyond WebAssembly 2.0 this node's policy allows gc",
        ),
    ] {
        let image = node.push(name, &proposal_image(name)).await?;
        let refused = pod.container("c").image(&image).create().await;
        let refused = format!("{:#}", refused.expect_err("it is not allowed"));
        ensure!(refused.contains(expected), "{refused}");
    }
    pod.remove().await?;
    node.stop().await
}

fn proposal_image(name: &str) -> Image {
    Image::linux()
        .program("/app.wasm", proposal(name))
        .entrypoint(["/app.wasm"])
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn plugins_that_the_policy_names_can_be_asked_for() -> Result<()> {
    let node = Node::start(Flavor::Forky, Runtime::Runc).await?;
    std::fs::create_dir_all(node.path("/opt/plugins/test"))?;
    for file in ["libwasmedgePluginPodwasmTest.so", "libpodwasm_test_answer.so.1"] {
        std::fs::write(node.path(format!("/opt/plugins/test/{file}")), guest(file))?;
    }
    std::fs::write(node.path("/tmp/policy.yaml"), "plugins: [test]\n")?;
    let _plugin = node
        .start_podwasm_with(["--config", "/tmp/policy.yaml", "--plugins", "/opt/plugins"])
        .await?;
    let image = node.push("plugin", &guest_image("plugin")).await?;
    let run = async |annotation: &str| {
        let pod = node
            .pod("plugin")
            .annotation("wasm.noderesource.dev", annotation)
            .run()
            .await?;
        let container = pod.container("c").image(&image).start().await?;
        let ended = (container.wait_exit().await?, container.logs()?.stderr);
        pod.remove().await?;
        anyhow::Ok(ended)
    };
    assert_eq!(run("plugins: [test]").await?, (42, String::new()));
    let (code, stderr) = run("plugins: []").await?;
    ensure!(
        code == 126 && stderr.contains("which this engine does not have"),
        "{code}: {stderr}"
    );

    let pod = node
        .pod("plugin")
        .annotation("wasm.noderesource.dev", "plugins: [other]")
        .run()
        .await?;
    let error = pod
        .container("c")
        .image(&image)
        .create()
        .await
        .expect_err("the policy does not name it");
    ensure!(
        format!("{error:#}").contains("plugin 'other' is not allowed on this node; allowed are test"),
        "{error:#}"
    );
    node.stop().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn a_policy_with_mistakes_does_not_start() -> Result<()> {
    let node = Node::start(Flavor::Forky, Runtime::Runc).await?;
    std::fs::write(node.path("/tmp/policy.yaml"), "sockets: true\nmax_modul: 1\n")?;
    let output = node
        .exec(
            "/opt/podwasm/bin/podwasm",
            ["run", "--config", "/tmp/policy.yaml"],
        )
        .await?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        !output.status.success() && stderr.contains("max_modul") && stderr.contains("line 2"),
        "{stderr}"
    );
    node.stop().await
}

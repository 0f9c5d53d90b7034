//! The harness itself on real nodes: what later tests take for granted.

use podwasm_integration::cri::proto::LinuxContainerResources;
use podwasm_integration::image::native_architecture;
use podwasm_integration::prelude::*;
use std::time::{Duration, Instant};

const MEBIBYTE: i64 = 1 << 20;

on_nodes! {
    async fn output_errors_and_exit_code_are_told_apart(node: &Node) {
        let pod = node.pod("native").run().await?;
        let container = pod.container("c").image(node.busybox()).shell("echo out; echo err >&2; exit 7").start().await?;
        assert_eq!(container.wait_exit().await?, 7);
        let logs = container.logs()?;
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
        pod.remove().await?;
    }

    async fn environment_arguments_directory_and_user_arrive(node: &Node) {
        let pod = node.pod("settings").hostname("somewhere").run().await?;
        let container = pod
            .container("c")
            .image(node.busybox())
            .command(["sh", "-c", "echo $1 $COLOUR $(pwd) $(id -u) $(hostname)", "sh"])
            .args(["first"])
            .env("COLOUR", "blue")
            .working_dir("/tmp")
            .user(65534)
            .start()
            .await?;
        assert_eq!(container.wait_exit().await?, 0);
        assert_eq!(container.logs()?.stdout, "first blue /tmp 65534 somewhere\n");
        pod.remove().await?;
    }

    async fn exec_in_a_running_container(node: &Node) {
        let pod = node.pod("exec").run().await?;
        let container = pod.container("c").image(node.busybox()).command(["sleep", "600"]).start().await?;
        let ran = container.exec(["sh", "-c", "echo out; echo err >&2; exit 3"]).await?;
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (3, "out\n", "err\n"));
        pod.remove().await?;
    }

    async fn stop_asks_before_it_kills(node: &Node) {
        let pod = node.pod("stop").run().await?;
        let polite = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done";
        let polite = pod.container("polite").image(node.busybox()).shell(polite).start().await?;
        polite.wait_stdout("ready").await?;
        polite.stop(Duration::from_secs(20)).await?;
        assert_eq!(polite.wait_exit().await?, 5);

        // Process 1 of a pid namespace is not killed by a signal that it does not handle.
        let deaf = pod.container("deaf").image(node.busybox()).shell("echo ready; exec sleep 600").start().await?;
        deaf.wait_stdout("ready").await?; // until then it may still be the runtime's own process
        let start = Instant::now();
        deaf.stop(Duration::from_secs(1)).await?;
        assert_eq!(deaf.wait_exit().await?, 137);
        assert!(start.elapsed() >= Duration::from_secs(1), "killed after {:?}", start.elapsed());
        pod.remove().await?;
    }

    async fn limits_are_set_counted_and_changed(node: &Node) {
        let pod = node.pod("limits").run().await?;
        let container = pod
            .container("c")
            .image(node.busybox())
            .shell("cat /dev/zero | head -c 8388608 > /dev/null; sleep 600")
            .memory_limit(64 * MEBIBYTE)
            .cpu_limit(500)
            .start()
            .await?;
        let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
        let seen = container.exec(["sh", "-c", limit]).await?.stdout;
        assert_eq!(seen.trim(), (64 * MEBIBYTE).to_string());
        let cpu = container.stats().await?.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
        assert!(cpu.is_some_and(|used| used.value > 0), "{cpu:?}");

        let more = LinuxContainerResources { memory_limit_in_bytes: 96 * MEBIBYTE, ..Default::default() };
        container.update_resources(more).await?;
        let seen = container.exec(["sh", "-c", limit]).await?.stdout;
        assert_eq!(seen.trim(), (96 * MEBIBYTE).to_string());
        pod.remove().await?;
    }

    async fn pods_reach_each_other_and_are_reached(node: &Node) {
        let server = node.pod("server").port(8080, 18080).run().await?;
        let serve = "mkdir /tmp/www; echo hello > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
        server.container("c").image(node.busybox()).shell(serve).start().await?;
        let ip = server.ip().await?;

        let client = node.pod("client").run().await?;
        let fetch = format!("until wget -q -O - http://{ip}:8080/; do sleep 0.05; done");
        let fetched = client.container("c").image(node.busybox()).shell(&fetch).start().await?;
        assert_eq!(fetched.wait_exit().await?, 0);
        assert_eq!(fetched.logs()?.stdout, "hello\n");

        let answer = node.http((ip, 8080).into(), "/index.html").await?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello\n"));
        let mapped = node.http("10.88.0.1:18080".parse()?, "/index.html").await?;
        assert_eq!(mapped.status, 200, "by the port of the node");
        client.remove().await?;
        server.remove().await?;
    }

    async fn name_service_settings_arrive(node: &Node) {
        let pod = node.pod("dns").dns(&["10.88.0.1"], &["default.svc.cluster.local"], &["ndots:5"]).run().await?;
        let container = pod.container("c").image(node.busybox()).command(["cat", "/etc/resolv.conf"]).start().await?;
        assert_eq!(container.wait_exit().await?, 0);
        let seen = container.logs()?.stdout;
        assert_eq!(seen, "search default.svc.cluster.local\nnameserver 10.88.0.1\noptions ndots:5\n");
        pod.remove().await?;
    }

    async fn other_runtime_by_handler(node: &Node) {
        let other = if node.runtime() == Runtime::Runc { Runtime::Crun } else { Runtime::Runc };
        let pod = node.pod("handler").runtime_handler(other.name()).run().await?;
        assert_eq!(pod.status().await?.runtime_handler, other.name());
        let container = pod.container("c").image(node.busybox()).command(["sleep", "600"]).start().await?;
        let options = container.info().await?["config"].clone();
        assert!(options.is_object(), "the container's own configuration is there: {options}");
        pod.remove().await?;
    }

    /// A later layer hides, replaces and empties what an earlier one holds; the builder's marks mean what they should.
    async fn layers_lie_over_each_other(node: &Node) {
        let busybox = std::fs::read(node.path("/bin/busybox"))?;
        let image = Image::linux()
            .layer(
                Layer::new()
                    .file("/bin/busybox", busybox, 0o755)
                    .hard_link("/bin/sh", "/bin/busybox")
                    .file("/gone", "x", 0o644)
                    .file("/replaced", "old", 0o644)
                    .file("/emptied/below", "x", 0o644)
                    .file("/kept/below", "x", 0o644),
            )
            .layer(
                Layer::new()
                    .whiteout("/gone")
                    .file("/replaced", "new", 0o640)
                    .opaque("/emptied")
                    .file("/emptied/above", "x", 0o644)
                    .symlink("/link", "/kept/below")
                    .fifo("/pipe")
                    .device("/null", 1, 3),
            )
            .entrypoint(["/bin/busybox"]);
        let reference = node.push("layers", &image).await?;
        let pod = node.pod("layers").run().await?;
        let script = "busybox ls -A / /emptied; busybox cat /replaced; busybox stat -c '%n %F %a' /replaced /pipe /null /link";
        let container = pod.container("c").image(&reference).args(["sh", "-c", script]).env("PATH", "/bin").start().await?;
        assert_eq!(container.wait_exit().await?, 0, "{:?}", container.logs()?);
        let seen = container.logs()?.stdout;
        assert!(!seen.contains("gone"), "{seen}");
        assert!(seen.contains("/emptied:\nabove\nnew/replaced regular file 640\n"), "{seen}");
        assert!(seen.contains("/pipe fifo 777\n/null character special file 777\n/link symbolic link 777\n"), "{seen}");
        pod.remove().await?;
    }

    async fn the_registry_is_asked_and_an_image_unknown_to_it_is_an_error(node: &Node) {
        let error = node.cri().pull("127.0.0.1:5000/nobody:latest").await.unwrap_err();
        assert!(format!("{error:#}").contains("not found"), "{error:#}");
    }

    async fn mixed_index_gives_the_native_image(node: &Node) {
        let wasm = Image::platform("wasi", "wasm").program("/app.wasm", "\0asm");
        let native = Image::linux().program("/native", "#!");
        let stored = native.clone();
        let reference = node.push("mixed", &Index::new().image(&wasm).provenance(&wasm).image(&native)).await?;
        assert_eq!(node.cri().pull(&reference).await?, image_id(&stored));
    }

    async fn index_of_wasm_alone_cannot_be_pulled(node: &Node) {
        let wasm = Image::platform("wasi", "wasm").program("/app.wasm", "\0asm");
        let reference = node.push("wasm-index", &Index::new().image(&wasm).provenance(&wasm)).await?;
        let error = node.cri().pull(&reference).await.unwrap_err();
        assert!(format!("{error:#}").contains("no match for platform in manifest"), "{error:#}");
    }

    async fn every_single_manifest_is_pulled_and_creates_containers(node: &Node) {
        let pod = node.pod("forms").run().await?;
        for (name, image) in single_manifests() {
            let reference = node.push(name, &image).await?;
            assert_eq!(node.cri().pull(&reference).await?, image_id(&image), "{name}");
            let container = pod.container(name).image(&reference).command(["/app.wasm"]).create().await?;
            container.remove().await?;
        }
        pod.remove().await?;
    }

    async fn every_artifact_is_pulled_and_creates_containers_on_nothing(node: &Node) {
        let pod = node.pod("artifacts").run().await?;
        for (name, artifact) in artifacts() {
            let reference = node.push(name, &artifact).await?;
            node.cri().pull(&reference).await?;
            let without_command = pod.container(name).image(&reference).create().await.unwrap_err();
            assert!(format!("{without_command:#}").contains("no command specified"), "{without_command:#}");
            let container = pod.container(name).image(&reference).command(["/app.wasm"]).create().await?;
            let missing = container.start().await.unwrap_err();
            assert!(format!("{missing:#}").contains("/app.wasm"), "{missing:#}");
        }
        pod.remove().await?;
    }
}

/// Containers have an image's id, which is the digest of its config.
fn image_id(image: &Image) -> String {
    image.stored().blobs[0].digest()
}

fn single_manifests() -> Vec<(&'static str, Image)> {
    let platforms = [
        ("linux-native", "linux", native_architecture()),
        ("wasi-wasm", "wasi", "wasm"),
        ("wasi-wasm32", "wasi", "wasm32"),
        ("wasip1-wasm", "wasip1", "wasm"),
        ("wasip2-wasm", "wasip2", "wasm"),
        ("linux-wasm", "linux", "wasm"),
    ];
    let image = |os, architecture| Image::platform(os, architecture).program("/app.wasm", "\0asm\x01\0\0\0");
    let mut images: Vec<_> = platforms
        .into_iter()
        .map(|(name, os, architecture)| (name, image(os, architecture)))
        .collect();
    let annotated =
        image("linux", native_architecture()).annotation("module.wasm.image/variant", "compat-smart");
    images.push(("annotated", annotated));
    images
}

fn artifacts() -> [(&'static str, Artifact); 3] {
    let module = "\0asm\x01\0\0\0";
    [
        ("artifact-v0", Artifact::wasm(module)),
        ("artifact-v1", Artifact::wasm_to_oci(module)),
        (
            "artifact-component",
            Artifact::new(WASM_CONFIG, "{}").blob(COMPONENT_LAYER, module),
        ),
    ]
}

//! Wasm containers on real nodes, on the stock runtime and without `RuntimeClass` or annotation: which containers are routed,
//! and that a routed one behaves as a container.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podwasm_integration::guests::push_custom_section;
use podwasm_integration::image::{Artifact, Content};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::until;

/// An image for Linux with one file, which is its entrypoint.
fn image(path: &str, bytes: Vec<u8>) -> Image {
    Image::linux().program(path, bytes).entrypoint([path])
}

/// Runs a container of its own pod to its end.
async fn run(
    node: &Node,
    image: &impl Content,
    command: &[&str],
    args: &[&str],
) -> Result<(i32, String, String)> {
    let reference = node.push("wasm", image).await?;
    let pod = node.pod("wasm").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .command(command.iter().copied())
        .args(args.iter().copied());
    let container = container.start().await?;
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    pod.remove().await?;
    Ok((code, logs.stdout, logs.stderr))
}

/// Creates a container and returns what the CRI caller reads when that fails.
async fn refusal(node: &Node, image: &impl Content, command: &[&str]) -> Result<String> {
    let reference = node.push("refused", image).await?;
    let pod = node.pod("refused").run().await?;
    let created = pod
        .container("c")
        .image(&reference)
        .command(command.iter().copied())
        .create()
        .await;
    let error = match created {
        Ok(_) => anyhow::bail!("the container was created"),
        Err(error) => format!("{error:#}"),
    };
    pod.remove().await?;
    Ok(error)
}

/// The C guest prints this when it is called by this name and with these arguments.
fn hello(argv: &[&str]) -> String {
    let lines = argv
        .iter()
        .enumerate()
        .map(|(at, argument)| format!("argv[{at}]={argument}\n"));
    std::iter::once("hello from C\n".to_owned())
        .chain(lines)
        .collect()
}

async fn says_hello(node: &Node, image: &Image, command: &[&str], args: &[&str]) -> Result<()> {
    let (code, stdout, stderr) = run(node, image, command, args).await?;
    let words: Vec<_> = command.iter().chain(args).copied().collect();
    assert_eq!(
        (code, stdout, stderr.as_str()),
        (0, hello(&words), "hello on stderr\n"),
        "{command:?}"
    );
    Ok(())
}

on_all_nodes! {
    async fn a_pod_mixes_native_containers_and_every_form_of_wasm_image(node: &Node) {
        node.podwasm().await?;
        let module = || guest("guest.wasm");
        let forms = [
            ("linux", node.push("form-linux", &image("/app.wasm", module())).await?),
            ("wasi", node.push("form-wasi", &{
                Image::platform("wasi", "wasm").program("/app.wasm", module()).entrypoint(["/app.wasm"])
            }).await?),
            ("artifact", node.push("form-artifact", &Artifact::wasm(module())).await?),
            ("wasm-to-oci", node.push("form-wasm-to-oci", &Artifact::wasm_to_oci(module())).await?),
        ];
        let pod = node.pod("mixed").run().await?;
        let native = pod.container("native").image(node.busybox()).shell("echo native; exit 3").start().await?;
        for (form, reference) in &forms {
            for (arguments, code) in [(vec!["hello"], 0), (vec!["exit", "42"], 42), (vec!["trap"], 134)] {
                let container = pod
                    .container(&format!("{form}-{code}"))
                    .image(reference)
                    .command(["/app.wasm"])
                    .args(arguments.iter().copied())
                    .start()
                    .await?;
                assert_eq!(container.wait_exit().await?, code, "{form}: {:?}", container.logs()?);
                let logs = container.logs()?;
                match code {
                    0 => assert_eq!(logs.stdout, hello(&["/app.wasm", "hello"]), "{form}"),
                    134 => {
                        assert!(logs.stderr.starts_with("podwasm: trap: "), "{form}: {logs:?}");
                        assert_eq!(logs.stderr.lines().count(), 1, "{form}: {logs:?}");
                    }
                    _ => assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("", ""), "{form}"),
                }
            }
        }
        assert_eq!(native.wait_exit().await?, 3);
        assert_eq!(native.logs()?.stdout, "native\n");
        pod.remove().await?;
    }

    async fn images_of_every_platform_that_says_wasm_run(node: &Node) {
        node.podwasm().await?;
        for (os, architecture) in [("wasi", "wasm32"), ("wasip1", "wasm"), ("wasip2", "wasm"), ("linux", "wasm")] {
            let image = Image::platform(os, architecture).program("/app", guest("guest.wasm")).entrypoint(["/app"]);
            says_hello(node, &image, &["/app"], &["hello"]).await?;
        }
    }

    async fn an_artifact_of_several_modules_is_asked_by_name(node: &Node) {
        node.podwasm().await?;
        // To the kubelet, artifacts whose configs have the same bytes are one image.
        let several = Artifact::new(WASM_CONFIG, r#"{"author": "several"}"#)
            .blob("application/wasm", guest("guest.wasm"))
            .blob("application/wasm", guest("hello.wasm"));
        let error = refusal(node, &several, &["/app.wasm"]).await?;
        ensure!(error.contains("the artifact holds several modules"), "{error}");

        let component = Artifact::new(WASM_CONFIG, r#"{"author": "component"}"#).blob(COMPONENT_LAYER, guest("component.wasm"));
        let error = refusal(node, &component, &["/app.wasm"]).await?;
        ensure!(error.contains("is a component (component model)"), "{error}");

        // A bare name works too: the engine is put where the runtime looks for it.
        let (code, ..) = run(node, &Artifact::wasm(guest("guest.wasm")), &["app.wasm"], &["exit", "42"]).await?;
        assert_eq!(code, 42);
    }

    async fn the_entrypoint_is_found_as_a_runtime_finds_it(node: &Node) {
        node.podwasm().await?;
        let module = || guest("guest.wasm");
        let at = |path: &str, mode: u32| Image::linux().layer(Layer::new().file(path, module(), mode));

        says_hello(node, &at("/app.wasm", 0o755), &["/app.wasm"], &[]).await?;
        says_hello(node, &at("/app.wasm", 0o755), &["/app.wasm"], &["hello", "-v", "two words", ""]).await?;
        says_hello(node, &at("/app.wasm", 0o644), &["/app.wasm"], &[]).await?;
        says_hello(node, &at("/usr/bin/app", 0o755), &["app"], &["hello"]).await?;
        says_hello(node, &at("/usr/bin/app.wasm", 0o600), &["app.wasm"], &[]).await?;
        says_hello(node, &at("/app.wasm", 0o644), &["app.wasm"], &["hello"]).await?;
        says_hello(node, &at("/srv/app.wasm", 0o644).working_dir("/srv"), &["app.wasm"], &[]).await?;
        says_hello(node, &at("/srv/app.wasm", 0o644).working_dir("/srv"), &["./app.wasm"], &[]).await?;
        says_hello(node, &at("/opt/a/app", 0o755).env("PATH", "/opt/b:/opt/a"), &["app"], &[]).await?;
    }

    async fn the_entrypoint_is_found_through_layers(node: &Node) {
        node.podwasm().await?;
        let module = || guest("guest.wasm");
        let across = Image::linux()
            .layer(Layer::new().file("/opt/v1/app.wasm", module(), 0o644))
            .layer(Layer::new().symlink("/opt/current", "v1"))
            .layer(Layer::new().symlink("/usr/bin/app", "../../opt/current/app.wasm"));
        says_hello(node, &across, &["/usr/bin/app"], &[]).await?;
        says_hello(node, &across, &["app"], &["hello"]).await?;

        let replaced_by_a_module = Image::linux()
            .layer(Layer::new().file("/app", busybox(), 0o755))
            .layer(Layer::new().file("/app", module(), 0o755));
        says_hello(node, &replaced_by_a_module, &["/app"], &[]).await?;

        let replaced_by_a_program = Image::linux()
            .layer(Layer::new().file("/app.wasm", module(), 0o755))
            .layer(Layer::new().file("/app.wasm", busybox(), 0o755));
        let (_, _, stderr) = run(node, &replaced_by_a_program, &["/app.wasm"], &[]).await?;
        assert_eq!(stderr, "app.wasm: applet not found\n");

        let deleted = Image::linux()
            .layer(Layer::new().file("/srv/app.wasm", module(), 0o755))
            .layer(Layer::new().whiteout("/srv/app.wasm"));
        let error = refusal(node, &deleted, &["/srv/app.wasm"]).await?;
        ensure!(error.contains("there is no '/srv/app.wasm' in the image"), "{error}");

        let hidden = Image::linux()
            .layer(Layer::new().file("/srv/app.wasm", module(), 0o755))
            .layer(Layer::new().opaque("/srv").file("/srv/other", "x", 0o644));
        let error = refusal(node, &hidden, &["/srv/app.wasm"]).await?;
        ensure!(error.contains("there is no '/srv/app.wasm' in the image"), "{error}");
    }

    async fn bytes_beat_names(node: &Node) {
        node.podwasm().await?;
        let elf = Image::linux().program("/x.wasm", busybox()).entrypoint(["/x.wasm"]);
        let (_, _, stderr) = run(node, &elf, &["/x.wasm"], &[]).await?;
        assert_eq!(stderr, "x.wasm: applet not found\n");

        says_hello(node, &image("/usr/bin/server", guest("guest.wasm")), &["server"], &[]).await?;
        let script = Image::linux()
            .program("/bin/sh", busybox())
            .program("/run.wasm", "#!/bin/sh\necho script\n");
        let (code, stdout, _) = run(node, &script, &["/run.wasm"], &[]).await?;
        assert_eq!((code, stdout.as_str()), (0, "script\n"));
    }

    async fn what_cannot_run_is_refused_with_a_reason(node: &Node) {
        node.podwasm().await?;
        for (module, reason) in [
            ("text.wasm", "/x.wasm is not a WebAssembly module, though its entrypoint is named"),
            ("empty.wasm", "/x.wasm is empty, though its entrypoint is named"),
            ("truncated.wasm", "/x.wasm is not a whole WebAssembly module: "),
            ("component.wasm", "/x.wasm is a component (component model), and this node runs core modules"),
        ] {
            let error = refusal(node, &image("/x.wasm", guest(module)), &["/x.wasm"]).await?;
            ensure!(error.contains(reason) && error.contains("podwasm: container 'c': "), "{module}: {error}");
        }
        let fifo = Image::linux().layer(Layer::new().fifo("/x.wasm"));
        let error = refusal(node, &fifo, &["/x.wasm"]).await?;
        ensure!(error.contains("/x.wasm is a FIFO, not a regular file"), "{error}");

        let host = Image::linux().layer(Layer::new().symlink("/x.wasm", "/etc/shadow"));
        let error = refusal(node, &host, &["/x.wasm"]).await?;
        ensure!(error.contains("there is no '/x.wasm' in the image"), "{error}");

        let wasi = Image::platform("wasi", "wasm").program("/app", "text");
        let error = refusal(node, &wasi, &["/app"]).await?;
        ensure!(error.contains("though the image's platform is wasi/wasm"), "{error}");
    }

    async fn annotations_are_followed_or_refused(node: &Node) {
        node.podwasm().await?;
        let reference = node.push("annotated", &image("/app.wasm", guest("guest.wasm"))).await?;
        let left_alone = node.pod("none").annotation("wasm.noderesource.dev/pod", "handler: none").run().await?;
        let container = left_alone.container("c").image(&reference).start().await?;
        ensure!(container.wait_exit().await? != 0, "no kernel runs a module by itself");
        let stderr = container.logs()?.stderr.to_lowercase();
        ensure!(stderr.contains("exec format error"), "{stderr}");
        left_alone.remove().await?;

        let unknown = node.pod("unknown").annotation("wasm.noderesource.dev/container.c", "handler: docker").run().await?;
        let error = unknown.container("c").image(&reference).create().await.expect_err("it is refused");
        ensure!(format!("{error:#}").contains("known are aot: auto|off|required, "), "{error:#}");
        unknown.remove().await?;
    }

    async fn a_sleeping_guest_ends_at_once_with_143(node: &Node) {
        node.podwasm().await?;
        let reference = node.push("sleeper", &image("/app.wasm", guest("guest.wasm"))).await?;
        let pod = node.pod("sleeper").run().await?;
        for what in ["sleep", "spin"] {
            let container = pod.container(what).image(&reference).args([what]).start().await?;
            container.wait_stdout(what.strip_suffix('p').unwrap_or(what)).await?;
            let asked = Instant::now();
            container.stop(Duration::from_secs(20)).await?;
            let took = asked.elapsed();
            assert_eq!(container.wait_exit().await?, 143, "{what}");
            ensure!(took < Duration::from_secs(1), "{what} took {took:?} to end");
        }
        pod.remove().await?;
    }

    async fn exec_runs_a_second_copy_of_the_module(node: &Node) {
        node.podwasm().await?;
        let reference = node.push("exec", &image("/app.wasm", guest("guest.wasm"))).await?;
        let pod = node.pod("exec").run().await?;
        let container = pod.container("c").image(&reference).args(["sleep"]).start().await?;
        container.wait_stdout("sleep").await?;
        let ran = container.exec(["/app.wasm", "hello", "again"]).await?;
        assert_eq!((ran.code, ran.stdout, ran.stderr.as_str()), (0, hello(&["/app.wasm", "hello", "again"]), "hello on stderr\n"));
        assert_eq!(container.exec(["/app.wasm", "exit", "7"]).await?.code, 7);
        assert_eq!(container.exec(["/app.wasm", "trap"]).await?.code, 134);
        container.stop(Duration::from_secs(20)).await?;
        pod.remove().await?;
    }

    async fn the_environment_arrives_and_does_not_steer_the_engine(node: &Node) {
        node.podwasm().await?;
        let hijack = Image::linux()
            .program("/app.wasm", guest("guest.wasm"))
            .layer(
                Layer::new()
                    .file("/hijack.so", guest("hijack.so"), 0o755)
                    .file("/etc/ld.so.preload", "/hijack.so\n", 0o644),
            )
            .env("LD_PRELOAD", "/hijack.so")
            .env("LD_LIBRARY_PATH", "/nowhere")
            .env("COLOUR", "blue");
        let (code, stdout, stderr) = run(node, &hijack, &["/app.wasm"], &["env"]).await?;
        assert_eq!((code, stderr.as_str()), (0, ""));
        for variable in ["LD_PRELOAD=/hijack.so", "LD_LIBRARY_PATH=/nowhere", "COLOUR=blue"] {
            assert_eq!(stdout.lines().filter(|line| *line == variable).count(), 1, "{variable} in {stdout}");
        }
        ensure!(!stdout.contains("PODWASM"), "{stdout}");
    }

    async fn a_restricted_container_runs(node: &Node) {
        node.podwasm().await?;
        let reference = node.push("restricted", &image("/app.wasm", guest("guest.wasm"))).await?;
        let pod = node.pod("restricted").run().await?;
        let container = pod
            .container("c")
            .image(&reference)
            .args(["hello"])
            .user(65534)
            .readonly_rootfs()
            .no_new_privs()
            .drop_capabilities(&["ALL"])
            .default_seccomp()
            .start()
            .await?;
        assert_eq!(container.wait_exit().await?, 0, "{:?}", container.logs()?);
        assert_eq!(container.logs()?.stdout, hello(&["/app.wasm", "hello"]));
        pod.remove().await?;
    }

    async fn native_code_in_a_module_is_never_run(node: &Node) {
        node.podwasm().await?;
        // The module carries compiled code of another module, which stock WasmEdge would run.
        let (code, stdout, _) = run(node, &image("/app.wasm", guest("universal.wasm")), &["/app.wasm"], &[]).await?;
        assert_eq!((code, stdout.as_str()), (0, "this is wasm\n"));
    }

    async fn programs_from_ordinary_toolchains_do_real_work(node: &Node) {
        node.podwasm().await?;
        let documents = "{\"title\": \"The quick brown fox\", \"tags\": [\"the lazy dog\"]}\n[\"the end\"]\n";
        let rust = Image::linux()
            .program("/usr/bin/wordcount", guest("wordcount.wasm"))
            .layer(Layer::new().file("/data/documents", documents, 0o644));
        let (code, stdout, stderr) = run(node, &rust, &["wordcount"], &["/data/documents"]).await?;
        assert_eq!((code, stderr.as_str()), (0, ""));
        let report: serde_json::Value = serde_json::from_str(&stdout)?;
        assert_eq!((&report["documents"], &report["words"]), (&2.into(), &9.into()), "{report}");
        assert_eq!(report["top"][0], serde_json::json!(["the", 3]), "{report}");
    }

    async fn a_module_that_takes_long_to_copy_is_never_taken_for_something_else(node: &Node) {
        node.podwasm().await?;
        // The C guest with a custom section of 240 MB behind it: less than the limit, and more than can be copied
        // in the time for a decision on a slow disk.
        let mut module = guest("guest.wasm");
        push_custom_section(&mut module, b'x', 240_000_000);
        let reference = node.push("large", &image("/app", module)).await?;
        let pod = node.pod("large").run().await?;
        let container = until("the module is known", Duration::from_secs(60), async || {
            match pod.container("c").image(&reference).args(["exit", "42"]).create().await {
                Ok(container) => Ok(Some(container)),
                Err(error) if format!("{error:#}").contains("it could not be looked at within") => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?;
        // Nothing but its bytes points to Wasm, and yet it was never created as anything else.
        let info = container.info().await?;
        ensure!(info["runtimeSpec"]["annotations"]["wasm.noderesource.dev/routed"] == "engine", "{info}");
        container.remove().await?;
        pod.remove().await?;
    }

    async fn metrics_tell_what_was_decided(node: &Node) {
        node.podwasm().await?;
        let (code, ..) = run(node, &image("/app.wasm", guest("hello.wasm")), &["/app.wasm"], &[]).await?;
        assert_eq!(code, 0);
        refusal(node, &image("/x.wasm", guest("empty.wasm")), &["/x.wasm"]).await?;
        let text = node.http(podwasm_integration::node::PLUGIN_HTTP.parse()?, "/metrics").await?.text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} is not in {text}"))
        };
        ensure!(value("podwasm_decisions_total{outcome=\"routed\"}") >= 1.0);
        ensure!(value("podwasm_decisions_total{outcome=\"refused\"}") >= 1.0);
        ensure!(value("podwasm_refusals_total{reason=\"not_a_module\"}") >= 1.0);
        assert!((value("podwasm_nri_connected") - 1.0).abs() < f64::EPSILON);
    }
}

/// Debian's static busybox, as a program that is surely native.
fn busybox() -> Vec<u8> {
    let path = podwasm_integration::node::target().join("roots/trixie/usr/bin/busybox");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make roots`", path.display()))
}

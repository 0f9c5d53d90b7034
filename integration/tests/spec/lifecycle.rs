//! Probes, hooks, restarts, the end, and containers that come before, beside and after.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podwasm_integration::cri::proto::NamespaceMode;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

use super::{folder, guest_c, look, output};

const GRACE: Duration = Duration::from_secs(20);

on_nodes! {
    async fn exec_probe_runs_the_module(node: &Node) {
        let image = guest_c(node).await?;
        let volume = folder(node, "probe")?;
        let pod = node.pod("exec-probe").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).mount(&volume, "/v", false).start().await?;
        container.wait_stdout("sleeping").await?;
        let healthy = ["/guest.wasm", "cat", "/v/healthy"];
        assert_eq!(container.exec(healthy).await?.code, 1, "not yet");
        std::fs::write(node.path(format!("{volume}/healthy")), "yes\n")?;
        let probe = container.exec(healthy).await?;
        assert_eq!((probe.code, probe.stdout.as_str()), (0, "yes\n"));
        pod.remove().await?;
    }

    async fn http_and_tcp_probes_reach_the_guest(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("probes").run().await?;
        let address = SocketAddr::new(pod.ip().await?, 8080);
        ensure!(node.connect(address).await.is_err(), "nobody listens yet");
        let container = pod.container("c").image(&image).start().await?;
        until("the TCP probe succeeds", PATIENCE, async || Ok(node.connect(address).await.ok())).await?;
        assert_eq!(node.http(address, "/").await?.status, 200);
        container.stop(GRACE).await?;
        ensure!(node.connect(address).await.is_err(), "nobody listens any more");
        pod.remove().await?;
    }

    async fn hooks_run_by_exec(node: &Node) {
        let image = guest_c(node).await?;
        let volume = folder(node, "hooks")?;
        let pod = node.pod("hooks").run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).mount(&volume, "/v", false).start().await?;
        for hook in ["post-start", "pre-stop"] {
            let path = format!("/v/{hook}");
            let ran = container.exec(["/guest.wasm", "write", &path, hook]).await?;
            assert_eq!(ran.code, 0, "{ran:?}");
            assert_eq!(std::fs::read_to_string(node.path(format!("{volume}/{hook}")))?, hook);
        }
        container.stop(GRACE).await?;
        assert_eq!(container.wait_exit().await?, 143);
        pod.remove().await?;
    }

    async fn termination_takes_no_grace_period(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("grace").run().await?;
        let container = pod.container("c").image(&image).args(["spin"]).start().await?;
        container.wait_stdout("spinning").await?;
        let asked = Instant::now();
        container.stop(GRACE).await?;
        ensure!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert_eq!(container.wait_exit().await?, 143);
        pod.remove().await?;
    }

    async fn stop_signal_of_the_image_ends_the_guest(node: &Node) {
        node.podwasm().await?;
        let pod = node.pod("signals").run().await?;
        for (signal, code) in [("SIGHUP", 129), ("SIGINT", 130), ("SIGQUIT", 131), ("SIGTERM", 143), ("SIGUSR1", 138)] {
            let image = node.push("signals", &guest_image("guest").stop_signal(signal)).await?;
            let container = pod.container(&signal.to_lowercase()).image(&image).args(["sleep"]).start().await?;
            container.wait_stdout("sleeping").await?;
            container.stop(GRACE).await?;
            assert_eq!(container.wait_exit().await?, code, "{signal}");
        }
        pod.remove().await?;
    }

    async fn restarted_containers_run_again(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("restart").run().await?;
        for attempt in 0..3 {
            let container = pod.container("c").image(&image).args(["exit", "9"]).config(|config| {
                config.metadata.get_or_insert_default().attempt = attempt;
                config.log_path = format!("c/{attempt}.log");
            });
            assert_eq!(container.start().await?.wait_exit().await?, 9, "attempt {attempt}");
        }
        pod.remove().await?;
    }

    async fn init_containers_go_before(node: &Node) {
        let image = look(node).await?;
        let volume = folder(node, "init")?;
        let pod = node.pod("init").run().await?;
        let wasm = pod.container("wasm-init").image(&image).args(["write", "/v/by-wasm"]).mount(&volume, "/v", false);
        output(&wasm.start().await?).await?;
        let native = pod.container("native-init").image(node.busybox()).shell("cat /v/by-wasm >/v/by-both").mount(&volume, "/v", false);
        output(&native.start().await?).await?;
        let main = pod.container("main").image(&image).args(["read", "/v/by-wasm", "/v/by-both"]).mount(&volume, "/v", true);
        assert_eq!(output(&main.start().await?).await?, "/v/by-wasm: written\n/v/by-both: written\n");
        pod.remove().await?;
    }

    async fn sidecars_run_beside(node: &Node) {
        node.podwasm().await?;
        let image = node.push("server", &guest_image("server")).await?;
        let pod = node.pod("sidecar").run().await?;
        let sidecar = pod.container("sidecar").image(&image).env("NAME", "the sidecar").start().await?;
        sidecar.wait_stdout("listening").await?;
        let main = pod.container("main").image(node.busybox()).command(["wget", "-qO-", "http://127.0.0.1:8080/"]).start().await?;
        assert_eq!(output(&main).await?, "hello from the sidecar\n");
        sidecar.stop(GRACE).await?;
        assert_eq!(sidecar.wait_exit().await?, 143);
        pod.remove().await?;
    }

    async fn debug_containers_see_the_guests_process(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("debug").run().await?;
        let container = pod.container("c").image(&image).args(["sleep", "well"]).start().await?;
        container.wait_stdout("sleeping").await?;
        let target = container.id().to_owned();
        let debugger = pod.container("debugger").image(node.busybox()).shell("tr '\\0' ' ' </proc/1/cmdline; echo").config(|config| {
            let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            let namespaces = security.namespace_options.get_or_insert_default();
            namespaces.pid = NamespaceMode::Target.into();
            namespaces.target_id = target;
        });
        assert_eq!(shown(&debugger.start().await?).await?, "/guest.wasm sleep well");
        pod.remove().await?;
    }
}

/// What a container printed, without what is around it.
async fn shown(container: &ContainerHandle<'_>) -> Result<String> {
    Ok(output(container).await?.trim().to_owned())
}

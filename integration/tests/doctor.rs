//! `podwasm doctor` on real nodes: nothing to say of a healthy one, and each fault found and named, whose fix then mends it.

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::{DNS_SERVER, Podwasm, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use serde_json::Value;
use std::fs;

const PROGRAM: &str = "/opt/podwasm/bin/podwasm";
const HTTP: [&str; 2] = ["--http", "127.0.0.1:9480"];

/// What the doctor says in a node as this command, and its exit code.
async fn report(node: &Node, command: &[&str]) -> Result<(i32, Value)> {
    let (program, args) = command.split_first().context("a command has a program")?;
    let output = node.exec(program, args).await?;
    let code = output.status.code().context("a signal ended it")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&said)
        .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((code, report))
}

fn ids<'a>(report: &'a Value, severities: &[&str]) -> Vec<&'a str> {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings
        .filter(|finding| {
            finding["severity"]
                .as_str()
                .is_some_and(|severity| severities.contains(&severity))
        })
        .filter_map(|finding| finding["id"].as_str())
        .collect()
}

/// Expects these problems and warnings, no others, and the exit code that goes with them.
async fn check(node: &Node, args: &[&str], expected: &[&str]) -> Result<Value> {
    let (code, report) = report(node, &[&[PROGRAM, "doctor", "--json"], args].concat()).await?;
    let found = ids(&report, &["warn", "fail"]);
    ensure!(
        found == expected,
        "{args:?}: expected {expected:?}, not {found:?}: {report:#}"
    );
    let fails = ids(&report, &["fail"]).len();
    ensure!(
        code == i32::from(fails > 0),
        "{args:?}: exit code {code} with {fails} problems"
    );
    Ok(report)
}

fn fix<'a>(report: &'a Value, id: &str) -> Result<&'a str> {
    let mut findings = report["findings"].as_array().into_iter().flatten();
    let found = findings.find(|finding| finding["id"] == id);
    found
        .and_then(|finding| finding["fix"].as_str())
        .with_context(|| format!("{id} has no fix"))
}

async fn shell(node: &Node, script: &str) -> Result<String> {
    let output = node.exec("sh", ["-euc", script]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A node whose resolv.conf is as on a server, and whose name server answers.
async fn named(flavor: Flavor) -> Result<Node> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    fs::write(
        node.path("/etc/resolv.conf"),
        format!("nameserver {DNS_SERVER}\n"),
    )?;
    node.publish("name.test", DNS_SERVER.parse()?).await?;
    Ok(node)
}

/// The same with podwasm and a Wasm pod that has run.
async fn healthy(flavor: Flavor) -> Result<(Node, Podwasm)> {
    let node = named(flavor).await?;
    let podwasm = node.start_podwasm().await?;
    let image = node.push("app", &guest_image("guest")).await?;
    let pod = node.pod("app").run().await?;
    let container = pod
        .container("c")
        .image(&image)
        .args(["exit", "42"])
        .start()
        .await?;
    ensure!(container.wait_exit().await? == 42);
    compiled(&node).await?;
    Ok((node, podwasm))
}

/// Waits until nothing is compiled any more, which would look like damage to whoever reads it meanwhile.
async fn compiled(node: &Node) -> Result<()> {
    until("modules are compiled", PATIENCE, async || {
        let listed = node.exec(PROGRAM, ["cache", "ls", "--json"]).await?;
        let listed: Value = serde_json::from_slice(&listed.stdout)?;
        let modules = listed["modules"].as_array().into_iter().flatten();
        let mut tiers = modules.map(|module| module["tiers"].as_array().map_or(0, Vec::len));
        Ok(tiers.all(|tiers| tiers == 2).then_some(()))
    })
    .await
}

/// All that the doctor might leave behind.
async fn traces(node: &Node) -> Result<String> {
    let script = "ls -A /tmp /run /var/lib/podwasm /var/lib/podwasm/*; cat /proc/self/mounts; \
                  for what in snapshots leases content; do ctr --namespace k8s.io $what list | awk '{ print $1 }'; done";
    shell(node, script).await
}

/// Faults of what podwasm is made of, of NRI and of containerd.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn faults_of_the_installation_are_found_and_named() -> Result<()> {
    let (node, podwasm) = healthy(Flavor::Trixie).await?;
    let node = &node;
    let before = traces(node).await?;
    let (code, sound) = report(node, &[PROGRAM, "doctor", "--json"]).await?;
    ensure!(
        code == 0
            && sound["findings"]
                .as_array()
                .is_some_and(|all| sound["summary"]["ok"] == all.len()),
        "{sound:#}"
    );
    assert_eq!(traces(node).await?, before, "something stayed behind");

    let broken = "cp -r /opt/podwasm/engine /tmp/damaged; printf x >>/tmp/damaged/lib/libwasmedge.so.0
        cp -r /opt/podwasm/engine /tmp/halved; rm /tmp/halved/engine
        cp -r /opt/podwasm/engine /tmp/broken; cp /bin/false /tmp/broken/engine
        cp -r /opt/podwasm/compiler /tmp/compiler; truncate -s 100k /tmp/compiler/lib/libwasmedge.so.0
        printf 'sockets: true\\nmax_module_sise: 1Mi\\n' >/tmp/typo.yaml
        echo 'handler: crun' >/tmp/crun.yaml";
    shell(node, broken).await?;
    check(node, &["--engine", "/tmp/damaged"], &["engine-damaged"]).await?;
    check(node, &["--engine", "/tmp/halved"], &["engine-missing"]).await?;
    check(
        node,
        &["--engine", "/tmp/broken"],
        &["engine-damaged", "engine-broken"],
    )
    .await?;
    check(node, &["--compiler", "/none"], &["compiler-missing"]).await?;
    check(node, &["--compiler", "/tmp/compiler"], &["compiler-broken"]).await?;
    let typo = check(node, &["--config", "/tmp/typo.yaml"], &["policy-invalid"]).await?;
    ensure!(typo.to_string().contains("max_module_sise"), "{typo:#}");
    check(node, &["--config", "/none.yaml"], &["policy-missing"]).await?;
    check(node, &["--config", "/tmp/crun.yaml"], &["crun-without-wasm"]).await?;
    check(node, &["--http", "127.0.0.1:1"], &["daemon-silent"]).await?;
    check(
        node,
        &["--containerd-socket", "/run/none.sock"],
        &["containerd-socket-missing"],
    )
    .await?;

    // Without these rights nothing can be counted, and no namespace made.
    let poor = [
        "setpriv",
        "--bounding-set=-net_raw,-sys_admin",
        PROGRAM,
        "doctor",
        "--json",
    ];
    let (_, poor) = report(node, &poor).await?;
    let found = ids(&poor, &["unknown", "warn", "fail"]);
    ensure!(
        found.contains(&"exporter-no-sockets") && found.contains(&"engine-not-tried"),
        "{poor:#}"
    );
    let (code, nobody) = report(
        node,
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            PROGRAM,
            "doctor",
            "--json",
        ],
    )
    .await?;
    let unknown = ids(&nobody, &["unknown"]);
    ensure!(
        code == 0 && unknown.starts_with(&["not-root", "containerd-socket-denied"]),
        "{nobody:#}"
    );

    podwasm.process().signal(Signal::SIGKILL)?;
    podwasm.process().wait(PATIENCE).await?;
    check(node, &[], &["daemon-down"]).await?;
    node.kill_containerd(Signal::SIGKILL).await?;
    check(node, &[], &["containerd-down", "daemon-down"]).await?;

    let config = node.path("/etc/containerd/config.toml");
    let on = fs::read_to_string(&config)?;
    fs::write(&config, on.replace("disable = false", "disable = true"))?;
    shell(node, "rm -r /run/nri /var/run/nri 2>/dev/null || true").await?;
    node.start_containerd().await?;
    let off = check(node, &[], &["nri-off", "daemon-down"]).await?;
    // What it says is to be pasted; only the restart is done as this node does it.
    let fix = fix(&off, "nri-off")?;
    let (_, commands) = fix.split_once('\n').context("its fix has commands")?;
    shell(
        node,
        commands
            .strip_suffix("systemctl restart containerd")
            .context("it restarts containerd")?,
    )
    .await?;
    check(node, &[], &["nri-needs-restart", "daemon-down"]).await?;
    node.restart_containerd().await?;
    let _again = node.start_podwasm().await?;
    check(node, &[], &[]).await?;
    Ok(())
}

/// Faults of the state folder, of images, pods and names, and more than one daemon.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn faults_while_it_runs_are_found_and_named() -> Result<()> {
    let (node, _podwasm) = healthy(Flavor::Forky).await?;
    let node = &node;
    check(node, &[], &[]).await?;
    faults_of_images_and_pods(node).await?;
    faults_of_names(node).await?;
    faults_of_state(node).await?;

    let second = node.start_podwasm_as(|command| {
        command.args([
            "--http",
            "127.0.0.1:9481",
            "--idx",
            "11",
            "--state",
            "/tmp/second",
        ]);
    });
    // The harness asks the first one whether it is ready, so the second one may not be yet.
    let second = second.await?;
    until("both are ready", PATIENCE, async || {
        let ready = node.http("127.0.0.1:9481".parse()?, "/readyz").await;
        Ok(ready.is_ok_and(|answer| answer.status == 200).then_some(()))
    })
    .await?;
    check(node, &[], &["daemons-many"]).await?;
    drop(second);
    Ok(())
}

async fn faults_of_images_and_pods(node: &Node) -> Result<()> {
    let wasm = Image::platform("wasi", "wasm")
        .program("/app.wasm", guest("guest.wasm"))
        .entrypoint(["/app.wasm"]);
    let only = node
        .push("only", &Index::new().image(&wasm).provenance(&wasm))
        .await?;
    let error = node.cri().pull(&only).await.err().context("it was pulled")?;
    ensure!(
        format!("{error:#}").contains("no match for platform in manifest"),
        "{error:#}"
    );
    check(node, &["--image", &only], &["image-unreadable"]).await?;
    let fetch = format!("ctr --namespace k8s.io content fetch --plain-http --all-platforms {only}");
    shell(node, &fetch).await?;
    let report = check(node, &["--image", &only], &["image-wasi-only-index"]).await?;
    ensure!(
        fix(&report, "image-wasi-only-index")?.contains("--provenance=false"),
        "{report:#}"
    );
    let component = node.push("component", &guest_image("component")).await?;
    node.cri().pull(&component).await?;
    check(node, &["--image", &component], &["image-refused"]).await?;

    let image = node.push("app", &guest_image("guest")).await?;
    let pod = node.pod("ends").run().await?;
    let trap = pod.container("trap").image(&image).args(["trap"]).start().await?;
    ensure!(trap.wait_exit().await? == 134);
    let runs = pod
        .container("runs")
        .image(&image)
        .args(["sleep"])
        .start()
        .await?;
    runs.wait_stdout("sleeping").await?;
    check(node, &["--pod", trap.id()], &["container-trapped"]).await?;
    let about = pod.config().metadata.as_ref().context("a pod has a name")?;
    let name = format!("{}/{}", about.namespace, about.name);
    let all = check(node, &["--pod", &name], &["container-trapped"]).await?;
    ensure!(
        all.to_string().contains("runs") && all.to_string().contains("is running"),
        "{all:#}"
    );
    let nobody = node.exec(PROGRAM, ["doctor", "--pod", "default/nobody"]).await?;
    ensure!(nobody.status.code() == Some(2), "{nobody:?}");
    pod.remove().await
}

async fn faults_of_names(node: &Node) -> Result<()> {
    let run = async |name: &str, server: &str| -> Result<PodHandle<'_>> {
        let pod = node
            .pod(name)
            .dns(&[server], &["default.svc.cluster.local"], &["ndots:5"])
            .run()
            .await?;
        pod.container("c")
            .image(node.busybox())
            .command(["sleep", "600"])
            .start()
            .await?;
        Ok(pod)
    };
    let good = run("good", DNS_SERVER).await?;
    let report = check(node, &[], &[]).await?;
    ensure!(
        report.to_string().contains("asked, and they answer"),
        "{report:#}"
    );
    let loopback = run("loopback", "127.0.0.53").await?;
    check(node, &[], &["dns-loopback"]).await?;
    loopback.remove().await?;
    let silent = run("silent", "10.88.255.254").await?;
    check(node, &[], &["dns-unreachable"]).await?;
    silent.remove().await?;
    good.remove().await?;
    fs::write(node.path("/etc/resolv.conf"), "nameserver 127.0.0.53\n")?;
    check(node, &[], &["dns-node-loopback"]).await?;
    fs::write(node.path("/etc/resolv.conf"), "nameserver 10.88.0.1\n")?;
    Ok(())
}

async fn faults_of_state(node: &Node) -> Result<()> {
    let state = "/var/lib/podwasm";
    let native = shell(node, "ls /var/lib/podwasm/modules/*/*-optimised.so | head -n 1").await?;
    let native = native.trim();
    // Into a file of its own: containers have the old one mapped.
    shell(node, &format!("cp {native} /tmp/good && cp {native} /tmp/bad && printf x | dd of=/tmp/bad bs=1 seek=5000 conv=notrunc 2>&1 && mv /tmp/bad {native}")).await?;
    check(node, &[], &["cache-damaged"]).await?;
    shell(node, &format!("mv /tmp/good {native}; chmod 0777 {state}")).await?;
    check(node, &[], &["state-open"]).await?;
    shell(node, &format!("chmod 0700 {state}")).await?;

    check(node, &["--state", "/none"], &["state-missing"]).await?;
    let mount =
        |options: &str| format!("mkdir -p /tmp/state; mount -t tmpfs -o mode=700,{options} none /tmp/state");
    shell(node, &mount("size=4m")).await?;
    check(node, &["--state", "/tmp/state"], &["disk-full", "state-full"]).await?;
    shell(node, "umount /tmp/state").await?;
    shell(node, &mount("size=200m,noexec")).await?;
    check(node, &["--state", "/tmp/state"], &["state-tight", "state-noexec"]).await?;
    shell(node, "mount -o remount,ro,noexec /tmp/state").await?;
    check(
        node,
        &["--state", "/tmp/state"],
        &["state-unwritable", "state-noexec"],
    )
    .await?;
    shell(node, "umount /tmp/state").await?;
    Ok(())
}

/// What runs natively is left out, what is Wasm is named: a container that was created while podwasm was away.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn a_container_that_slipped_through_is_told_by_its_pod() -> Result<()> {
    let node = &named(Flavor::Forky).await?;
    let image = node.push("app", &guest_image("guest")).await?;
    let pod = node.pod("app").run().await?;
    let slipped = pod.container("slipped").image(&image).create().await?;
    let native = pod
        .container("native")
        .image(node.busybox())
        .command(["true"])
        .create()
        .await?;
    let _podwasm = node.start_podwasm().await?;
    let (code, report) = report(
        node,
        &[
            PROGRAM,
            "doctor",
            "--json",
            "--pod",
            slipped.id(),
            HTTP[0],
            HTTP[1],
        ],
    )
    .await?;
    ensure!(
        code == 1 && ids(&report, &["fail"]) == ["container-unadjusted"],
        "{report:#}"
    );
    let (code, report) = self::report(node, &[PROGRAM, "doctor", "--json", "--pod", native.id()]).await?;
    ensure!(
        code == 0 && report.to_string().contains("is native"),
        "{report:#}"
    );
    Ok(())
}

/// For people, complaints are explained without looking at anything.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn complaints_are_explained() -> Result<()> {
    let node = &Node::start(Flavor::Trixie, Runtime::Runc).await?;
    for name in [
        "empty-logs",
        "image-pull",
        "dns",
        "hpa-cpu",
        "exit-code-zero",
        "sigterm-ignored",
        "exec-format-error",
        "oom-at-start",
    ] {
        let said = node.exec(PROGRAM, ["doctor", "--explain", name]).await?;
        ensure!(
            said.status.success() && said.stdout.starts_with(name.as_bytes()),
            "{said:?}"
        );
    }
    let said = node.exec(PROGRAM, ["doctor", "--explain", "nothing"]).await?;
    ensure!(said.status.code() == Some(2), "{said:?}");
    Ok(())
}

//! containerd 2.2 asks validators once all plugins have adjusted a container: podwasm with `--validate`, and its own default validator. Older ones
//! are not harmed.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nri::api::{
    Adjustment, Container, PodSandbox, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use nri::testing::FakeRuntime;
use nri::{Call, Creation, Identity, PluginError, Runner};
use podwasm_integration::node::{Podwasm, Signal};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

const MODULE: &str = "/app.wasm";
const REQUIRED: &str = "required-plugins.noderesource.dev/pod";
const VALIDATIONS: &str = "podwasm_validations_total{verdict=";

async fn push_exit_42(node: &Node) -> Result<String> {
    let reference = node.push("exit-42", &exits_with_42(MODULE)).await?;
    for image in [reference.as_str(), node.busybox()] {
        node.cri().ensure_image(image).await?;
    }
    Ok(reference)
}

/// Creates a container of the pod, and returns what the CRI's caller reads if that fails.
async fn create(pod: &PodHandle<'_>, name: &str, image: &str) -> Result<Result<i32, String>> {
    let container = pod.container(name).image(image).without_pull();
    let container = if image == pod.node().busybox() {
        container.shell("exit 3")
    } else {
        container
    };
    match container.create().await {
        Ok(container) => {
            container.start().await?;
            Ok(Ok(container.wait_exit().await?))
        }
        Err(error) => Ok(Err(format!("{error:#}"))),
    }
}

async fn rejected(pod: &PodHandle<'_>, name: &str, image: &str, why: &str) -> Result<()> {
    match create(pod, name, image).await? {
        Ok(code) => bail!("{name} ran and ended with {code}"),
        Err(said) => ensure!(said.contains("validator") && said.contains(why), "{name}: {said}"),
    }
    Ok(())
}

async fn validating(node: &Node) -> Result<Podwasm> {
    node.start_podwasm_with(["--validate"]).await
}

/// A plugin that comes after podwasm and takes away from containers what their names say.
struct Thief;

#[nri::plugin]
impl nri::Plugin for Thief {
    async fn create_container(
        &self,
        _call: Call,
        _pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, PluginError> {
        let nothing = Adjustment::new();
        Ok(match container.name.as_str() {
            "args" => nothing.args(["/bin/other"]),
            "engine" => nothing.remove_mount(MODULE),
            "mark" => nothing.remove_annotation("wasm.noderesource.dev/routed"),
            "settings" => nothing.remove_env("PODWASM_SETTINGS"),
            _ => nothing.env("THIEF", "was here"),
        }
        .into())
    }
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn what_another_plugin_took_from_a_wasm_container_is_missed() -> Result<()> {
    let node = Node::start(Flavor::Upstream, Runtime::Runc).await?;
    let plugin = validating(&node).await?;
    let image = push_exit_42(&node).await?;
    let thief = Runner::external(Thief, Identity::new("thief", "90")?).socket(node.path("/run/nri/nri.sock"));
    let is_there = thief.runtime();
    let thief = tokio::spawn(thief.run(std::future::pending()));
    tokio::time::timeout(PATIENCE, is_there.connected()).await?;

    let pod = node.pod("robbed").run().await?;
    for (name, why) in [
        ("args", "another plugin has changed what it executes"),
        (
            "engine",
            "another plugin has taken away the mount over its entrypoint",
        ),
        ("mark", "another plugin has taken away podwasm's mark"),
        ("settings", "another plugin has taken away the engine's settings"),
    ] {
        let why = format!("podwasm: container '{name}': {why}");
        rejected(&pod, name, &image, &why)
            .await
            .with_context(|| plugin.process().log_tail())?;
    }
    assert_eq!(create(&pod, "left-alone", &image).await?, Ok(42));
    assert_eq!(create(&pod, "native", node.busybox()).await?, Ok(3));
    for (verdict, wanted) in [("accepted", 2.0), ("rejected", 4.0)] {
        let counted = node
            .podwasm_metric(&format!("{VALIDATIONS}\"{verdict}\"}}"))
            .await?;
        ensure!((counted - wanted).abs() < 0.5, "{verdict}: {counted}");
    }
    thief.abort();
    node.stop().await
}

/// Asks as containerd would if nobody had adjusted the container: whether it may be created, and if not, why.
async fn unadjusted(
    plugin: &nri::testing::FakeConnection,
    pod: &PodHandle<'_>,
    image: &str,
    program: &str,
    adjust: Option<Adjustment>,
) -> Result<Option<String>> {
    let request = ValidateContainerAdjustmentRequest {
        pod: Some(PodSandbox {
            id: pod.id().to_owned(),
            name: "unadjusted".to_owned(),
            namespace: "default".to_owned(),
            ..PodSandbox::default()
        }),
        container: Some(Container {
            id: "c1".to_owned(),
            name: "c".to_owned(),
            args: vec![program.to_owned()],
            annotations: [("io.kubernetes.cri.image-name".to_owned(), image.to_owned())].into(),
            ..Container::default()
        }),
        adjust,
        ..ValidateContainerAdjustmentRequest::default()
    };
    let answer: ValidateContainerAdjustmentResponse =
        plugin.call("ValidateContainerAdjustment", &request).await?;
    Ok(answer.reject.then_some(answer.reason))
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn what_nobody_adjusted_is_judged_by_its_image() -> Result<()> {
    let node = Node::start(Flavor::Upstream, Runtime::Runc).await?;
    let image = push_exit_42(&node).await?;
    let pod = node.pod("unadjusted").run().await?;
    let runtime = FakeRuntime::listen(node.path("/run/fake-nri.sock"))?;
    let start = node
        .start_podwasm_as(|command| _ = command.args(["--validate", "--nri-socket", "/run/fake-nri.sock"]));
    let (plugin, podwasm) = tokio::join!(runtime.admit(Vec::new(), Vec::new()), start);
    let (plugin, _podwasm) = (plugin?, podwasm?);
    // This container has no snapshot, so it can be judged once its image has been looked at.
    let said = until("the image is known", PATIENCE, async || {
        let said = unadjusted(&plugin, &pod, &image, MODULE, None).await?;
        let said = said.context("it was accepted")?;
        Ok((!said.contains("snapshot c1 does not exist")).then_some(said))
    })
    .await?;
    ensure!(
        said.contains("it would start without podwasm, though /app.wasm is a WebAssembly module"),
        "{said}"
    );
    let other = Adjustment::new().annotation("other.dev/marker", "engine");
    let said = unadjusted(&plugin, &pod, &image, MODULE, Some(other)).await?;
    ensure!(said.is_some(), "it was accepted");
    let busybox = node.busybox();
    assert_eq!(unadjusted(&plugin, &pod, busybox, "/bin/sh", None).await?, None);
    // What another plugin has it execute instead is what counts.
    let native = Adjustment::new().args(["/proc/self/exe"]);
    assert_eq!(
        unadjusted(&plugin, &pod, &image, MODULE, Some(native)).await?,
        None
    );
    node.stop().await
}

/// containerd goes on without a plugin that is late or has died, and so would create the container as it is.
#[tokio::test]
#[ignore = "needs root and a node"]
async fn a_plugin_that_is_lost_within_a_create_lets_nothing_through() -> Result<()> {
    let node = Node::start(Flavor::Upstream, Runtime::Runc).await?;
    let plugin = validating(&node).await?;
    let image = push_exit_42(&node).await?;
    let pod = node.pod("lost").run().await?;

    plugin.process().signal(Signal::SIGSTOP)?;
    rejected(&pod, "late", &image, "podwasm").await?;
    plugin.process().signal(Signal::SIGCONT)?;
    // It calls itself ready until it has noticed what became of its connection.
    until("podwasm is connected again", PATIENCE, async || {
        let connections = node.podwasm_metric("podwasm_nri_connections_total").await?;
        Ok((connections > 1.5).then_some(()))
    })
    .await?;
    assert_eq!(create(&pod, "again", &image).await?, Ok(42));

    plugin.process().signal(Signal::SIGSTOP)?;
    let log = node.logs().join("containerd.log");
    let kill = async {
        until("containerd is at it", PATIENCE, async || {
            let said = std::fs::read_to_string(&log)?;
            let is_asked =
                |line: &str| line.contains("CreateContainer within sandbox") && line.contains("dead");
            Ok(said.lines().any(is_asked).then_some(()))
        })
        .await?;
        // From here to the question to its plugins is a matter of milliseconds; a stopped plugin keeps it there.
        tokio::time::sleep(Duration::from_millis(200)).await;
        plugin.process().signal(Signal::SIGKILL)
    };
    tokio::try_join!(rejected(&pod, "dead", &image, "podwasm"), kill)?;
    plugin.process().wait(PATIENCE).await?;
    let plugin = validating(&node).await?;
    assert_eq!(create(&pod, "dead-again", &image).await?, Ok(42));
    assert_eq!(create(&pod, "native", node.busybox()).await?, Ok(3));
    drop(plugin);
    node.stop().await
}

#[tokio::test]
#[ignore = "needs root and a node"]
async fn a_pod_can_insist_on_podwasm() -> Result<()> {
    let node = Node::start(Flavor::Upstream, Runtime::Runc).await?;
    let image = push_exit_42(&node).await?;
    let insists = node
        .pod("insists")
        .annotation(REQUIRED, "[podwasm]")
        .run()
        .await?;
    let does_not = node.pod("does-not").run().await?;

    let why = "required plugin \\\"podwasm\\\" not present";
    rejected(&insists, "early", &image, why).await?;
    assert_eq!(create(&does_not, "native", node.busybox()).await?, Ok(3));
    let plugin = node.start_podwasm().await?;
    assert_eq!(create(&insists, "wasm", &image).await?, Ok(42));
    assert_eq!(create(&insists, "native", node.busybox()).await?, Ok(3));
    drop(plugin);
    until("podwasm is missed again", PATIENCE, async || {
        Ok(create(&insists, "late", &image).await?.is_err().then_some(()))
    })
    .await?;
    rejected(&insists, "later", &image, why).await?;
    node.stop().await
}

/// Runtimes that ask no validators drop a plugin that subscribes to it.
async fn an_older_runtime_is_not_asked_to(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = validating(&node).await?;
    let image = push_exit_42(&node).await?;
    let pod = node.pod("older").run().await?;
    assert_eq!(create(&pod, "wasm", &image).await?, Ok(42));
    assert_eq!(create(&pod, "native", node.busybox()).await?, Ok(3));
    let log = std::fs::read_to_string(plugin.process().log())?;
    ensure!(log.contains("this runtime asks no validators"), "{log}");
    let connections = node.podwasm_metric("podwasm_nri_connections_total").await?;
    ensure!(connections < 1.5, "the plugin connected {connections} times");
    node.stop().await
}

on_both! { an_older_runtime_is_not_asked_to }

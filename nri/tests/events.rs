//! What reaches a plugin, and what comes back.

mod plugins;

use std::time::{Duration, Instant};

use nri::api::{
    self, ContainerAdjustment, Event, Hook, Hooks, LinuxResources, StateChangeEvent,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use nri::testing::{FakeConnection, FakeError, FakeRuntime};
use plugins::{Running, container, pod, run, run_on, run_with};

async fn admitted(running: &Running) -> FakeConnection {
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    for expected in ["configure", "synchronize", "connected"] {
        let line = running.log.next().await;
        assert!(line.starts_with(expected), "{line}");
    }
    plugin
}

async fn fails(plugin: &FakeConnection, container_name: &str) -> String {
    let result = plugin.create_container(pod("p"), container(container_name)).await;
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn every_event_has_a_method() {
    let running = run();
    let plugin = admitted(&running).await;
    let (p, c) = (Some(pod("p")), Some(container("c")));
    let request = api::StartContainerRequest {
        pod: p.clone(),
        container: c.clone(),
    };
    for (method, expected) in [
        ("RunPodSandbox", "run_pod_sandbox RunPodSandbox p "),
        (
            "PostUpdatePodSandbox",
            "post_update_pod_sandbox PostUpdatePodSandbox p ",
        ),
        ("StopPodSandbox", "stop_pod_sandbox StopPodSandbox p "),
        ("RemovePodSandbox", "remove_pod_sandbox RemovePodSandbox p "),
        (
            "PostCreateContainer",
            "post_create_container PostCreateContainer p c",
        ),
        ("StartContainer", "start_container StartContainer p c"),
        (
            "PostStartContainer",
            "post_start_container PostStartContainer p c",
        ),
        (
            "PostUpdateContainer",
            "post_update_container PostUpdateContainer p c",
        ),
        ("RemoveContainer", "remove_container RemoveContainer p c"),
        ("StopContainer", "stop_container StopContainer p c"),
        ("CreateContainer", "create_container c"),
    ] {
        plugin.call::<_, api::Empty>(method, &request).await.unwrap();
        assert_eq!(running.log.next().await, expected);
    }
    let update = api::UpdatePodSandboxRequest {
        pod: p,
        ..Default::default()
    };
    plugin
        .call::<_, api::Empty>("UpdatePodSandbox", &update)
        .await
        .unwrap();
    assert_eq!(running.log.next().await, "update_pod_sandbox UpdatePodSandbox p ");
    plugin
        .call::<_, api::Empty>("Shutdown", &api::Empty {})
        .await
        .unwrap();
    assert_eq!(running.log.next().await, "shutdown");
}

#[tokio::test]
async fn older_runtimes_tell_of_state_changes() {
    let running = run();
    let plugin = admitted(&running).await;
    for (event, expected) in [
        (Event::RunPodSandbox, "run_pod_sandbox RunPodSandbox p "),
        (
            Event::PostUpdatePodSandbox,
            "post_update_pod_sandbox PostUpdatePodSandbox p ",
        ),
        (Event::StopPodSandbox, "stop_pod_sandbox StopPodSandbox p "),
        (Event::RemovePodSandbox, "remove_pod_sandbox RemovePodSandbox p "),
    ] {
        plugin.state_change(event, pod("p"), None).await.unwrap();
        assert_eq!(running.log.next().await, expected);
    }
    for (event, expected) in [
        (
            Event::PostCreateContainer,
            "post_create_container PostCreateContainer p c",
        ),
        (Event::StartContainer, "start_container StartContainer p c"),
        (
            Event::PostStartContainer,
            "post_start_container PostStartContainer p c",
        ),
        (
            Event::PostUpdateContainer,
            "post_update_container PostUpdateContainer p c",
        ),
        (Event::RemoveContainer, "remove_container RemoveContainer p c"),
    ] {
        plugin
            .state_change(event, pod("p"), Some(container("c")))
            .await
            .unwrap();
        assert_eq!(running.log.next().await, expected);
    }
}

#[tokio::test]
async fn an_event_of_the_future_is_passed_over() {
    let running = run();
    let plugin = admitted(&running).await;
    let change = StateChangeEvent {
        event: 99,
        pod: Some(pod("p")),
        container: None,
    };
    plugin
        .call::<_, api::Empty>("StateChange", &change)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_creation_carries_all_it_holds() {
    let running = run();
    let plugin = admitted(&running).await;
    let creation = plugin
        .create_container(pod("p"), container("everything"))
        .await
        .unwrap();
    let destinations: Vec<_> = creation
        .adjust
        .unwrap()
        .mounts
        .into_iter()
        .map(|mount| mount.destination)
        .collect();
    assert_eq!(destinations, ["-/b", "/b"]);
    assert_eq!(creation.update[0].container_id, "other");
    assert_eq!(
        (
            creation.evict[0].container_id.as_str(),
            creation.evict[0].reason.as_str()
        ),
        ("third", "in the way")
    );
}

#[tokio::test]
async fn a_creation_without_changes_is_empty() {
    let running = run();
    let plugin = admitted(&running).await;
    let creation = plugin
        .create_container(pod("p"), container("native"))
        .await
        .unwrap();
    assert_eq!(creation, api::CreateContainerResponse::default());
}

#[tokio::test]
async fn updates_and_stops_carry_updates() {
    let running = run();
    let plugin = admitted(&running).await;
    let resources = LinuxResources::new().memory_limit(7);
    let answer = plugin
        .update_container(pod("p"), container("c"), resources.clone())
        .await
        .unwrap();
    assert_eq!(
        answer.update[0].linux.as_ref().unwrap().resources,
        Some(resources)
    );
    let answer = plugin.stop_container(pod("p"), container("c")).await.unwrap();
    assert!(answer.update[0].ignore_failure);
}

#[tokio::test]
async fn a_verdict_is_not_an_error() {
    let running = run();
    let plugin = admitted(&running).await;
    let check = async |adjust, expected| {
        let request = ValidateContainerAdjustmentRequest {
            adjust: Some(adjust),
            ..Default::default()
        };
        let answer: ValidateContainerAdjustmentResponse = plugin
            .call("ValidateContainerAdjustment", &request)
            .await
            .unwrap();
        assert_eq!((answer.reject, answer.reason.as_str()), expected);
    };
    check(ContainerAdjustment::new(), (false, "")).await;
    let hooks = Hooks::new().create_runtime(Hook::new("/bin/true"));
    check(ContainerAdjustment::new().hooks(hooks), (true, "no hooks here")).await;
}

#[tokio::test]
async fn an_error_arrives_word_for_word() {
    let running = run();
    let plugin = admitted(&running).await;
    let expected = "the plugin answered with code 2: no such module: /app.wasm";
    assert_eq!(fails(&plugin, "fail").await, expected);
}

#[tokio::test]
async fn a_panic_is_answered_and_survived() {
    let running = run();
    let plugin = admitted(&running).await;
    let expected = "code 13: CreateContainer: the plugin's handler panicked: a bug";
    assert!(fails(&plugin, "panic").await.ends_with(expected));
    plugin
        .create_container(pod("p"), container("native"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_handler_without_end_is_answered_in_time() {
    let running = run_with(|fake| fake.request_timeout(Duration::from_secs(1)));
    let plugin = admitted(&running).await;
    let message = fails(&plugin, "never").await;
    assert!(
        message.contains("code 13: CreateContainer: the plugin had no answer after 9"),
        "{message}"
    );
    plugin
        .create_container(pod("p"), container("native"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_handler_that_blocks_the_only_thread_is_answered_in_time() {
    let only = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let running = run_on(only.handle(), |fake| fake.request_timeout(Duration::from_secs(1)));
    std::thread::spawn(move || only.block_on(std::future::pending::<()>()));
    let plugin = admitted(&running).await;
    let message = fails(&plugin, "block").await;
    assert!(
        message.contains("code 13: CreateContainer: the plugin had no answer after 9"),
        "{message}"
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error() {
    let running = run();
    let plugin = admitted(&running).await;
    let message = fails(&plugin, "huge").await;
    assert!(
        message.contains("code 8") && message.contains("exceeds the limit of 4194304"),
        "{message}"
    );
}

#[tokio::test]
async fn a_slow_call_does_not_hold_up_another() {
    let running = run();
    let plugin = admitted(&running).await;
    let start = Instant::now();
    let quick = async {
        plugin
            .create_container(pod("p"), container("native"))
            .await
            .unwrap();
        start.elapsed()
    };
    let slow = plugin.create_container(pod("p"), container("slow"));
    let (slow, quick) = tokio::join!(slow, quick);
    slow.unwrap();
    assert!(quick < Duration::from_millis(250), "{quick:?}");
}

#[tokio::test]
async fn a_handler_knows_how_long_it_has() {
    let check = async |set_up: fn(FakeRuntime) -> FakeRuntime, at_most: u128| {
        let running = run_with(set_up);
        let plugin = admitted(&running).await;
        let creation = plugin
            .create_container(pod("p"), container("remaining"))
            .await
            .unwrap();
        let left: u128 = creation.adjust.unwrap().env[0].value.parse().unwrap();
        assert!(left <= at_most && left > at_most * 3 / 4, "{left} of {at_most}");
    };
    check(|fake| fake, 1800).await;
    check(|fake| fake.request_timeout(Duration::from_secs(1)), 900).await;
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error() {
    let running = run();
    let plugin = admitted(&running).await;
    let check = async |method: &str, argument: api::KeyValue, expected: i32, text: &str| match plugin
        .call::<_, api::Empty>(method, &argument)
        .await
    {
        Err(FakeError::Answer { code, message }) => {
            assert!(code == expected && message.contains(text), "{code}: {message}");
        }
        other => panic!("{method}: {other:?}"),
    };
    let empty = api::KeyValue::default();
    check(
        "CreateContainer",
        empty.clone(),
        3,
        "CreateContainer: the request has no pod",
    )
    .await;
    check(
        "StateChange",
        empty.clone(),
        3,
        "StateChange: the request has no pod",
    )
    .await;
    check(
        "MakeCoffee",
        empty,
        12,
        "no method nri.pkg.api.v1alpha1.Plugin/MakeCoffee",
    )
    .await;
    // A string of text where a pod is expected.
    let text = api::KeyValue {
        key: "\u{ff}\u{ff}not a pod".to_owned(),
        value: String::new(),
    };
    check(
        "StartContainer",
        text,
        3,
        "StartContainer: the request cannot be decoded",
    )
    .await;
    plugin
        .create_container(pod("p"), container("native"))
        .await
        .unwrap();
}

//! Synchronize in one message and in several.

mod plugins;

use nri::api::{SynchronizeRequest, SynchronizeResponse};
use nri::testing::FakeConnection;
use plugins::{Running, container, in_time, pod, run};

async fn configured(running: &Running) -> FakeConnection {
    let plugin = running.fake.accept().await.unwrap();
    plugin.register().await.unwrap();
    plugin.configure().await.unwrap();
    assert!(running.log.next().await.starts_with("configure"));
    plugin
}

async fn part(plugin: &FakeConnection, name: &str, more: bool) -> SynchronizeResponse {
    let request = SynchronizeRequest {
        pods: vec![pod(name)],
        containers: vec![container(name)],
        more,
    };
    plugin.call("Synchronize", &request).await.unwrap()
}

#[tokio::test]
async fn updates_come_with_the_answer() {
    let running = run();
    let plugin = configured(&running).await;
    let answer = plugin
        .synchronize(vec![pod("p")], vec![container("a"), container("b")])
        .await
        .unwrap();
    let ids: Vec<_> = answer
        .update
        .iter()
        .map(|update| update.container_id.as_str())
        .collect();
    assert_eq!(ids, ["a-id", "b-id"]);
    assert_eq!(running.log.next().await, "synchronize 1 2");
}

#[tokio::test]
async fn parts_are_handed_over_once_and_together() {
    let running = run();
    let plugin = configured(&running).await;
    for name in ["a", "b"] {
        let answer = part(&plugin, name, true).await;
        assert_eq!(
            answer,
            SynchronizeResponse {
                update: vec![],
                more: true
            }
        );
        assert!(!running.runtime.is_connected());
    }
    let answer = part(&plugin, "c", false).await;
    assert_eq!((answer.more, answer.update.len()), (false, 3));
    assert_eq!(running.log.next().await, "synchronize 3 3");
    assert_eq!(running.log.next().await, "connected fake");
}

#[tokio::test]
async fn half_a_synchronization_is_forgotten_with_its_connection() {
    let running = run();
    let plugin = configured(&running).await;
    part(&plugin, "a", true).await;
    plugin.close();
    let plugin = configured(&running).await;
    part(&plugin, "b", false).await;
    assert_eq!(running.log.next().await, "synchronize 1 1");
    in_time(running.runtime.connected()).await;
}

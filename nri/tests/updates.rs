//! Updates that a plugin asks for on its own account.

mod plugins;

use nri::UpdateError;
use nri::api::{ContainerEviction, ContainerUpdate, LinuxResources, UpdateContainersResponse};
use plugins::{in_time, run};

fn update() -> ContainerUpdate {
    ContainerUpdate::new("c").resources(LinuxResources::new().cpu_shares(2))
}

#[tokio::test]
async fn updates_and_evictions_reach_the_runtime() {
    let running = run();
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
    let asked = running
        .runtime
        .update_containers(vec![update()], vec![ContainerEviction::new("d", "why")]);
    let answered = plugin.unsolicited(UpdateContainersResponse {
        failed: vec![update()],
    });
    let (failed, request) = tokio::join!(asked, answered);
    let request = request.unwrap();
    assert_eq!(
        (request.update.as_slice(), request.evict[0].reason.as_str()),
        ([update()].as_slice(), "why")
    );
    assert_eq!(failed, Ok(vec![update()]));
}

#[tokio::test]
async fn a_refusal_says_why() {
    let running = run();
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
    let asked = running.runtime.update_containers(vec![update()], vec![]);
    let (answer, request) = tokio::join!(asked, plugin.refuse_unsolicited("no"));
    request.unwrap();
    assert_eq!(answer, Err(UpdateError::Refused("no".to_owned())));
}

#[tokio::test]
async fn without_a_runtime_there_are_no_updates() {
    let running = run();
    let asked = running.runtime.update_containers(vec![update()], vec![]).await;
    assert_eq!(asked, Err(UpdateError::Disconnected));
}

#[tokio::test]
async fn a_connection_that_ends_ends_the_request() {
    let running = run();
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
    let asked = running.runtime.update_containers(vec![update()], vec![]);
    let close = async {
        tokio::task::yield_now().await;
        plugin.close();
    };
    let (answer, ()) = tokio::join!(in_time(asked), close);
    assert_eq!(answer, Err(UpdateError::Disconnected));
}

#[tokio::test]
async fn more_than_fits_a_message_is_not_sent() {
    let running = run();
    let _plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
    let long = ContainerUpdate::new("x".repeat(5 << 20));
    let answer = running.runtime.update_containers(vec![long], vec![]).await;
    assert!(
        matches!(answer, Err(UpdateError::TooLong(bytes)) if bytes > 5 << 20),
        "{answer:?}"
    );
    assert!(running.runtime.is_connected());
}

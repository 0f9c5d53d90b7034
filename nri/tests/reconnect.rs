//! A plugin comes back, and goes when it should.

mod plugins;

use std::time::{Duration, Instant};

use nri::testing::{FakeError, FakeRuntime};
use plugins::{container, in_time, pod, run};

#[tokio::test]
async fn a_plugin_knows_when_it_is_in_service() {
    let running = run();
    let plugin = running.fake.accept().await.unwrap();
    plugin.register().await.unwrap();
    plugin.configure().await.unwrap();
    assert!(!running.runtime.is_connected());
    plugin.synchronize(vec![], vec![]).await.unwrap();
    for expected in ["configure fake 2000", "synchronize 0 0", "connected fake"] {
        assert_eq!(running.log.next().await, expected);
    }
    assert!(running.runtime.is_connected());
    plugin.close();
    assert_eq!(
        running.log.next().await,
        "disconnected the runtime closed the connection"
    );
    assert!(!running.runtime.is_connected());
}

#[tokio::test]
async fn a_connection_that_never_came_into_service_is_not_reported_lost() {
    let running = run();
    let plugin = running.fake.accept().await.unwrap();
    plugin.register().await.unwrap();
    plugin.close();
    running.fake.admit(vec![], vec![]).await.unwrap();
    for expected in ["configure fake 2000", "synchronize 0 0", "connected fake"] {
        assert_eq!(running.log.next().await, expected);
    }
}

#[tokio::test]
async fn a_plugin_is_back_soon_after_its_runtime() {
    let mut running = run();
    running.fake.admit(vec![], vec![]).await.unwrap().close();
    let path = running.fake.path().to_owned();
    // The listener goes, and its socket stays behind; a while later a new one takes its place.
    running.fake = FakeRuntime::listen(path.with_extension("other")).unwrap();
    in_time(running.runtime.disconnected()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let fake = FakeRuntime::listen(&path).unwrap();
    let start = Instant::now();
    fake.admit(vec![], vec![]).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn handlers_end_with_their_connection() {
    let running = run();
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    let creation = async {
        let error = plugin
            .create_container(pod("p"), container("never"))
            .await
            .unwrap_err();
        assert!(matches!(error, FakeError::Closed), "{error}");
    };
    let close = async {
        while running.log.next().await != "create_container never" {}
        plugin.close();
        assert_eq!(
            running.log.next().await,
            "disconnected the runtime closed the connection"
        );
    };
    tokio::join!(creation, close);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_stops_answers_what_it_was_asked() {
    let mut running = run();
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    let creation = plugin.create_container(pod("p"), container("slow"));
    let stop = async {
        while running.log.next().await != "create_container slow" {}
        running.ask_to_stop();
    };
    let (creation, ()) = tokio::join!(creation, stop);
    creation.unwrap();
    plugin.closed().await.unwrap();
    assert_eq!(running.log.next().await, "disconnected the plugin is stopping");
}

#[tokio::test]
async fn a_plugin_can_stop_while_there_is_no_runtime() {
    let mut running = run();
    running.fake = FakeRuntime::listen(running.fake.path().with_extension("other")).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.stop().await.unwrap();
}

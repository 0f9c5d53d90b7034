//! A runtime that writes oddly is understood; one that writes nonsense is left.

mod plugins;

use nri::api::{ConfigureRequest, Container};
use nri::testing::FakeConnection;
use plugins::{ALL_MANNERS, Running, container, in_time, pod, run, run_with};

fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&connection.to_be_bytes(), &length.to_be_bytes(), payload].concat()
}

fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [
        &length.to_be_bytes(),
        &stream.to_be_bytes(),
        [kind, 0].as_slice(),
        payload,
    ]
    .concat()
}

async fn admitted(running: &Running) -> FakeConnection {
    let plugin = running.fake.admit(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
    plugin
}

async fn still_serves(plugin: &FakeConnection) {
    plugin
        .create_container(pod("p"), container("native"))
        .await
        .unwrap();
}

/// Sends bytes that no runtime may send, and expects the plugin to leave and come back.
async fn leaves_after(bytes: Vec<u8>) {
    let running = run();
    let plugin = admitted(&running).await;
    plugin.send_raw(bytes).await.unwrap();
    plugin.closed().await.unwrap();
    still_serves(&admitted(&running).await).await;
}

#[tokio::test]
async fn manners_do_not_matter() {
    for manners in ALL_MANNERS {
        let running = run_with(|fake| fake.manners(manners));
        let plugin = admitted(&running).await;
        for bytes in [0, 1, 4000, 4095, 4096, 4097, 50_000] {
            let args = vec!["x".repeat(bytes)];
            let asked = Container {
                args: args.clone(),
                ..container("echo")
            };
            let creation = plugin.create_container(pod("p"), asked).await.unwrap();
            assert_eq!(creation.adjust.unwrap().args, args, "{manners:?}, {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn a_message_just_below_the_limit_passes_both_ways() {
    let running = run();
    let plugin = admitted(&running).await;
    let args = vec!["x".repeat((4 << 20) - 200)];
    let asked = Container {
        args: args.clone(),
        ..container("echo")
    };
    let creation = plugin.create_container(pod("p"), asked).await.unwrap();
    assert_eq!(creation.adjust.unwrap().args, args);
}

#[tokio::test]
async fn what_is_for_nobody_is_passed_over() {
    let running = run();
    let plugin = admitted(&running).await;
    for bytes in [
        frame(0, b"reserved"),
        frame(77, &vec![0; 100_000]),
        frame(1, b""),
        frame(2, &message(999, 2, b"an answer to nothing")),
        frame(1, &message(3, 3, b"part of a stream")),
        frame(1, &message(5, 200, b"a kind of the future")),
        frame(2, &message(7, 1, b"a call where only answers belong")),
    ] {
        plugin.send_raw(bytes).await.unwrap();
        still_serves(&plugin).await;
    }
}

#[tokio::test]
async fn a_giant_frame_is_not_waited_for() {
    leaves_after([1u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat()).await;
}

#[tokio::test]
async fn a_giant_message_is_not_waited_for() {
    leaves_after(frame(1, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0])).await;
}

#[tokio::test]
async fn a_call_that_cannot_be_decoded_does_no_harm() {
    let running = run();
    let plugin = admitted(&running).await;
    plugin
        .send_raw(frame(1, &message(99, 1, &[0xff; 20])))
        .await
        .unwrap();
    still_serves(&plugin).await;
}

#[tokio::test]
async fn a_connection_may_end_anywhere() {
    let whole = frame(1, &message(9, 1, b"\x0a\x04Some"));
    for cut in [1, 7, 8, 12, 18, whole.len() - 1] {
        let running = run();
        let plugin = admitted(&running).await;
        plugin.send_raw(whole[..cut].to_vec()).await.unwrap();
        still_serves_after_close(&running, &plugin).await;
    }
}

async fn still_serves_after_close(running: &Running, plugin: &FakeConnection) {
    plugin.close();
    still_serves(&admitted(running).await).await;
}

#[tokio::test]
async fn a_runtime_that_says_nothing_of_itself_is_served() {
    let running = run_with(|fake| fake.terms(ConfigureRequest::default()));
    still_serves(&admitted(&running).await).await;
}

//! How a plugin introduces itself, and what happens when it is not welcome.

mod plugins;

use nri::api::ConfigureRequest;
use nri::testing::FakeRuntime;
use nri::{Events, Plugin, Runner};
use plugins::{identity, in_time, run, run_with};

struct With(Events);

impl Plugin for With {
    fn events(&self) -> Events {
        self.0
    }
}

/// What a plugin that wants `wanted` subscribes to on a runtime with these terms.
async fn subscription(wanted: Events, terms: ConfigureRequest) -> Events {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeRuntime::listen(dir.path().join("nri.sock"))
        .unwrap()
        .terms(terms);
    let runner = Runner::external(With(wanted), identity()).socket(fake.path());
    let job = tokio::spawn(runner.run(std::future::pending()));
    let plugin = fake.accept().await.unwrap();
    plugin.register().await.unwrap();
    let events = plugin.configure().await.unwrap();
    job.abort();
    events
}

fn containerd(version: &str) -> ConfigureRequest {
    let (runtime_name, runtime_version) = ("containerd".to_owned(), version.to_owned());
    ConfigureRequest {
        runtime_name,
        runtime_version,
        ..ConfigureRequest::default()
    }
}

#[tokio::test]
async fn a_plugin_registers_with_its_name_and_index() {
    let running = run();
    let request = running.fake.accept().await.unwrap().register().await.unwrap();
    assert_eq!(
        (request.plugin_name.as_str(), request.plugin_idx.as_str()),
        ("recorder", "42")
    );
    assert_eq!(request.nri_version, "v0.12.0");
}

#[tokio::test]
async fn a_plugin_subscribes_to_what_it_implements() {
    let running = run();
    let plugin = running.fake.accept().await.unwrap();
    plugin.register().await.unwrap();
    assert_eq!(plugin.configure().await.unwrap(), Events::ALL);
    let one = Events::CREATE_CONTAINER;
    assert_eq!(subscription(one, ConfigureRequest::default()).await, one);
}

#[tokio::test]
async fn a_subscription_fits_its_runtime() {
    assert_eq!(
        subscription(Events::ALL, containerd("1.7.24~ds1")).await,
        Events::BEFORE_0_10
    );
    assert_eq!(subscription(Events::ALL, containerd("v2.2.0")).await, Events::ALL);
}

#[tokio::test]
async fn a_plugin_without_events_does_not_get_them_all() {
    assert_eq!(
        subscription(Events::NONE, containerd("v2.2.0")).await,
        Events::REMOVE_POD_SANDBOX
    );
}

#[tokio::test]
async fn configure_may_come_before_the_answer_to_the_registration() {
    let running = run();
    let plugin = running.fake.accept().await.unwrap();
    plugin.configure().await.unwrap();
    plugin.register().await.unwrap();
    plugin.synchronize(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
}

#[tokio::test]
async fn the_terms_reach_the_plugin() {
    let running = run();
    running.fake.admit(vec![], vec![]).await.unwrap();
    assert_eq!(running.log.next().await, "configure fake 2000");
}

#[tokio::test]
async fn terms_that_are_not_told_are_the_usual_ones() {
    let running = run_with(|fake| fake.terms(containerd("v1.7.0")));
    running.fake.admit(vec![], vec![]).await.unwrap();
    assert_eq!(running.log.next().await, "configure containerd 2000");
}

#[tokio::test]
async fn a_configuration_that_the_plugin_refuses_is_an_error() {
    let terms = ConfigureRequest {
        config: "nonsense".to_owned(),
        ..containerd("v2.2.0")
    };
    let running = run_with(|fake| fake.terms(terms));
    let plugin = running.fake.accept().await.unwrap();
    plugin.register().await.unwrap();
    let error = plugin.configure().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the plugin answered with code 2: the configuration is nonsense"
    );
}

#[tokio::test]
async fn a_refused_plugin_tries_again() {
    let running = run();
    running
        .fake
        .accept()
        .await
        .unwrap()
        .refuse("not now")
        .await
        .unwrap();
    running.fake.admit(vec![], vec![]).await.unwrap();
    in_time(running.runtime.connected()).await;
}

#[tokio::test]
async fn a_refusal_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeRuntime::listen(dir.path().join("nri.sock")).unwrap();
    let runner = Runner::external(With(Events::ALL), identity())
        .socket(fake.path())
        .once();
    let job = tokio::spawn(runner.run(std::future::pending()));
    let plugin = fake.accept().await.unwrap();
    plugin.refuse("name taken").await.unwrap();
    let nri::RunError::Session(error) = in_time(job).await.unwrap().unwrap_err() else {
        unreachable!()
    };
    assert_eq!(
        error.to_string(),
        "the runtime refused to register the plugin: name taken"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_socket_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nri.sock");
    let check = async |expected: &str| {
        let runner = Runner::external(With(Events::ALL), identity())
            .socket(&path)
            .once();
        let nri::RunError::Session(error) = runner.run(std::future::pending()).await.unwrap_err() else {
            unreachable!()
        };
        let message = error.to_string();
        assert!(
            message.starts_with(expected) && message.contains("nri.sock"),
            "{message}"
        );
    };
    check("there is no NRI socket").await;
    drop(FakeRuntime::listen(&path).unwrap());
    check("nobody listens on the NRI socket").await;
}

#[tokio::test]
async fn a_runtime_that_hangs_up_on_a_stranger_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeRuntime::listen(dir.path().join("nri.sock")).unwrap();
    let runner = Runner::external(With(Events::ALL), identity())
        .socket(fake.path())
        .once();
    let job = tokio::spawn(runner.run(std::future::pending()));
    drop(fake.accept().await.unwrap());
    let nri::RunError::Session(error) = in_time(job).await.unwrap().unwrap_err() else {
        unreachable!()
    };
    assert!(
        error.to_string().contains("before it answered the registration"),
        "{error}"
    );
}

//! Against an HTTP server that stands in for the API server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode as Status;
use axum::response::IntoResponse;
use serde_json::json;

use super::*;

/// What it answers next, and what it was asked.
#[derive(Clone, Default)]
struct StandIn {
    answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

async fn answer(State(stand_in): State<StandIn>, request: Request) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    assert_eq!(head.headers["authorization"], "Bearer secret");
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let line = format!("{} {}", head.method, head.uri.path());
    stand_in.asked.lock().unwrap().push((line, body));
    let next = stand_in.answers.lock().unwrap().pop_front();
    let (status, answer) = next.expect("no more was expected to be asked");
    (Status::from_u16(status).unwrap(), answer.to_string())
}

async fn serve(answers: &[(u16, Value)]) -> (Kubernetes, StandIn, tempfile::TempDir) {
    let stand_in = StandIn::default();
    stand_in.answers.lock().unwrap().extend(answers.iter().cloned());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(stand_in.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let account = tempfile::tempdir().unwrap();
    std::fs::write(account.path().join("token"), "secret\n").unwrap();
    let mut kubernetes = Kubernetes::at(server.parse().unwrap(), account.path()).unwrap();
    kubernetes.pause = Duration::from_millis(1);
    (kubernetes, stand_in, account)
}

fn missed() -> Missed {
    Missed {
        container: "c".to_owned(),
        id: "0123456789abcdef".to_owned(),
        is_refused: false,
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        uid: "u1".to_owned(),
        why: "it is Wasm".to_owned(),
    }
}

fn pod(uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"controller": true}]}})
}

const EVENTS: &str = "POST /api/v1/namespaces/shop/events";
const POD: &str = "GET /api/v1/namespaces/shop/pods/web-1";
const EVICTION: &str = "POST /api/v1/namespaces/shop/pods/web-1/eviction";

fn paths(stand_in: &StandIn) -> Vec<String> {
    let asked = stand_in.asked.lock().unwrap();
    asked.iter().map(|(line, _)| line.clone()).collect()
}

async fn check_eviction(answers: &[(u16, Value)], wanted: Eviction, lines: &[&str]) {
    let (kubernetes, stand_in, _account) = serve(answers).await;
    assert_eq!(kubernetes.evict(&missed()).await.unwrap(), wanted);
    assert_eq!(paths(&stand_in), lines);
}

#[tokio::test]
async fn one_event_however_often_it_is_told() {
    let (kubernetes, stand_in, _account) =
        serve(&[(201, json!({})), (409, json!({"message": "exists"}))]).await;
    for _ in 0..2 {
        kubernetes.tell(&missed()).await.unwrap();
    }
    let asked = stand_in.asked.lock().unwrap();
    assert_eq!(asked[0].0, EVENTS);
    assert_eq!(asked[0].1["metadata"], asked[1].1["metadata"]);
    assert_eq!(asked[0].1["reason"], "CreatedWithoutPodwasm");
}

#[tokio::test]
async fn a_right_that_lacks_is_told() {
    let said = json!({"message": "events is forbidden"});
    let (kubernetes, _stand_in, _account) = serve(&[(403, said)]).await;
    let error = kubernetes.tell(&missed()).await.unwrap_err().to_string();
    assert!(
        error.contains("403") && error.contains("events is forbidden"),
        "{error}"
    );
}

#[tokio::test]
async fn a_pod_is_evicted_once_its_budget_allows_it_and_others_do_not_wait() {
    let other = Missed {
        pod: "web-2".to_owned(),
        uid: "u2".to_owned(),
        ..missed()
    };
    let answers = [
        (200, pod("u1")),
        (429, json!({})),
        (200, pod("u2")),
        (201, json!({})),
        (200, pod("u1")),
        (201, json!({})),
    ];
    let (kubernetes, stand_in, _account) = serve(&answers).await;
    let refused = Missed {
        is_refused: true,
        uid: "u3".to_owned(),
        ..missed()
    };
    // A pod of two containers goes once.
    kubernetes.evict_all(&[missed(), other, missed(), refused]).await;
    let [of_other, evicts_other] = [POD, EVICTION].map(|line| line.replace("web-1", "web-2"));
    assert_eq!(
        paths(&stand_in),
        [POD, EVICTION, &of_other, &evicts_other, POD, EVICTION]
    );
}

#[tokio::test]
async fn a_budget_that_never_allows_it_is_not_asked_for_ever() {
    let attempts = usize::try_from(EVICTION_ATTEMPTS).unwrap();
    let answers = vec![[(200, pod("u1")), (429, json!({}))]; attempts].concat();
    let (kubernetes, stand_in, _account) = serve(&answers).await;
    kubernetes.evict_all(&[missed()]).await;
    assert_eq!(paths(&stand_in), [POD, EVICTION].repeat(attempts));
}

#[tokio::test]
async fn no_other_pod_goes_in_its_place() {
    check_eviction(&[(404, json!({}))], Eviction::Gone, &[POD]).await;
    check_eviction(&[(200, pod("another"))], Eviction::Gone, &[POD]).await;
    check_eviction(
        &[(200, pod("u1")), (409, json!({}))],
        Eviction::Gone,
        &[POD, EVICTION],
    )
    .await;
}

#[tokio::test]
async fn a_pod_that_nobody_makes_anew_stays() {
    let bare = json!({"metadata": {"uid": "u1"}});
    check_eviction(&[(200, bare)], Eviction::Irreplaceable, &[POD]).await;
}

/// Run by `integration/kubernetes/apiserver.sh rights`, which says in variables where the server and the account are. In the namespace `shop` it has the
/// pod `web-1`, which a controller owns.
#[tokio::test]
#[ignore = "needs an API server"]
async fn a_real_server_takes_what_is_sent() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let server = variable("KUBERNETES_SERVER").parse().unwrap();
    let account = variable("KUBERNETES_ACCOUNT");
    let kubernetes = Kubernetes::at(server, Path::new(&account)).unwrap();
    let pod: Value = kubernetes.get("api/v1/namespaces/shop/pods/web-1").await.unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let missed = Missed {
        uid: uid.to_owned(),
        ..missed()
    };
    for _ in 0..2 {
        kubernetes.tell(&missed).await.unwrap();
    }
    let successor = Missed {
        uid: "another".to_owned(),
        ..missed.clone()
    };
    assert_eq!(kubernetes.evict(&successor).await.unwrap(), Eviction::Gone);
    let stale = kubernetes
        .post(
            "api/v1/namespaces/shop/pods/web-1/eviction",
            &objects::eviction(&successor),
        )
        .await;
    let stale = stale.unwrap_err();
    assert!(
        stale.is(StatusCode::CONFLICT),
        "the server looks at the uid, too: {stale}"
    );
    assert_eq!(kubernetes.evict(&missed).await.unwrap(), Eviction::Accepted);
    let forbidden: Result<Value, _> = kubernetes.get("api/v1/namespaces/shop/secrets").await;
    assert!(forbidden.unwrap_err().is(StatusCode::FORBIDDEN));
}

#[test]
fn a_token_is_not_told_in_the_clear() {
    let at = |server: &str| Kubernetes::at(server.parse().unwrap(), Path::new("/nonexistent"));
    assert!(matches!(at("http://10.0.0.1:8080"), Err(Error::Clear(_))));
    assert!(matches!(at("https://10.0.0.1:6443"), Err(Error::Read { .. })));
    assert!(at("http://[::1]:8080").is_ok());
}

#[test]
fn pods_are_told_where_it_is() {
    let told = |host: &str| told_to_pods(Some(host.to_owned()), Some("6443".to_owned()));
    assert_eq!(told("10.96.0.1").as_deref(), Some("https://10.96.0.1:6443"));
    assert_eq!(told("fd00::1").as_deref(), Some("https://[fd00::1]:6443"));
    assert_eq!(told_to_pods(None, None), None);
}

//! Whole commands on modules and layouts in temporary folders, and on a registry of the test's own that fails when it is told to.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use clap::Parser as _;
use tempfile::TempDir;

use super::*;
use crate::flags::{Command, Flags};

/// A program that does nothing.
const MODULE: &[u8] =
    b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.path("app.wasm"), MODULE).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn build(&self, output: &str, more: &[&str]) -> Result<Done, Error> {
        let (module, output) = (self.path("app.wasm"), self.path(output));
        let words = ["build", module.to_str().unwrap(), "-o", output.to_str().unwrap()];
        match parse(&[&words, more].concat()) {
            ImageCommand::Build(flags) => build(&flags),
            other => unreachable!("{other:?}"),
        }
    }

    async fn push(&self, source: &str, name: &str, more: &[&str]) -> Result<Done, Error> {
        let source = self.path(source);
        match parse(&[&["push", source.to_str().unwrap(), name, "--json"], more].concat()) {
            ImageCommand::Push(flags) => push(&flags).await,
            other => unreachable!("{other:?}"),
        }
    }
}

fn parse(words: &[&str]) -> ImageCommand {
    match Flags::parse_from(["podwasm", "image"].iter().chain(words)).command {
        Command::Image(flags) => flags.command,
        other => unreachable!("{other:?}"),
    }
}

/// What was asked for, and how often an upload is still to be refused.
#[derive(Default)]
struct Log {
    asked: Vec<String>,
    refuse: usize,
}

type Shared = Arc<Mutex<Log>>;

/// Answers as a registry would that has nothing yet.
async fn answer(State(log): State<Shared>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.asked.push(format!("{method} {path}"));
    let place = [(header::LOCATION, "/v2/app/blobs/uploads/1")];
    match (method, path.as_str()) {
        (Method::GET, "/v2/") => StatusCode::OK.into_response(),
        (Method::POST, _) if log.refuse > 0 => {
            log.refuse -= 1;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        (Method::POST, _) => (StatusCode::ACCEPTED, place).into_response(),
        (Method::PUT, _) => (StatusCode::CREATED, place).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn registry(refuse: usize) -> (Shared, String) {
    let log = Shared::default();
    log.lock().unwrap().refuse = refuse;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(log.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (log, format!("{address}/app:1"))
}

#[test]
fn a_build_can_be_repeated_to_the_bit() {
    let (one, two) = (Place::new(), Place::new());
    for form in ["artifact", "compat", "wasi"] {
        let (first, second) = (
            one.build("a.tar", &["--form", form]),
            two.build("a.tar", &["--form", form]),
        );
        assert_eq!(first.unwrap().digest, second.unwrap().digest, "{form}");
        assert_eq!(
            fs::read(one.path("a.tar")).unwrap(),
            fs::read(two.path("a.tar")).unwrap()
        );
    }
    let (archive, folder) = (one.build("a.tar", &[]).unwrap(), one.build("a", &[]).unwrap());
    assert_eq!(archive.digest, folder.digest);
}

#[test]
fn what_is_there_is_replaced_only_if_it_is_a_layout() {
    let place = Place::new();
    for _ in 0..2 {
        place.build("layout", &[]).unwrap();
        place.build("a.tar", &[]).unwrap();
    }
    fs::create_dir(place.path("empty")).unwrap();
    place.build("empty", &[]).unwrap();
    fs::write(place.path("layout/mine"), "").unwrap();
    for output in ["layout", "app.wasm"] {
        let error = place.build(output, &[]).unwrap_err();
        assert_eq!(error.exit_code(), CANNOT);
        assert!(with_causes(&error).contains("no OCI image layout"), "{error}");
    }
    assert!(matches!(
        place.build("none/a.tar", &[]),
        Err(Error::Layout(layout::Error::Write { .. }))
    ));
    assert_eq!(place.names(), ["a.tar", "app.wasm", "empty", "layout"]);
}

#[test]
fn what_is_no_module_is_not_built() {
    let place = Place::new();
    fs::write(place.path("app.wasm"), "(module)").unwrap();
    let error = place.build("a.tar", &[]).unwrap_err();
    assert_eq!(error.exit_code(), BAD_IMAGE);
    assert!(with_causes(&error).contains("wat2wasm"), "{error}");
    fs::remove_file(place.path("app.wasm")).unwrap();
    assert_eq!(place.build("a.tar", &[]).unwrap_err().exit_code(), CANNOT);
    assert!(place.names().is_empty());
}

#[test]
fn source_date_epoch_is_a_number_of_seconds() {
    assert_eq!(epoch_seconds(None).unwrap(), 0);
    assert_eq!(
        epoch_seconds(Some("1700000000".to_owned())).unwrap(),
        1_700_000_000
    );
    for value in ["", "-1", "today", "99999999999999"] {
        assert!(epoch_seconds(Some(value.to_owned())).is_err(), "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_precede_what_names_them_and_the_tag_is_last() {
    let place = Place::new();
    let (log, name) = registry(0).await;
    let done = place.push("app.wasm", &name, &[]).await.unwrap();
    let sent = done.sent.unwrap();
    assert_eq!((sent.blobs_sent, sent.blobs_present), (3, 0));
    let asked = &log.lock().unwrap().asked;
    let puts: Vec<_> = asked.iter().filter(|asked| asked.starts_with("PUT")).collect();
    assert!(puts[..3].iter().all(|put| put.contains("/uploads/")), "{puts:?}");
    assert!(
        puts[3..5].iter().all(|put| put.contains("/manifests/sha256:")),
        "{puts:?}"
    );
    assert_eq!(puts[5..], ["PUT /v2/app/manifests/1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_moment_is_tried_again() {
    let place = Place::new();
    let (log, name) = registry(2).await;
    place
        .push("app.wasm", &name, &["--form", "artifact"])
        .await
        .unwrap();
    assert_eq!(log.lock().unwrap().refuse, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_said() {
    let place = Place::new();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = place
        .push("app.wasm", &format!("{free}/app:1"), &[])
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), REGISTRY);
    assert!(with_causes(&error).contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn a_built_image_has_its_recipe() {
    let place = Place::new();
    place.build("a.tar", &[]).unwrap();
    let error = place
        .push("a.tar", "localhost:1/app", &["--env", "A=1"])
        .await
        .unwrap_err();
    assert!(
        with_causes(&error).contains("--env says nothing of it"),
        "{error}"
    );
    let error = place.push("none.tar", "localhost:1/app", &[]).await.unwrap_err();
    assert_eq!(error.exit_code(), CANNOT);
    let error = place
        .push("a.tar", "localhost:1/app:no tag", &[])
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), CANNOT);
}

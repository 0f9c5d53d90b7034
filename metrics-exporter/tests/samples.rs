//! What users take away is about what there is: the samples' triggers are understood, and every metric that samples and documents
//! name is published.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podwasm_metrics_exporter::counts::{Identity, Table};
use podwasm_metrics_exporter::metrics::Metrics;
use podwasm_metrics_exporter::recent::Recent;
use podwasm_metrics_exporter::scaler;
use podwasm_metrics_exporter::scaler::cluster::Cluster;
use podwasm_metrics_exporter::scaler::fleet::{Partial, Patience};
use podwasm_metrics_exporter::scaler::trigger::Trigger;
use podwasm_metrics_exporter::text::Format;
use serde_json::Value;
use tonic::Code;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project is above")
}

fn samples(suffix: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(project().join("deploy/samples")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == suffix));
    let read: Vec<_> = wanted
        .map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(!read.is_empty(), "no .{suffix} among the samples");
    read
}

/// Every object of every sample, with the file that has it.
fn objects() -> Vec<(String, Value)> {
    let parse = |(path, text): (String, String)| {
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        objects.into_iter().map(move |object| (path.clone(), object))
    };
    samples("yaml").into_iter().flat_map(parse).collect()
}

/// Every trigger of every sample.
fn triggers(kind: &str) -> Vec<Value> {
    let scaled = objects()
        .into_iter()
        .filter(|(_, object)| object["kind"] == "ScaledObject");
    let triggers = scaled.flat_map(|(_, object)| object["spec"]["triggers"].as_array().unwrap().clone());
    let wanted: Vec<_> = triggers.filter(|trigger| trigger["type"] == kind).collect();
    assert!(!wanted.is_empty(), "no sample has a trigger of type {kind}");
    wanted
}

#[test]
fn triggers_for_the_scaler_are_understood() {
    for kind in ["external", "external-push"] {
        for trigger in triggers(kind) {
            let metadata: HashMap<String, String> =
                serde_json::from_value(trigger["metadata"].clone()).unwrap();
            Trigger::parse(&metadata).unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
    }
}

#[test]
fn the_documented_triggers_are_understood() {
    let text = fs::read_to_string(project().join("docs/autoscaling.md")).unwrap();
    let blocks = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let metadata: Vec<HashMap<String, String>> = blocks
        .filter(|block| block.starts_with("metadata:"))
        .map(|block| {
            let object: Value = serde_saphyr::from_str(block).unwrap();
            serde_json::from_value(object["metadata"].clone()).unwrap()
        })
        .collect();
    assert!(!metadata.is_empty());
    for metadata in metadata {
        Trigger::parse(&metadata).unwrap();
    }
}

#[test]
fn every_sample_is_an_object() {
    for (path, object) in objects() {
        for key in ["apiVersion", "kind"] {
            assert!(!object[key].is_null(), "{path}: no {key}");
        }
        assert!(object["metadata"]["name"].is_string(), "{path}");
        // Pods and what belongs to them may go anywhere, and are run by tests of their own.
        let is_for_operators = object["apiVersion"]
            .as_str()
            .is_some_and(|version| version.contains('.'));
        let has_place = !object["spec"].is_null() && object["metadata"]["namespace"].is_string();
        assert!(has_place || !is_for_operators, "{path}: no namespace or no spec");
    }
    for (path, text) in samples("json") {
        let dashboard: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(
            dashboard["panels"]
                .as_array()
                .is_some_and(|panels| !panels.is_empty()),
            "{path}"
        );
    }
}

/// All that a scrape of an exporter with a pod, and of a scaler, shows.
fn published() -> BTreeSet<String> {
    let table = Arc::new(Table::new(10, Instant::now()));
    table.start(Identity {
        uid: "1".to_owned(),
        ..Identity::default()
    });
    let recent = Arc::new(Recent::new(table, Instant::now()));
    recent.read(Instant::now());
    let exporter = Metrics::new(recent, Duration::from_secs(60)).text(Format::Text);
    let patience = Patience {
        stale_after: Duration::from_secs(3),
        forget_after: Duration::from_secs(60),
        partial: Partial::Refuse,
    };
    let scaler = scaler::metrics::Metrics::new(Arc::new(Cluster::new(patience)));
    scaler.answered("IsActive", Code::Ok, Duration::ZERO);
    let scaler = scaler.text(Format::Text);
    let lines = exporter
        .lines()
        .chain(scaler.lines())
        .filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_part(c));
    let is_metric =
        |word: &&str| word.starts_with("podwasm_") || (word.starts_with("process_") && word.len() > 8);
    words.filter(is_metric).map(str::to_owned).collect()
}

#[test]
fn every_metric_that_is_named_is_published() {
    let published = published();
    let documents = ["docs/metrics.md", "docs/autoscaling.md"]
        .map(|path| (path.to_owned(), fs::read_to_string(project().join(path)).unwrap()));
    for (path, text) in samples("yaml")
        .into_iter()
        .chain(samples("json"))
        .chain(documents)
    {
        for name in named(&text) {
            let is_histogram = published.contains(&format!("{name}_count"));
            assert!(
                published.contains(&name) || is_histogram,
                "{path} names {name}, which is not published"
            );
        }
    }
}

#[test]
fn every_metric_that_is_published_is_documented() {
    let documented = named(&fs::read_to_string(project().join("docs/metrics.md")).unwrap());
    for name in published() {
        let histogram = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        assert!(
            documented.contains(&name) || histogram.is_some_and(|name| documented.contains(name)),
            "{name}"
        );
    }
}

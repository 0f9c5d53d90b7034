//! Which workload a pod belongs to, as far as the pod itself tells.
//!
//! A node does not see owner references, but every controller leaves its mark on its pods: a label, and a
//! name made by a rule. Where that is not enough, an annotation says it.

#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::BTreeMap;

use crate::counts::Workload;

/// The annotation that names the workload: `NAME` or `KIND/NAME`.
pub const ANNOTATION: &str = "requests.noderesource.dev/workload";

/// How many characters the API server appends to a name that it makes up.
const SUFFIX_LENGTH: usize = 5;
/// To how many characters it cuts the name before it does so.
const CUT_LENGTH: usize = 58;
/// A `CronJob` appends the minute of its schedule, since the epoch, to the names of its jobs.
const MINUTE_LENGTH: usize = 8;
/// The longest name that Kubernetes takes.
const MAX_NAME_LENGTH: usize = 253;
/// The longest kind that is taken here. The longest of Kubernetes' own has 36 characters.
const MAX_KIND_LENGTH: usize = 63;

/// Why the annotation cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kind is none.
    #[error(
        "the kind in the annotation {ANNOTATION} has to be letters and digits, {MAX_KIND_LENGTH} at most"
    )]
    Kind,
    /// The name is none.
    #[error(
        "the name in the annotation {ANNOTATION} has to be lower-case letters, digits, `-` and `.`, {MAX_NAME_LENGTH} at most"
    )]
    Name,
}

/// What the annotation says, for a pod whose workload would otherwise be `guessed`.
pub fn annotated(text: &str, guessed: &Workload) -> Result<Workload, Error> {
    let (kind, name) = text
        .trim()
        .split_once('/')
        .unwrap_or((&guessed.kind, text.trim()));
    if kind.is_empty() || kind.len() > MAX_KIND_LENGTH || !kind.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Error::Kind);
    }
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.chars().all(is_allowed) {
        return Err(Error::Name);
    }
    Ok(workload(kind, name))
}

/// The workload of a pod of this name and these labels.
pub fn guess(pod: &str, labels: &BTreeMap<String, String>) -> Workload {
    let label = |keys: &[&str]| keys.iter().find_map(|&key| labels.get(key)).map(String::as_str);
    if let Some(job) = label(&["batch.kubernetes.io/job-name", "job-name"]) {
        return of_job(job);
    }
    if label(&[
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
    ])
    .is_some()
    {
        return workload("StatefulSet", pod.rsplit_once('-').map_or(pod, |(name, _)| name));
    }
    if let Some(hash) = label(&["rollouts-pod-template-hash"]) {
        return workload("Rollout", before_hash(pod, hash));
    }
    if let Some(hash) = label(&["pod-template-hash"]) {
        return workload("Deployment", before_hash(pod, hash));
    }
    if label(&["controller-revision-hash", "pod-template-generation"]).is_some() {
        return workload("DaemonSet", before_suffix(pod));
    }
    workload("Pod", pod)
}

fn workload(kind: &str, name: &str) -> Workload {
    Workload {
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

fn of_job(job: &str) -> Workload {
    match job.rsplit_once('-') {
        Some((name, minute))
            if minute.len() == MINUTE_LENGTH && minute.bytes().all(|b| b.is_ascii_digit()) =>
        {
            workload("CronJob", name)
        }
        _ => workload("Job", job),
    }
}

/// The name of a Deployment: its pods are called `NAME-HASH-SUFFIX`, cut before the suffix where that is too long.
fn before_hash<'a>(pod: &'a str, hash: &str) -> &'a str {
    let set = before_suffix(pod);
    if let Some(name) = set.strip_suffix(hash).and_then(|name| name.strip_suffix('-')) {
        return name;
    }
    match set.rsplit_once('-') {
        Some((name, cut)) if set.len() + 1 >= CUT_LENGTH && hash.starts_with(cut) => name,
        _ => set,
    }
}

/// The name that the API server made a pod's name of.
fn before_suffix(pod: &str) -> &str {
    let base = pod.len().checked_sub(SUFFIX_LENGTH).and_then(|at| pod.get(..at));
    match base {
        Some(base) if base.len() == CUT_LENGTH => base.strip_suffix('-').unwrap_or(base),
        Some(base) => base.strip_suffix('-').unwrap_or(pod),
        None => pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Labels<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn controllers_are_known_by_their_marks() {
        let long = "a-service-whose-name-is-so-long-that-its-pods-have-it-cut";
        let cases: &[(&str, Labels, &str)] = &[
            (
                "web-6d4cf56db6-x2x8k",
                &[("pod-template-hash", "6d4cf56db6")],
                "Deployment/web",
            ),
            (
                "my-web-app-6d4cf56db6-x2x8k",
                &[("pod-template-hash", "6d4cf56db6")],
                "Deployment/my-web-app",
            ),
            (
                "web-6d4cf56db6-x2x8k",
                &[
                    ("pod-template-hash", "6d4cf56db6"),
                    ("controller-revision-hash", "1"),
                ],
                "Deployment/web",
            ),
            ("a.b-7f-zzzzz", &[("pod-template-hash", "7f")], "Deployment/a.b"),
            // 48 characters, a dash and 9 of the hash's 10: that is where the API server cuts.
            (
                &format!("{}-6d4cf56db-x2x8k", &long[..47]),
                &[("pod-template-hash", "6d4cf56db6")],
                &format!("Deployment/{}", &long[..47]),
            ),
            (
                &format!("{long}-x2x8k"),
                &[("pod-template-hash", "6d4cf56db6")],
                &format!("Deployment/{long}"),
            ),
            (
                "blue-5c8f-abcde",
                &[("rollouts-pod-template-hash", "5c8f")],
                "Rollout/blue",
            ),
            (
                "db-0",
                &[
                    ("controller-revision-hash", "db-7b9f5f8c6d"),
                    ("statefulset.kubernetes.io/pod-name", "db-0"),
                ],
                "StatefulSet/db",
            ),
            (
                "my-db-12",
                &[("apps.kubernetes.io/pod-index", "12")],
                "StatefulSet/my-db",
            ),
            (
                "agent-x7k2p",
                &[
                    ("controller-revision-hash", "5f6b8c"),
                    ("pod-template-generation", "1"),
                ],
                "DaemonSet/agent",
            ),
            ("sum-fjk4w", &[("batch.kubernetes.io/job-name", "sum")], "Job/sum"),
            ("sum-fjk4w", &[("job-name", "sum-2024")], "Job/sum-2024"),
            (
                "tidy-28512345-fjk4w",
                &[("job-name", "tidy-28512345")],
                "CronJob/tidy",
            ),
            ("alone", &[("app", "x")], "Pod/alone"),
            ("web-6d4cf56db6-x2x8k", &[], "Pod/web-6d4cf56db6-x2x8k"),
            // Names that follow no rule, as of pods that someone made by hand with a controller's labels.
            ("web", &[("pod-template-hash", "6d4cf56db6")], "Deployment/web"),
            ("x", &[("controller-revision-hash", "1")], "DaemonSet/x"),
            ("ünd-ö", &[("controller-revision-hash", "1")], "DaemonSet/ünd-ö"),
            (
                "db",
                &[("statefulset.kubernetes.io/pod-name", "db")],
                "StatefulSet/db",
            ),
            ("", &[("pod-template-hash", "")], "Deployment/"),
        ];
        for (pod, labels, expected) in cases {
            let labels = labels
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            let Workload { kind, name } = guess(pod, &labels);
            assert_eq!(&format!("{kind}/{name}"), expected, "{pod} {labels:?}");
        }
    }

    #[test]
    fn the_annotation_says_it() {
        let guessed = workload("Pod", "p");
        let cases = [
            ("web", Ok("Pod/web")),
            (" Rollout/web ", Ok("Rollout/web")),
            ("", Err(Error::Name)),
            ("/web", Err(Error::Kind)),
            ("Deploy ment/web", Err(Error::Kind)),
            ("Deployment/", Err(Error::Name)),
            ("Deployment/we b", Err(Error::Name)),
            ("Deployment/web/x", Err(Error::Name)),
            ("a\"b", Err(Error::Name)),
        ];
        for (text, expected) in cases {
            let found = annotated(text, &guessed).map(|Workload { kind, name }| format!("{kind}/{name}"));
            assert_eq!(found, expected.map(str::to_owned), "{text}");
        }
        assert_eq!(annotated(&"a".repeat(254), &guessed), Err(Error::Name));
    }
}

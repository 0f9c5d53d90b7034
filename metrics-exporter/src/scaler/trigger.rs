//! What a ScaledObject's trigger says.

#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::selector::{self, Selector};
use crate::counts::Workload;
use crate::rate::{MAX_WINDOW, Panic};

const DEFAULT_METRIC_NAME: &str = "requests-per-second";
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
const DEFAULT_PANIC_THRESHOLD: f64 = 2.0;
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// A burst is looked for in two windows' length.
const MAX_WINDOW_WITH_PANIC: Duration = Duration::from_secs(MAX_WINDOW.as_secs() / 2);
/// Kubernetes' limit for a metric's name is that of a path segment, before which KEDA puts `sNUMBER-`.
const MAX_METRIC_NAME_LENGTH: usize = 200;

/// The keys that are understood.
const KEYS: [&str; 8] = [
    "selector",
    "workload",
    "targetRequestsPerSecond",
    "activationRequestsPerSecond",
    "window",
    "panicWindow",
    "panicThreshold",
    "metricName",
];
/// Keys that are KEDA's own and come along.
const KEDAS_KEYS: [&str; 4] = ["enableTLS", "scalerAddress", "tlsCertFile", "unsafeSsl"];

/// What a ScaledObject wants to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// Above how many requests per second the workload is to run at all.
    pub activation: f64,
    /// What the metric is called.
    pub metric_name: String,
    /// When a burst counts for more than the average; never if there is nothing.
    pub panic: Option<Panic>,
    /// Which pods' requests.
    pub pods: Pods,
    /// How many requests per second a replica is to have.
    pub target: f64,
    /// Over how long the rate is taken.
    pub window: Duration,
}

/// Which pods of a namespace are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Those with certain labels.
    Selector(Selector),
    /// Those of a workload, of any kind if the kind is empty.
    Workload(Workload),
}

impl Pods {
    /// Whether a pod is meant.
    pub fn select(&self, labels: &BTreeMap<String, String>, workload: &Workload) -> bool {
        match self {
            Self::Selector(selector) => selector.selects(labels),
            Self::Workload(wanted) => {
                wanted.name == workload.name && (wanted.kind.is_empty() || wanted.kind == workload.kind)
            }
        }
    }
}

/// What is wrong with a trigger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A key that nobody knows.
    #[error("{0:?} is not understood; {known} are", known = KEYS.join(", "))]
    Key(String),
    /// Two keys that mean the same, or none of them.
    #[error("it needs either selector or workload")]
    Pods,
    /// The selector.
    #[error("selector: {0}")]
    Selector(#[source] selector::Error),
    /// A key without which there is no answer.
    #[error("it needs targetRequestsPerSecond")]
    Target,
    /// A value that cannot be.
    #[error("{key} has to be {allowed}, and is {value:?}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it may be.
        allowed: String,
        /// What it is.
        value: String,
    },
}

impl Trigger {
    /// Reads a trigger's metadata.
    pub fn parse(metadata: &HashMap<String, String>) -> Result<Self, Error> {
        let is_known = |key: &str| KEYS.contains(&key) || KEDAS_KEYS.contains(&key);
        let unknown = metadata.keys().filter(|key| !is_known(key)).min();
        if let Some(key) = unknown {
            return Err(Error::Key(key.clone()));
        }
        let metadata = Metadata(metadata);
        let panic = metadata.panic()?;
        let longest = panic.map_or(MAX_WINDOW, |_| MAX_WINDOW_WITH_PANIC);
        let window = metadata.duration("window", longest)?.unwrap_or(DEFAULT_WINDOW);
        if let Some(panic) = panic.filter(|panic| panic.window >= window) {
            let panic = humantime::format_duration(panic.window).to_string();
            return Err(wrong("panicWindow", "shorter than window", &panic));
        }
        Ok(Self {
            activation: metadata
                .number("activationRequestsPerSecond", 0.0)?
                .unwrap_or(0.0),
            metric_name: metadata.metric_name()?,
            panic,
            pods: metadata.pods()?,
            target: metadata.target()?,
            window,
        })
    }
}

/// Values, of which empty ones are as good as none.
struct Metadata<'a>(&'a HashMap<String, String>);

impl<'a> Metadata<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.0
            .get(key)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    fn duration(&self, key: &'static str, longest: Duration) -> Result<Option<Duration>, Error> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let is_allowed =
            |duration: &Duration| (MIN_WINDOW..=longest).contains(duration) && duration.subsec_nanos() == 0;
        let duration = humantime::parse_duration(text).ok().filter(is_allowed);
        let allowed = || format!("1s to {} in whole seconds", humantime::format_duration(longest));
        duration.map(Some).ok_or_else(|| wrong(key, &allowed(), text))
    }

    fn number(&self, key: &'static str, least: f64) -> Result<Option<f64>, Error> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let number = text
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number >= least);
        number
            .map(Some)
            .ok_or_else(|| wrong(key, &format!("a number of {least} or more"), text))
    }

    fn target(&self) -> Result<f64, Error> {
        let target = self
            .number("targetRequestsPerSecond", 0.0)?
            .ok_or(Error::Target)?;
        if target < 0.001 {
            return Err(wrong(
                "targetRequestsPerSecond",
                "0.001 or more",
                &target.to_string(),
            ));
        }
        Ok(target)
    }

    fn panic(&self) -> Result<Option<Panic>, Error> {
        let threshold = self.number("panicThreshold", 1.0)?;
        match self.duration("panicWindow", MAX_WINDOW_WITH_PANIC)? {
            None if threshold.is_some() => Err(wrong("panicWindow", "there with panicThreshold", "")),
            None => Ok(None),
            Some(window) => Ok(Some(Panic {
                window,
                threshold: threshold.unwrap_or(DEFAULT_PANIC_THRESHOLD),
            })),
        }
    }

    fn pods(&self) -> Result<Pods, Error> {
        match (self.text("selector"), self.text("workload")) {
            (Some(selector), None) => Selector::parse(selector)
                .map(Pods::Selector)
                .map_err(Error::Selector),
            (None, Some(workload)) => {
                let (kind, name) = workload.split_once('/').unwrap_or(("", workload));
                if name.is_empty() || name.contains('/') {
                    return Err(wrong("workload", "NAME or KIND/NAME", workload));
                }
                Ok(Pods::Workload(Workload {
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                }))
            }
            _ => Err(Error::Pods),
        }
    }

    fn metric_name(&self) -> Result<String, Error> {
        let name = self.text("metricName").unwrap_or(DEFAULT_METRIC_NAME);
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.len() > MAX_METRIC_NAME_LENGTH || !name.chars().all(is_allowed) {
            return Err(wrong(
                "metricName",
                "lower-case letters, digits and `-`, 200 at most",
                name,
            ));
        }
        Ok(name.to_owned())
    }
}

fn wrong(key: &'static str, allowed: &str, value: &str) -> Error {
    Error::Value {
        key,
        allowed: allowed.to_owned(),
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From `key: value` separated by `;`, with what every trigger needs unless it begins with `-`.
    fn parse(text: &str) -> Result<Trigger, Error> {
        let (bare, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let needed = if bare {
            ""
        } else {
            "workload: web; targetRequestsPerSecond: 50; scalerAddress: x"
        };
        let pairs = [needed, text]
            .into_iter()
            .flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.split_once(':'));
        Trigger::parse(
            &pairs
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    #[test]
    fn little_has_to_be_said() {
        let expected = Trigger {
            activation: 0.0,
            metric_name: "requests-per-second".to_owned(),
            panic: None,
            pods: Pods::Workload(Workload {
                kind: String::new(),
                name: "web".to_owned(),
            }),
            target: 50.0,
            window: Duration::from_secs(60),
        };
        assert_eq!(parse(""), Ok(expected.clone()));
        assert_eq!(parse("window: ; metricName: ; enableTLS: true"), Ok(expected));
    }

    #[test]
    fn all_can_be_said() {
        let trigger = parse(
            "-selector: app=web; targetRequestsPerSecond: 0.5; activationRequestsPerSecond: 2; window: 1m30s; \
             panicWindow: 6s; panicThreshold: 3; metricName: web-2",
        );
        let expected = Trigger {
            activation: 2.0,
            metric_name: "web-2".to_owned(),
            panic: Some(Panic {
                window: Duration::from_secs(6),
                threshold: 3.0,
            }),
            pods: Pods::Selector(Selector::parse("app=web").unwrap()),
            target: 0.5,
            window: Duration::from_secs(90),
        };
        assert_eq!(trigger, Ok(expected));
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        for (text, expected) in [
            (
                "target: 5",
                "\"target\" is not understood; selector, workload, targetRequestsPerSecond, activation",
            ),
            ("selector: app=x", "either selector or workload"),
            ("-targetRequestsPerSecond: 5", "either selector or workload"),
            ("-workload: web", "needs targetRequestsPerSecond"),
            (
                "targetRequestsPerSecond: 0",
                "targetRequestsPerSecond has to be 0.001 or more",
            ),
            (
                "targetRequestsPerSecond: NaN",
                "a number of 0 or more, and is \"NaN\"",
            ),
            ("targetRequestsPerSecond: -5", "a number of 0 or more"),
            ("targetRequestsPerSecond: inf", "a number of 0 or more"),
            (
                "activationRequestsPerSecond: some",
                "activationRequestsPerSecond has to be a number",
            ),
            (
                "window: 11m",
                "window has to be 1s to 10m in whole seconds, and is \"11m\"",
            ),
            ("window: 100ms", "1s to 10m"),
            ("window: 1500ms", "1s to 10m in whole seconds"),
            ("window: 60", "1s to 10m"),
            ("window: 10m; panicWindow: 6s", "window has to be 1s to 5m"),
            (
                "panicWindow: 1m",
                "panicWindow has to be shorter than window, and is \"1m\"",
            ),
            (
                "panicThreshold: 2",
                "panicWindow has to be there with panicThreshold",
            ),
            ("panicWindow: 6s; panicThreshold: 0.5", "a number of 1 or more"),
            ("workload: a/b/c", "NAME or KIND/NAME"),
            ("workload: Deployment/", "NAME or KIND/NAME"),
            (
                "-selector: app in; targetRequestsPerSecond: 1",
                "selector: \"app in\" is not understood",
            ),
            ("metricName: Web_Rate", "lower-case letters"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_workload_may_be_of_a_kind() {
        let web = |kind: &str| Workload {
            kind: kind.to_owned(),
            name: "web".to_owned(),
        };
        let selects = |text: &str, kind| parse(text).unwrap().pods.select(&BTreeMap::new(), &web(kind));
        assert!(selects("", "Deployment"));
        assert!(selects("workload: Deployment/web", "Deployment"));
        assert!(!selects("workload: Deployment/web", "StatefulSet"));
        assert!(!selects("workload: db", "Deployment"));
    }

    proptest! {
        #[test]
        fn no_value_is_too_strange(key in prop::sample::select(KEYS.to_vec()), value in "\\PC{0,20}") {
            let needed = [("workload", "web".to_owned()), ("targetRequestsPerSecond", "1".to_owned()), (key, value)];
            drop(Trigger::parse(&needed.map(|(key, value)| (key.to_owned(), value)).into()));
        }
    }
}

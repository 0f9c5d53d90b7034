//! Kubernetes' label selectors, as one writes them for `kubectl`.

#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::BTreeMap;

/// Kubernetes' limit for a label's value, and for the name in its key.
const MAX_NAME_LENGTH: usize = 63;
const MAX_PREFIX_LENGTH: usize = 253;

/// Which labels a pod has to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Present,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It would select every pod.
    #[error("it is empty")]
    Empty,
    /// A key that no label can have.
    #[error("{0:?} is no key of a label")]
    Key(String),
    /// A part that says nothing.
    #[error(
        "{0:?} is not understood; `key`, `!key`, `key=value`, `key!=value`, `key in (a, b)` and `key notin (a, b)` are"
    )]
    Requirement(String),
    /// A value that no label can have.
    #[error("{0:?} is no value of a label")]
    Value(String),
}

impl Selector {
    /// Reads requirements that are separated by commas, all of which have to be met.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.trim().is_empty() {
            return Err(Error::Empty);
        }
        let requirements = split(text).into_iter().map(Requirement::parse);
        Ok(Self(requirements.collect::<Result<_, _>>()?))
    }

    /// Whether a pod with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0
            .iter()
            .all(|requirement| requirement.is_met(labels.get(&requirement.key)))
    }
}

/// At the commas that are not in parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let is_separator = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(is_separator).map(str::trim).collect()
}

impl Requirement {
    fn parse(part: &str) -> Result<Self, Error> {
        let (key, test) = if let Some(key) = part.strip_prefix('!') {
            (key, Test::Absent)
        } else if let Some((key, value)) = part.split_once("!=") {
            (key, Test::NotIn(vec![one_value(value)?]))
        } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (key, Test::In(vec![one_value(value)?]))
        } else if let Some((words, values)) = part.split_once('(') {
            let values = values
                .strip_suffix(')')
                .ok_or_else(|| Error::Requirement(part.to_owned()))?;
            let values = values.split(',').map(one_value).collect::<Result<_, _>>()?;
            match words.split_whitespace().collect::<Vec<_>>()[..] {
                [key, "in"] => (key, Test::In(values)),
                [key, "notin"] => (key, Test::NotIn(values)),
                _ => return Err(Error::Requirement(part.to_owned())),
            }
        } else if part.is_empty() || part.contains(char::is_whitespace) {
            return Err(Error::Requirement(part.to_owned()));
        } else {
            (part, Test::Present)
        };
        Ok(Self {
            key: label_key(key.trim())?,
            test,
        })
    }

    fn is_met(&self, value: Option<&String>) -> bool {
        match &self.test {
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Present => value.is_some(),
        }
    }
}

fn label_key(text: &str) -> Result<String, Error> {
    let (prefix, name) = text.rsplit_once('/').unwrap_or(("", text));
    let is_prefix = prefix.len() <= MAX_PREFIX_LENGTH
        && prefix
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
        && (!text.contains('/') || !prefix.is_empty());
    if name.is_empty() || !is_name(name) || !is_prefix {
        return Err(Error::Key(text.to_owned()));
    }
    Ok(text.to_owned())
}

fn one_value(text: &str) -> Result<String, Error> {
    let text = text.trim();
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(Error::Value(text.to_owned()))
    }
}

/// Letters, digits, `-`, `_` and `.`, the first and the last of which are letters or digits.
fn is_name(text: &str) -> bool {
    let ends_well = |end: Option<char>| end.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_NAME_LENGTH
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends_well(text.chars().next())
        && ends_well(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(selector: &str, expected: bool) {
        let labels = [
            ("app", "web"),
            ("app.kubernetes.io/name", "shop"),
            ("tier", "a"),
            ("empty", ""),
        ];
        let labels = labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let selector = Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        assert_eq!(selector.selects(&labels), expected, "{selector:?}");
    }

    #[test]
    fn labels_are_compared() {
        for selected in [
            "app=web",
            "app==web",
            " app = web , tier=a ",
            "app.kubernetes.io/name=shop",
            "app!=db",
            "missing!=x",
            "app",
            "!missing",
            "app in (db, web)",
            "app in(web)",
            "app notin (db),tier in (a,b)",
            "missing notin (a)",
            "empty=",
            "empty in ()",
        ] {
            check(selected, true);
        }
        for other in [
            "app=db",
            "app=web,tier=b",
            "!app",
            "missing",
            "app notin (web)",
            "missing=",
            "tier in (b,c)",
        ] {
            check(other, false);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("", Error::Empty),
            (" ", Error::Empty),
            ("app=web,", Error::Requirement(String::new())),
            ("app web", Error::Requirement("app web".to_owned())),
            ("app in (a", Error::Requirement("app in (a".to_owned())),
            ("app has (a)", Error::Requirement("app has (a)".to_owned())),
            ("=web", Error::Key(String::new())),
            ("/app=web", Error::Key("/app".to_owned())),
            ("!", Error::Key(String::new())),
            ("-app=web", Error::Key("-app".to_owned())),
            ("app=we b", Error::Value("we b".to_owned())),
            ("app=web*", Error::Value("web*".to_owned())),
            ("app in (a b)", Error::Value("a b".to_owned())),
        ] {
            assert_eq!(Selector::parse(text), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[a-z!=(), /\\PC]{0,40}") {
            drop(Selector::parse(&text));
        }
    }
}

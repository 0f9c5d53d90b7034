//! Metrics as text, in the two formats that scrapers ask for.
//!
//! The metrics library writes OpenMetrics only. Its text is translated for scrapers that do not ask for that:
//! in the older format, counters are named with their suffix, there are neither units nor an end mark, and an
//! info is a gauge.

#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Format {
    /// What to answer to an `Accept` header. Types are taken by their quality; without one, the older format.
    pub fn accepted(accept: &str) -> Self {
        let quality = |name: &str| {
            let types = accept.split(',').map(Accepted::parse);
            let qualities = types.filter(|accepted| accepted.name.eq_ignore_ascii_case(name));
            qualities.map(|accepted| accepted.quality).fold(0.0, f32::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The text in this format of what is written as OpenMetrics.
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => translate(&open_metrics),
        }
    }
}

struct Accepted<'a> {
    name: &'a str,
    quality: f32,
}

impl<'a> Accepted<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        Self {
            name,
            quality: quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)),
        }
    }
}

/// The text in format 0.0.4. Help precedes the type, which decides the name, so it is held back until then.
fn translate(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = "";
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.extend([line, "\n"]);
            continue;
        };
        match *comment.splitn(3, ' ').collect::<Vec<_>>() {
            ["HELP", _, said] => help = said,
            ["TYPE", name, kind] => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
                text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            _ => {} // units and the end mark, which the format does not have
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_ask_for() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=1.0.0", Format::OpenMetrics),
            (
                "text/plain;q=0.9, application/openmetrics-text;q=0.2",
                Format::Text,
            ),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=much", Format::Text),
            (prometheus_2, Format::OpenMetrics),
            (prometheus_3, Format::OpenMetrics),
            (",;,;q=,", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn the_older_format_names_counters_with_their_suffix() {
        let open_metrics = "\
# HELP x_requests Requests.
# TYPE x_requests counter
x_requests_total{a=\"# TYPE\"} 1
# HELP x_up Up.
# TYPE x_up gauge
x_up 1
# HELP x_took_seconds How long: a while.
# TYPE x_took_seconds histogram
# UNIT x_took_seconds seconds
x_took_seconds_sum 0.5
x_took_seconds_bucket{le=\"+Inf\"} 1
# HELP x_build What runs here.
# TYPE x_build info
x_build_info{version=\"1\"} 1
# EOF
";
        let expected = "\
# HELP x_requests_total Requests.
# TYPE x_requests_total counter
x_requests_total{a=\"# TYPE\"} 1
# HELP x_up Up.
# TYPE x_up gauge
x_up 1
# HELP x_took_seconds How long: a while.
# TYPE x_took_seconds histogram
x_took_seconds_sum 0.5
x_took_seconds_bucket{le=\"+Inf\"} 1
# HELP x_build_info What runs here.
# TYPE x_build_info gauge
x_build_info{version=\"1\"} 1
";
        assert_eq!(Format::Text.of(open_metrics.to_owned()), expected);
        assert_eq!(Format::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}

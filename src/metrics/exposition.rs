//! The forms in which metrics are shown, and which of them is wanted.

use std::collections::HashMap;
use std::fmt::Write as _;

/// A form of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format, version 0.0.4.
    Text,
}

impl Form {
    /// The form that an `Accept` header asks for: OpenMetrics where it is named and nothing is liked better, else the text that
    /// everybody can read.
    pub fn wanted(accept: Option<&str>) -> Self {
        let mut best = (0.0, Self::Text);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" | "*/*" => Self::Text,
                _ => continue,
            };
            let (mut quality, mut known) = (1.0_f64, true);
            for part in parts {
                match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) if form == Self::OpenMetrics => known = matches!(value, "1.0.0" | "0.0.1"),
                    _ => {}
                }
            }
            if known && quality > best.0 {
                best = (quality, form);
            }
        }
        best.1
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// `text`, which is OpenMetrics, in this form.
    pub(super) fn of_open_metrics(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Text => older(&text),
        }
    }
}

/// In the older format a family of counters is called as its samples are, an info is a gauge, and there are neither units nor a
/// mark at the end.
fn older(text: &str) -> String {
    let described = |line: &str, word: &str| {
        let (name, rest) = line.strip_prefix(word)?.strip_prefix(' ')?.split_once(' ')?;
        Some((name.to_owned(), rest.to_owned()))
    };
    let kinds: HashMap<String, String> = text.lines().filter_map(|line| described(line, "# TYPE")).collect();
    let called = |name: &str| match kinds.get(name).map(String::as_str) {
        Some("counter") => format!("{name}_total"),
        Some("info") => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let mut older = String::with_capacity(text.len());
    for line in text.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = if let Some((name, help)) = described(line, "# HELP") {
            writeln!(older, "# HELP {} {help}", called(&name))
        } else if let Some((name, kind)) = described(line, "# TYPE") {
            let kind = match kind.as_str() {
                "info" => "gauge",
                "unknown" => "untyped",
                kind => kind,
            };
            writeln!(older, "# TYPE {} {kind}", called(&name))
        } else {
            writeln!(older, "{line}")
        };
    }
    older
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::metrics::{Metrics, ProcessFigures};

    const ALERTS: &str = include_str!("../../deploy/alerts.yaml");
    const GRAFANA: &str = include_str!("../../deploy/grafana.json");

    /// The family and type that a sample belongs to, by the rules of the form.
    fn family<'f>(form: Form, name: &str, families: &'f BTreeMap<String, String>) -> Option<(&'f str, &'f str)> {
        let of = |family: &str| families.get_key_value(family).map(|(name, kind)| (name.as_str(), kind.as_str()));
        let with = |suffixes: &[&str], kinds: &[&str]| {
            suffixes.iter().filter_map(|suffix| of(name.strip_suffix(suffix)?)).find(|(_, kind)| kinds.contains(kind))
        };
        let plain = of(name).filter(|(_, kind)| match form {
            Form::OpenMetrics => ["gauge", "unknown"].contains(kind),
            Form::Text => ["gauge", "counter", "untyped"].contains(kind),
        });
        let counted = if form == Form::OpenMetrics { with(&["_total"], &["counter"]) } else { None };
        let info = if form == Form::OpenMetrics { with(&["_info"], &["info"]) } else { None };
        plain.or(counted).or(info).or_else(|| with(&["_bucket", "_sum", "_count"], &["histogram"]))
    }

    fn is_name(name: &str) -> bool {
        let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        begins && name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_')
    }

    /// Name, labels and value of a sample, or a panic.
    fn sample(line: &str) -> (&str, Vec<(String, String)>, f64) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, mut rest) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        assert!(is_name(name), "{line}");
        let mut labels = Vec::new();
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let end = quoted.match_indices('"').find(|(at, _)| !quoted[..*at].ends_with('\\')).unwrap().0;
            labels.push((label.to_owned(), quoted[..end].to_owned()));
            rest = &quoted[end + 1..];
            rest = if rest.is_empty() { rest } else { rest.strip_prefix(',').unwrap() };
        }
        (name, labels, if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() })
    }

    /// Panics where a strict reader would refuse the exposition; the names of all samples.
    fn strictly_read(form: Form, text: &str) -> BTreeSet<String> {
        let body = match form {
            Form::OpenMetrics => text.strip_suffix("# EOF\n").expect("the mark at the end"),
            Form::Text => text,
        };
        assert!(body.ends_with('\n') && !body.contains("# EOF"));
        let (mut families, mut helped) = (BTreeMap::new(), BTreeSet::new());
        let (mut present, mut seen, mut names) = (String::new(), BTreeSet::new(), BTreeSet::new());
        let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut parts = rest.splitn(3, ' ');
                let (word, name, rest) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
                match word {
                    "HELP" => assert!(helped.insert(name.to_owned()) && !rest.is_empty(), "{line}"),
                    "TYPE" => {
                        assert!(families.insert(name.to_owned(), rest.to_owned()).is_none(), "{line}");
                        name.clone_into(&mut present);
                    }
                    word => assert!(word == "UNIT" && form == Form::OpenMetrics, "{line}"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let (family, kind) = family(form, name, &families).unwrap_or_else(|| panic!("of no family: {line}"));
            assert_eq!(family, present, "families are not mixed: {line}");
            assert!(seen.insert((name.to_owned(), labels.clone())), "twice: {line}");
            assert!(!value.is_nan() && (kind == "gauge" || value >= 0.0), "{line}");
            names.insert(name.to_owned());
            if name.ends_with("_bucket") {
                let (bound, others): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(label, _)| label == "le");
                let bound = if bound[0].1 == "+Inf" { f64::INFINITY } else { bound[0].1.parse().unwrap() };
                let before = buckets.insert(format!("{family}{others:?}"), (bound, value));
                assert!(before.is_none_or(|(lower, count)| lower < bound && count <= value), "{line}");
            }
        }
        assert!(buckets.values().all(|(bound, _)| bound.is_infinite()), "each has its last bucket");
        names
    }

    /// One of everything.
    fn used() -> Metrics {
        let metrics = Metrics::default();
        metrics.job_ended("completed", 1500);
        metrics.queue_waited(0.5);
        metrics.tool_called("odd \"name\" \\ of\na tool", "write", "unknown", 0.2);
        metrics.tool_retried("unavailable");
        metrics.model_called("gpt-4o", "answered");
        metrics.model_retried("timed_out");
        metrics.tokens_used("gpt-4o", 1, 2, 3);
        metrics.inferred("openai", "gpt-4o", 0.7, Some((1, 2)));
        metrics.replied("agentkit.job.completed", true);
        metrics.parked("approval", 1);
        metrics.queue_stands("agentkit.dead", 1, 0);
        metrics.queue_members("agentkit.jobs", 3, 2);
        metrics.service_stands("redis", true);
        metrics.credential_stands("model", true);
        metrics.digest_fired("morning", "published");
        metrics.digest_stands("morning", Some(jiff::Timestamp::UNIX_EPOCH), Some(jiff::Timestamp::UNIX_EPOCH), 1);
        metrics.process_stands(ProcessFigures { cpu_seconds: 1.5, resident_bytes: 1, open_fds: 2, max_fds: 3 });
        metrics
    }

    #[test]
    fn both_forms_are_what_a_strict_reader_takes_and_hold_the_same() {
        for metrics in [Metrics::default(), used()] {
            let read = |form| strictly_read(form, &metrics.render_as(form));
            assert_eq!(read(Form::OpenMetrics), read(Form::Text));
        }
    }

    #[test]
    fn the_form_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, form) in [
            (None, Form::Text),
            (Some(""), Form::Text),
            (Some("*/*"), Form::Text),
            (Some("text/html"), Form::Text),
            (Some("text/plain; version=0.0.4"), Form::Text),
            (Some("application/openmetrics-text"), Form::OpenMetrics),
            (Some("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"), Form::OpenMetrics),
            (Some("application/openmetrics-text; version=7.0.0"), Form::Text),
            (Some("application/openmetrics-text; q=0"), Form::Text),
            (Some("application/openmetrics-text; q=0.1, text/plain"), Form::Text),
            (Some("application/openmetrics-text; q=nonsense"), Form::Text),
            (Some(prometheus), Form::OpenMetrics),
        ] {
            assert_eq!(Form::wanted(accept), form, "{accept:?}");
        }
    }

    /// The names of ours in a text.
    fn named(text: &str) -> BTreeSet<&str> {
        let words = text.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
        words.filter(|word| ["agentkit_", "gen_ai_", "process_"].iter().any(|ours| word.starts_with(ours))).collect()
    }

    #[test]
    fn every_metric_that_alerts_and_dashboard_name_exists_and_labels_have_the_values_that_alerts_ask_for() {
        let metrics = used();
        let text = metrics.render_as(Form::Text);
        let names = strictly_read(Form::Text, &text);
        for (file, words) in [("alerts.yaml", named(ALERTS)), ("grafana.json", named(GRAFANA))] {
            let labels: BTreeSet<&str> = text.lines().flat_map(|line| line.split(['{', ',', '='])).collect();
            let missing: Vec<_> =
                words.iter().filter(|word| !names.contains(**word) && !labels.contains(*word)).collect();
            assert!(missing.is_empty() && words.len() > 5, "{file} names what there is not: {missing:?}");
        }
        // An alert on an increase sees the first one only where the series was there before.
        let fresh = Metrics::default().render_as(Form::Text);
        for series in ALERTS.match_indices("increase(").map(|(at, _)| &ALERTS[at + "increase(".len()..]) {
            let selector = &series[..series.find('[').unwrap()];
            let (name, matcher) = selector.split_once('{').unwrap_or((selector, "}"));
            let matcher = matcher.trim_end_matches('}');
            let (label, values) = matcher.split_once("=~").or_else(|| matcher.split_once('=')).unwrap_or_default();
            for value in values.trim_matches('"').split('|') {
                let wanted = if label.is_empty() { String::new() } else { format!("{label}=\"{value}\"") };
                let is_there = |line: &str| line.starts_with(name) && line.contains(&wanted) && line.ends_with(" 0");
                assert!(fresh.lines().any(is_there), "{name} {wanted} is missing before anything happened");
            }
        }
    }

    #[test]
    fn tools_without_end_are_one_series_at_last() {
        let metrics = Metrics::default();
        for number in 0..2000 {
            metrics.tool_called(&format!("tool_{number}"), "read", "done", 0.1);
        }
        metrics.tool_called("tool_7", "read", "done", 0.1);
        let text = metrics.render_as(Form::Text);
        assert_eq!(text.lines().filter(|line| line.starts_with("agentkit_tool_calls_total{tool=\"tool_")).count(), 300);
        assert!(text.contains("agentkit_tool_calls_total{tool=\"other\",effect=\"read\",outcome=\"done\"} 1700"));
        assert!(text.contains("agentkit_tool_calls_total{tool=\"tool_7\",effect=\"read\",outcome=\"done\"} 2"));
    }
}

//! The figures of this process, as `/metrics` prints them.

use std::collections::BTreeMap;

/// The lines of the OpenMetrics text.
pub(super) struct Figures(String);

impl Figures {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum over all lines of a metric, whatever their labels.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.lines(name).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The same for each value of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.lines(name) {
            if let Some(label) = value_of(labels, label) {
                *sums.entry(label).or_default() += value;
            }
        }
        sums
    }

    fn lines<'f>(&'f self, name: &'f str) -> impl Iterator<Item = (&'f str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let labels = match labels {
                "" => "",
                labels => labels.strip_prefix('{')?.strip_suffix('}')?,
            };
            Some((labels, value.parse().ok()?))
        })
    }
}

/// The value of one label among `a="b",c="d"`, where quotes, backslashes and line breaks stand behind a backslash.
fn value_of(labels: &str, wanted: &str) -> Option<String> {
    let mut rest = labels;
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        if name == wanted {
            return Some(value);
        }
        rest = after[end + 1..].trim_start_matches(',');
    }
}

/// A count as it is read: `12 345`.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn what_was_counted_is_found_in_what_is_printed() {
        let metrics = Metrics::default();
        metrics.job_ended("completed", 5);
        metrics.job_ended("completed", 5);
        metrics.job_ended("failed \"x\"\\,a=\n", 5);
        metrics.tokens_used("m", 1000, 20, 3);
        let place = metrics.job_in_flight();
        let figures = Figures::new(metrics.render());
        let outcomes = figures.by("agentkit_jobs_total", "outcome");
        let counted = [
            outcomes["completed"],
            outcomes["failed \"x\"\\,a=\n"],
            figures.sum("agentkit_jobs_in_flight"),
            figures.by("agentkit_model_tokens_total", "kind")["input"],
            figures.sum("agentkit_nothing"),
        ];
        assert_eq!(counted.map(count), ["2", "1", "1", "1\u{202f}000", "0"]);
        drop(place);
    }

    #[test]
    fn a_count_is_grouped() {
        for (value, text) in
            [(0.0, "0"), (999.0, "999"), (1000.0, "1\u{202f}000"), (1_234_567.0, "1\u{202f}234\u{202f}567")]
        {
            assert_eq!(count(value), text);
        }
    }
}

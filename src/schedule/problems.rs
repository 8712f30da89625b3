//! What is wrong with a definition, each with file and line.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Problems of a file, each with its line.
pub(super) struct Problems<'a> {
    text: &'a str,
    file: &'a Path,
    table: Option<Spanned<DeTable<'a>>>,
    /// All so far.
    pub found: Vec<String>,
}

impl<'a> Problems<'a> {
    /// Problems of `file`, which holds `text`.
    pub(super) fn new(text: &'a str, file: &'a Path) -> Self {
        Self { text, file, table: DeTable::parse(text).ok(), found: Vec::new() }
    }

    /// Adds one; `path` is the key that it is about (`limits.steps`, `recipients.list.2`).
    pub(super) fn add(&mut self, path: &str, problem: &str) {
        let key = if path.is_empty() { String::new() } else { format!("{path}: ") };
        self.found.push(format!("{}: {key}{problem}", self.place(path)));
    }

    /// The duration at `key`, with a problem where it is none or longer than `longest`.
    pub(super) fn duration(&mut self, key: &str, text: Option<&str>, default: Duration, longest: Duration) -> Duration {
        let Some(text) = text else { return default };
        match text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok()) {
            Some(duration) if duration <= longest => duration,
            Some(_) => {
                self.add(key, &format!("`{text}` is longer than {} h", longest.as_secs() / 3600));
                default
            }
            None => {
                self.add(key, &format!("`{text}` is no duration; write it like `15m` or `1h 30m`"));
                default
            }
        }
    }

    /// `file:line` of the last part of `path` that the file has.
    pub(super) fn place(&self, path: &str) -> String {
        let mut span = 0..0;
        let mut value = self.table.as_ref().map(|table| Here::Table(table.get_ref()));
        for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            let found = match value {
                Some(Here::Table(table)) => table
                    .iter()
                    .find(|(key, _)| key.get_ref().as_ref() == part)
                    .map(|(key, value)| (key.span(), value.get_ref())),
                Some(Here::Value(DeValue::Array(array))) => {
                    let element = part.parse::<usize>().ok().and_then(|index| array.get(index));
                    element.map(|value| (value.span(), value.get_ref()))
                }
                _ => None,
            };
            let Some((at, inner)) = found else { break };
            span = at;
            value = Some(match inner {
                DeValue::Table(table) => Here::Table(table),
                other => Here::Value(other),
            });
        }
        format!("{}:{}", self.file.display(), self.line(span))
    }

    /// The line at which `span` of the text begins.
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.get(..span.start.min(self.text.len())).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }
}

enum Here<'a> {
    Table(&'a DeTable<'a>),
    Value(&'a DeValue<'a>),
}

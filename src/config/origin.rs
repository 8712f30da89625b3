//! Where a value of the configuration comes from, and what somebody may have meant who wrote what there is not.

use std::path::Path;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use toml::de::{DeTable, DeValue};

use super::{Sources, WELL_KNOWN};

/// What our own variables begin with.
pub(super) const OWN: &str = "AGENTKIT_WORKER__";
/// The same, as people misremember it.
const NEARLY_OWN: [&str; 3] = ["AGENTKIT_WORKER_", "AGENTKIT__", "AGENTKIT_"];
/// Names that differ by more than so many characters are different names.
const FAR: usize = 2;

/// The one of `known` that `written` is most like, if it is like any.
pub(super) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let written = written.to_lowercase();
    // Of a short name every letter counts.
    let far = FAR.min(written.chars().count() / 3);
    let distance = |name: &&str| strsim::osa_distance(&written, &name.to_lowercase());
    known
        .into_iter()
        .map(|name| (distance(&name), name))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, name)| name)
}

/// `text` with what was meant, where it complains about a name and says which ones there are: between backticks, as serde does.
pub(super) fn with_suggestion(text: &str) -> String {
    let mut names = text.split('`').skip(1).step_by(2);
    let complains = text.contains("unknown field") || text.contains("unknown variant");
    match names.next().filter(|_| complains).and_then(|written| nearest(written, names)) {
        Some(meant) => format!("{text} (did you mean `{meant}`?)"),
        None => text.to_owned(),
    }
}

/// `problem`, which begins with the section, with the words that there are where it complains about one: the library names
/// our type instead.
pub(super) fn choices<T: JsonSchema>(problem: String) -> String {
    let Some((path, rest)) = problem.split_once(": enum ") else { return problem };
    let Some((_, written)) = rest.split_once(" does not have variant constructor ") else { return problem };
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    let node = path.split('.').skip(1).try_fold(&schema, |node, key| node.get("properties")?.get(key));
    let words = |list: &str| node.and_then(|node| node.get(list)?.as_array()).into_iter().flatten();
    let each = words("oneOf").flat_map(|one| {
        one.get("const")
            .into_iter()
            .chain(one.get("enum").into_iter().filter_map(serde_json::Value::as_array).flatten())
    });
    let known: Vec<_> =
        words("enum").chain(each).filter_map(serde_json::Value::as_str).map(|word| format!("`{word}`")).collect();
    format!("{path}: unknown variant `{written}`, expected one of {}", known.join(", "))
}

/// The error with its place, but without the value that it complains about: that may be a secret.
pub(super) fn without_values(error: &::config::ConfigError) -> String {
    use ::config::ConfigError;
    let place = |key: &Option<String>| key.as_ref().map(|key| format!(".{key}")).unwrap_or_default();
    match error {
        ConfigError::Type { key, expected, .. } => format!("{}: must be {expected}", place(key)),
        ConfigError::At { error, key, .. } => format!("{}{}", place(key), without_values(error)),
        other => format!(": {other}"),
    }
}

impl Sources {
    /// Where the value of a key comes from: a variable, or a file and its line; `None` for a default. A key that is not found is
    /// looked for as its parents.
    pub(crate) fn origin(&self, path: &str) -> Option<String> {
        let mut path: Vec<&str> = path.split('.').collect();
        while path.len() > 1 {
            if let Some(origin) = self.variable_of(&path).or_else(|| self.line_of(&path)) {
                return Some(origin);
            }
            path.pop();
        }
        self.line_of(&path)
    }

    /// `problem`, which begins with the path of a key, and where its value comes from.
    pub(crate) fn with_origin(&self, problem: String) -> String {
        let path = problem.split(':').next().unwrap_or_default();
        let is_path = path.split('.').all(|part| {
            !part.is_empty() && part.chars().all(|one| one.is_ascii_alphanumeric() || one == '_' || one == '-')
        });
        match self.origin(path).filter(|_| is_path) {
            Some(origin) => format!("{problem} (in {origin})"),
            None => problem,
        }
    }

    /// Variables that are set and do nothing, though somebody may think that they do.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in self.environment.keys() {
            if let Some(base) = name.strip_suffix("_FILE")
                && (base.starts_with(OWN) || WELL_KNOWN.iter().any(|(known, _)| *known == base))
                && !name.contains("__TLS__")
                && self.variable(base).is_some()
            {
                let place = if self.dotenv.contains(base) { " in .env" } else { "" };
                warnings.push(format!("{name} is not read: {base} is set{place}, and wins"));
            } else if let Some(meant) = meant_variable(name) {
                warnings.push(format!("{name} is not read: did you mean {meant}?"));
            }
        }
        warnings
    }

    fn variable_of(&self, path: &[&str]) -> Option<String> {
        let own = format!("{OWN}{}", path.join("__")).to_ascii_uppercase();
        let key = path.join(".");
        let known = WELL_KNOWN.iter().rev().filter(|(_, of)| *of == key).map(|(name, _)| (*name).to_owned());
        // In the order in which they win.
        let mut names = [own].into_iter().chain(known).flat_map(|name| [name.clone(), format!("{name}_FILE")]);
        let name = names.find(|name| self.variable(name).is_some())?;
        Some(if self.dotenv.contains(&name) { format!("{name} of .env") } else { name })
    }

    fn line_of(&self, path: &[&str]) -> Option<String> {
        // What comes later wins.
        let files = self.file.iter().chain(&self.local);
        files.into_iter().find_map(|file| line_in(file, path))
    }
}

fn line_in(file: &Path, path: &[&str]) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let table = DeTable::parse(&text).ok()?;
    let (mut table, mut at) = (table.into_inner(), None);
    for (depth, name) in path.iter().enumerate() {
        let (key, value) = table.into_iter().find(|(key, _)| key.get_ref() == name)?;
        at = Some(key.span().start);
        table = match value.into_inner() {
            DeValue::Table(inner) => inner,
            _ if depth + 1 == path.len() => DeTable::new(),
            _ => return None,
        };
    }
    let line = text.get(..at?)?.matches('\n').count() + 1;
    Some(format!("{}, line {line}", file.display()))
}

/// A variable that the name is nearly.
fn meant_variable(name: &str) -> Option<String> {
    if name.starts_with(OWN) || WELL_KNOWN.iter().any(|(known, _)| *known == name) {
        return None;
    }
    if let Some(rest) = NEARLY_OWN.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        let rest = rest.trim_start_matches('_');
        let (section, key) = rest.split_once("__").or_else(|| rest.split_once('_'))?;
        return Some(format!("{OWN}{section}__{key}"));
    }
    let base = name.strip_suffix("_FILE").unwrap_or(name);
    let known = WELL_KNOWN.iter().map(|(known, _)| *known);
    nearest(base, known).filter(|meant| *meant != base).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::config::Config;

    fn of(variables: &[(&str, &str)]) -> Sources {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Sources { environment: environment.collect::<BTreeMap<_, _>>(), ..Sources::default() }
    }

    fn problems(sources: &Sources) -> String {
        Config::load(sources).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_told_with_where_they_are_what_is_allowed_and_what_was_meant() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# mine\n[worker]\nconcurrenci = 3\nlease_seconds = \"hunter2\"\n\n[htpp]\nbind = \"x\"\n\n[log]\nformat = \"jsn\"\n";
        std::fs::write(file.path(), text).unwrap();
        let sources = Sources {
            file: Some(file.path().to_owned()),
            ..of(&[("AGENTKIT_WORKER__HTTP__BINDD", "x"), ("AGENTKIT_WORKER__WORKER__STRIKES", "hunter2")])
        };
        let told = problems(&sources);
        let place = |line: usize| format!("(in {}, line {line})", file.path().display());
        for parts in [
            ["worker", "concurrenci", "did you mean `concurrency`?", &place(3)],
            ["worker.lease_seconds", "must be", "integer", &place(4)],
            ["htpp", "no such section", "did you mean `http`?", &place(6)],
            ["log.format", "`text`", "did you mean `json`?", &place(10)],
            ["http", "bindd", "did you mean `bind`?", "(in AGENTKIT_WORKER__HTTP__BINDD)"],
            ["worker.strikes", "must be", "integer", "(in AGENTKIT_WORKER__WORKER__STRIKES)"],
        ] {
            assert!(told.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in {told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn variables_that_do_nothing_are_warned_of_and_others_are_not() {
        let dotenv = BTreeSet::from(["OPENAI_API_KEY".to_owned()]);
        let sources = Sources {
            dotenv,
            ..of(&[
                ("OPENAI_API_KEY", "hunter2"),
                ("OPENAI_API_KEY_FILE", "/run/secrets/openai"),
                ("SCALEKIT_CLIENTID", "skc"),
                ("AMQP_URI", "amqp://"),
                ("AGENTKIT_WORKER_HTTP__BIND", "x"),
                ("AGENTKIT_WORKER__HTTP__BIND", "x"),
                ("REDIS_URL_FILE", "/run/secrets/redis"),
                ("HOME", "/root"),
                ("OPENAI_ORG_ID", "org"),
                ("AMQP_HOST", "x"),
                ("PATH", "/bin"),
            ])
        };
        let expected = [
            "AGENTKIT_WORKER_HTTP__BIND is not read: did you mean AGENTKIT_WORKER__HTTP__BIND?",
            "AMQP_URI is not read: did you mean AMQP_URL?",
            "OPENAI_API_KEY_FILE is not read: OPENAI_API_KEY is set in .env, and wins",
            "SCALEKIT_CLIENTID is not read: did you mean SCALEKIT_CLIENT_ID?",
        ];
        assert_eq!(sources.warnings(), expected);
    }

    #[test]
    fn short_names_are_not_taken_for_each_other() {
        assert_eq!(nearest("url", ["uri", "user"]), Some("uri"));
        assert_eq!(nearest("ab", ["ac", "b"]), None);
        assert_eq!(nearest("", ["a"]), None);
        assert_eq!(nearest("concurency", ["concurrency", "prefetch"]), Some("concurrency"));
    }
}

//! The JSON Schema of the configuration: the types as the components declare them, with the defaults and the meanings that
//! stand in `config/default.toml`.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::config::{Config, DEFAULTS};

/// The schema. Nothing is required, as every key has a default.
pub(super) fn config_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    schema["title"] = "agentkit-worker configuration".into();
    demand_nothing(&mut schema);
    let defaults = toml::from_str(DEFAULTS).expect("compiled in, and read by every test");
    let Value::Object(sections) = &defaults else { return schema };
    set_defaults(&mut schema, sections);
    for (path, meaning) in meanings(DEFAULTS) {
        if let Some(node) = path.iter().try_fold(&mut schema, |node, name| node.get_mut("properties")?.get_mut(name)) {
            node["description"] = meaning.into();
        }
    }
    schema
}

fn demand_nothing(node: &mut Value) {
    let Some(node) = node.as_object_mut() else { return };
    if node.contains_key("properties") {
        node.remove("required");
        node.insert("additionalProperties".to_owned(), false.into());
    }
    for property in node.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        demand_nothing(property.1);
    }
}

fn set_defaults(schema: &mut Value, defaults: &Map<String, Value>) {
    for (name, value) in defaults {
        let Some(node) = schema.get_mut("properties").and_then(|properties| properties.get_mut(name)) else { continue };
        match value {
            Value::Object(inner) if node.get("properties").is_some() => {
                // What the code says of a group as a whole the file says of each of its keys.
                node.as_object_mut().map(|node| node.remove("default"));
                set_defaults(node, inner);
            }
            value => node["default"] = value.clone(),
        }
    }
}

/// What the comments of the file say, each with the path of its key or section.
fn meanings(text: &str) -> Vec<(Vec<String>, String)> {
    let mut found: Vec<(Vec<String>, String)> = Vec::new();
    let mut section: Vec<String> = Vec::new();
    let mut in_text = false;
    for line in text.lines() {
        let (code, comment) = split(line);
        let statement = code.trim_start_matches("# ").trim();
        if let Some(name) = statement.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
            && !in_text
            && !name.is_empty()
            && !name.contains('"')
        {
            section = name.split('.').map(str::to_owned).collect();
            found.push((section.clone(), comment.to_owned()));
        } else if let Some(key) = statement.split_once(" = ").map(|(key, _)| key).filter(|key| !in_text && is_key(key))
        {
            let path = section.iter().cloned().chain([key.to_owned()]).collect();
            found.push((path, comment.to_owned()));
        } else if let Some((_, meaning)) = found.last_mut().filter(|_| !in_text && !comment.is_empty()) {
            // The comment goes on, or stands behind the end of a long value.
            format!("{meaning} {comment}").trim().clone_into(meaning);
        }
        in_text ^= line.matches("\"\"\"").count() % 2 == 1;
    }
    found.retain(|(_, meaning)| !meaning.is_empty());
    found
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_lowercase() || character == '_')
}

/// What a line says and its comment. A key that is commented out is something said.
fn split(line: &str) -> (&str, &str) {
    let begin = usize::from(line.starts_with("# ")) * 2;
    let mut quoted = false;
    let end = line[begin..].char_indices().find(|(_, character)| {
        quoted ^= *character == '"';
        *character == '#' && !quoted
    });
    match end {
        Some((at, _)) => (&line[..begin + at], line[begin + at + 1..].trim()),
        None => (line, ""),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        for (name, node) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match node.get("properties") {
                Some(_) => leaves(node, &path, found),
                None => drop(found.insert(path)),
            }
        }
    }

    #[test]
    fn each_key_of_the_schema_stands_in_the_file_and_each_key_of_the_file_in_the_schema() {
        let mut declared = BTreeSet::new();
        leaves(&config_schema(), "", &mut declared);
        let mut section = String::new();
        let mut written = BTreeSet::new();
        for line in DEFAULTS.lines() {
            let statement = split(line).0.trim_start_matches("# ").trim();
            if let Some(name) = statement.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
            } else if let Some((key, _)) = statement.split_once(" = ").filter(|(key, _)| is_key(key)) {
                written.insert(format!("{section}.{key}"));
            }
        }
        // Their keys are the user's own.
        let of_maps = ["connections", "http.tokens", "mcp", "model.prices", "providers", "tools.effects"];
        let written: BTreeSet<_> =
            written.into_iter().filter(|key| !of_maps.iter().any(|map| key.starts_with(&format!("{map}.")))).collect();
        let declared: BTreeSet<_> = declared.into_iter().filter(|key| !of_maps.contains(&key.as_str())).collect();
        assert_eq!(declared, written);
    }

    #[test]
    fn the_defaults_fit_the_schema_and_what_they_are_not_does_not() {
        let schema = Schema::compile(&config_schema()).unwrap();
        let defaults: Value = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(schema.problems(&defaults), Vec::<String>::new());
        for (pointer, value) in [
            ("/worker/concurrency", json!("many")),
            ("/amqp/topology", json!("declared")),
            ("/log/format", json!("yaml")),
            ("/model/timeout_seconds", json!(-1)),
        ] {
            let mut wrong = defaults.clone();
            *wrong.pointer_mut(pointer).unwrap() = value;
            assert_eq!(schema.problems(&wrong).len(), 1, "{pointer}");
        }
        let mut unknown = defaults.clone();
        unknown["worker"]["concurency"] = 3.into();
        assert_eq!(schema.problems(&unknown).len(), 1);
    }

    #[test]
    fn comments_become_meanings_wherever_they_stand() {
        let text = "[a]                 # of all\nkey = \"x # y\"   # first\n                # second\n# other = 1 # off\n\
                    list = [\n    \"z\",\n]   # behind\n[a.b]\nplain = 1\ntext = \"\"\"\n# no = 1 # comment\n\"\"\"\n";
        let found = meanings(text);
        let of = |path: &str| {
            found
                .iter()
                .find(|(found, _)| found.join(".") == path)
                .map(|(_, meaning)| meaning.as_str())
                .unwrap_or_default()
        };
        assert_eq!(of("a"), "of all");
        assert_eq!(of("a.key"), "first second");
        assert_eq!(of("a.other"), "off");
        assert_eq!(of("a.list"), "behind");
        assert_eq!(of("a.b.plain"), "");
        assert_eq!(of("a.b.no"), "");
    }
}

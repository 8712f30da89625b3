//! The connections and tool definitions of the stand-in, read from the data files beside it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::data::embedded;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Connection {
    /// The name that callers use; not the provider's.
    pub(super) name: String,
    pub(super) id: String,
    pub(super) provider: String,
    pub(super) enabled: bool,
}

/// One tool, wrapped as the tool lists give it.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) provider: String,
    /// `{id, provider, definition, metadata, tags, is_default, updated_at}`.
    pub(super) entry: Value,
}

impl Tool {
    /// The parameters' schema; null for a tool that has none.
    pub(super) fn input_schema(&self) -> &Value {
        &self.entry["definition"]["input_schema"]
    }

    /// Whether the definition says that the tool only reads, in either of the spellings that occur.
    pub(super) fn is_read_only(&self) -> bool {
        let hints = &self.entry["definition"]["annotations"];
        hints["read_only_hint"] == true || hints["readOnlyHint"] == true
    }
}

/// All connections and tools.
#[derive(Debug)]
pub(super) struct Catalogue {
    connections: BTreeMap<String, Connection>,
    tools: Vec<Tool>,
}

impl Catalogue {
    /// Reads the compiled-in data.
    pub(super) fn load() -> Self {
        let connections: Vec<Connection> = embedded(include_str!("data/connections.json"));
        let written = [
            ("GMAIL", include_str!("data/gmail.json")),
            ("GOOGLECALENDAR", include_str!("data/googlecalendar.json")),
            ("SLACK", include_str!("data/slack.json")),
            ("NOTESMCP", include_str!("data/notes.json")),
        ];
        let mut definitions: Vec<(&str, Value)> = Vec::new();
        for (provider, text) in written {
            definitions.extend(embedded::<Vec<Value>>(text).into_iter().map(|definition| (provider, definition)));
        }
        let table: Table = embedded(include_str!("data/github.json"));
        definitions.extend(table.definitions().into_iter().map(|definition| ("GITHUB", definition)));
        let tools =
            definitions.into_iter().enumerate().map(|(index, (provider, d))| entry(index, provider, d)).collect();
        Self { connections: connections.into_iter().map(|c| (c.name.clone(), c)).collect(), tools }
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    pub(super) fn connection(&self, name: &str) -> Option<&Connection> {
        self.connections.get(name)
    }

    /// The connection with this name, whatever the case of its letters.
    pub(super) fn connection_in_any_case(&self, name: &str) -> Option<&Connection> {
        self.connections().find(|connection| connection.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn tools(&self) -> &[Tool] {
        &self.tools
    }

    pub(super) fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}

/// Many similar tools: every verb for every resource.
#[derive(Deserialize)]
struct Table {
    prefix: String,
    category: String,
    resources: Vec<Resource>,
    /// Parameters that all of them take and need.
    scope: Map<String, Value>,
    verbs: Vec<Verb>,
}

#[derive(Deserialize)]
struct Resource {
    one: String,
    many: String,
}

#[derive(Deserialize)]
struct Verb {
    #[serde(rename = "verb")]
    name: String,
    description: String,
    properties: Map<String, Value>,
    required: Vec<String>,
}

impl Table {
    fn definitions(&self) -> Vec<Value> {
        let pairs = self.resources.iter().flat_map(|resource| self.verbs.iter().map(move |verb| (resource, verb)));
        pairs.map(|(resource, verb)| self.definition(resource, verb)).collect()
    }

    fn definition(&self, resource: &Resource, verb: &Verb) -> Value {
        let noun = if verb.name == "list" { &resource.many } else { &resource.one };
        let in_words = |text: &str| {
            text.replace("{one}", &resource.one.replace('_', " ")).replace("{many}", &resource.many.replace('_', " "))
        };
        let mut properties = self.scope.clone();
        properties.extend(verb.properties.clone());
        for property in properties.values_mut() {
            if let Some(Value::String(description)) = property.get_mut("description") {
                *description = in_words(description);
            }
        }
        let required: Vec<&String> = self.scope.keys().chain(&verb.required).collect();
        json!({
            "name": format!("{}_{noun}_{}", self.prefix, verb.name),
            "description": in_words(&verb.description),
            "category": self.category,
            "input_schema": {"type": "object", "properties": properties, "required": required},
        })
    }
}

fn entry(index: usize, provider: &str, mut definition: Value) -> Tool {
    let name = definition["name"].as_str().unwrap_or_default().to_owned();
    definition["provider"] = provider.to_ascii_lowercase().into();
    let entry = json!({
        "id": format!("tol_{}", 5000 + index),
        "provider": provider,
        "definition": definition,
        "metadata": {},
        "tags": [],
        "is_default": true,
        "updated_at": "2026-07-01T10:00:00Z",
    });
    Tool { name, provider: provider.to_owned(), entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_alone_exceeds_the_tool_limit_of_the_model_apis() {
        let catalogue = Catalogue::load();
        assert!(catalogue.tools().iter().filter(|tool| tool.provider == "GITHUB").count() > 128);
    }

    #[test]
    fn tool_names_are_unique() {
        let catalogue = Catalogue::load();
        let names: std::collections::BTreeSet<_> = catalogue.tools().iter().map(|tool| &tool.name).collect();
        assert_eq!(names.len(), catalogue.tools().len());
    }
}

//! A tool as a run sees it: its name on both sides, whose connection runs it, and what it does to the world.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::effect::{Effect, Stated, effect_by_hints, stated_effect};
use super::event::PinnedTool;
use crate::job::ConnectionName;
use crate::key::digest;
use crate::schema::{BadSchema, Schema};
use crate::text::{visible, visible_value};

/// Longest name of a function that the model APIs accept.
const MAX_MODEL_NAME: usize = 64;
/// Parameters of many built-in tools that steer Scalekit, not the tool: no business of a model.
const HIDDEN_PARAMETERS: [&str; 2] = ["schema_version", "tool_version"];

/// A tool that a user may use through one connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tool {
    /// The name at Scalekit, up to 100 characters.
    pub name: String,
    /// The name a model accepts: 1 to 64 of `[A-Za-z0-9_-]`, unique within the run.
    pub model_name: String,
    /// The connection that runs it. Always the job's, never the model's word.
    pub connection: ConnectionName,
    /// What it does to the world.
    pub effect: Effect,
    /// The same by the hints of its definition, where they say less of it: for operators who believe them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hinted: Option<Effect>,
    /// What the model reads about it.
    pub description: String,
    /// JSON Schema of the arguments as the model sees it, already printed: an object schema with `properties`, without
    /// `schema_version` and `tool_version`.
    pub parameters: Arc<RawValue>,
}

impl Tool {
    /// The tool that `definition` describes (Scalekit's free-form `definition`: everything but `name` may be missing),
    /// or `None` where it has no name. What a model reads of it is what people see.
    pub fn from_definition(definition: &Value, connection: &ConnectionName) -> Option<Self> {
        Self::read(definition, connection, &HIDDEN_PARAMETERS)
    }

    /// The tool that an MCP server of the operator's describes: the model knows it by the server's name, too, and its name says
    /// nothing of its effect.
    pub fn of_server(definition: &Value, server: &str, connection: &ConnectionName) -> Option<Self> {
        let tool = Self::read(definition, connection, &[])?;
        let believed = effect_by_hints(definition);
        Some(Self {
            model_name: model_name(&prefixed(server, &tool.name)),
            effect: Effect::Write,
            hinted: Some(believed).filter(|believed| *believed != Effect::Write),
            ..tool
        })
    }

    fn read(definition: &Value, connection: &ConnectionName, hidden: &[&str]) -> Option<Self> {
        let name = definition.get("name")?.as_str().filter(|name| !name.is_empty())?;
        let text = |field: &str| definition.get(field).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
        let schema = definition.get("input_schema").or_else(|| definition.get("inputSchema"));
        let parameters = visible_value(model_schema(schema, hidden));
        let Stated { doubted, believed } = stated_effect(name, definition);
        let described = text("description").or_else(|| text("display_name")).or_else(|| text("title"));
        Some(Self {
            name: name.to_owned(),
            model_name: model_name(name),
            connection: connection.clone(),
            effect: doubted,
            hinted: Some(believed).filter(|believed| *believed != doubted),
            description: visible(described.unwrap_or(name)).into_owned(),
            parameters: serde_json::value::to_raw_value(&parameters).expect("JSON values print").into(),
        })
    }

    /// Whether checking arguments by the tool's schema costs no more than it may.
    pub fn check_schema(&self) -> Result<(), BadSchema> {
        let schema: Value = serde_json::from_str(self.parameters.get()).unwrap_or_default();
        Schema::is_affordable(&schema)
    }

    /// What the journal keeps of it.
    pub fn pinned(&self) -> PinnedTool {
        PinnedTool {
            name: self.name.clone(),
            model_name: self.model_name.clone(),
            connection: self.connection.clone(),
            effect: self.effect,
        }
    }
}

/// The name under which people and models know a tool of an MCP server of the operator's.
fn prefixed(server: &str, name: &str) -> String {
    format!("{server}__{name}")
}

/// What `rules` say of the tool `name`: by that name or, of an MCP server of the operator's, by the one that has the server's
/// before it, which counts more.
pub fn rule_for<T>(name: &str, connection: &ConnectionName, rule: impl Fn(&str) -> Option<T>) -> Option<T> {
    let with_server = connection.mcp_server().map(|server| prefixed(server, name));
    with_server.and_then(|name| rule(&name)).or_else(|| rule(name))
}

/// Whether `names` have the tool in one of these ways.
pub fn is_named(names: &BTreeSet<String>, name: &str, connection: &ConnectionName) -> bool {
    rule_for(name, connection, |name| names.contains(name).then_some(())).is_some()
}

/// A name that the model APIs accept. A name that had to be changed carries a mark of the original, so that two names
/// never become one.
pub fn model_name(name: &str) -> String {
    let legal = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
    if name.len() <= MAX_MODEL_NAME && name.chars().all(legal) && !name.is_empty() {
        return name.to_owned();
    }
    marked(name, name)
}

/// `name` made legal and shortened, with a mark made of `origin`.
pub(super) fn marked(name: &str, origin: &str) -> String {
    let mark = digest(origin, 4);
    let legal = |character: char| if character.is_ascii_alphanumeric() || character == '-' { character } else { '_' };
    let stem: String = name.chars().map(legal).take(MAX_MODEL_NAME - mark.len() - 1).collect();
    format!("{stem}_{mark}")
}

/// The arguments' schema as a model gets it: an object with `properties`, arrays with `items` (model servers refuse them
/// without), and without what is `hidden`, as it is not the model's business.
fn model_schema(input: Option<&Value>, hidden: &[&str]) -> Value {
    let mut schema = match input {
        Some(Value::Object(fields)) => Value::Object(fields.clone()),
        _ => json!({}),
    };
    let fields = schema.as_object_mut().expect("made an object above");
    fields.remove("$schema");
    fields.insert("type".into(), "object".into());
    if !fields.get("properties").is_some_and(Value::is_object) {
        fields.insert("properties".into(), json!({}));
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|name, _| !hidden.contains(&name.as_str()));
    }
    match fields.get_mut("required") {
        Some(Value::Array(required)) => {
            required.retain(|name| name.as_str().is_some_and(|name| !hidden.contains(&name)));
        }
        Some(_) => drop(fields.remove("required")),
        None => {}
    }
    complete_arrays(&mut schema, 0);
    schema
}

fn complete_arrays(schema: &mut Value, depth: usize) {
    const MAX_DEPTH: usize = 32;
    if depth > MAX_DEPTH {
        return;
    }
    match schema {
        Value::Object(fields) => {
            let is_array = match fields.get("type") {
                Some(Value::String(name)) => name == "array",
                Some(Value::Array(names)) => names.iter().any(|name| name == "array"),
                _ => false,
            };
            if is_array && !fields.contains_key("items") {
                fields.insert("items".into(), json!({}));
            }
            fields.values_mut().for_each(|value| complete_arrays(value, depth + 1));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| complete_arrays(value, depth + 1)),
        _ => {}
    }
}

impl PartialEq for Tool {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, model_name, connection, effect, hinted, description, parameters } = other;
        (&self.name, &self.model_name, &self.connection) == (name, model_name, connection)
            && (self.effect, self.hinted, &self.description) == (*effect, *hinted, description)
            && self.parameters.get() == parameters.get()
    }
}

impl Eq for Tool {}

/// The tools that runs offer, sorted by name, found by the name that the model knows.
#[derive(Debug, Default)]
pub struct Toolset {
    tools: Vec<Arc<Tool>>,
    by_model_name: HashMap<String, usize>,
    schemas: Vec<OnceLock<Option<Schema>>>,
}

impl Toolset {
    /// A set of `tools`, whose model names are unique.
    pub fn new(tools: Vec<Arc<Tool>>) -> Self {
        let by_model_name = tools.iter().enumerate().map(|(index, tool)| (tool.model_name.clone(), index)).collect();
        let schemas = tools.iter().map(|_| OnceLock::new()).collect();
        Self { tools, by_model_name, schemas }
    }

    /// All tools.
    pub fn tools(&self) -> &[Arc<Tool>] {
        &self.tools
    }

    /// The tool that the model calls `model_name`.
    pub fn find(&self, model_name: &str) -> Option<&Tool> {
        Some(&self.tools[*self.by_model_name.get(model_name)?])
    }

    /// The same as [`Toolset::problems`], where the check takes so little that it holds nobody up: the schema was compiled
    /// before, and the arguments are small.
    pub fn problems_at_once(&self, tool: &Tool, arguments: &Map<String, Value>) -> Option<Vec<String>> {
        let index = self.by_model_name.get(&tool.model_name)?;
        let Some(schema) = self.schemas[*index].get()? else { return Some(Vec::new()) };
        let arguments = Value::Object(arguments.clone());
        schema.is_quick(&arguments).then(|| schema.problems(&arguments))
    }

    /// Every way in which `arguments` break the tool's own schema. A schema that cannot be compiled says nothing: the
    /// other side decides then.
    pub fn problems(&self, tool: &Tool, arguments: &Map<String, Value>) -> Vec<String> {
        let Some(index) = self.by_model_name.get(&tool.model_name) else { return Vec::new() };
        let schema = self.schemas[*index].get_or_init(|| {
            let schema: Value = serde_json::from_str(self.tools[*index].parameters.get()).ok()?;
            Schema::compile(&schema).ok()
        });
        schema.as_ref().map(|schema| schema.problems(&Value::Object(arguments.clone()))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(definition: &Value) -> Option<Tool> {
        Tool::from_definition(definition, &ConnectionName::new("gmail").unwrap())
    }

    #[test]
    fn a_bare_definition_becomes_a_tool_without_parameters() {
        let tool = tool(&json!({"name": "acme_ping"})).unwrap();
        assert_eq!(tool.parameters.get(), r#"{"properties":{},"type":"object"}"#);
        assert_eq!((tool.description.as_str(), tool.effect), ("acme_ping", Effect::Write));
    }

    #[test]
    fn tools_of_a_server_have_its_name_before_theirs_and_write_unless_their_hints_are_believed() {
        let connection = ConnectionName::new("mcp:crm").unwrap();
        let long = "x".repeat(128);
        let tool = |name: &str, annotations: Value| {
            let properties = json!({"tool_version": {"type": "string"}});
            let definition = json!({"name": name, "title": "Finds.", "annotations": annotations,
                "inputSchema": {"properties": properties, "required": ["tool_version"]}});
            Tool::of_server(&definition, "crm", &connection).unwrap()
        };
        for (annotations, hinted) in [
            (Value::Null, None),
            (json!({"readOnlyHint": true}), Some(Effect::Read)),
            (json!({"idempotentHint": true, "destructiveHint": true}), Some(Effect::Idempotent)),
            (json!({"readOnlyHint": false, "idempotentHint": "yes"}), None),
        ] {
            let tool = tool("acme_search_contacts", annotations);
            assert_eq!(
                (tool.model_name.as_str(), tool.name.as_str()),
                ("crm__acme_search_contacts", "acme_search_contacts")
            );
            assert_eq!((tool.effect, tool.hinted, tool.description.as_str()), (Effect::Write, hinted, "Finds."));
            assert!(tool.parameters.get().contains("tool_version"), "nothing of it is hidden");
        }
        for name in ["admin.tools.list", &long] {
            let tool = tool(name, Value::Null);
            assert!(tool.model_name.starts_with("crm__") && tool.model_name.len() <= 64, "{}", tool.model_name);
            assert_eq!(tool.name, name);
        }
        let names = |name: &str| BTreeSet::from([name.to_owned()]);
        for name in ["search", "crm__search"] {
            assert!(is_named(&names(name), "search", &connection), "{name}");
        }
        assert!(!is_named(&names("crm__search"), "search", &ConnectionName::new("crm").unwrap()));
        let rules = [("search", 1), ("crm__search", 2)];
        let rule = |name: &str| rules.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule);
        assert_eq!(rule_for("search", &connection, rule), Some(2));
    }

    #[test]
    fn what_a_model_reads_of_a_tool_hides_nothing() {
        let connection = ConnectionName::new("acme").unwrap();
        let definition = json!({
            "name": "acme_ping", "description": "Pings.\u{E0053}\u{E0065}\u{200B}",
            "input_schema": {"properties": {"to": {"type": "string", "description": "Whom\u{AD}", "enum": ["a\u{202E}b"]}}},
        });
        let tool = Tool::from_definition(&definition, &connection).unwrap();
        assert_eq!(tool.description, "Pings.");
        let parameters: Value = serde_json::from_str(tool.parameters.get()).unwrap();
        assert_eq!(parameters["properties"]["to"], json!({"type": "string", "description": "Whom", "enum": ["ab"]}));
    }

    #[test]
    fn a_definition_without_a_name_is_no_tool() {
        for definition in [json!({}), json!({"name": ""}), json!({"name": 4}), json!("text"), Value::Null] {
            assert!(tool(&definition).is_none());
        }
    }

    #[test]
    fn what_is_no_business_of_the_model_is_hidden_and_arrays_are_completed() {
        let tool = tool(&json!({"name": "gmail_list_x", "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["ids", "tool_version"],
            "properties": {"ids": {"type": "array"}, "tool_version": {"type": "string"}, "schema_version": {}, "n": {"type": ["array", "null"]}}
        }}))
        .unwrap();
        let schema: Value = serde_json::from_str(tool.parameters.get()).unwrap();
        assert_eq!(
            schema,
            json!({"type": "object", "required": ["ids"], "properties": {
                "ids": {"type": "array", "items": {}}, "n": {"type": ["array", "null"], "items": {}}
            }})
        );
    }

    #[test]
    fn names_are_made_legal_and_stay_different() {
        assert_eq!(model_name("notionmcp_notion-search"), "notionmcp_notion-search");
        let long = "x".repeat(75);
        for name in ["a.b", "a b", "ä", &long, ""] {
            let made = model_name(name);
            assert!((1..=64).contains(&made.len()), "{made}");
            assert!(
                made.chars().all(|character| character.is_ascii_alphanumeric() || "_-".contains(character)),
                "{made}"
            );
        }
        assert_ne!(model_name("a.b"), model_name("a b"));
        assert_ne!(model_name(&long), model_name(&format!("{long}y")));
    }

    #[test]
    fn arguments_are_checked_against_the_tools_own_schema() {
        let tool =
            tool(&json!({"name": "t", "input_schema": {"required": ["to"], "properties": {"to": {"type": "string"}}}}));
        let set = Toolset::new(vec![Arc::new(tool.unwrap())]);
        let tool = set.find("t").unwrap();
        assert_eq!(set.problems(tool, json!({"to": "x"}).as_object().unwrap()).len(), 0);
        assert_eq!(set.problems(tool, json!({"to": 1}).as_object().unwrap()).len(), 1);
        assert!(set.find("u").is_none());
    }

    #[test]
    fn a_schema_that_is_none_lets_everything_pass() {
        let tool = tool(&json!({"name": "t", "input_schema": {"properties": {"a": {"type": "nonsense"}}}})).unwrap();
        let set = Toolset::new(vec![Arc::new(tool)]);
        assert_eq!(set.problems(set.find("t").unwrap(), &Map::new()), Vec::<String>::new());
    }
}

//! Whether a schema lies within the subset of JSON Schema that providers can enforce while a model writes.
//!
//! The subset is that of OpenAI's structured outputs (guide, read 2026-11-22); a schema outside of it is still sent, as
//! a strong hint, and the answer is checked by ourselves in either case.

use serde_json::{Map, Value};

const DEEPEST: usize = 10;
const MOST_PROPERTIES: usize = 5_000;
const MOST_ENUM_VALUES: usize = 1_000;
const MOST_CHARACTERS: usize = 120_000;

const KEYWORDS: [&str; 21] = [
    "$defs",
    "$ref",
    "additionalProperties",
    "anyOf",
    "const",
    "definitions",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maximum",
    "minItems",
    "minimum",
    "multipleOf",
    "pattern",
    "properties",
    "required",
    "type",
];
/// May stand at the root of a document and mean nothing for the value.
const ANNOTATIONS: [&str; 3] = ["$schema", "$id", "title"];
const FORMATS: [&str; 9] = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];

/// Whether `schema` can be sent with `strict: true`.
pub(super) fn fits_strict(schema: &Value) -> bool {
    let mut size = Size::default();
    schema.get("type") == Some(&Value::from("object"))
        && schema.get("anyOf").is_none()
        && fits(schema, 1, &mut size)
        && size.properties <= MOST_PROPERTIES
        && size.enum_values <= MOST_ENUM_VALUES
        && size.characters <= MOST_CHARACTERS
}

/// What the grammar of Anthropic's structured outputs does not know, of the subset above (guide, read 2026-11-24).
const NOT_IN_GRAMMAR: [&str; 9] = [
    "$ref",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxItems",
    "maximum",
    "minItems",
    "minimum",
    "multipleOf",
    "pattern",
];

/// Whether `schema` can be sent as `output_config.format` of the Messages API, which refuses any other.
pub(super) fn fits_grammar(schema: &Value) -> bool {
    fits_strict(schema) && is_in_grammar(schema)
}

fn is_in_grammar(schema: &Value) -> bool {
    let Some(node) = schema.as_object() else { return true };
    NOT_IN_GRAMMAR.iter().all(|keyword| !node.contains_key(*keyword)) && children(node).all(is_in_grammar)
}

#[derive(Default)]
struct Size {
    properties: usize,
    enum_values: usize,
    characters: usize,
}

fn fits(schema: &Value, depth: usize, size: &mut Size) -> bool {
    let Some(node) = schema.as_object().filter(|_| depth <= DEEPEST) else { return false };
    let has_meaning = ["type", "anyOf", "$ref", "enum", "const"].iter().any(|keyword| node.contains_key(*keyword));
    has_meaning
        && node.keys().all(|key| KEYWORDS.contains(&key.as_str()) || depth == 1 && ANNOTATIONS.contains(&key.as_str()))
        && fits_values(node, size)
        && (!is_of_type(node, "object") || fits_object(node, size))
        && (!is_of_type(node, "array") || node.contains_key("items"))
        && children(node).all(|child| fits(child, depth + 1, size))
}

fn fits_values(node: &Map<String, Value>, size: &mut Size) -> bool {
    let values = node.get("enum").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    size.enum_values += values.len();
    size.characters += values.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
    let format = node.get("format").is_none_or(|format| format.as_str().is_some_and(|it| FORMATS.contains(&it)));
    // Patterns that look around cannot be enforced character by character.
    let pattern = node.get("pattern").is_none_or(|pattern| pattern.as_str().is_some_and(|it| !it.contains("(?")));
    format && pattern
}

/// Every property required, nothing else allowed.
fn fits_object(node: &Map<String, Value>, size: &mut Size) -> bool {
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return false };
    let required = node.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    size.properties += properties.len();
    size.characters += properties.keys().map(String::len).sum::<usize>();
    node.get("additionalProperties") == Some(&Value::Bool(false))
        && properties.keys().all(|name| required.iter().any(|it| it == name))
}

fn is_of_type(node: &Map<String, Value>, name: &str) -> bool {
    match node.get("type") {
        Some(Value::Array(names)) => names.iter().any(|it| it == name),
        kind => kind.is_some_and(|it| it == name),
    }
}

fn children(node: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let named = ["properties", "$defs", "definitions"].into_iter();
    let named = named.filter_map(|key| node.get(key)?.as_object()).flat_map(Map::values);
    let listed = node.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    named.chain(listed).chain(node.get("items"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(properties: &Value) -> Value {
        let names: Vec<_> = properties.as_object().unwrap().keys().collect();
        json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
    }

    #[test]
    fn a_closed_object_whose_fields_are_all_required_is_strict() {
        let inner = object(&json!({"at": {"type": "string", "format": "date-time"}, "kind": {"enum": ["a", "b"]}}));
        let schema = object(&json!({
            "count": {"type": ["integer", "null"], "minimum": 0},
            "mails": {"type": "array", "items": inner},
            "either": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/x"}]}
        }));
        assert!(fits_strict(&schema));
        assert!(fits_strict(&object(&json!({}))));
        assert!(!fits_grammar(&schema) && fits_grammar(&object(&json!({}))));
        assert!(fits_grammar(&object(&json!({"minimum": {"type": "string"}}))), "a name is no keyword");
        assert!(!fits_grammar(&object(
            &json!({"list": {"type": "array", "items": {"type": "integer", "minimum": 1}}})
        )));
    }

    #[test]
    fn whatever_lies_outside_the_subset_is_not_strict() {
        let mut optional = object(&json!({"a": {"type": "string"}, "b": {"type": "string"}}));
        optional["required"] = json!(["a"]);
        let mut open = object(&json!({"a": {"type": "string"}}));
        open["additionalProperties"] = json!(true);
        let mut deep = object(&json!({}));
        for _ in 0..10 {
            deep = object(&json!({"a": deep}));
        }
        let wide: Map<String, Value> = (0..5001).map(|n| (n.to_string(), json!({"type": "null"}))).collect();
        for schema in [
            json!({"type": "object"}),
            json!({"type": "array", "items": {"type": "string"}}),
            json!(true),
            json!(null),
            optional,
            open,
            deep,
            object(&Value::Object(wide)),
            object(&json!({"a": {}})),
            object(&json!({"a": true})),
            object(&json!({"a": {"type": "array"}})),
            object(&json!({"a": {"type": "string", "format": "uri"}})),
            object(&json!({"a": {"type": "string", "pattern": "^(?=x)"}})),
            object(&json!({"a": {"type": "string", "default": "x"}})),
            object(&json!({"a": {"allOf": [{"type": "string"}]}})),
            object(&json!({"a": {"type": "object", "properties": {}}})),
            object(&json!({"a": {"enum": (0..1001).collect::<Vec<_>>()}})),
        ] {
            assert!(!fits_strict(&schema), "{}", schema.to_string().chars().take(200).collect::<String>());
        }
    }
}

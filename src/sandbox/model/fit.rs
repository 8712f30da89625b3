//! Makes a value that fits a JSON Schema, filled with what there is to say.

use serde_json::{Map, Value, json};

/// Recursive schemas end here.
const DEPTH: usize = 8;

/// A value for `schema` from the final text and the items that were found.
pub(super) fn answer(schema: &Value, text: &str, items: &[Value]) -> Value {
    Filler { root: schema, text, items }.value(schema, "", None, 0)
}

struct Filler<'a> {
    root: &'a Value,
    text: &'a str,
    items: &'a [Value],
}

impl Filler<'_> {
    /// `item` is what an element of a list is about.
    fn value(&self, schema: &Value, name: &str, item: Option<&Value>, depth: usize) -> Value {
        let schema = self.resolved(schema);
        if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
            return value.clone();
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            let choices = schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
            let null = choices.iter().find(|choice| choice["type"] == "null").filter(|_| depth >= DEPTH);
            if let Some(choice) = null.or_else(|| choices.iter().find(|choice| choice["type"] != "null")) {
                return self.value(choice, name, item, depth);
            }
        }
        match kind(schema) {
            "object" => self.object(schema, item, depth),
            "array" => self.array(schema, name, depth),
            "integer" | "number" => self.number(schema),
            "boolean" => Value::Bool(true),
            "null" => Value::Null,
            _ => self.string(schema, name, item),
        }
    }

    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }

    fn object(&self, schema: &Value, item: Option<&Value>, depth: usize) -> Value {
        let required = schema["required"].as_array();
        let properties = schema["properties"].as_object().into_iter().flatten();
        // Deep down only what is required, so that a schema that contains itself comes to an end.
        let wanted = properties
            .filter(|(name, _)| depth < DEPTH || required.is_some_and(|required| required.contains(&json!(name))));
        // A schema that demands itself without end cannot be fitted by anybody.
        let fields = wanted.take_while(|_| depth < DEPTH * 2);
        let fields = fields.map(|(name, schema)| (name.clone(), self.value(schema, name, item, depth + 1)));
        Value::Object(fields.collect::<Map<_, _>>())
    }

    fn array(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let bound = |key: &str| schema[key].as_u64().and_then(|bound| usize::try_from(bound).ok());
        let least = bound("minItems").unwrap_or(0);
        let wanted = if depth < DEPTH { self.items.len() } else { 0 };
        let count = wanted.max(least).min(bound("maxItems").unwrap_or(usize::MAX));
        let element = |index: usize| self.value(&schema["items"], name, self.items.get(index), depth + 1);
        Value::Array((0..count).map(element).collect())
    }

    fn number(&self, schema: &Value) -> Value {
        let count = self.items.len();
        let low = schema["minimum"].as_u64().and_then(|low| usize::try_from(low).ok()).unwrap_or(0);
        let high = schema["maximum"].as_u64().and_then(|high| usize::try_from(high).ok()).unwrap_or(usize::MAX);
        json!(count.max(low).min(high))
    }

    fn string(&self, schema: &Value, name: &str, item: Option<&Value>) -> Value {
        let by_format = match schema["format"].as_str() {
            Some("date-time") => Some("2026-01-01T00:00:00Z"),
            Some("date") => Some("2026-01-01"),
            Some("email") => Some("nobody@northwind.example"),
            _ => None,
        };
        let aliases = match name {
            "sender" => "from",
            "title" => "subject",
            _ => name,
        };
        let own = item.and_then(|item| item[name].as_str().or_else(|| item[aliases].as_str()));
        let fallback = item.and_then(|item| item["subject"].as_str().or_else(|| item["title"].as_str()));
        let text = by_format.or(own).or(fallback).unwrap_or(self.text);
        let limit = schema["maxLength"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        text.chars().take(limit).collect::<String>().into()
    }
}

/// The type, the first but null where there are several, or a guess from the other keywords.
fn kind(schema: &Value) -> &str {
    let first = |types: &'_ Vec<Value>| types.iter().position(|kind| kind != "null");
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(types) => first(types).and_then(|index| schema["type"][index].as_str()).unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_fits_its_schema() {
        let schema = json!({
            "type": "object",
            "properties": {
                "summary": {"type": "string", "maxLength": 20},
                "count": {"type": "integer", "minimum": 1, "maximum": 3},
                "kind": {"enum": ["digest", "none"]},
                "mails": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/mail"}},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
            },
            "required": ["summary", "count", "kind", "mails"],
            "$defs": {"mail": {
                "type": "object", "properties": {"from": {"type": "string"}, "note": {"type": ["null", "string"]}},
                "required": ["from"], "additionalProperties": false,
            }},
        });
        for items in [vec![], vec![json!({"from": "Ada", "subject": "Hi"}); 5]] {
            let value = answer(&schema, "a text that is longer than twenty", &items);
            assert!(jsonschema::is_valid(&schema, &value), "{value}");
        }
    }
}

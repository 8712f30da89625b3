//! Arguments that a server wants to see in headers as well (`x-mcp-header`, MCP 2026-07-28, Streamable HTTP), and how values
//! stand in headers.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::config::is_token;

const MARK: &str = "x-mcp-header";
/// Deeper schemas are not looked through: the parser takes none that is much deeper.
const MAX_DEPTH: usize = 128;
/// Whole numbers that every reader of JSON agrees about.
const LARGEST_WHOLE: u64 = (1 << 53) - 1;
/// Keywords whose fields are names that somebody chose, and keywords that hold values.
const NAMING: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
const VALUES: [&str; 5] = ["const", "default", "enum", "example", "examples"];
const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// One argument of a tool and the header that repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    /// The names of the properties that lead to it.
    path: Vec<String>,
    /// `Mcp-Param-…`.
    pub(super) header: String,
}

impl Mirror {
    /// Those of a tool, or why the tool is not to be offered.
    pub(super) fn all(definition: &Value) -> Result<Vec<Self>, String> {
        let mut mirrors = Vec::new();
        let schema = definition.get("inputSchema").unwrap_or(&Value::Null);
        collect(schema, Some(&mut Vec::new()), 0, &mut mirrors)?;
        let mut names = BTreeSet::new();
        match mirrors.iter().find(|mirror| !names.insert(mirror.header.to_ascii_lowercase())) {
            Some(twice) => Err(format!("two arguments have the header {}", twice.header)),
            None => Ok(mirrors),
        }
    }

    /// The header's value for these arguments; `None` where they do not have it.
    pub(super) fn value(&self, arguments: &Map<String, Value>) -> Option<String> {
        let (first, rest) = self.path.split_first()?;
        let value = rest.iter().try_fold(arguments.get(first)?, |value, name| value.get(name))?;
        match value {
            Value::String(text) => Some(header_value(text)),
            Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
            _ => None,
        }
    }
}

/// Looks through a schema; `path` is there while nothing but `properties` leads to it.
fn collect(
    schema: &Value,
    path: Option<&mut Vec<String>>,
    depth: usize,
    found: &mut Vec<Mirror>,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("its schema is nested too deep".to_owned());
    }
    match schema {
        Value::Array(all) => all.iter().try_for_each(|inner| collect(inner, None, depth + 1, found)),
        Value::Object(fields) => {
            let mut path = path;
            if let Some(name) = fields.get(MARK) {
                found.push(mirror(fields, name, path.as_deref())?);
            }
            for (key, inner) in fields.iter().filter(|(key, _)| *key != MARK) {
                match (&mut path, inner) {
                    (Some(path), Value::Object(properties)) if key == "properties" => {
                        for (name, property) in properties {
                            path.push(name.clone());
                            collect(property, Some(path), depth + 1, found)?;
                            path.pop();
                        }
                    }
                    // What has a name of its own, and an example or a default, may have the mark's without being one.
                    (_, Value::Object(named)) if NAMING.contains(&key.as_str()) => {
                        named.values().try_for_each(|inner| collect(inner, None, depth + 1, found))?;
                    }
                    _ if VALUES.contains(&key.as_str()) => {}
                    _ => collect(inner, None, depth + 1, found)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn mirror(fields: &Map<String, Value>, name: &Value, path: Option<&Vec<String>>) -> Result<Mirror, String> {
    let name = name.as_str().filter(|name| is_token(name)).ok_or("a header of an argument has no legal name")?;
    let header = format!("Mcp-Param-{name}");
    let path = path.filter(|path| !path.is_empty()).ok_or_else(|| format!("{header} is for no argument of its own"))?;
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    if !["string", "integer", "boolean"].contains(&kind) {
        return Err(format!("{header} is for an argument that is neither text, whole number nor boolean"));
    }
    let bounds = ["const", "minimum", "maximum"].into_iter().filter_map(|key| fields.get(key)?.as_f64());
    #[expect(clippy::cast_precision_loss, reason = "the largest that is exact")]
    let largest = LARGEST_WHOLE as f64;
    if kind == "integer" && bounds.into_iter().any(|bound| bound.abs() > largest) {
        return Err(format!("{header} is for numbers that not every reader of JSON knows"));
    }
    Ok(Mirror { path: path.clone(), header })
}

/// `text` as it may stand in a header.
pub(super) fn header_value(text: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let is_plain = text.bytes().all(legal) && text.trim_matches(' ') == text && !text.is_empty();
    let looks_encoded = text.starts_with(ENCODED.0) && text.ends_with(ENCODED.1);
    if is_plain && !looks_encoded {
        return text.to_owned();
    }
    format!("{}{}{}", ENCODED.0, STANDARD.encode(text), ENCODED.1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mirrors(schema: Value) -> Result<Vec<Mirror>, String> {
        Mirror::all(&json!({"name": "t", "inputSchema": schema}))
    }

    #[test]
    fn arguments_are_repeated_in_headers() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "x-mcp-header": {"type": "string", "default": {"x-mcp-header": "no"}},
            "options": {"type": "object", "properties": {
                "limit": {"type": "integer", "x-mcp-header": "Limit"}, "dry": {"type": "boolean", "x-mcp-header": "Dry"}
            }}
        }});
        let mirrors = mirrors(schema).unwrap();
        let headers = |arguments: Value| -> Vec<String> {
            let arguments = arguments.as_object().unwrap().clone();
            let value = |mirror: &Mirror| Some(format!("{}: {}", mirror.header, mirror.value(&arguments)?));
            mirrors.iter().filter_map(value).collect()
        };
        assert_eq!(
            headers(json!({"region": "us-west1", "options": {"limit": 42, "dry": true}})),
            ["Mcp-Param-Dry: true", "Mcp-Param-Limit: 42", "Mcp-Param-Region: us-west1"]
        );
        for without in [json!({}), json!({"region": null, "options": {}}), json!({"region": [], "options": 4})] {
            assert_eq!(headers(without.clone()), Vec::<String>::new(), "{without}");
        }
    }

    #[test]
    fn a_tool_whose_headers_break_the_rules_is_none() {
        let at = |property: Value| json!({"properties": {"a": property}});
        let good = json!({"type": "string", "x-mcp-header": "A"});
        assert!(mirrors(at(good.clone())).is_ok());
        for bad in [
            at(json!({"type": "string", "x-mcp-header": ""})),
            at(json!({"type": "string", "x-mcp-header": "a b"})),
            at(json!({"type": "string", "x-mcp-header": "a\r\nEvil: 1"})),
            at(json!({"type": "string", "x-mcp-header": 5})),
            at(json!({"type": "number", "x-mcp-header": "A"})),
            at(json!({"type": "object", "x-mcp-header": "A"})),
            at(json!({"x-mcp-header": "A"})),
            at(json!({"type": "integer", "maximum": 1e300, "x-mcp-header": "A"})),
            at(json!({"type": "array", "items": good})),
            at(json!({"anyOf": [good]})),
            json!({"type": "string", "x-mcp-header": "A"}),
            json!({"$defs": {"b": at(good.clone())}}),
            json!({"properties": {"a": good, "b": {"type": "string", "x-mcp-header": "a"}}}),
        ] {
            assert!(mirrors(bad.clone()).is_err(), "{bad}");
        }
        let deep = (0..200).fold(json!({}), |inner, _| json!({"items": inner}));
        assert!(mirrors(deep).is_err());
        assert_eq!(Mirror::all(&json!({"name": "t"})), Ok(Vec::new()));
    }

    #[test]
    fn values_are_encoded_where_a_header_cannot_hold_them() {
        for (text, value) in [
            ("us-west1", "us-west1"),
            ("a b", "a b"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("", "=?base64??="),
        ] {
            assert_eq!(header_value(text), value);
        }
    }
}

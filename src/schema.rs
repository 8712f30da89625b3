//! JSON Schema in one place: compiled validators whose complaints name every problem at once.
//!
//! `jsonschema` breaks its interface between minor versions, so no other module names it.

use jsonschema::Validator;
use serde_json::Value;

/// Deepest nesting of JSON that is taken in: schemas, jobs, arguments and answers. Tool definitions seen in the field stay
/// under 12. serde_json reads 128 levels, so what is taken in can be read back from within a journal entry or a reply.
pub const MAX_DEPTH: usize = 64;
/// At most so many problems are listed for one value: a hostile body must not become a hostile error.
const MAX_PROBLEMS: usize = 20;

/// A compiled JSON Schema.
#[derive(Debug)]
pub struct Schema(Validator);

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadSchema(String);

impl Schema {
    /// Compiles `schema`. References to other documents are not followed; nothing is ever fetched.
    pub fn compile(schema: &Value) -> Result<Self, BadSchema> {
        if depth(schema) > MAX_DEPTH {
            return Err(BadSchema(format!("schema is nested deeper than {MAX_DEPTH} levels")));
        }
        match jsonschema::validator_for(schema) {
            Ok(validator) => Ok(Self(validator)),
            Err(error) => Err(BadSchema(shorten(&error.masked().to_string()))),
        }
    }

    /// Every way in which `value` breaks the schema, as `path: problem`, without repeating the value itself.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        self.0
            .iter_errors(value)
            .take(MAX_PROBLEMS)
            .map(|error| {
                let path = error.instance_path().to_string();
                let problem = shorten(&error.masked().to_string());
                if path.is_empty() {
                    problem
                } else {
                    format!("{}: {problem}", path.trim_start_matches('/').replace('/', "."))
                }
            })
            .collect()
    }
}

/// Levels of arrays and objects in `value`.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_is_named_and_no_value_is_repeated() {
        let schema = Schema::compile(&json!({
            "type": "object", "required": ["to"], "additionalProperties": false,
            "properties": {"to": {"type": "string"}, "count": {"type": "integer", "maximum": 5}}
        }))
        .unwrap();
        let problems = schema.problems(&json!({"count": 77, "secret": "hunter2"}));
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.starts_with("count: ")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("\"to\"")), "{problems:?}");
        assert!(!problems.join(" ").contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn a_schema_that_points_elsewhere_is_refused_and_nothing_is_fetched() {
        assert!(Schema::compile(&json!({"$ref": "http://127.0.0.1:9/schema.json"})).is_err());
    }

    #[test]
    fn a_schema_nested_without_end_is_refused() {
        let mut schema = json!({});
        for _ in 0..100 {
            schema = json!({"items": schema});
        }
        assert!(Schema::compile(&schema).is_err());
    }

    #[test]
    fn a_hostile_number_of_problems_is_cut() {
        let schema = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
        assert_eq!(schema.problems(&Value::Array(vec![json!(1); 1000])).len(), MAX_PROBLEMS);
    }
}

//! JSON Schema in one place: compiled validators whose complaints name every problem at once.
//!
//! `jsonschema` breaks its interface between minor versions, so no other module names it.

mod cost;
mod count;
mod parts;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use self::cost::{MOST_STEPS, MOST_STEPS_TOLD, ValidationCost};
pub use self::count::has_more_values;

/// Deepest nesting of JSON that is taken in: schemas, jobs, arguments and answers. Tool definitions seen in the field stay
/// under 12. serde_json reads 128 levels, so what is taken in can be read back from within a journal entry or a reply.
pub const MAX_DEPTH: usize = 64;
/// At most so many problems are listed for one value: a hostile body must not become a hostile error.
const MAX_PROBLEMS: usize = 20;

/// Steps of a check that is quick: a millisecond at most.
const QUICK_STEPS: u64 = 2000;
/// Bytes of all compiled patterns of one schema, about; and how often one of them may go back for one text.
const PATTERN_BYTES: usize = 4 << 20;
const BACKTRACKS: usize = 10_000;

/// A compiled JSON Schema that is known to cost no more than it may, as is each check of a value by it.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    cost: ValidationCost,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text}")]
pub struct BadSchema {
    text: String,
    too_costly: bool,
}

impl BadSchema {
    fn invalid(text: impl Into<String>) -> Self {
        Self { text: text.into(), too_costly: false }
    }

    fn costs(text: impl Into<String>) -> Self {
        Self { text: format!("it would take too much: {}", text.into()), too_costly: true }
    }

    /// Whether it was refused for what it would take, be it a good schema or not.
    pub fn is_too_costly(&self) -> bool {
        self.too_costly
    }
}

impl Schema {
    /// Compiles `schema`. References to other documents are not followed; nothing is ever fetched.
    pub fn compile(schema: &Value) -> Result<Self, BadSchema> {
        let cost = cost(schema)?;
        let bytes = PATTERN_BYTES / cost.patterns.max(1);
        let patterns =
            PatternOptions::fancy_regex().size_limit(bytes).dfa_size_limit(bytes).backtrack_limit(BACKTRACKS);
        // A text that is to be a pattern is not compiled: it is the model's, and has no bounds.
        let options = jsonschema::options().with_pattern_options(patterns).with_format("regex", |_: &str| true);
        match options.build(schema) {
            Ok(validator) => Ok(Self { validator, cost }),
            Err(error)
                if is_pattern(error.instance()) && matches!(error.kind(), ValidationErrorKind::Format { .. }) =>
            {
                Err(BadSchema::costs(format!("a pattern of it is larger than {bytes} bytes once compiled")))
            }
            Err(error) => Err(BadSchema::invalid(shorten(&error.masked().to_string()))),
        }
    }

    /// Whether `schema` is within bounds, so far as that can be told without compiling what needs no patterns. A schema that
    /// is none costs nothing.
    pub fn is_affordable(schema: &Value) -> Result<(), BadSchema> {
        let costly = |error: BadSchema| if error.is_too_costly() { Err(error) } else { Ok(()) };
        match cost(schema) {
            Ok(cost) if cost.patterns > 0 => Self::compile(schema).map(drop).or_else(costly),
            Ok(_) => Ok(()),
            Err(error) => costly(error),
        }
    }

    /// Whether a check of `value` takes so little that it holds nobody up.
    pub fn is_quick(&self, value: &Value) -> bool {
        self.cost.steps(value, QUICK_STEPS).is_ok()
    }

    /// Every way in which `value` breaks the schema, as `path: problem`, without repeating the value itself; or that nobody
    /// looked, as that would take too much.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let Ok(steps) = self.cost.steps(value, MOST_STEPS) else {
            return vec!["checking it would take too many steps; make it smaller or less nested".to_owned()];
        };
        if steps > MOST_STEPS_TOLD {
            let fits = self.validator.is_valid(value);
            return if fits { Vec::new() } else { vec!["it does not fit, and is too large to say where".to_owned()] };
        }
        self.validator
            .iter_errors(value)
            .take(MAX_PROBLEMS)
            .map(|error| {
                let path = error.instance_path().to_string();
                let problem = shorten(&error.masked().to_string());
                if path.is_empty() {
                    problem
                } else {
                    format!("{}: {problem}", shorten(&path.trim_start_matches('/').replace('/', ".")))
                }
            })
            .collect()
    }
}

/// Whether it is written as a pattern must be; it is parsed, not compiled.
fn is_pattern(value: &Value) -> bool {
    let schema = serde_json::json!({"type": "string", "format": "regex"});
    jsonschema::options().should_validate_formats(true).build(&schema).is_ok_and(|schema| schema.is_valid(value))
}

fn cost(schema: &Value) -> Result<ValidationCost, BadSchema> {
    if depth(schema) > MAX_DEPTH {
        return Err(BadSchema::costs(format!("it is nested deeper than {MAX_DEPTH} levels")));
    }
    ValidationCost::of(schema)
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

    /// A definition that leads to the next one twice, 50 times over.
    fn doubling(levels: usize, leaf: &Value) -> Value {
        let mut definitions = serde_json::Map::new();
        for level in 0..levels {
            let next = format!("#/$defs/d{}", level + 1);
            definitions.insert(format!("d{level}"), json!({"allOf": [{"$ref": next}, {"$ref": next}]}));
        }
        definitions.insert(format!("d{levels}"), leaf.clone());
        json!({"$ref": "#/$defs/d0", "$defs": definitions})
    }

    #[test]
    fn references_that_double_are_counted_not_followed() {
        for (levels, leaf) in [(50, json!({})), (40, json!({"type": "string"})), (18, json!({"type": "string"}))] {
            let refused = Schema::compile(&doubling(levels, &leaf)).unwrap_err();
            assert!(refused.is_too_costly() && refused.to_string().contains("references"), "{refused}");
        }
        let schema = Schema::compile(&doubling(10, &json!({"type": "string"}))).unwrap();
        assert_eq!(schema.problems(&json!(1)).len(), MAX_PROBLEMS);
        assert_eq!(schema.problems(&json!("x")), [""; 0]);
    }

    #[test]
    fn a_shape_that_doubles_with_every_level_of_the_value_is_refused_by_the_value() {
        let schema = json!({"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]});
        let schema = Schema::compile(&schema).unwrap();
        let nested = |levels| (0..levels).fold(json!(1), |value, _| json!([value]));
        assert_eq!(schema.problems(&nested(8)), [""; 0]);
        assert!(schema.is_quick(&nested(3)) && !schema.is_quick(&nested(12)));
        let problems = schema.problems(&nested(50));
        assert!(problems[0].contains("too many steps") && problems.len() == 1, "{problems:?}");
    }

    #[test]
    fn what_leads_back_to_itself_for_the_same_value_is_refused() {
        let chain = |length: usize| {
            let link = |at: usize| (format!("c{at}"), json!({"$ref": format!("#/$defs/c{}", at + 1)}));
            let mut links: serde_json::Map<_, _> = (0..length).map(link).collect();
            links.insert(format!("c{length}"), json!({"type": "string"}));
            json!({"$ref": "#/$defs/c0", "$defs": links})
        };
        assert!(Schema::compile(&chain(20)).is_ok());
        let circles =
            [json!({"$ref": "#"}), json!({"anyOf": [{"type": "string"}, {"not": {"$ref": "#"}}]}), chain(2000)];
        for schema in circles {
            assert!(Schema::compile(&schema).unwrap_err().is_too_costly(), "{schema}");
        }
        // What gets further in the value is the common tree.
        let tree = json!({"properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name"]});
        let tree = Schema::compile(&tree).unwrap();
        assert_eq!(tree.problems(&json!({"name": "a", "children": [{"name": "b"}, {}]})).len(), 1);
    }

    #[test]
    fn patterns_are_bounded_in_number_and_in_size() {
        let properties = |count: usize, pattern: fn(usize) -> String| {
            let all: serde_json::Map<_, _> =
                (0..count).map(|at| (format!("p{at}"), json!({"pattern": pattern(at)}))).collect();
            json!({"properties": all})
        };
        let refused = |schema: &Value| Schema::compile(schema).unwrap_err();
        let many = refused(&properties(3000, |at| format!(r"\p{{L}}{{100}}x{at}")));
        assert!(many.is_too_costly() && many.to_string().contains("patterns"), "{many}");
        let large = refused(&properties(60, |at| format!(r"\p{{L}}{{200}}x{at}")));
        assert!(large.is_too_costly() && large.to_string().contains("pattern"), "{large}");
        assert!(!refused(&json!({"pattern": "("})).is_too_costly());
        // As code generators write addresses of mail and dates.
        let usual = properties(20, |at| {
            format!(
                r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{{2,{}}}$",
                at + 2
            )
        });
        let usual = Schema::compile(&usual).unwrap();
        assert_eq!(usual.problems(&json!({"p3": "a.b@example.com", "p4": "nobody"})).len(), 1);
    }

    #[test]
    fn a_pattern_that_goes_back_without_end_ends_and_four_hundred_of_them_are_too_many() {
        let schema = Schema::compile(&json!({"items": {"pattern": r"^(?=(a+)+$)(a|aa)+$"}})).unwrap();
        let text = json!("a".repeat(40) + "!");
        assert_eq!(schema.problems(&Value::Array(vec![text.clone()])).len(), 1);
        let problems = schema.problems(&Value::Array(vec![text; 1000]));
        assert!(problems[0].contains("too many steps"), "{problems:?}");
    }

    #[test]
    fn a_value_with_many_problems_is_told_that_it_has_them() {
        let schema = Schema::compile(&json!({"items": {"allOf": vec![json!({"type": "string"}); 100]}})).unwrap();
        let problems = schema.problems(&Value::Array(vec![json!(1); 1000]));
        assert_eq!(problems, ["it does not fit, and is too large to say where"]);
    }

    #[test]
    fn anchors_and_names_lead_where_they_say() {
        let schema = json!({"$id": "https://example.com/x", "$defs": {"s": {"$anchor": "text", "type": "string"}},
            "properties": {"a": {"$ref": "#text"}, "b": {"$ref": "https://example.com/x#/$defs/s"}, "$ref": {"type": "string"}}});
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.problems(&json!({"a": 1, "b": 2, "$ref": 3})).len(), 3);
        for reference in ["#/nowhere", "other.json", "http://json-schema.org/draft-07/schema#"] {
            assert!(Schema::compile(&json!({"$ref": reference})).is_err(), "{reference}");
        }
        let named = json!({"properties": {"a": {"$id": "/a", "$ref": "#/b"}}});
        assert!(Schema::compile(&named).is_err());
    }
}

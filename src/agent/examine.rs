//! Whether what a model said fits the schemas: looked at once, apart from the run, and journalled.
//!
//! Both sides of a check come from others, so it may take its time: it is done where it holds nobody up, and a journal that
//! is replayed tells what came of it.

use serde_json::{Map, Value};

use super::message::{AssistantMessage, Conformity, ToolCall};
use super::tool::Toolset;
use crate::schema::{MAX_DEPTH, Schema, depth};

/// What a check of a model's words came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The arguments of each call in the model's order, or why the call is not made.
    pub arguments: Vec<Result<Map<String, Value>, String>>,
    /// What the words are, where the job wants an answer of a form and the model called no tools.
    pub answer: Option<Conformity>,
}

/// Arguments up to so many bytes are read at once.
const READ_AT_ONCE: usize = 16 << 10;

/// Looks at all that the model said.
pub fn examine(message: &AssistantMessage, toolset: &Toolset, output_schema: Option<&Value>) -> Examined {
    let answer = output_schema.filter(|_| message.calls.is_empty());
    Examined {
        arguments: message.calls.iter().map(|call| check(read(call)?, call, toolset)).collect(),
        answer: answer.map(|schema| conformity(message.text.as_deref().unwrap_or_default(), schema)),
    }
}

/// The same, where it takes so little that it holds nobody up: as most of what models say does.
pub fn examine_at_once(
    message: &AssistantMessage,
    toolset: &Toolset,
    output_schema: Option<&Value>,
) -> Option<Examined> {
    if message.calls.is_empty() && output_schema.is_some() {
        return None;
    }
    let at_once = |call: &ToolCall| {
        let arguments = if call.arguments.len() > READ_AT_ONCE { return None } else { read(call) };
        let (Ok(checked), Some(tool)) = (&arguments, toolset.find(&call.name)) else { return Some(arguments) };
        let problems = toolset.problems_at_once(tool, checked)?;
        Some(arguments.and_then(|arguments| fitting(arguments, &problems)))
    };
    let arguments = message.calls.iter().map(at_once).collect::<Option<_>>()?;
    Some(Examined { arguments, answer: None })
}

impl Examined {
    /// Nobody could look, for this reason.
    pub fn impossible(message: &AssistantMessage, output_schema: Option<&Value>, why: &str) -> Self {
        let answer = output_schema.filter(|_| message.calls.is_empty()).map(|_| Conformity::Misfit(why.to_owned()));
        Self { arguments: message.calls.iter().map(|_| Err(why.to_owned())).collect(), answer }
    }
}

/// Whether `text` is an answer of the form that `schema` wants.
pub(super) fn conformity(text: &str, schema: &Value) -> Conformity {
    let problems = match parse(text) {
        Ok(value) => match Schema::compile(schema) {
            Ok(schema) => schema.problems(&value).join("; "),
            Err(error) => error.to_string(),
        },
        Err(problem) => problem,
    };
    if problems.is_empty() { Conformity::Fits } else { Conformity::Misfit(problems) }
}

/// The JSON that a model's words are.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str(without_fence(text)).map_err(|error| format!("not JSON: {error}"))?;
    if depth(&value) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(value)
}

/// The arguments of a call, or why they are none.
fn read(call: &ToolCall) -> Result<Map<String, Value>, String> {
    object(&call.arguments).map_err(|problem| format!("the arguments are not a JSON object: {problem}"))
}

/// The same once they were checked by the tool's schema.
fn check(arguments: Map<String, Value>, call: &ToolCall, toolset: &Toolset) -> Result<Map<String, Value>, String> {
    let Some(tool) = toolset.find(&call.name) else { return Ok(arguments) };
    let problems = toolset.problems(tool, &arguments);
    fitting(arguments, &problems)
}

fn fitting(arguments: Map<String, Value>, problems: &[String]) -> Result<Map<String, Value>, String> {
    if problems.is_empty() {
        Ok(arguments)
    } else {
        Err(format!("the arguments do not fit the tool's schema: {}", problems.join("; ")))
    }
}

/// Arguments as models write them: sometimes nothing at all, sometimes in a Markdown fence.
fn object(text: &str) -> Result<Map<String, Value>, String> {
    let text = without_fence(text);
    if text.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(value) if depth(&value) > MAX_DEPTH => Err(format!("it is nested deeper than {MAX_DEPTH} levels")),
        Ok(Value::Object(arguments)) => Ok(arguments),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("it is another kind of value".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Models like to wrap JSON in a Markdown fence, whatever they are asked.
fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::script::wants;
    use super::super::tool::Tool;
    use super::*;
    use crate::job::ConnectionName;

    #[test]
    fn what_is_looked_at_at_once_comes_to_the_same_and_what_takes_longer_is_not() {
        let twice = json!({"allOf": [{"items": {"$ref": "#/$defs/a"}}, {"items": {"$ref": "#/$defs/a"}}]});
        let schema =
            json!({"properties": {"a": {"$ref": "#/$defs/a"}, "n": {"type": "integer"}}, "$defs": {"a": twice}});
        let definition = json!({"name": "gmail_fetch_mails", "input_schema": schema});
        let tool = Tool::from_definition(&definition, &ConnectionName::new("gmail").unwrap()).unwrap();
        let toolset = Toolset::new(vec![Arc::new(tool)]);
        let said = |arguments: &str| wants(&[("c", "gmail_fetch_mails", arguments)]).message;
        assert_eq!(examine_at_once(&said("{}"), &toolset, None), None, "the schema is not compiled yet");
        for arguments in ["{}", r#"{"n": "x"}"#, "nonsense", "[]", "", r#"{"a": [[1]]}"#] {
            let whole = examine(&said(arguments), &toolset, None);
            assert_eq!(examine_at_once(&said(arguments), &toolset, None), Some(whole), "{arguments}");
        }
        let (deep, long) = (format!("{{\"a\": {}{}}}", "[".repeat(20), "]".repeat(20)), " ".repeat(READ_AT_ONCE + 1));
        for arguments in [deep, long] {
            assert_eq!(examine_at_once(&said(&arguments), &toolset, None), None, "{arguments}");
        }
        let unknown = wants(&[("c", "nonsense", "{}")]).message;
        assert_eq!(examine_at_once(&unknown, &toolset, None), Some(examine(&unknown, &toolset, None)));
        let words = AssistantMessage { text: Some("{}".to_owned()), ..AssistantMessage::default() };
        assert_eq!(examine_at_once(&words, &toolset, Some(&json!({}))), None);
        assert!(examine_at_once(&words, &toolset, None).is_some());
    }
}

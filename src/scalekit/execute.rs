//! Running a tool: one attempt, and an honest word on what came of it.
//!
//! A 200 can hide a failure, as Scalekit passes on what the provider said: Slack's `{ok: false}`, MCP's `isError`,
//! GraphQL's `errors`. A list comes wrapped as `{array: […]}`, and MCP's answer as text in an envelope.

use serde_json::{Map, Value, json};

use super::{Details, Error, Operation, RateLimitScope, Scalekit, bounded_object, print, text};
use crate::http::{Method, Request, parse_bounded};
use crate::job::{ConnectionName, Identifier};

/// Slack's words for an authorization that is gone (Slack Web API, errors common to all methods).
const AUTHORIZATION_LOST: [&str; 5] =
    ["token_expired", "invalid_auth", "token_revoked", "not_authed", "account_inactive"];

/// A tool to run.
#[derive(Debug, Clone, Copy)]
pub struct ExecuteRequest<'a> {
    /// The tool's name at Scalekit.
    pub tool: &'a str,
    /// Whose account runs it.
    pub identifier: &'a Identifier,
    /// The connection that runs it.
    pub connection: &'a ConnectionName,
    /// The arguments. Numbers become doubles on the way: whole ones above 2^53 lose digits.
    pub params: &'a Map<String, Value>,
    /// Groups the calls of a run in Scalekit's logs (`agent_run_id`, at most 255 bytes).
    pub run_id: &'a str,
    /// Where the call stands in a trace (W3C `traceparent`), where it is traced.
    pub traceparent: Option<&'a str>,
}

/// The answer of a tool that ran.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolAnswer {
    /// The provider's answer without wrappers; `null` where it had nothing to say.
    pub data: Value,
    /// Scalekit's id of this run of the tool.
    pub execution_id: Option<String>,
}

impl Scalekit {
    /// Runs a tool once. Only a call that was refused for our own token is sent a second time: it did not run. `may_leave`
    /// is asked right before anything is sent; where it says why not, that is [`Error::NotSent`].
    pub async fn execute<F>(&self, request: &ExecuteRequest<'_>, may_leave: impl Fn() -> F) -> Result<ToolAnswer, Error>
    where
        F: Future<Output = Result<(), String>>,
    {
        let body = json!({
            "tool_name": request.tool,
            "connector": request.connection.as_str(),
            "identifier": request.identifier.as_str(),
            "params": request.params,
            "agent_run_id": request.run_id,
        });
        let url = self.url("/api/v1/execute_tool", &[]);
        let call = Request::new(Method::Post, url, self.tool_timeout()).json(print(&body));
        let call = match request.traceparent {
            Some(place) => call.header("traceparent", place),
            None => call,
        };
        let response = self.authorized(Operation::Execute, call, may_leave).await?;
        let mut answer = bounded_object(&response)?;
        let execution_id = text(&answer, "execution_id");
        let details = Details { execution_id: execution_id.clone(), ..Details::of(&response) };
        let data = provider_answer(answer.remove("data").unwrap_or_default(), &details)?;
        Ok(ToolAnswer { data, execution_id })
    }
}

/// The provider's answer without wrappers, or the failure it hides; an envelope is looked into as well.
fn provider_answer(data: Value, details: &Details) -> Result<Value, Error> {
    let Value::Object(mut object) = data else { return Ok(data) };
    if let Some(error) = hidden_failure(&object, details) {
        return Err(error);
    }
    if object.len() == 1
        && let Some(Value::Array(list)) = object.remove("array")
    {
        return Ok(Value::Array(list));
    }
    if !is_envelope(&object) {
        return Ok(Value::Object(object));
    }
    match envelope_content(&object) {
        Value::Object(inner) => match hidden_failure(&inner, details) {
            Some(error) => Err(error),
            None => Ok(Value::Object(inner)),
        },
        other => Ok(other),
    }
}

fn hidden_failure(object: &Map<String, Value>, details: &Details) -> Option<Error> {
    let said = |message: &str| details.clone().with_message(message);
    if object.get("ok") == Some(&Value::Bool(false)) {
        let code = text(object, "error").unwrap_or_else(|| "the provider gave no reason".into());
        let needed = text(object, "needed").map(|needed| format!(", needed: {needed}")).unwrap_or_default();
        let details = said(&format!("{code}{needed}"));
        return Some(match code.as_str() {
            "ratelimited" | "rate_limited" => {
                Error::RateLimited { scope: RateLimitScope::Account, retry_after: None, details }
            }
            "missing_scope" => Error::Forbidden(details),
            _ if AUTHORIZATION_LOST.contains(&code.as_str()) => Error::AuthorizationLost { code, details },
            _ => Error::ToolFailed(details),
        });
    }
    let flag = |key: &str| object.get(key) == Some(&Value::Bool(true));
    if object.contains_key("content") && (flag("isError") || flag("is_error")) {
        return Some(Error::ToolFailed(said(&plain(&envelope_content(object)))));
    }
    let errors = object.get("errors").and_then(Value::as_array).filter(|errors| !errors.is_empty())?;
    let graphql = object.keys().all(|key| ["data", "errors", "extensions"].contains(&key.as_str()));
    if !graphql || object.get("data").is_some_and(|data| !data.is_null()) {
        return None;
    }
    let messages = errors.iter().map(|error| error.get("message").map_or_else(|| plain(error), plain));
    Some(Error::ToolFailed(said(&messages.collect::<Vec<_>>().join("; "))))
}

/// Whether this is an MCP tool result, and not a provider's object that happens to have a `content`.
fn is_envelope(object: &Map<String, Value>) -> bool {
    const KEYS: [&str; 7] =
        ["content", "isError", "is_error", "structuredContent", "structured_content", "_meta", "meta"];
    object.keys().all(|key| KEYS.contains(&key.as_str()))
        && object
            .get("content")
            .and_then(Value::as_array)
            .is_some_and(|parts| parts.iter().all(|part| part.get("type").is_some_and(Value::is_string)))
}

/// The structured part where there is one, else the text parts: as JSON where they are an object or a list.
fn envelope_content(object: &Map<String, Value>) -> Value {
    let structured = object.get("structuredContent").or_else(|| object.get("structured_content"));
    if let Some(structured) = structured.filter(|value| value.is_object()) {
        return structured.clone();
    }
    let parts = object.get("content").and_then(Value::as_array);
    let texts = parts.into_iter().flatten().map(|part| match part.get("text").and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => format!("[{} left out]", part.get("type").map(plain).unwrap_or_default()),
    });
    let text = texts.collect::<Vec<_>>().join("\n");
    match parse_bounded(text.as_bytes()) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
        _ => Value::String(text),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(data: Value) -> Result<Value, Error> {
        provider_answer(data, &Details::default())
    }

    #[test]
    fn wrappers_are_taken_off() {
        let text = |text: &str| json!({"content": [{"type": "text", "text": text}]});
        for (data, plain) in [
            (json!({"id": 1}), json!({"id": 1})),
            (json!({"array": [1, 2]}), json!([1, 2])),
            (json!({"array": [1], "next": 2}), json!({"array": [1], "next": 2})),
            (text(r#"{"results": []}"#), json!({"results": []})),
            (text("12 pages found"), json!("12 pages found")),
            (text("42"), json!("42")),
            (json!({"content": []}), json!("")),
            (json!({"content": [{"type": "image", "data": "x"}]}), json!("[image left out]")),
            (json!({"content": [{"type": "text", "text": "x"}], "structuredContent": {"a": 1}}), json!({"a": 1})),
            (json!({"content": "a page", "title": "t"}), json!({"content": "a page", "title": "t"})),
            (json!({}), json!({})),
            (Value::Null, Value::Null),
            (json!("bare"), json!("bare")),
        ] {
            assert_eq!(answer(data.clone()), Ok(plain), "{data}");
        }
    }

    #[test]
    fn failures_hidden_in_a_success_are_found() {
        let inner = json!({"content": [{"type": "text", "text": r#"{"ok": false, "error": "channel_not_found"}"#}]});
        for (data, code, message) in [
            (json!({"ok": false, "error": "channel_not_found"}), "tool_failed", "channel_not_found"),
            (json!({"ok": false}), "tool_failed", "the provider gave no reason"),
            (json!({"ok": false, "error": 5}), "tool_failed", "5"),
            (json!({"ok": false, "error": "token_revoked"}), "authorization_lost", "token_revoked"),
            (json!({"ok": false, "error": "ratelimited"}), "rate_limited", "ratelimited"),
            (json!({"ok": false, "error": "missing_scope", "needed": "chat:write"}), "forbidden", "chat:write"),
            (
                json!({"isError": true, "content": [{"type": "text", "text": "no such page"}]}),
                "tool_failed",
                "no such page",
            ),
            (json!({"is_error": true, "content": "odd"}), "tool_failed", ""),
            (json!({"data": null, "errors": [{"message": "not found"}, 7]}), "tool_failed", "not found; 7"),
            (json!({"errors": ["bad"]}), "tool_failed", "bad"),
            (inner, "tool_failed", "channel_not_found"),
        ] {
            let error = answer(data.clone()).unwrap_err();
            assert_eq!(error.code(), code, "{data}");
            assert!(error.details().message.contains(message), "{data}: {error}");
        }
    }

    #[test]
    fn what_only_looks_like_a_failure_is_an_answer() {
        for data in [
            json!({"ok": true, "error": ""}),
            json!({"ok": "false"}),
            json!({"isError": false, "content": "text", "x": 1}),
            json!({"isError": true}),
            json!({"errors": []}),
            json!({"errors": [{"message": "one of two"}], "data": {"a": 1}}),
            json!({"errors": ["row 3"], "imported": 2}),
        ] {
            assert_eq!(answer(data.clone()), Ok(data));
        }
    }
}

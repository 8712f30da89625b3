//! What is known of a failure, and how it is read from its body. Bodies come in three forms: `{code, message, details[]}`,
//! `{detail, code}` of the proxy, and whatever a load balancer says.

use serde_json::{Map, Value};

use super::text;
use crate::http::{self, Response};

/// Longest message kept of an answer, in characters: enough for a provider's words on a wrong argument.
pub(super) const MESSAGE_CHARACTERS: usize = 1_000;

/// Words of tool failures that arise before the provider is called (live texts of public projects).
const BEFORE_THE_CALL: [&str; 3] = ["path templating failed", "template rendering", "missing or invalid"];

/// What is known of a failure. The message is one line, bounded and free of secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The peer's words or the client's, with at most 1,000 characters.
    pub message: String,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Scalekit's id of the tool's run.
    pub execution_id: Option<String>,
    /// Scalekit's id of the request, for its support.
    pub request_id: Option<String>,
}

/// What an error's body says. Any field may be missing or of the wrong type.
pub(super) struct Body {
    pub(super) json: bool,
    /// Whether the provider of the tool failed, and not Scalekit.
    pub(super) tool_error: bool,
    /// Scalekit's `error_code`.
    pub(super) code: Option<String>,
    pub(super) details: Details,
}

impl Details {
    pub(super) fn of(response: &Response) -> Self {
        Self { status: Some(response.status), request_id: response.request_id.clone(), ..Self::default() }
    }

    pub(super) fn with_message(mut self, message: &str) -> Self {
        self.message = http::redacted(message, MESSAGE_CHARACTERS);
        self
    }
}

impl Body {
    pub(super) fn read(response: &Response) -> Self {
        let details = Details::of(response);
        let Ok(body) = serde_json::from_slice::<Map<String, Value>>(&response.body) else {
            let shown = http::excerpt(&response.body);
            let message = if shown.is_empty() { format!("status {}", response.status) } else { shown };
            return Self { json: false, tool_error: false, code: None, details: Details { message, ..details } };
        };
        let nothing = Map::new();
        let info = body
            .get("details")
            .and_then(Value::as_array)
            .and_then(|all| all.iter().filter_map(Value::as_object).find(|info| is_error_info(info)))
            .unwrap_or(&nothing);
        let inside = |key: &str| info.get(key).and_then(Value::as_object);
        let tool = inside("tool_error_info");
        let code = text(info, "error_code");
        let mut message = tool
            .and_then(|tool| text(tool, "tool_error_message"))
            .or_else(|| text(&body, "message"))
            .or_else(|| text(&body, "detail"))
            .or_else(|| text(&body, "error_description"))
            .or_else(|| text(&body, "error"))
            .unwrap_or_else(|| format!("status {}", response.status));
        for violation in inside("validation_error_info").map(violations).unwrap_or_default() {
            message.push_str("; ");
            message.push_str(&violation);
        }
        let request_id = inside("request_info").and_then(|info| text(info, "request_id"));
        Self {
            json: true,
            tool_error: code.as_deref() == Some("TOOL_ERROR") || code.is_none() && tool.is_some(),
            code,
            details: Details {
                execution_id: tool.and_then(|tool| text(tool, "execution_id")),
                request_id: request_id.or_else(|| details.request_id.clone()),
                ..details
            }
            .with_message(&message),
        }
    }

    /// Whether the tool failed before the provider was called.
    pub(super) fn failed_before_the_call(&self) -> bool {
        let message = self.details.message.to_ascii_lowercase();
        BEFORE_THE_CALL.iter().any(|words| message.contains(words))
    }
}

fn is_error_info(info: &Map<String, Value>) -> bool {
    ["error_code", "tool_error_info", "validation_error_info"].iter().any(|key| info.contains_key(*key))
}

fn violations(info: &Map<String, Value>) -> Vec<String> {
    let all = info.get("field_violations").and_then(Value::as_array);
    let describe = |violation: &Map<String, Value>| {
        Some(format!("{}: {}", text(violation, "field")?, text(violation, "description")?))
    };
    all.into_iter().flatten().filter_map(Value::as_object).filter_map(describe).take(20).collect()
}

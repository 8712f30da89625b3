//! What was said, as spans hold it where `telemetry.content` lets them: in the form of OpenTelemetry's conventions, cut short, and
//! without what looks like a secret.

use serde_json::{Map, Value, json};

use crate::agent::message::{AssistantMessage, Finish, Message};
use crate::http::redacted;
use crate::trace::Span;

/// Characters of one text that a span holds.
const LONGEST: usize = 4096;

fn text(text: &str) -> String {
    redacted(text, LONGEST)
}

/// What a model is asked (`gen_ai.system_instructions`, `gen_ai.input.messages`).
pub(super) fn asked(span: &mut Span, messages: &[Message]) {
    if !span.takes_content() {
        return;
    }
    let (mut instructions, mut input) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            Message::System(words) => instructions.push(json!({"type": "text", "content": text(words)})),
            Message::User(words) => {
                input.push(json!({"role": "user", "parts": [{"type": "text", "content": text(words)}]}));
            }
            Message::Assistant(said) => input.push(said_message(said)),
            Message::ToolResult { call_id, content } => input.push(json!({
                "role": "tool", "parts": [{"type": "tool_call_response", "id": call_id, "response": text(content)}],
            })),
        }
    }
    span.set("gen_ai.system_instructions", Value::Array(instructions).to_string());
    span.set("gen_ai.input.messages", Value::Array(input).to_string());
}

/// What it said (`gen_ai.output.messages`).
pub(super) fn answered(span: &mut Span, message: &AssistantMessage, finish: &Finish) {
    if !span.takes_content() {
        return;
    }
    let mut said = said_message(message);
    if let (Finish::Refusal(words), Some(parts)) = (finish, said["parts"].as_array_mut()) {
        parts.push(json!({"type": "text", "content": text(words)}));
    }
    span.set("gen_ai.output.messages", Value::Array(vec![said]).to_string());
}

/// What a tool is called with (`gen_ai.tool.call.arguments`).
pub(super) fn arguments(span: &mut Span, arguments: &Map<String, Value>) {
    if span.takes_content() {
        let arguments = serde_json::to_string(arguments).unwrap_or_default();
        span.set("gen_ai.tool.call.arguments", text(&arguments));
    }
}

/// What it answered (`gen_ai.tool.call.result`).
pub(super) fn result(span: &mut Span, content: &str) {
    if span.takes_content() {
        span.set("gen_ai.tool.call.result", text(content));
    }
}

fn said_message(said: &AssistantMessage) -> Value {
    let words = said.text.iter().map(|words| json!({"type": "text", "content": text(words)}));
    let calls = said
        .calls
        .iter()
        .map(|call| json!({"type": "tool_call", "id": call.id, "name": call.name, "arguments": text(&call.arguments)}));
    json!({"role": "assistant", "parts": words.chain(calls).collect::<Vec<_>>()})
}

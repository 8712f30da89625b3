//! `POST /v1/responses`, stateless: nothing is stored, so everything has to come back in `input`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::conversation::{
    Choice, Conversation, Done, History, Reply, ToolSpec, arguments_of, cached, result_of, text_of, tokens,
};
use super::errors::ApiError;
use super::models::{FINGERPRINT, Profile, model_of};
use super::rules;
use super::validation::{Body, Function, check_names, check_output, check_sampling, check_tools, read};
use crate::sandbox::shared::Shared;

const KNOWN: [&str; 28] = [
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_output_tokens",
    "max_tool_calls",
    "text",
    "reasoning",
    "include",
    "store",
    "temperature",
    "top_p",
    "top_logprobs",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "stream",
    "stream_options",
    "truncation",
    "background",
    "previous_response_id",
    "conversation",
    "prompt",
];

/// Ids of calls that were made while thinking carry this mark, so that a missing reasoning item is noticed without a store.
const THOUGHT: &str = "r";

/// Answers one request, or refuses it as the real API does.
pub(super) async fn create(State(shared): State<Arc<Shared>>, body: Body) -> Result<Json<Value>, ApiError> {
    let body = read(body)?;
    let profile = model_of(&body)?;
    check(&body, profile)?;
    let conversation = conversation(&shared, &body)?;
    let reply = rules::reply(&conversation);
    let input = tokens(&json!([body.get("instructions"), body.get("input"), body.get("tools")]).to_string());
    let number = shared.lock().next_number();
    Ok(Json(answer(number, profile, &conversation, &body, reply, input)))
}

fn check(body: &Map<String, Value>, profile: &Profile) -> Result<(), ApiError> {
    check_names(body, &KNOWN)?;
    check_sampling(body, profile)?;
    if body.get("previous_response_id").is_some_and(|id| !id.is_null()) {
        let error = ApiError::invalid("previous_response_id", "the sandbox keeps no responses");
        return Err(error.code("previous_response_not_found"));
    }
    if !profile.reasoning && body.get("reasoning").is_some_and(|reasoning| !reasoning["effort"].is_null()) {
        let error = ApiError::invalid("reasoning.effort", "this model does not take an effort");
        return Err(error.code("unsupported_parameter"));
    }
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let functions: Vec<Function<'_>> =
        tools.enumerate().map(|(index, definition)| Function { path: format!("tools[{index}]"), definition }).collect();
    check_tools(&functions, profile)?;
    match body.get("text").map(|text| &text["format"]) {
        Some(format) if format["type"] == "json_schema" => check_output("text.format", format),
        _ => Ok(()),
    }
}

fn conversation(shared: &Shared, body: &Map<String, Value>) -> Result<Conversation, ApiError> {
    let mut reader = Reader::default();
    match body.get("input") {
        Some(Value::String(text)) => reader.history.user(text.clone()),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                reader.item(index, item)?;
            }
        }
        _ => return Err(ApiError::invalid("input", "there has to be an input")),
    }
    reader.end()?;
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let tools = tools.filter(|tool| tool["type"] == "function").map(|tool| ToolSpec {
        name: tool["name"].as_str().unwrap_or_default().to_owned(),
        parameters: tool["parameters"].clone(),
    });
    let tools: Vec<ToolSpec> = tools.collect();
    let (prompt, steps) = reader.history.last_wish(|prompt| rules::asks(prompt, &tools));
    let format = body.get("text").map(|text| &text["format"]).filter(|format| format["type"] == "json_schema");
    Ok(Conversation {
        prompt,
        steps,
        tools,
        choice: Choice::read(body.get("tool_choice")),
        parallel: body.get("parallel_tool_calls") != Some(&Value::Bool(false)),
        schema: format.map(|format| format["schema"].clone()),
        now: shared.now(),
    })
}

/// Walks through the items of an input.
#[derive(Default)]
struct Reader {
    history: History,
    step: Vec<Done>,
    open: Vec<Done>,
    /// Id of the reasoning item that what follows it belongs to.
    thought: Option<String>,
    /// The item before was a reasoning item.
    thought_is_last: bool,
}

impl Reader {
    fn item(&mut self, index: usize, item: &Value) -> Result<(), ApiError> {
        let path = format!("input[{index}]");
        let kind = item["type"].as_str().unwrap_or("message");
        if kind != "function_call_output"
            && kind != "function_call"
            && self.thought_is_last
            && item["role"] != "assistant"
        {
            return Err(ApiError::invalid(path, "a reasoning item is not followed by the item it led to"));
        }
        self.thought_is_last = kind == "reasoning";
        match kind {
            "reasoning" => self.reasoning(&path, item),
            "function_call" => self.call(&path, item),
            "function_call_output" => self.output(&path, item),
            "message" => self.message(&path, item),
            _ => Err(ApiError::invalid(format!("{path}.type"), "unknown type of item").code("invalid_value")),
        }
    }

    fn reasoning(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let id = item["id"].as_str().unwrap_or_default();
        let Some(content) = item["encrypted_content"].as_str() else {
            let message = format!("the item {id} was not stored; send it with its encrypted content");
            return Err(ApiError::invalid("input", message).status(StatusCode::NOT_FOUND));
        };
        if content != sealed(id) {
            let error = ApiError::invalid(format!("{path}.encrypted_content"), "the content cannot be decrypted");
            return Err(error.code("invalid_encrypted_content"));
        }
        self.thought = Some(id.to_owned());
        Ok(())
    }

    fn call(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let (Some(id), Some(name), true) =
            (item["call_id"].as_str(), item["name"].as_str(), item["arguments"].is_string())
        else {
            return Err(ApiError::invalid(path, "a call needs call_id, name and arguments as text"));
        };
        if let Some(number) = id.strip_prefix(&format!("call_{THOUGHT}")).and_then(|rest| rest.split('_').next()) {
            let needed = format!("rs_{number}");
            if self.thought.as_deref() != Some(needed.as_str()) {
                let message = format!("the call {id} came without its reasoning item {needed}");
                return Err(ApiError::invalid("input", message));
            }
        }
        let (id, name) = (id.to_owned(), name.to_owned());
        self.open.push(Done { id, name, arguments: arguments_of(&item["arguments"]), result: String::new() });
        Ok(())
    }

    fn output(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let id = item["call_id"].as_str().unwrap_or_default();
        let Some(position) = self.open.iter().position(|call| call.id == id) else {
            return Err(ApiError::invalid(path, format!("there is no call {id} for this output")));
        };
        let call = self.open.remove(position);
        self.step.push(Done { result: result_of(&item["output"]), ..call });
        if self.open.is_empty() {
            self.history.step(std::mem::take(&mut self.step));
        }
        Ok(())
    }

    fn message(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        match item["role"].as_str() {
            Some("user") => self.history.user(text_of(&item["content"])),
            Some("assistant") => self.history.assistant_text(),
            Some("system" | "developer") => {}
            _ => return Err(ApiError::invalid(format!("{path}.role"), "unknown role").code("invalid_value")),
        }
        Ok(())
    }

    fn end(&self) -> Result<(), ApiError> {
        match self.open.first() {
            Some(call) => Err(ApiError::invalid("input", format!("there is no output for the call {}", call.id))),
            None if self.thought_is_last => {
                Err(ApiError::invalid("input", "a reasoning item is not followed by the item it led to"))
            }
            None => Ok(()),
        }
    }
}

fn sealed(id: &str) -> String {
    format!("sealed-{id}")
}

fn answer(
    number: u64,
    profile: &Profile,
    conversation: &Conversation,
    body: &Map<String, Value>,
    reply: Reply,
    input: usize,
) -> Value {
    let limit = body.get("max_output_tokens").and_then(Value::as_u64);
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let cut = reply.tokens() > limit;
    let output_tokens = reply.tokens().min(limit);
    let effort = body.get("reasoning").and_then(|reasoning| reasoning["effort"].as_str());
    let thinks = profile.reasoning && effort != Some("none");
    let mut items = Vec::new();
    if thinks {
        items.push(thought(number, body));
    }
    match reply {
        Reply::Text(text) => {
            let text: String = if cut { text.chars().take(limit.saturating_mul(4)).collect() } else { text };
            items.push(json!({
                "id": format!("msg_{number}"), "type": "message", "role": "assistant",
                "status": if cut { "incomplete" } else { "completed" },
                "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
            }));
        }
        Reply::Calls(calls) => items.extend(calls.into_iter().enumerate().map(|(index, (name, arguments))| {
            let mark = if thinks { THOUGHT } else { "" };
            json!({
                "id": format!("fc_{number}_{index}"), "type": "function_call", "status": "completed",
                "call_id": format!("call_{mark}{number}_{index}"), "name": name, "arguments": arguments.to_string(),
            })
        })),
    }
    json!({
        "id": format!("resp_{number}"), "object": "response", "created_at": conversation.now.as_second(),
        "status": if cut { "incomplete" } else { "completed" }, "error": null,
        "incomplete_details": if cut { json!({"reason": "max_output_tokens"}) } else { Value::Null },
        "model": profile.name, "output": items, "parallel_tool_calls": conversation.parallel,
        "store": body.get("store").cloned().unwrap_or(Value::Bool(true)), "service_tier": "default",
        "metadata": {"served_by": FINGERPRINT},
        "usage": {
            "input_tokens": input, "output_tokens": output_tokens, "total_tokens": input + output_tokens,
            "input_tokens_details": {"cached_tokens": cached(input, !conversation.steps.is_empty())},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    })
}

fn thought(number: u64, body: &Map<String, Value>) -> Value {
    let id = format!("rs_{number}");
    let include = body.get("include").and_then(Value::as_array).into_iter().flatten();
    let wanted = include.into_iter().any(|part| part == "reasoning.encrypted_content");
    let content = if wanted { sealed(&id).into() } else { Value::Null };
    json!({"id": id, "type": "reasoning", "summary": [], "encrypted_content": content})
}

//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::conversation::{
    Choice, Conversation, Done, History, Reply, ToolSpec, arguments_of, cached, result_of, text_of, tokens,
};
use super::errors::ApiError;
use super::models::{FINGERPRINT, Profile, model_of};
use super::rules;
use super::validation::{Body, Function, check_names, check_output, check_sampling, check_tools, read};
use crate::sandbox::shared::Shared;

const KNOWN: [&str; 31] = [
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "store",
    "metadata",
    "reasoning_effort",
    "verbosity",
    "stream",
    "stream_options",
    "modalities",
    "prediction",
];

/// Answers one request, or refuses it as the real API does.
pub(super) async fn create(State(shared): State<Arc<Shared>>, body: Body) -> Result<Json<Value>, ApiError> {
    let body = read(body)?;
    let profile = model_of(&body)?;
    check(&body, profile)?;
    let conversation = conversation(&shared, &body)?;
    let reply = rules::reply(&conversation);
    let input = tokens(&json!([body.get("messages"), body.get("tools")]).to_string());
    let number = shared.lock().next_number();
    Ok(Json(answer(number, profile, &conversation, &body, reply, input)))
}

fn check(body: &Map<String, Value>, profile: &Profile) -> Result<(), ApiError> {
    check_names(body, &KNOWN)?;
    check_sampling(body, profile)?;
    let tools = body.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let functions: Vec<Function<'_>> = tools
        .iter()
        .enumerate()
        .map(|(index, tool)| Function { path: format!("tools[{index}].function"), definition: &tool["function"] })
        .collect();
    check_tools(&functions, profile)?;
    for name in ["parallel_tool_calls", "tool_choice"] {
        if tools.is_empty() && body.get(name).is_some_and(|value| !value.is_null()) {
            return Err(ApiError::invalid(name, format!("{name} needs tools")));
        }
    }
    if profile.reasoning && !tools.is_empty() && body.get("reasoning_effort").and_then(Value::as_str) != Some("none") {
        let message = "this model takes tools here only with reasoning_effort none; use /v1/responses";
        return Err(ApiError::invalid("reasoning_effort", message).code("unsupported_value"));
    }
    match body.get("response_format") {
        Some(format) if format["type"] == "json_schema" => {
            check_output("response_format.json_schema", &format["json_schema"])
        }
        _ => Ok(()),
    }
}

fn conversation(shared: &Shared, body: &Map<String, Value>) -> Result<Conversation, ApiError> {
    let messages = body.get("messages").and_then(Value::as_array).filter(|messages| !messages.is_empty());
    let messages = messages.ok_or_else(|| ApiError::invalid("messages", "there has to be at least one message"))?;
    let (mut history, mut open, mut step) = (History::default(), Vec::<Done>::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        let path = format!("messages[{index}]");
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            let Some(position) = open.iter().position(|call| call.id == id) else {
                let text = "a message with role 'tool' answers no call of the assistant message before it";
                return Err(ApiError::invalid(path, text));
            };
            let call = open.remove(position);
            step.push(Done { result: result_of(&message["content"]), ..call });
            if open.is_empty() {
                history.step(std::mem::take(&mut step));
            }
            continue;
        }
        if let Some(call) = open.first() {
            let text = format!("the call {} is not answered directly after its assistant message", call.id);
            return Err(ApiError::invalid(path, text));
        }
        match role {
            "user" => history.user(text_of(&message["content"])),
            "assistant" => {
                open = calls_of(message, &path)?;
                if open.is_empty() {
                    history.assistant_text();
                }
            }
            "system" | "developer" => {}
            _ => return Err(ApiError::invalid(format!("{path}.role"), "unknown role").code("invalid_value")),
        }
    }
    if let Some(call) = open.first() {
        return Err(ApiError::invalid("messages", format!("the call {} is not answered", call.id)));
    }
    let tools = tools_of(body);
    let (prompt, steps) = history.last_wish(|prompt| rules::asks(prompt, &tools));
    let format = body.get("response_format").filter(|format| format["type"] == "json_schema");
    Ok(Conversation {
        prompt,
        steps,
        tools,
        choice: Choice::read(body.get("tool_choice")),
        parallel: body.get("parallel_tool_calls") != Some(&Value::Bool(false)),
        schema: format.map(|format| format["json_schema"]["schema"].clone()),
        now: shared.now(),
    })
}

fn calls_of(message: &Value, path: &str) -> Result<Vec<Done>, ApiError> {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    if calls.is_empty() && !message["content"].is_string() && !message["content"].is_array() {
        return Err(ApiError::invalid(format!("{path}.content"), "an assistant message needs content or calls"));
    }
    let done = calls.iter().map(|call| {
        let id = call["id"].as_str().filter(|id| !id.is_empty());
        let name = call["function"]["name"].as_str();
        let (Some(id), Some(name), true) = (id, name, call["function"]["arguments"].is_string()) else {
            return Err(ApiError::invalid(format!("{path}.tool_calls"), "a call needs id, name and arguments as text"));
        };
        let arguments = arguments_of(&call["function"]["arguments"]);
        Ok(Done { id: id.to_owned(), name: name.to_owned(), arguments, result: String::new() })
    });
    done.collect()
}

fn tools_of(body: &Map<String, Value>) -> Vec<ToolSpec> {
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    tools
        .map(|tool| ToolSpec {
            name: tool["function"]["name"].as_str().unwrap_or_default().to_owned(),
            parameters: tool["function"]["parameters"].clone(),
        })
        .collect()
}

fn answer(
    number: u64,
    profile: &Profile,
    conversation: &Conversation,
    body: &Map<String, Value>,
    reply: Reply,
    input: usize,
) -> Value {
    let limit = body.get("max_completion_tokens").or(body.get("max_tokens")).and_then(Value::as_u64);
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let output = reply.tokens().min(limit);
    let cut = reply.tokens() > limit;
    let (content, calls) = match reply {
        Reply::Text(text) if cut => (Value::from(text.chars().take(limit.saturating_mul(4)).collect::<String>()), None),
        Reply::Text(text) => (text.into(), None),
        Reply::Calls(calls) => (Value::Null, Some(calls)),
    };
    let finish_reason = match (&calls, &conversation.choice) {
        _ if cut => "length",
        // A forced call ends with "stop" on the real API as well.
        (Some(_), Choice::Named(_)) | (None, _) => "stop",
        (Some(_), _) => "tool_calls",
    };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
    if let Some(calls) = calls {
        let calls = calls.into_iter().enumerate().map(|(index, (name, arguments))| {
            let function = json!({"name": name, "arguments": arguments.to_string()});
            json!({"id": format!("call_{number}_{index}"), "type": "function", "function": function})
        });
        message["tool_calls"] = calls.collect();
    }
    json!({
        "id": format!("chatcmpl-sandbox{number}"), "object": "chat.completion",
        "created": conversation.now.as_second(), "model": profile.name, "system_fingerprint": FINGERPRINT,
        "service_tier": "default",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": {"cached_tokens": cached(input, !conversation.steps.is_empty()), "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    })
}

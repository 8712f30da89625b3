//! Anthropic's `POST /v1/messages`, as strict as the real one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

use super::conversation::{Choice, Conversation, Reply, ToolSpec, tokens};
use super::errors::MessagesError;
use super::messages_reader::{self, call_prefix};
use super::models::{Profile, claude};
use super::rules;
use super::validation::{Body, read};
use crate::sandbox::shared::Shared;

const KNOWN: [&str; 19] = [
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "metadata",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "thinking",
    "output_config",
    "service_tier",
    "cache_control",
    "container",
    "context_management",
    "inference_geo",
];
/// Most marks of what shall be cached.
const MOST_BREAKPOINTS: usize = 4;
/// What the grammar of structured outputs does not know.
const NOT_IN_GRAMMAR: [&str; 10] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "$ref",
];

/// Answers one request, or refuses it as the real API does.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, MessagesError> {
    if headers.get("anthropic-version").is_none_or(|version| version != "2023-06-01") {
        return Err(MessagesError::invalid("anthropic-version: header is required, and only 2023-06-01 is known here"));
    }
    let body = read(body).map_err(|_| MessagesError::invalid("the body is not an object of JSON"))?;
    let profile = check(&body)?;
    let conversation = conversation(&shared, &body, profile)?;
    let reply = rules::reply(&conversation);
    let number = shared.lock().next_number();
    Ok(Json(answer(number, profile, &conversation, &body, reply)))
}

fn check(body: &Map<String, Value>) -> Result<&'static Profile, MessagesError> {
    if let Some(name) = body.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(MessagesError::invalid(format!("{name}: Extra inputs are not permitted")));
    }
    let name = body.get("model").and_then(Value::as_str);
    let name = name.ok_or_else(|| MessagesError::invalid("model: Field required"))?;
    let profile = claude(name).ok_or_else(|| MessagesError::not_found(format!("model: {name}")))?;
    match body.get("max_tokens").map(Value::as_u64) {
        None => return Err(MessagesError::invalid("max_tokens: Field required")),
        Some(Some(1..=128_000)) => {}
        Some(_) => return Err(MessagesError::invalid("max_tokens: must be from 1 to 128000")),
    }
    if body.get("stream") == Some(&Value::Bool(true)) {
        return Err(MessagesError::invalid("stream: the sandbox does not stream"));
    }
    let sampling = ["temperature", "top_p", "top_k"].into_iter().find(|name| body.contains_key(*name));
    if let Some(name) = sampling.filter(|_| profile.reasoning) {
        return Err(MessagesError::invalid(format!("{name}: is not supported by this model")));
    }
    if body.get("temperature").is_some_and(|value| !value.as_f64().is_some_and(|value| (0.0..=1.0).contains(&value))) {
        return Err(MessagesError::invalid("temperature: must be from 0 to 1"));
    }
    let breakpoints =
        Value::Object(body.clone()).to_string().matches("\"cache_control\":{\"type\":\"ephemeral\"").count();
    if breakpoints > MOST_BREAKPOINTS {
        let problem = format!("A maximum of 4 blocks with cache_control may be provided. Found {breakpoints}.");
        return Err(MessagesError::invalid(problem));
    }
    check_tools(body, profile)?;
    match body.get("output_config").map(|config| &config["format"]) {
        None | Some(Value::Null) => {}
        Some(format) if format["type"] == "json_schema" => check_format(&format["schema"])?,
        Some(_) => return Err(MessagesError::invalid("output_config.format.type: must be json_schema")),
    }
    Ok(profile)
}

fn check_tools(body: &Map<String, Value>, profile: &Profile) -> Result<(), MessagesError> {
    let tools = body.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut names = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let bad = |problem: &str| Err(MessagesError::invalid(format!("tools.{index}.custom.{problem}")));
        let fields = ["name", "description", "input_schema", "cache_control", "strict", "type", "defer_loading"];
        if let Some(name) = tool.as_object().and_then(|tool| tool.keys().find(|key| !fields.contains(&key.as_str()))) {
            return bad(&format!("{name}: Extra inputs are not permitted"));
        }
        let name = tool["name"].as_str().unwrap_or_default();
        let legal = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | '-');
        if name.is_empty() || name.len() > 128 || !name.chars().all(legal) {
            return bad("name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'");
        }
        if names.contains(&name) {
            return Err(MessagesError::invalid("tools: Tool names must be unique."));
        }
        names.push(name);
        if tool["input_schema"]["type"] != "object" {
            return bad("input_schema.type: Field required");
        }
        if ["oneOf", "allOf", "anyOf"].iter().any(|name| tool["input_schema"].get(*name).is_some()) {
            return bad("input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level");
        }
    }
    let choice = body.get("tool_choice").map(|choice| choice["type"].as_str().unwrap_or_default());
    match choice {
        Some(_) if tools.is_empty() => {
            Err(MessagesError::invalid("tool_choice: may only be specified while providing tools"))
        }
        None | Some("auto" | "none") => Ok(()),
        Some("any" | "tool") if !profile.reasoning => Ok(()),
        Some("any" | "tool") => {
            Err(MessagesError::invalid("Thinking may not be enabled when tool_choice forces tool use."))
        }
        Some(_) => Err(MessagesError::invalid("tool_choice.type: unknown")),
    }
}

fn check_format(schema: &Value) -> Result<(), MessagesError> {
    let bad = |problem: &str| Err(MessagesError::invalid(format!("output_config.format.schema: {problem}")));
    let Some(node) = schema.as_object() else { return bad("is not an object") };
    if node.get("type").is_some_and(|kind| kind == "object") && node.get("additionalProperties") != Some(&json!(false))
    {
        return bad("For 'object' type, 'additionalProperties' must be explicitly set to false");
    }
    if let Some(name) = NOT_IN_GRAMMAR.iter().find(|name| node.contains_key(**name)) {
        return bad(&format!("property '{name}' is not supported"));
    }
    let children = node.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let listed = node.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    children.chain(listed).chain(node.get("items")).try_for_each(check_format)
}

fn conversation(shared: &Shared, body: &Map<String, Value>, profile: &Profile) -> Result<Conversation, MessagesError> {
    let history = messages_reader::read(body, profile)?;
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let tools = tools.map(|tool| ToolSpec {
        name: tool["name"].as_str().unwrap_or_default().to_owned(),
        parameters: tool["input_schema"].clone(),
    });
    let tools: Vec<ToolSpec> = tools.collect();
    let (prompt, steps) = history.last_wish(|prompt| rules::asks(prompt, &tools));
    let choice = body.get("tool_choice").unwrap_or(&Value::Null);
    let schema = body.get("output_config").map(|config| config["format"]["schema"].clone());
    Ok(Conversation {
        prompt,
        steps,
        tools,
        choice: match choice["type"].as_str() {
            Some("none") => Choice::Never,
            Some("any") => Choice::Required,
            Some("tool") => Choice::Named(choice["name"].as_str().unwrap_or_default().to_owned()),
            _ => Choice::Auto,
        },
        parallel: choice["disable_parallel_tool_use"] != true,
        schema: schema.filter(Value::is_object),
        now: shared.now(),
    })
}

fn answer(
    number: u64,
    profile: &Profile,
    conversation: &Conversation,
    body: &Map<String, Value>,
    reply: Reply,
) -> Value {
    let limit = body.get("max_tokens").and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(usize::MAX);
    let (output_tokens, cut) = (reply.tokens().min(limit), reply.tokens() > limit);
    let mut content = Vec::new();
    if profile.reasoning {
        content.push(messages_reader::thought(profile, number));
    }
    let mut stop_reason = "end_turn";
    match reply {
        // As the real one: no block, rather than a blank one.
        Reply::Text(text) if text.is_empty() => {}
        Reply::Text(text) => {
            let text: String = if cut { text.chars().take(limit.saturating_mul(4)).collect() } else { text };
            content.push(json!({"type": "text", "text": text}));
        }
        Reply::Calls(calls) => {
            stop_reason = "tool_use";
            let prefix = call_prefix(profile);
            content.extend(calls.into_iter().enumerate().map(|(index, (name, input))| {
                json!({"type": "tool_use", "id": format!("{prefix}{number}_{index}"), "name": name, "input": input})
            }));
        }
    }
    // Of a repeated prefix the part that was marked comes from the cache; this stand-in takes all of it for marked.
    let input = tokens(&json!([body.get("system"), body.get("messages"), body.get("tools")]).to_string());
    let marked = Value::Object(body.clone()).to_string().contains("\"cache_control\"");
    let cached = if marked && input >= 1_024 { input / 128 * 128 } else { 0 };
    let (read, written) = if conversation.steps.is_empty() { (0, cached) } else { (cached, 0) };
    json!({
        "id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": profile.name,
        "content": content, "stop_reason": if cut { "max_tokens" } else { stop_reason }, "stop_sequence": null,
        "stop_details": null,
        "usage": {
            "input_tokens": input - cached, "output_tokens": output_tokens,
            "cache_read_input_tokens": read, "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
            "service_tier": "standard",
        },
    })
}

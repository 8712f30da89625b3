//! The wire of `POST /chat/completions`, as OpenAI describes it (OpenAPI document, 2026-08-21) and as the servers that
//! call themselves compatible really answer: arguments as objects, ids missing or given twice, content in parts, usage
//! left out, finish reasons of their own.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::error::{Failure, LlmError, classify};
use super::profile::{Profile, SystemRole, TokenField};
use super::request::{CallIds, ModelRequest, body, check, keep, kept};
use super::strict::fits_strict;
use super::{Config, cache_key, safety_identifier};
use crate::agent::message::{AssistantMessage, Finish, Message, ModelReply, ToolCall, ToolChoice, Usage};
use crate::http;

/// Path under the base URL.
pub(super) const PATH: &str = "chat/completions";
/// Marks what this adapter keeps of an answer, and where it stands there.
const KEPT_BY: &str = "chat_completions";
const EXTRA: &str = "extra_content";

/// The body of a request, or [`LlmError::Invalid`] where no server would take it.
pub(super) fn render(request: &ModelRequest<'_>, profile: &Profile, config: &Config) -> Result<http::Body, LlmError> {
    check(request, profile)?;
    let has_tools = !request.tools.is_empty();
    let cap = request.max_output_tokens.or(config.max_output_tokens);
    let (max_completion_tokens, max_tokens) = match profile.token_field {
        TokenField::MaxCompletionTokens => (cap, None),
        TokenField::MaxTokens => (None, cap),
    };
    let fields = Fields {
        model: request.model,
        messages: request.messages.iter().map(|message| render_message(message, request.model, profile)).collect(),
        tool_choice: has_tools.then_some(request.tool_choice),
        parallel_tool_calls: config.parallel_tool_calls.filter(|_| has_tools && profile.parallel_tool_calls),
        response_format: request.output_schema.map(|schema| ResponseFormat {
            kind: "json_schema",
            json_schema: JsonSchema { name: "output", schema, strict: fits_strict(schema) },
        }),
        max_completion_tokens,
        max_tokens,
        temperature: config.temperature.filter(|_| profile.temperature),
        reasoning_effort: profile.reasoning_effort.as_deref(),
        prompt_cache_key: profile.identifiers.then(|| cache_key(request.run_id)),
        safety_identifier: profile.identifiers.then(|| safety_identifier(request.user)),
    };
    Ok(body(request, &fields))
}

/// Reads the body of a successful answer of `model` to the conversation `messages`.
pub(super) fn parse(body: &[u8], messages: &[Message], model: &str) -> Result<ModelReply, LlmError> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|error| LlmError::bad_answer(&format!("not JSON ({error})"), body))?;
    let bad = |problem: &str| LlmError::bad_answer(problem, body);
    let Some(choice) = answer.get("choices").and_then(|choices| choices.get(0)) else {
        // Some gateways report an upstream failure in an answer of status 200.
        let failed = answer.get("error").is_some_and(|error| !error.is_null());
        return Err(if failed { classify(Failure::WITHIN_SUCCESS, &answer) } else { bad("no choices") });
    };
    let Some(message) = choice.get("message").filter(|message| message.is_object()) else {
        return Err(bad("a choice without a message"));
    };
    let calls = parse_calls(message.get("tool_calls"), messages).map_err(bad)?;
    let extra = extra_content(&calls, message.get("tool_calls"));
    let text = text_of(message.get("content"));
    let refusal = message.get("refusal").and_then(Value::as_str).filter(|refusal| !refusal.is_empty());
    Ok(ModelReply {
        message: AssistantMessage {
            text,
            calls,
            provider_items: extra.map_or_else(Vec::new, |extra| keep(KEPT_BY, model, EXTRA, extra)),
        },
        finish: match refusal {
            Some(refusal) => Finish::Refusal(refusal.to_owned()),
            None => finish(choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default()),
        },
        usage: usage(answer.get("usage")),
        model: answer.get("model").and_then(Value::as_str).map(str::to_owned),
        request_id: None,
    })
}

#[derive(Serialize)]
struct Fields<'a> {
    model: &'a str,
    messages: Vec<WireMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_identifier: Option<String>,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    json_schema: JsonSchema<'a>,
}

#[derive(Serialize)]
struct JsonSchema<'a> {
    name: &'static str,
    schema: &'a Value,
    strict: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireMessage<'a> {
    System {
        role: SystemRole,
        content: &'a str,
    },
    User {
        role: &'static str,
        content: &'a str,
    },
    Assistant {
        role: &'static str,
        content: Option<&'a str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<WireCall<'a>>,
    },
    Tool {
        role: &'static str,
        tool_call_id: &'a str,
        content: &'a str,
    },
}

#[derive(Serialize)]
struct WireCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: WireFunction<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<&'a Value>,
}

#[derive(Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    arguments: Cow<'a, str>,
}

fn render_message<'a>(message: &'a Message, model: &str, profile: &Profile) -> WireMessage<'a> {
    match message {
        Message::System(content) => WireMessage::System { role: profile.system_role, content },
        Message::User(content) => WireMessage::User { role: "user", content },
        Message::Assistant(said) => WireMessage::Assistant {
            role: "assistant",
            // Null is allowed beside calls only.
            content: said.text.as_deref().or(said.calls.is_empty().then_some("")),
            tool_calls: said.calls.iter().map(|call| render_call(call, kept(said, KEPT_BY, model, EXTRA))).collect(),
        },
        Message::ToolResult { call_id, content } => WireMessage::Tool { role: "tool", tool_call_id: call_id, content },
    }
}

fn render_call<'a>(call: &'a ToolCall, extra: Option<&'a Value>) -> WireCall<'a> {
    let function = WireFunction { name: &call.name, arguments: readable_arguments(&call.arguments) };
    WireCall { id: &call.id, kind: "function", function, extra_content: extra.and_then(|extra| extra.get(&call.id)) }
}

/// The arguments of a past call. Text that is no JSON object is wrapped in one: servers that put past calls into a
/// template parse it, and would refuse the whole conversation for one slip of the model.
pub(super) fn readable_arguments(arguments: &str) -> Cow<'_, str> {
    let is_object = arguments.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(arguments).is_ok();
    if is_object {
        return Cow::Borrowed(arguments);
    }
    Cow::Owned(serde_json::json!({ "invalid_json": arguments }).to_string())
}

fn parse_calls(calls: Option<&Value>, messages: &[Message]) -> Result<Vec<ToolCall>, &'static str> {
    let calls = match calls {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(calls) => calls.as_array().ok_or("tool calls are not a list")?,
    };
    let mut ids = CallIds::after(messages);
    let parse_call = |call: &Value| {
        let function = call.get("function").ok_or("a tool call without a function")?;
        let name = function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        Ok(ToolCall {
            id: ids.next(call.get("id").and_then(Value::as_str)),
            name: name.ok_or("a tool call without a name")?.to_owned(),
            arguments: arguments(function.get("arguments")),
        })
    };
    calls.iter().map(parse_call).collect()
}

/// What Gemini says beside its calls, by their ids: signatures of what it thought. It refuses a call that comes back without.
fn extra_content(calls: &[ToolCall], wire: Option<&Value>) -> Option<Value> {
    let wire = wire?.as_array()?;
    let extra = calls.iter().zip(wire).filter_map(|(call, wire)| {
        let extra = wire.get("extra_content").filter(|extra| extra.is_object())?;
        Some((call.id.clone(), extra.clone()))
    });
    let extra: Map<String, Value> = extra.collect();
    (!extra.is_empty()).then_some(Value::Object(extra))
}

/// Arguments as text: a string by the book, an object from some servers, nothing at all for a tool without parameters.
pub(super) fn arguments(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Content is a string, or a list of parts.
fn text_of(content: Option<&Value>) -> Option<String> {
    let text = match content? {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn finish(word: &str) -> Finish {
    match word {
        // The last three are said with calls; `tool_call` is mlx's spelling, `function_call` the old one.
        "" | "stop" | "tool_calls" | "tool_call" | "function_call" => Finish::Stop,
        "length" | "max_tokens" => Finish::Length,
        "content_filter" => Finish::ContentFilter,
        other => Finish::Other(other.to_owned()),
    }
}

/// Half a usage is no usage: a missing figure is not zero.
fn usage(usage: Option<&Value>) -> Option<Usage> {
    let usage = usage?;
    let details = usage.get("prompt_tokens_details");
    let of_input = |kind: &str| details.and_then(|details| details.get(kind)?.as_u64()).unwrap_or(0);
    Some(Usage {
        input_tokens: usage.get("prompt_tokens")?.as_u64()?,
        output_tokens: usage.get("completion_tokens")?.as_u64()?,
        cached_tokens: of_input("cached_tokens"),
        cache_write_tokens: of_input("cache_write_tokens"),
        cache_write_1h_tokens: 0,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::profile::Profiles;
    use super::super::request::RenderedTools;
    use super::super::request::tests::{answer, call, calls, request, tool, user};
    use super::*;

    fn rendered(request: &ModelRequest<'_>, profile: &Profile, config: &Config) -> Value {
        serde_json::from_slice(&render(request, profile, config).unwrap().to_vec()).unwrap()
    }

    fn parsed(body: &Value) -> Result<ModelReply, LlmError> {
        parse(body.to_string().as_bytes(), &[], "gpt-4o")
    }

    fn with_message(message: &Value) -> ModelReply {
        parsed(&json!({"choices": [{"message": message}]})).unwrap()
    }

    #[test]
    fn a_conversation_becomes_messages() {
        let profile = Profiles::built_in().lookup("gpt-4o");
        let tools = RenderedTools::new(&profile, &[tool("gmail_fetch_mails", "Fetch.", "{}")]);
        let mut odd = call("b");
        odd.arguments = "{\"cut".to_owned();
        let said = AssistantMessage { text: None, calls: vec![call("a"), odd], provider_items: vec![json!({"x": 1})] };
        let history = [
            Message::System("Be brief.".to_owned()),
            user("Go."),
            Message::Assistant(said),
            answer("a"),
            answer("b"),
            calls(&[]),
        ];
        let config = Config { max_output_tokens: Some(99), temperature: Some(0.5), ..Config::default() };
        let body = rendered(&request(&history, &tools), &profile, &config);
        assert_eq!(
            body,
            json!({
                "model": "gpt-4o",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Go."},
                    {"role": "assistant", "content": null, "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "gmail_fetch_mails", "arguments": "{}"}},
                        {"id": "b", "type": "function", "function":
                            {"name": "gmail_fetch_mails", "arguments": "{\"invalid_json\":\"{\\\"cut\"}"}},
                    ]},
                    {"role": "tool", "tool_call_id": "a", "content": "[]"},
                    {"role": "tool", "tool_call_id": "b", "content": "[]"},
                    {"role": "assistant", "content": ""},
                ],
                "tools": [{"type": "function", "function":
                    {"name": "gmail_fetch_mails", "description": "Fetch.", "parameters": {}, "strict": false}}],
                "tool_choice": "auto",
                "max_completion_tokens": 99,
                "temperature": 0.5,
                "prompt_cache_key": "order-4711",
                "safety_identifier": safety_identifier("user_123"),
            })
        );
    }

    #[test]
    fn geminis_signatures_go_back_to_it_and_to_no_other() {
        let body = include_bytes!("../../tests/data/llm/chat_gemini.json");
        let reply = parse(body, &[], "gemini-3-pro").unwrap();
        let ids: Vec<_> = reply.message.calls.iter().map(|call| call.id.clone()).collect();
        assert_eq!(ids, ["call_0_0", "call_0_1"], "it gives none");
        let history = [user("Go."), Message::Assistant(reply.message), answer("call_0_0"), answer("call_0_1")];
        let tools = RenderedTools::new(&Profile::default(), &[]);
        let extra = |model: &'static str| {
            let request = ModelRequest { model, ..request(&history, &tools) };
            let body = rendered(&request, &Profile::default(), &Config::default());
            let calls = body["messages"][1]["tool_calls"].as_array().unwrap().clone();
            calls
                .into_iter()
                .map(|call| call["extra_content"]["google"]["thought_signature"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(extra("gemini-3-pro"), [json!("CpcDAXLI2nwQ="), json!(null)]);
        assert_eq!(extra("gemini-3-flash"), [json!(null), json!(null)]);
        assert_eq!(reply.usage, Some(Usage { input_tokens: 87, output_tokens: 113, ..Usage::default() }));
    }

    #[test]
    fn the_tools_stand_in_the_body_byte_for_byte() {
        let profile = Profile::default();
        let schema = format!(
            r#"{{ "type":"object",  "properties":{{ "x": {{"description":"{}"}} }} }}"#,
            "é\\u00e9".repeat(500)
        );
        let tools = RenderedTools::new(&profile, &[tool("a", "A.", &schema), tool("b", "B.", &schema)]);
        let end = |history: &[Message]| {
            let body = render(&request(history, &tools), &profile, &Config::default()).unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert_eq!(body.matches(&schema).count(), 2, "the schemas are not printed anew");
            body[body.find(r#","tools":["#).unwrap()..].to_owned()
        };
        assert_eq!(end(&[user("Go.")]), end(&[user("Go."), calls(&["a"]), answer("a")]), "the provider's cache holds");
    }

    #[test]
    fn without_tools_nothing_is_said_of_tools() {
        let tools = RenderedTools::new(&Profile::default(), &[]);
        let config = Config { parallel_tool_calls: Some(false), ..Config::default() };
        let body = rendered(&request(&[user("Go.")], &tools), &Profile::default(), &config);
        assert_eq!(body, json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Go."}]}));
    }

    #[test]
    fn a_model_that_shall_not_call_still_sees_the_tools_so_that_the_cache_holds() {
        let profile = Profile::default();
        let tools = RenderedTools::new(&profile, &[tool("a", "", "{}")]);
        let config = Config { parallel_tool_calls: Some(false), max_output_tokens: Some(5), ..Config::default() };
        let history = [user("Go.")];
        let request =
            ModelRequest { tool_choice: ToolChoice::None, max_output_tokens: Some(7), ..request(&history, &tools) };
        let body = rendered(&request, &profile, &config);
        assert_eq!(body["tool_choice"], "none");
        assert!(body["tools"].is_array());
        assert_eq!(body["parallel_tool_calls"], false);
        assert_eq!(body["max_tokens"], 7, "the request's own cap wins");
    }

    #[test]
    fn a_reasoning_model_is_not_sent_what_it_refuses() {
        let profile = Profiles::built_in().lookup("gpt-6-luna").over(super::super::Api::ChatCompletions);
        let tools = RenderedTools::new(&profile, &[]);
        let config = Config { temperature: Some(0.0), max_output_tokens: Some(9), ..Config::default() };
        let body = rendered(&request(&[Message::System("Be brief.".to_owned())], &tools), &profile, &config);
        assert_eq!(body["messages"][0]["role"], "developer");
        assert_eq!(body["reasoning_effort"], "none");
        assert_eq!(body["max_completion_tokens"], 9);
        assert_eq!(body.get("temperature"), None);
        assert_eq!(body.get("max_tokens"), None);
    }

    #[test]
    fn an_output_schema_is_strict_where_it_can_be() {
        let tools = RenderedTools::new(&Profile::default(), &[]);
        for (schema, strict) in [
            (json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false}), true),
            (json!({"type": "object"}), false),
        ] {
            let history = [user("Go.")];
            let request = ModelRequest { output_schema: Some(&schema), ..request(&history, &tools) };
            let body = rendered(&request, &Profile::default(), &Config::default());
            let expected = json!({"type": "json_schema",
                "json_schema": {"name": "output", "schema": schema, "strict": strict}});
            assert_eq!(body["response_format"], expected);
        }
    }

    #[test]
    fn a_broken_conversation_is_not_rendered() {
        let tools = RenderedTools::new(&Profile::default(), &[]);
        let history = [calls(&["a"])];
        let result = render(&request(&history, &tools), &Profile::default(), &Config::default());
        assert!(matches!(result, Err(LlmError::Invalid(_))));
    }

    #[test]
    fn an_ordinary_answer_is_read() {
        let reply = parse(include_bytes!("../../tests/data/llm/chat_calls.json"), &[], "gpt-4o").unwrap();
        assert_eq!(reply.finish, Finish::Stop);
        assert_eq!(reply.message.text, None);
        assert_eq!(
            reply.message.calls,
            [ToolCall {
                id: "call_Zk3".to_owned(),
                name: "gmail_fetch_mails".to_owned(),
                arguments: "{\"max_results\": 5, \"query\":\"is:unread\"}".to_owned(),
            }]
        );
        assert_eq!(
            reply.usage,
            Some(Usage { input_tokens: 1200, output_tokens: 34, cached_tokens: 1024, ..Usage::default() })
        );
        assert_eq!(reply.model.as_deref(), Some("gpt-4o-2024-11-20"));
    }

    #[test]
    fn the_answers_of_odd_servers_are_read() {
        let reply = parse(include_bytes!("../../tests/data/llm/chat_odd.json"), &[], "gpt-4o").unwrap();
        assert_eq!(reply.message.text.as_deref(), Some("Let me look."));
        let calls: Vec<_> = reply.message.calls.iter().map(|call| (&*call.id, &*call.arguments)).collect();
        let expected =
            [("x", r#"{"max_results":5}"#), ("call_0_1", "{}"), ("call_0_2", "{}"), ("call_0_3", "{}"), ("y", "[1]")];
        assert_eq!(calls, expected);
        assert_eq!(reply.finish, Finish::Other("eos_token".to_owned()));
        assert_eq!(reply.usage, None);
    }

    #[test]
    fn finish_words_are_told_apart_and_never_decide_on_calls() {
        let finish = |word: Value| {
            let call = json!({"id": "a", "function": {"name": "t"}});
            let choice = json!({"finish_reason": word, "message": {"content": null, "tool_calls": [call]}});
            let reply = parsed(&json!({"choices": [choice]})).unwrap();
            assert_eq!(reply.message.calls.len(), 1);
            reply.finish
        };
        for word in [json!("stop"), json!("tool_calls"), json!("tool_call"), json!(""), json!(null), json!(7)] {
            assert_eq!(finish(word), Finish::Stop);
        }
        assert_eq!(finish(json!("length")), Finish::Length);
        assert_eq!(finish(json!("content_filter")), Finish::ContentFilter);
        assert_eq!(finish(json!("weird")), Finish::Other("weird".to_owned()));
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let reply = with_message(&json!({"content": null, "refusal": "I can't help with that."}));
        assert_eq!(reply.finish, Finish::Refusal("I can't help with that.".to_owned()));
        assert_eq!(with_message(&json!({"content": "x", "refusal": ""})).finish, Finish::Stop);
    }

    #[test]
    fn what_is_absent_stays_absent() {
        for message in [json!({}), json!({"content": null}), json!({"content": ""}), json!({"content": 7})] {
            let reply = with_message(&message);
            assert_eq!(reply.message, AssistantMessage::default());
            assert_eq!((reply.usage, reply.model), (None, None));
        }
        let reply =
            with_message(&json!({"content": "Hi.", "tool_calls": [], "reasoning_content": "hm", "audio": null}));
        assert_eq!(reply.message.text.as_deref(), Some("Hi."));
        for usage in [json!({}), json!({"prompt_tokens": 1}), json!({"prompt_tokens": -1, "completion_tokens": 1e30})] {
            assert_eq!(super::usage(Some(&usage)), None, "{usage}");
        }
    }

    #[test]
    fn two_hundred_calls_all_get_ids_of_their_own() {
        let calls = vec![json!({"id": "same", "function": {"name": "t", "arguments": "{}"}}); 200];
        let reply = with_message(&json!({ "tool_calls": calls }));
        let ids: std::collections::HashSet<_> = reply.message.calls.iter().map(|call| &call.id).collect();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn what_is_no_answer_is_called_malformed() {
        let nested = format!(r#"{{"choices": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "",
            "null",
            "[]",
            "7",
            "<html>",
            "{}",
            r#"{"choices": null}"#,
            r#"{"choices": []}"#,
            r#"{"choices": {"0": 1}}"#,
            r#"{"choices": [{}]}"#,
            r#"{"choices": [{"message": "hi"}]}"#,
            r#"{"choices": [{"message": {"tool_calls": "none"}}]}"#,
            r#"{"choices": [{"message": {"tool_calls": [7]}}]}"#,
            r#"{"choices": [{"message": {"tool_calls": [{"function": {"name": ""}}]}}]}"#,
            r#"{"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}"#,
            r#"{"choices": [{"message": {"content": "cut o"#,
            r#"{"choices": [{"message": {"content": "x"}}], "usage": 1e999}"#,
            &nested,
        ] {
            let result = parse(body.as_bytes(), &[], "gpt-4o");
            let start: String = body.chars().take(80).collect();
            assert!(matches!(result, Err(LlmError::BadAnswer { .. })), "{start}: {result:?}");
        }
        assert!(matches!(parse(b"\xff\xfe", &[], "gpt-4o"), Err(LlmError::BadAnswer { .. })));
    }

    #[test]
    fn an_error_in_a_successful_answer_is_an_error() {
        let error = |code: Value| parsed(&json!({"error": {"message": "no", "code": code}})).unwrap_err();
        assert!(matches!(error(json!("rate_limit_exceeded")), LlmError::RateLimited { .. }));
        assert!(matches!(error(json!(429)), LlmError::RateLimited { .. }));
        assert!(matches!(error(json!(502)), LlmError::Unavailable { status: 502, .. }));
        assert!(matches!(error(json!("insufficient_quota")), LlmError::QuotaExhausted { .. }));
        assert!(matches!(error(json!("server_error")), LlmError::Unavailable { .. }));
        assert!(matches!(error(json!("strange")), LlmError::Rejected { status: 200, .. }));
        assert!(matches!(error(json!(7)), LlmError::Rejected { status: 200, .. }));
    }
}

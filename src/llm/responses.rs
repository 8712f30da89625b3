//! The wire of `POST /responses` (OpenAPI document, 2026-08-21), used without any state at the provider: nothing is
//! stored there, and what a reasoning model thought comes back encrypted and is sent again with the calls it led to.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use super::chat_completions::arguments;
use super::error::{Failure, LlmError, classify};
use super::profile::{Profile, SystemRole};
use super::request::{CallIds, ModelRequest, body, check, is_kept};
use super::strict::fits_strict;
use super::{Config, cache_key, safety_identifier};
use crate::agent::message::{AssistantMessage, Finish, Message, ModelReply, ToolCall, ToolChoice, Usage};
use crate::http;

/// Path under the base URL.
pub(super) const PATH: &str = "responses";

/// The body of a request, or [`LlmError::Invalid`] where no server would take it.
pub(super) fn render(request: &ModelRequest<'_>, profile: &Profile, config: &Config) -> Result<http::Body, LlmError> {
    check(request, profile)?;
    let has_tools = !request.tools.is_empty();
    let fields = Fields {
        model: request.model,
        input: request.messages.iter().flat_map(|message| render_message(message, profile)).collect(),
        store: false,
        include: profile.reasons().then_some(["reasoning.encrypted_content"]),
        tool_choice: has_tools.then_some(request.tool_choice),
        parallel_tool_calls: config.parallel_tool_calls.filter(|_| has_tools && profile.parallel_tool_calls),
        text: request.output_schema.map(|schema| Text {
            format: Format { kind: "json_schema", name: "output", schema, strict: fits_strict(schema) },
        }),
        max_output_tokens: request.max_output_tokens.or(config.max_output_tokens),
        temperature: config.temperature.filter(|_| profile.temperature),
        reasoning: profile.reasoning_effort.as_deref().map(|effort| Reasoning { effort }),
        prompt_cache_key: profile.identifiers.then(|| cache_key(request.run_id)),
        safety_identifier: profile.identifiers.then(|| safety_identifier(request.user)),
    };
    Ok(body(request, &fields))
}

/// Reads the body of a successful answer to the conversation `messages`.
pub(super) fn parse(body: &[u8], messages: &[Message]) -> Result<ModelReply, LlmError> {
    let mut answer: Value =
        serde_json::from_slice(body).map_err(|error| LlmError::bad_answer(&format!("not JSON ({error})"), body))?;
    if answer.get("error").is_some_and(|error| !error.is_null()) || answer.get("status") == Some(&json!("failed")) {
        return Err(classify(Failure::WITHIN_SUCCESS, &answer));
    }
    let bad = |problem: &str| LlmError::bad_answer(problem, body);
    let Some(Value::Array(mut items)) = answer.get_mut("output").map(Value::take) else {
        return Err(bad("no output"));
    };
    let calls = parse_calls(&mut items, messages).map_err(bad)?;
    let text = text_of(&items);
    let finish = refusal(&items).map_or_else(|| finish(&answer), Finish::Refusal);
    // Reasoning that led to nothing is refused when it is sent again.
    let provider_items = if text.is_none() && calls.is_empty() { Vec::new() } else { items };
    Ok(ModelReply {
        message: AssistantMessage { text, calls, provider_items },
        finish,
        usage: usage(answer.get("usage")),
        model: answer.get("model").and_then(Value::as_str).map(str::to_owned),
        request_id: None,
    })
}

#[derive(Serialize)]
struct Fields<'a> {
    model: &'a str,
    input: Vec<Item<'a>>,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_identifier: Option<String>,
}

#[derive(Serialize)]
struct Reasoning<'a> {
    effort: &'a str,
}

#[derive(Serialize)]
struct Text<'a> {
    format: Format<'a>,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'static str,
    schema: &'a Value,
    strict: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    /// As the provider gave it.
    Own(&'a Value),
    System {
        role: SystemRole,
        content: &'a str,
    },
    Message {
        role: &'static str,
        content: &'a str,
    },
    Call {
        #[serde(rename = "type")]
        kind: &'static str,
        call_id: &'a str,
        name: &'a str,
        arguments: &'a str,
    },
    Output {
        #[serde(rename = "type")]
        kind: &'static str,
        call_id: &'a str,
        output: &'a str,
    },
}

fn render_message<'a>(message: &'a Message, profile: &Profile) -> Vec<Item<'a>> {
    match message {
        Message::System(content) => vec![Item::System { role: profile.system_role, content }],
        Message::User(content) => vec![Item::Message { role: "user", content }],
        Message::Assistant(said) if has_own_items(said) => {
            said.provider_items.iter().filter(|item| can_be_sent_again(item)).map(Item::Own).collect()
        }
        Message::Assistant(said) => {
            let text = said.text.iter().map(|content| Item::Message { role: "assistant", content });
            let calls = said.calls.iter().map(|call| Item::Call {
                kind: "function_call",
                call_id: &call.id,
                name: &call.name,
                arguments: &call.arguments,
            });
            text.chain(calls).collect()
        }
        Message::ToolResult { call_id, content } => {
            vec![Item::Output { kind: "function_call_output", call_id, output: content }]
        }
    }
}

/// Whether the provider's items are there and hold the very calls of the message, so that every answer finds its call.
fn has_own_items(said: &AssistantMessage) -> bool {
    let calls = said.provider_items.iter().filter(|item| kind(item) == "function_call");
    let ids = calls.map(|item| item.get("call_id").and_then(Value::as_str).unwrap_or_default());
    let is_foreign = said.provider_items.iter().any(is_kept);
    !said.provider_items.is_empty() && !is_foreign && ids.eq(said.calls.iter().map(|call| call.id.as_str()))
}

/// Reasoning without its encrypted content is a mere reference to something that the provider was told not to store.
fn can_be_sent_again(item: &Value) -> bool {
    kind(item) != "reasoning" || item.get("encrypted_content").is_some_and(Value::is_string)
}

fn kind(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Reads the calls. Ids and arguments that had to be mended are mended in the items too, as those are sent again.
fn parse_calls(items: &mut [Value], messages: &[Message]) -> Result<Vec<ToolCall>, &'static str> {
    if items.iter().any(|item| !item.is_object()) {
        return Err("an output item is not an object");
    }
    let mut ids = CallIds::after(messages);
    let parse_call = |item: &mut Value| {
        let name = item.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let call = ToolCall {
            name: name.ok_or("a tool call without a name")?.to_owned(),
            id: ids.next(item.get("call_id").and_then(Value::as_str)),
            arguments: arguments(item.get("arguments")),
        };
        item["call_id"] = json!(call.id);
        item["arguments"] = json!(call.arguments);
        Ok(call)
    };
    items.iter_mut().filter(|item| kind(item) == "function_call").map(parse_call).collect()
}

/// The final answer, or what the model said on the way where there is no other text yet.
fn text_of(items: &[Value]) -> Option<String> {
    let said = |commentary: bool| {
        let messages = items.iter().filter(|item| kind(item) == "message");
        let messages = messages.filter(|item| (item.get("phase") == Some(&json!("commentary"))) == commentary);
        let texts = messages.map(|item| parts(item).filter_map(|part| part.get("text")?.as_str()).collect());
        let texts: Vec<String> = texts.filter(|text: &String| !text.is_empty()).collect();
        (!texts.is_empty()).then(|| texts.join("\n\n"))
    };
    said(false).or_else(|| said(true))
}

fn refusal(items: &[Value]) -> Option<String> {
    let messages = items.iter().filter(|item| kind(item) == "message");
    let refusals = messages.flat_map(parts).filter_map(|part| part.get("refusal")?.as_str());
    refusals.map(str::to_owned).find(|refusal| !refusal.is_empty())
}

fn parts(message: &Value) -> impl Iterator<Item = &Value> {
    message.get("content").and_then(Value::as_array).into_iter().flatten()
}

fn finish(answer: &Value) -> Finish {
    let reason = answer.pointer("/incomplete_details/reason").and_then(Value::as_str);
    match (answer.get("status").and_then(Value::as_str).unwrap_or_default(), reason) {
        ("" | "completed", _) => Finish::Stop,
        ("incomplete", None | Some("max_output_tokens")) => Finish::Length,
        ("incomplete", Some("content_filter")) => Finish::ContentFilter,
        ("incomplete", Some(other)) | (other, _) => Finish::Other(other.to_owned()),
    }
}

/// Half a usage is no usage: a missing figure is not zero.
fn usage(usage: Option<&Value>) -> Option<Usage> {
    let usage = usage?;
    let details = usage.get("input_tokens_details");
    let of_input = |kind: &str| details.and_then(|details| details.get(kind)?.as_u64()).unwrap_or(0);
    Some(Usage {
        input_tokens: usage.get("input_tokens")?.as_u64()?,
        output_tokens: usage.get("output_tokens")?.as_u64()?,
        cached_tokens: of_input("cached_tokens"),
        cache_write_tokens: of_input("cache_write_tokens"),
        cache_write_1h_tokens: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Api;
    use super::super::profile::Profiles;
    use super::super::request::RenderedTools;
    use super::super::request::tests::{answer, call, calls, request, tool, user};
    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../tests/data/llm/responses_calls.json");

    fn luna() -> Profile {
        Profiles::built_in().lookup("gpt-6-luna")
    }

    fn rendered(request: &ModelRequest<'_>, profile: &Profile, config: &Config) -> Value {
        serde_json::from_slice(&render(request, profile, config).unwrap().to_vec()).unwrap()
    }

    fn with_output(output: &Value) -> Result<ModelReply, LlmError> {
        parse(json!({ "output": output }).to_string().as_bytes(), &[])
    }

    #[test]
    fn a_conversation_becomes_items_and_nothing_is_stored() {
        let tools = RenderedTools::new(&luna(), &[tool("gmail_fetch_mails", "Fetch.", "{}")]);
        let history = [Message::System("Be brief.".to_owned()), user("Go.")];
        let config = Config {
            max_output_tokens: Some(99),
            temperature: Some(0.5),
            parallel_tool_calls: Some(false),
            ..Config::default()
        };
        let body = rendered(&request(&history, &tools), &luna(), &config);
        assert_eq!(
            body,
            json!({
                "model": "gpt-4o",
                "input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Go."}],
                "store": false,
                "include": ["reasoning.encrypted_content"],
                "tools": [{"type": "function", "name": "gmail_fetch_mails", "description": "Fetch.",
                    "parameters": {}, "strict": false}],
                "tool_choice": "auto",
                "parallel_tool_calls": false,
                "max_output_tokens": 99,
                "prompt_cache_key": "order-4711",
                "safety_identifier": safety_identifier("user_123"),
            })
        );
    }

    #[test]
    fn the_tools_stand_in_the_body_byte_for_byte() {
        let schema = r#"{ "type":"object",  "properties":{} }"#;
        let tools = RenderedTools::new(&luna(), &[tool("a", "A.", schema)]);
        let body = render(&request(&[user("Go.")], &tools), &luna(), &Config::default()).unwrap();
        assert!(String::from_utf8(body.to_vec()).unwrap().contains(schema));
    }

    #[test]
    fn a_model_that_does_not_reason_is_not_asked_for_its_reasoning() {
        let profile = Profile::default().over(Api::Responses);
        let tools = RenderedTools::new(&profile, &[]);
        let schema = json!({"type": "object"});
        let history = [user("Go.")];
        let request = ModelRequest { output_schema: Some(&schema), ..request(&history, &tools) };
        let body = rendered(&request, &profile, &Config::default());
        let format = json!({"type": "json_schema", "name": "output", "schema": schema, "strict": false});
        let input = json!([{"role": "user", "content": "Go."}]);
        assert_eq!(body, json!({"model": "gpt-4o", "input": input, "store": false, "text": {"format": format}}));
    }

    #[test]
    fn an_effort_is_sent_where_the_profile_says_so() {
        let profile = Profile { reasoning_effort: Some("low".to_owned()), ..luna() };
        let tools = RenderedTools::new(&profile, &[]);
        let body = rendered(&request(&[user("Go.")], &tools), &profile, &Config::default());
        assert_eq!(body["reasoning"], json!({"effort": "low"}));
    }

    #[test]
    fn an_ordinary_answer_is_read() {
        let reply = parse(SAMPLE, &[]).unwrap();
        assert_eq!(reply.finish, Finish::Stop);
        assert_eq!(reply.message.text.as_deref(), Some("I look at your mail."));
        let ids: Vec<_> = reply.message.calls.iter().map(|call| (&*call.id, &*call.arguments)).collect();
        assert_eq!(ids, [("call_1", "{\"max_results\":5}"), ("call_2", "{}")]);
        assert_eq!(
            reply.usage,
            Some(Usage { input_tokens: 900, output_tokens: 150, cached_tokens: 512, ..Usage::default() })
        );
        assert_eq!(reply.model.as_deref(), Some("gpt-6-luna-2026-09-22"));
    }

    #[test]
    fn the_providers_items_are_sent_back_as_they_came_with_the_answers_after_them() {
        let reply = parse(SAMPLE, &[]).unwrap();
        let history = [user("Go."), Message::Assistant(reply.message), answer("call_1"), answer("call_2")];
        let tools = RenderedTools::new(&luna(), &[]);
        let body = rendered(&request(&history, &tools), &luna(), &Config::default());
        let mut expected = vec![json!({"role": "user", "content": "Go."})];
        expected.extend(serde_json::from_slice::<Value>(SAMPLE).unwrap()["output"].as_array().unwrap().clone());
        for id in ["call_1", "call_2"] {
            expected.push(json!({"type": "function_call_output", "call_id": id, "output": "[]"}));
        }
        assert_eq!(body["input"], Value::Array(expected));
    }

    #[test]
    fn a_conversation_begun_over_chat_completions_goes_on_here() {
        let mut said = AssistantMessage { text: Some("Looking.".to_owned()), ..AssistantMessage::default() };
        said.calls.push(call("a"));
        let history = [Message::Assistant(said), answer("a"), calls(&["b"]), answer("b")];
        let tools = RenderedTools::new(&luna(), &[]);
        let body = rendered(&request(&history, &tools), &luna(), &Config::default());
        let call =
            |id: &str| json!({"type": "function_call", "call_id": id, "name": "gmail_fetch_mails", "arguments": "{}"});
        let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "[]"});
        let text = json!({"role": "assistant", "content": "Looking."});
        assert_eq!(body["input"], json!([text, call("a"), output("a"), call("b"), output("b")]));
    }

    #[test]
    fn items_that_do_not_hold_the_messages_calls_are_not_sent() {
        let mut message = parse(SAMPLE, &[]).unwrap().message;
        message.calls.pop();
        let history = [Message::Assistant(message), answer("call_1")];
        let tools = RenderedTools::new(&luna(), &[]);
        let body = rendered(&request(&history, &tools), &luna(), &Config::default());
        let kinds: Vec<_> = body["input"].as_array().unwrap().iter().map(kind).collect();
        assert_eq!(kinds, ["", "function_call", "function_call_output"]);
    }

    #[test]
    fn reasoning_that_the_provider_did_not_hand_over_is_not_referred_to() {
        let said = json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]});
        for reasoning in
            [json!({"type": "reasoning", "id": "rs_1"}), json!({"type": "reasoning", "encrypted_content": null})]
        {
            let message = with_output(&json!([reasoning, said])).unwrap().message;
            let history = [Message::Assistant(message)];
            let tools = RenderedTools::new(&luna(), &[]);
            let body = rendered(&request(&history, &tools), &luna(), &Config::default());
            assert_eq!(body["input"], json!([said]));
        }
    }

    #[test]
    fn reasoning_that_led_to_nothing_is_not_kept() {
        let output = json!([{"type": "reasoning", "encrypted_content": "x"}]);
        assert_eq!(with_output(&output).unwrap().message, AssistantMessage::default());
    }

    #[test]
    fn a_final_answer_is_not_mixed_with_what_was_said_on_the_way() {
        let message = |phase: &str, text: &str| json!({"type": "message", "phase": phase, "content": [{"type": "output_text", "text": text}]});
        let text = |output: &Value| with_output(output).unwrap().message.text;
        let (way, end) = (message("commentary", "Looking."), message("final_answer", "Done."));
        assert_eq!(text(&json!([way, end])).as_deref(), Some("Done."));
        assert_eq!(text(&json!([way])).as_deref(), Some("Looking."));
        assert_eq!(text(&json!([end, end])).as_deref(), Some("Done.\n\nDone."));
    }

    #[test]
    fn ids_that_had_to_be_replaced_are_replaced_in_the_items_too() {
        let call = json!({"type": "function_call", "call_id": "same", "name": "t", "arguments": {"a": 1}});
        let message = with_output(&json!([call, call, {"type": "function_call", "name": "t"}])).unwrap().message;
        let ids: Vec<_> = message.calls.iter().map(|call| &*call.id).collect();
        assert_eq!(ids, ["same", "call_0_1", "call_0_2"]);
        assert!(has_own_items(&message));
        assert_eq!(message.provider_items[0]["arguments"], "{\"a\":1}");
        assert_eq!(message.provider_items[2]["arguments"], "{}");
    }

    #[test]
    fn why_it_stopped_is_read_from_status_reason_and_refusal() {
        let finish = |body: Value| parse(body.to_string().as_bytes(), &[]).unwrap().finish;
        let incomplete = |reason: Value| {
            finish(json!({"status": "incomplete", "incomplete_details": {"reason": reason}, "output": []}))
        };
        assert_eq!(incomplete(json!("max_output_tokens")), Finish::Length);
        assert_eq!(incomplete(json!(null)), Finish::Length);
        assert_eq!(incomplete(json!("content_filter")), Finish::ContentFilter);
        assert_eq!(incomplete(json!("tired")), Finish::Other("tired".to_owned()));
        assert_eq!(finish(json!({"output": [], "status": 7})), Finish::Stop);
        assert_eq!(finish(json!({"output": [], "status": "cancelled"})), Finish::Other("cancelled".to_owned()));
        let refusal = json!([{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]);
        assert_eq!(finish(json!({"status": "completed", "output": refusal})), Finish::Refusal("No.".to_owned()));
    }

    #[test]
    fn a_failed_response_is_an_error() {
        let error = |code: &str| {
            let body = json!({"status": "failed", "error": {"code": code, "message": "no"}, "output": []});
            parse(body.to_string().as_bytes(), &[]).unwrap_err()
        };
        assert!(matches!(error("server_error"), LlmError::Unavailable { .. }));
        assert!(matches!(error("rate_limit_exceeded"), LlmError::RateLimited { .. }));
        assert!(matches!(error("invalid_prompt"), LlmError::Rejected { .. }));
        let without_reason = parse(br#"{"status": "failed", "error": null, "output": []}"#, &[]);
        assert!(matches!(without_reason, Err(LlmError::Rejected { .. })));
    }

    #[test]
    fn what_is_no_answer_is_called_malformed() {
        let nested = format!(r#"{{"output": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "",
            "null",
            "[]",
            "<html>",
            "{}",
            r#"{"output": null}"#,
            r#"{"output": "x"}"#,
            r#"{"output": [7]}"#,
            r#"{"output": [{"type": "function_call"}]}"#,
            r#"{"output": [{"type": "function_call", "name": 7}]}"#,
            r#"{"output": [{"type": "message", "content": [{"text": "cut o"#,
            &nested,
        ] {
            let result = parse(body.as_bytes(), &[]);
            let start: String = body.chars().take(80).collect();
            assert!(matches!(result, Err(LlmError::BadAnswer { .. })), "{start}: {result:?}");
        }
        let odd = json!([{}, {"type": 7}, {"type": "message"}, {"type": "message", "content": [7, {"text": 7}]}]);
        assert_eq!(with_output(&odd).unwrap().message, AssistantMessage::default());
    }

    #[test]
    fn two_hundred_calls_all_get_ids_of_their_own() {
        let calls = vec![json!({"type": "function_call", "call_id": "same", "name": "t"}); 200];
        let message = with_output(&json!(calls)).unwrap().message;
        let ids: std::collections::HashSet<_> = message.calls.iter().map(|call| &call.id).collect();
        assert_eq!(ids.len(), 200);
        assert!(has_own_items(&message));
    }
}

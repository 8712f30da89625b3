//! The wire of Anthropic's `POST /v1/messages`, as the vendor's pages describe it (2026-11-24), and as servers that serve the
//! same API really answer.
//!
//! What the API checks shapes a conversation: all results of a turn stand first in one message of the user, with no text
//! behind them; every call has its result there; no text is blank. What a model thought comes back signed, and is sent again
//! unchanged with the calls it led to, to the same model of the same provider alone: nobody else takes the signature.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::cache_control::CacheControl;
use super::chat_completions::{arguments, readable_arguments};
use super::error::{Failure, LlmError, classify};
use super::profile::{OutputSchema, Profile};
use super::request::{CallIds, ModelRequest, body, check, keep, kept};
use super::strict::fits_grammar;
use super::{Config, safety_identifier};
use crate::agent::message::{AssistantMessage, Finish, Message, ModelReply, ToolCall, ToolChoice, Usage};
use crate::http;
use crate::key::digest;

/// Path under the base URL.
pub(super) const PATH: &str = "v1/messages";
/// The version of the API that every compatible server knows; its successor (2026-10-21) only takes parameters away.
pub(super) const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
/// Marks what this adapter keeps of an answer, and where it stands there.
const KEPT_BY: &str = "messages";
const CONTENT: &str = "content";
/// More than this is not written within the usual `model.timeout_seconds`.
const MOST_OUTPUT: u32 = 16_384;
/// Ids of calls have at most so many characters here, and only letters, digits, `_` and `-`.
const LONGEST_ID: usize = 64;

/// The body of a request for the model that we call `asked`, and its provider `request.model`; or [`LlmError::Invalid`] where no
/// server would take it.
pub(super) fn render(
    request: &ModelRequest<'_>,
    asked: &str,
    profile: &Profile,
    config: &Config,
) -> Result<http::Body, LlmError> {
    check(request, profile)?;
    let (mut system, messages) = conversation(request.messages, asked);
    if messages.is_empty() {
        return Err(LlmError::Invalid("there are no words in the conversation".to_owned()));
    }
    // A forced tool would enforce any schema, but the current models refuse to be forced.
    let enforced =
        request.output_schema.filter(|schema| profile.output_schema == OutputSchema::Enforced && fits_grammar(schema));
    if let Some(schema) = request.output_schema.filter(|_| enforced.is_none()) {
        let words = "Once you need no more tools, answer with nothing but JSON that fits this JSON Schema";
        system.push(TextBlock::new(format!("{words}:\n{schema}")));
    }
    if let Some(last) = system.last_mut() {
        last.cache_control = Some(CacheControl::EPHEMERAL);
    }
    let has_tools = !request.tools.is_empty();
    let one_at_a_time = config.parallel_tool_calls == Some(false) && profile.parallel_tool_calls;
    let format = enforced.map(|schema| Format { kind: "json_schema", schema });
    let effort = profile.reasoning_effort.as_deref();
    let fields = Fields {
        model: request.model,
        max_tokens: request.max_output_tokens.or(config.max_output_tokens).unwrap_or_else(|| output_tokens(profile)),
        system,
        messages,
        tool_choice: has_tools.then_some(match request.tool_choice {
            ToolChoice::None => Choice { kind: "none", disable_parallel_tool_use: None },
            ToolChoice::Auto => Choice { kind: "auto", disable_parallel_tool_use: one_at_a_time.then_some(true) },
        }),
        output_config: (format.is_some() || effort.is_some()).then_some(OutputConfig { format, effort }),
        // Its range ends where that of the others has its middle.
        temperature: config.temperature.filter(|_| profile.temperature).map(|temperature| temperature.min(1.0)),
        metadata: Metadata { user_id: safety_identifier(request.user) },
    };
    Ok(body(request, &fields))
}

/// Reads the body of a successful answer of the model `asked` to the conversation `messages`.
pub(super) fn parse(body: &[u8], messages: &[Message], asked: &str) -> Result<ModelReply, LlmError> {
    let mut answer: Value =
        serde_json::from_slice(body).map_err(|error| LlmError::bad_answer(&format!("not JSON ({error})"), body))?;
    if answer.get("error").is_some_and(|error| !error.is_null()) {
        return Err(classify(Failure::WITHIN_SUCCESS, &answer));
    }
    let bad = |problem: &str| LlmError::bad_answer(problem, body);
    let Some(Value::Array(mut content)) = answer.get_mut("content").map(Value::take) else {
        return Err(bad("no content"));
    };
    let calls = parse_calls(&mut content, messages).map_err(bad)?;
    let text = text_of(&content);
    let finish = finish(&answer, text.as_deref());
    // Words and calls alone are told as well without what the provider made of them.
    let is_neutral = content.iter().all(|block| matches!(kind(block), "text" | "tool_use"));
    let is_empty = text.is_none() && calls.is_empty();
    Ok(ModelReply {
        message: AssistantMessage {
            text,
            calls,
            provider_items: match is_neutral || is_empty {
                true => Vec::new(),
                false => keep(KEPT_BY, asked, CONTENT, Value::Array(content)),
            },
        },
        finish,
        usage: usage(answer.get("usage")),
        model: answer.get("model").and_then(Value::as_str).map(str::to_owned),
        request_id: None,
    })
}

#[derive(Serialize)]
struct Fields<'a> {
    model: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<TextBlock<'a>>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    metadata: Metadata,
}

#[derive(Serialize)]
struct Choice {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: &'a Value,
}

#[derive(Serialize)]
struct Metadata {
    user_id: String,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Vec<Block<'a>>,
}

#[derive(Serialize)]
struct TextBlock<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

impl<'a> TextBlock<'a> {
    fn new(text: impl Into<Cow<'a, str>>) -> Self {
        Self { kind: "text", text: text.into(), cache_control: None }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block<'a> {
    /// As the provider gave it.
    Own(&'a Value),
    Text(TextBlock<'a>),
    ToolUse {
        #[serde(rename = "type")]
        kind: &'static str,
        id: Cow<'a, str>,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
    ToolResult {
        #[serde(rename = "type")]
        kind: &'static str,
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        content: Vec<TextBlock<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
}

/// The instructions, and the turns: user and assistant by turns, the user first.
fn conversation<'a>(messages: &'a [Message], asked: &str) -> (Vec<TextBlock<'a>>, Vec<Turn<'a>>) {
    let (mut system, mut turns) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            Message::System(text) => system.extend(words(text)),
            Message::User(text) => {
                let Some(text) = words(text) else { continue };
                let turn = turn_of(&mut turns, "user");
                // Text of its own behind results teaches models to end their turn with nothing.
                match turn.content.last_mut() {
                    Some(Block::ToolResult { content, .. }) => content.push(text),
                    _ => turn.content.push(Block::Text(text)),
                }
            }
            Message::ToolResult { call_id, content } => turn_of(&mut turns, "user").content.push(Block::ToolResult {
                kind: "tool_result",
                tool_use_id: legal_id(call_id),
                content: words(content).into_iter().collect(),
                cache_control: None,
            }),
            Message::Assistant(said) => {
                let blocks = own_content(said, asked).unwrap_or_else(|| neutral_content(said));
                if !blocks.is_empty() {
                    turn_of(&mut turns, "assistant").content.extend(blocks);
                }
            }
        }
    }
    if let Some(Block::Text(TextBlock { cache_control, .. }) | Block::ToolResult { cache_control, .. }) =
        turns.last_mut().and_then(|turn| turn.content.last_mut())
    {
        *cache_control = Some(CacheControl::EPHEMERAL);
    }
    (system, turns)
}

/// A text, unless it is blank, which is refused.
fn words(text: &str) -> Option<TextBlock<'_>> {
    (!text.trim().is_empty()).then(|| TextBlock::new(text))
}

/// The last turn, or the next one where that is somebody else's.
fn turn_of<'t, 'a>(turns: &'t mut Vec<Turn<'a>>, role: &'static str) -> &'t mut Turn<'a> {
    if turns.last().is_none_or(|turn| turn.role != role) {
        turns.push(Turn { role, content: Vec::new() });
    }
    turns.last_mut().expect("one was pushed where there was none")
}

/// What the same model said, as it came, where it was kept and holds the very calls of the message.
fn own_content<'a>(said: &'a AssistantMessage, asked: &str) -> Option<Vec<Block<'a>>> {
    let content = kept(said, KEPT_BY, asked, CONTENT)?.as_array()?;
    let calls = content.iter().filter(|block| kind(block) == "tool_use");
    let ids = calls.map(|block| block.get("id").and_then(Value::as_str).unwrap_or_default());
    let are_its_calls = ids.eq(said.calls.iter().map(|call| call.id.as_str()));
    let is_blank = |block: &Value| {
        let text = block.get("text").and_then(Value::as_str).unwrap_or_default();
        kind(block) == "text" && text.trim().is_empty()
    };
    are_its_calls.then(|| content.iter().filter(|block| !is_blank(block)).map(Block::Own).collect())
}

fn neutral_content(said: &AssistantMessage) -> Vec<Block<'_>> {
    let text = said.text.as_deref().and_then(words).map(Block::Text);
    let calls = said.calls.iter().map(|call| Block::ToolUse {
        kind: "tool_use",
        id: legal_id(&call.id),
        name: &call.name,
        input: input(&call.arguments),
    });
    text.into_iter().chain(calls).collect()
}

/// The arguments as the object that they have to be here.
fn input(arguments: &str) -> Cow<'_, RawValue> {
    match serde_json::from_str(arguments) {
        // Read whole as well: what is no text in Unicode, or is nested too deep for us, is so for others.
        Ok(raw) if serde_json::from_str::<Map<String, Value>>(arguments).is_ok() => Cow::Borrowed(raw),
        _ => {
            let wrapped = json!({ "invalid_json": arguments }).to_string();
            Cow::Owned(RawValue::from_string(wrapped).expect("JSON that was just printed"))
        }
    }
}

/// The id of a call of any server, as this API takes it.
fn legal_id(id: &str) -> Cow<'_, str> {
    if is_legal(id) { id.into() } else { format!("call_{}", digest(id, 16)).into() }
}

fn is_legal(id: &str) -> bool {
    let legal = |one: u8| one.is_ascii_alphanumeric() || matches!(one, b'_' | b'-');
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(legal)
}

fn kind(block: &Value) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Reads the calls. Ids and arguments that had to be mended are mended in the content too, as it is sent again.
fn parse_calls(content: &mut [Value], messages: &[Message]) -> Result<Vec<ToolCall>, &'static str> {
    if content.iter().any(|block| !block.is_object()) {
        return Err("a block of the content is not an object");
    }
    let mut ids = CallIds::after(messages);
    let parse_call = |block: &mut Value| {
        let name = block.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let offered = block.get("id").and_then(Value::as_str).filter(|id| is_legal(id));
        let call = ToolCall {
            name: name.ok_or("a tool call without a name")?.to_owned(),
            id: ids.next(offered),
            arguments: arguments(block.get("input")),
        };
        block["id"] = json!(call.id);
        if !block.get("input").is_some_and(Value::is_object) {
            block["input"] = serde_json::from_str(&readable_arguments(&call.arguments)).unwrap_or_default();
        }
        Ok(call)
    };
    content.iter_mut().filter(|block| kind(block) == "tool_use").map(parse_call).collect()
}

/// The words. Blocks next to each other are parts of one text.
fn text_of(content: &[Value]) -> Option<String> {
    let runs = content.chunk_by(|one, next| kind(one) == "text" && kind(next) == "text");
    let texts = runs.map(|blocks| {
        let texts = blocks.iter().filter(|block| kind(block) == "text");
        texts.filter_map(|block| block.get("text")?.as_str()).collect::<String>()
    });
    let texts: Vec<String> = texts.filter(|text| !text.trim().is_empty()).collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

fn finish(answer: &Value, text: Option<&str>) -> Finish {
    match answer.get("stop_reason").and_then(Value::as_str).unwrap_or_default() {
        "" | "end_turn" | "tool_use" | "stop_sequence" => Finish::Stop,
        // A turn is paused for tools of the provider's own alone, of which we offer none: what is there is no whole answer.
        "max_tokens" | "model_context_window_exceeded" | "pause_turn" => Finish::Length,
        "refusal" => {
            let details = answer.get("stop_details").and_then(|details| details.get("explanation")?.as_str());
            let words = details.or(text).filter(|words| !words.trim().is_empty());
            Finish::Refusal(words.unwrap_or("the model refused, and said no more").to_owned())
        }
        other => Finish::Other(other.to_owned()),
    }
}

/// How many tokens a model may write, thought and answer, where nobody says.
fn output_tokens(profile: &Profile) -> u32 {
    u32::try_from(profile.max_output).map_or(MOST_OUTPUT, |most| most.min(MOST_OUTPUT))
}

/// What came from the cache and what was put there is counted beside the input here. Half a usage is no usage.
fn usage(usage: Option<&Value>) -> Option<Usage> {
    let usage = usage?;
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    let cached_tokens = count("cache_read_input_tokens").unwrap_or(0);
    let written = count("cache_creation_input_tokens").unwrap_or(0);
    let for_an_hour = usage.pointer("/cache_creation/ephemeral_1h_input_tokens").and_then(Value::as_u64).unwrap_or(0);
    let beside = cached_tokens.saturating_add(written);
    Some(Usage {
        input_tokens: count("input_tokens")?.saturating_add(beside),
        output_tokens: count("output_tokens")?,
        cached_tokens,
        cache_write_tokens: written.saturating_sub(for_an_hour),
        cache_write_1h_tokens: for_an_hour,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Api;
    use super::super::profile::Profiles;
    use super::super::request::RenderedTools;
    use super::super::request::tests::{answer, call, calls, request, tool, user};
    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../tests/data/llm/messages_calls.json");
    const ASKED: &str = "anthropic/claude-opus-5-5";

    fn claude() -> Profile {
        Profiles::built_in().lookup("claude-opus-5-5").over(Api::Messages)
    }

    fn no_tools() -> RenderedTools {
        RenderedTools::new(&claude(), &[])
    }

    fn rendered(request: &ModelRequest<'_>, profile: &Profile, config: &Config) -> Value {
        serde_json::from_slice(&render(request, ASKED, profile, config).unwrap().to_vec()).unwrap()
    }

    /// The messages of a request with this history.
    fn sent(history: &[Message]) -> Value {
        rendered(&request(history, &no_tools()), &claude(), &Config::default())["messages"].clone()
    }

    fn parsed(body: &Value) -> Result<ModelReply, LlmError> {
        parse(body.to_string().as_bytes(), &[], ASKED)
    }

    fn with_content(content: &Value) -> Result<ModelReply, LlmError> {
        parsed(&json!({"content": content, "stop_reason": "end_turn"}))
    }

    #[test]
    fn a_conversation_becomes_turns_with_all_results_of_a_turn_in_one() {
        let mut odd = call("b");
        odd.arguments = "{\"cut".to_owned();
        let said = AssistantMessage { text: None, calls: vec![call("a"), odd], provider_items: vec![json!({"x": 1})] };
        let history = [
            Message::System("Be brief.".to_owned()),
            user("Go."),
            Message::Assistant(said),
            answer("a"),
            answer("b"),
            user("Do something else."),
        ];
        let tools = RenderedTools::new(&claude(), &[tool("gmail_fetch_mails", "Fetch.", r#"{"type":"object"}"#)]);
        let config = Config { max_output_tokens: Some(99), temperature: Some(0.5), ..Config::default() };
        assert_eq!(
            rendered(&request(&history, &tools), &claude(), &config),
            json!({
                "model": "gpt-4o",
                "max_tokens": 99,
                "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Go."}]},
                    {"role": "assistant", "content": [
                        {"type": "tool_use", "id": "a", "name": "gmail_fetch_mails", "input": {}},
                        {"type": "tool_use", "id": "b", "name": "gmail_fetch_mails", "input": {"invalid_json": "{\"cut"}},
                    ]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "[]"}]},
                        {"type": "tool_result", "tool_use_id": "b", "content": [
                            {"type": "text", "text": "[]"}, {"type": "text", "text": "Do something else."},
                        ], "cache_control": {"type": "ephemeral"}},
                    ]},
                ],
                "tool_choice": {"type": "auto"},
                "metadata": {"user_id": safety_identifier("user_123")},
                "tools": [{"name": "gmail_fetch_mails", "description": "Fetch.", "input_schema": {"type": "object"},
                    "cache_control": {"type": "ephemeral"}}],
            }),
            "and no temperature, which the model refuses"
        );
    }

    #[test]
    fn a_number_of_tokens_is_always_said_and_a_temperature_where_it_is_taken() {
        let profile = Profiles::built_in().lookup("claude-haiku-4-5").over(Api::Messages);
        let config = Config { temperature: Some(1.7), parallel_tool_calls: Some(false), ..Config::default() };
        let tools = RenderedTools::new(&profile, &[tool("t", "", "{}")]);
        let history = [user("Go.")];
        let body = rendered(&request(&history, &tools), &profile, &config);
        assert_eq!((&body["max_tokens"], &body["temperature"]), (&json!(16_384), &json!(1.0)));
        assert_eq!(body["tool_choice"], json!({"type": "auto", "disable_parallel_tool_use": true}));
        let request =
            ModelRequest { tool_choice: ToolChoice::None, max_output_tokens: Some(7), ..request(&history, &tools) };
        let body = rendered(&request, &Profile { reasoning_effort: Some("low".to_owned()), ..profile }, &config);
        assert_eq!((&body["max_tokens"], &body["tool_choice"]), (&json!(7), &json!({"type": "none"})));
        assert_eq!(body["output_config"], json!({"effort": "low"}));
        let unknown = Profile::default().over(Api::Messages);
        assert_eq!(
            rendered(&super::super::request::tests::request(&history, &no_tools()), &unknown, &config)["max_tokens"],
            16_384
        );
    }

    #[test]
    fn a_schema_is_enforced_where_the_model_can_and_told_in_words_otherwise() {
        let closed = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
        let open = json!({"type": "object", "required": ["n"]});
        let (history, tools) = ([user("Go.")], no_tools());
        let with = |schema, profile: &Profile| {
            let request = ModelRequest { output_schema: Some(schema), ..request(&history, &tools) };
            rendered(&request, profile, &Config::default())
        };
        let body = with(&closed, &claude());
        assert_eq!(body["output_config"], json!({"format": {"type": "json_schema", "schema": closed}}));
        assert_eq!(body.get("system"), None);
        for (schema, profile) in [(&open, claude()), (&closed, Profile::default().over(Api::Messages))] {
            let body = with(schema, &profile);
            assert_eq!(body.get("output_config"), None);
            assert!(body["system"][0]["text"].as_str().unwrap().ends_with(&schema.to_string()), "{body}");
        }
    }

    #[test]
    fn what_the_api_refuses_is_not_sent() {
        let mut blank = calls(&["functions.get:0"]);
        if let Message::Assistant(said) = &mut blank {
            said.text = Some(" \n".to_owned());
        }
        let mut empty = answer("functions.get:0");
        if let Message::ToolResult { content, .. } = &mut empty {
            content.clear();
        }
        let turns = sent(&[user("Go."), calls(&[]), user(" "), blank, empty]);
        let (call, result) = (&turns[1]["content"][0], &turns[2]["content"][0]);
        assert!(is_legal(call["id"].as_str().unwrap()), "{turns}");
        assert_eq!((call["type"].as_str(), &call["id"]), (Some("tool_use"), &result["tool_use_id"]));
        assert_eq!(
            (&result["content"], turns.as_array().unwrap().len()),
            (&json!(null), 3),
            "an empty result has no content"
        );
        let nothing = render(&request(&[user(" ")], &no_tools()), ASKED, &claude(), &Config::default());
        assert!(matches!(nothing, Err(LlmError::Invalid(_))), "{nothing:?}");
        let arguments = [
            "",
            "[]",
            "7",
            "{\"a\": \"\\ud800\"}",
            "{} {}",
            &format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500)),
        ];
        for written in arguments {
            let wrapped: Value = serde_json::from_str(input(written).get()).unwrap();
            assert_eq!(wrapped, json!({ "invalid_json": written }));
        }
        assert_eq!(
            input(" {\"b\": 1.0, \"a\": 12345678901234567890123}").get(),
            "{\"b\": 1.0, \"a\": 12345678901234567890123}"
        );
    }

    #[test]
    fn an_ordinary_answer_is_read() {
        let reply = parse(SAMPLE, &[], ASKED).unwrap();
        assert_eq!(reply.finish, Finish::Stop);
        assert_eq!(reply.message.text.as_deref(), Some("I look at your mail."));
        let ids: Vec<_> = reply.message.calls.iter().map(|call| (&*call.id, &*call.arguments)).collect();
        assert_eq!(ids, [("toolu_1", "{\"max_results\":5}"), ("toolu_2", "{}")]);
        assert_eq!(
            reply.usage,
            Some(Usage {
                input_tokens: 900,
                output_tokens: 150,
                cached_tokens: 512,
                cache_write_tokens: 288,
                cache_write_1h_tokens: 0
            })
        );
        assert_eq!(reply.model.as_deref(), Some("claude-opus-5-5"));
    }

    #[test]
    fn what_a_model_thought_is_sent_again_as_it_came_and_to_no_other() {
        let message = parse(SAMPLE, &[], ASKED).unwrap().message;
        let history = [user("Go."), Message::Assistant(message), answer("toolu_1"), answer("toolu_2")];
        let content = serde_json::from_slice::<Value>(SAMPLE).unwrap()["content"].clone();
        assert_eq!(sent(&history)[1]["content"], content);
        for other in ["claude-opus-5-5", "anthropic/claude-haiku-5-5", "bedrock/claude-opus-5-5"] {
            let body = render(&request(&history, &no_tools()), other, &claude(), &Config::default()).unwrap();
            let body: Value = serde_json::from_slice(&body.to_vec()).unwrap();
            let kinds: Vec<_> = body["messages"][1]["content"].as_array().unwrap().iter().map(kind).collect();
            assert_eq!(kinds, ["text", "tool_use", "tool_use"], "{other}");
        }
        let words = json!([{"type": "text", "text": "Hi."}, {"type": "tool_use", "id": "a", "name": "t", "input": {}}]);
        assert_eq!(
            with_content(&words).unwrap().message.provider_items,
            [] as [Value; 0],
            "nothing but words and calls"
        );
    }

    #[test]
    fn what_another_api_thought_is_not_sent_and_nor_is_this_ones_there() {
        let responses = include_bytes!("../../tests/data/llm/responses_calls.json");
        let theirs = super::super::responses::parse(responses, &[]).unwrap().message;
        let turns = sent(&[user("Go."), Message::Assistant(theirs), answer("call_1"), answer("call_2")]);
        let kinds: Vec<_> = turns[1]["content"].as_array().unwrap().iter().map(kind).collect();
        assert_eq!(kinds, ["text", "tool_use", "tool_use"]);
        let thought =
            json!([{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "Hi."}]);
        let ours = with_content(&thought).unwrap().message;
        assert_eq!(ours.provider_items.len(), 1);
        let luna = Profiles::built_in().lookup("gpt-6-luna");
        let (history, tools) = ([user("Go."), Message::Assistant(ours)], RenderedTools::new(&luna, &[]));
        let body = super::super::responses::render(&request(&history, &tools), &luna, &Config::default()).unwrap();
        let body: Value = serde_json::from_slice(&body.to_vec()).unwrap();
        assert_eq!(body["input"][1], json!({"role": "assistant", "content": "Hi."}));
    }

    #[test]
    fn kept_content_that_does_not_hold_the_messages_calls_is_not_sent() {
        let mut message = parse(SAMPLE, &[], ASKED).unwrap().message;
        message.calls.pop();
        let turns = sent(&[user("Go."), Message::Assistant(message), answer("toolu_1")]);
        let kinds: Vec<_> = turns[1]["content"].as_array().unwrap().iter().map(kind).collect();
        assert_eq!(kinds, ["text", "tool_use"]);
    }

    #[test]
    fn ids_and_arguments_that_had_to_be_mended_are_mended_in_what_is_kept_too() {
        let same = json!({"type": "tool_use", "id": "same", "name": "t", "input": "{\"a\": 1}"});
        let mut illegal = same.clone();
        illegal["id"] = json!("functions.t:0");
        illegal["input"] = json!("{\"cut");
        let thought = json!({"type": "thinking", "thinking": "Hm.", "signature": "x"});
        let content = json!([thought, same, same, illegal, {"type": "tool_use", "name": "t"}]);
        let message = with_content(&content).unwrap().message;
        let ids: Vec<_> = message.calls.iter().map(|call| &*call.id).collect();
        assert_eq!(ids, ["same", "call_0_1", "call_0_2", "call_0_3"]);
        assert_eq!(message.calls[2].arguments, "{\"cut", "as the model wrote them");
        let inputs: Vec<_> =
            own_content(&message, ASKED).unwrap().iter().map(|block| json!(block)["input"].clone()).collect();
        assert_eq!(inputs[1..], [json!({"a": 1}), json!({"a": 1}), json!({"invalid_json": "{\"cut"}), json!({})]);
    }

    #[test]
    fn why_it_stopped_is_read_from_the_stop_reason() {
        let finish = |reason: &Value| {
            let content = json!([{"type": "text", "text": "Hi."}]);
            parsed(&json!({"content": content, "stop_reason": reason})).unwrap().finish
        };
        for stop in [json!("end_turn"), json!("tool_use"), json!("stop_sequence"), json!(null), json!(7)] {
            assert_eq!(finish(&stop), Finish::Stop, "{stop}");
        }
        for cut in ["max_tokens", "model_context_window_exceeded", "pause_turn"] {
            assert_eq!(finish(&json!(cut)), Finish::Length, "{cut}");
        }
        assert_eq!(finish(&json!("refusal")), Finish::Refusal("Hi.".to_owned()));
        assert_eq!(finish(&json!("tired")), Finish::Other("tired".to_owned()));
        let details = json!({"type": "refusal", "category": "cyber", "explanation": "No."});
        let refused = json!({"content": [], "stop_reason": "refusal", "stop_details": details});
        assert_eq!(parsed(&refused).unwrap().finish, Finish::Refusal("No.".to_owned()));
        let bare = json!({"content": [], "stop_reason": "refusal", "stop_details": null});
        assert!(matches!(parsed(&bare).unwrap().finish, Finish::Refusal(words) if !words.is_empty()));
    }

    #[test]
    fn usage_counts_all_input_and_half_of_it_is_none() {
        let usage = |usage: Value| parsed(&json!({"content": [], "usage": usage})).unwrap().usage;
        let (input_tokens, output_tokens) = (10, 5);
        let plain = Usage { input_tokens, output_tokens, ..Usage::default() };
        assert_eq!(usage(json!({"input_tokens": 10, "output_tokens": 5})), Some(plain));
        let nulls = json!({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": null, "cache_creation_input_tokens": null});
        assert_eq!(usage(nulls), Some(plain));
        for half in
            [json!(null), json!({}), json!({"input_tokens": 10}), json!({"input_tokens": -1, "output_tokens": 5})]
        {
            assert_eq!(usage(half), None);
        }
        let huge = json!({"input_tokens": u64::MAX, "output_tokens": 5, "cache_read_input_tokens": u64::MAX});
        assert_eq!(usage(huge).unwrap().input_tokens, u64::MAX);
    }

    #[test]
    fn an_error_in_a_successful_answer_is_one() {
        let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        assert!(matches!(parsed(&body), Err(LlmError::RateLimited { .. })));
    }

    #[test]
    fn what_is_no_answer_is_called_malformed() {
        let nested = format!(r#"{{"content": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "",
            "null",
            "[]",
            "<html>",
            "{}",
            r#"{"content": null}"#,
            r#"{"content": "x"}"#,
            r#"{"content": [7]}"#,
            r#"{"content": [{"type": "tool_use", "id": "a"}]}"#,
            r#"{"content": [{"type": "tool_use", "id": "a", "name": 7}]}"#,
            r#"{"content": [{"type": "text", "text": "cut o"#,
            &nested,
        ] {
            let result = parse(body.as_bytes(), &[], ASKED);
            let start: String = body.chars().take(80).collect();
            assert!(matches!(result, Err(LlmError::BadAnswer { .. })), "{start}: {result:?}");
        }
        for odd in [json!([]), json!([{}, {"type": 7}, {"type": "text"}, {"type": "text", "text": 7}, {"type": "new"}])]
        {
            assert_eq!(with_content(&odd).unwrap().message, AssistantMessage::default(), "{odd}");
        }
        let thought = json!([{"type": "thinking", "thinking": "Hm.", "signature": "x"}]);
        assert_eq!(with_content(&thought).unwrap().message, AssistantMessage::default(), "it led to nothing");
    }

    #[test]
    fn a_huge_answer_is_read_and_all_its_calls_get_ids_of_their_own() {
        let mut content = vec![json!({"type": "tool_use", "id": "same", "name": "t", "input": {}}); 2000];
        content.push(json!({"type": "text", "text": "x".repeat(4 << 20)}));
        let message = with_content(&json!(content)).unwrap().message;
        let ids: std::collections::HashSet<_> = message.calls.iter().map(|call| &call.id).collect();
        assert_eq!((ids.len(), message.text.unwrap().len()), (2000, 4 << 20));
    }
}

//! What goes to a model, and the rules of a conversation that every server checks.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::cache_control::CacheControl;
use super::error::LlmError;
use super::profile::{Api, Profile};
use crate::agent::message::{AssistantMessage, Message, ToolCall, ToolChoice};
use crate::agent::tool::Tool;
use crate::http::Body;

/// One request to a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelRequest<'a> {
    /// The model's name at its provider.
    pub model: &'a str,
    /// The conversation, instructions first. Every call in it has exactly one answer, right after its message.
    pub messages: &'a [Message],
    /// The tools on offer, rendered for this model's API.
    pub tools: &'a RenderedTools,
    /// Whether the model may call them.
    pub tool_choice: ToolChoice,
    /// JSON Schema that the final answer shall fit. A root object; servers refuse others.
    pub output_schema: Option<&'a Value>,
    /// Most output tokens, where this request shall differ from the configuration.
    pub max_output_tokens: Option<u32>,
    /// The run, so that the provider routes its requests to the same cache.
    pub run_id: &'a str,
    /// Whom the run works for. Only a hash leaves, for the provider to tell abusers apart.
    pub user: &'a str,
}

/// What a request prints beside its texts: names, quotes, lengths of the usual calls.
const EXPECTED_BESIDE_TEXTS: usize = 512;

/// Bytes of JSON and plain text that a token has, at the least as far as most texts go: English has four, code three.
const BYTES_OF_A_TOKEN: u64 = 3;

impl ModelRequest<'_> {
    /// How many tokens its input has, in all likelihood at most.
    pub(super) fn estimated_tokens(&self) -> u64 {
        let said = |message: &Message| match message {
            Message::System(text) | Message::User(text) | Message::ToolResult { content: text, .. } => text.len(),
            Message::Assistant(said) => {
                let calls = said.calls.iter().map(|call| call.name.len() + call.arguments.len()).sum::<usize>();
                let items = said.provider_items.iter().map(|item| item.to_string().len()).sum::<usize>();
                said.text.as_ref().map_or(0, String::len) + calls.max(items)
            }
        };
        let schema = self.output_schema.map_or(0, |schema| schema.to_string().len());
        let bytes = self.messages.iter().map(said).sum::<usize>() + self.tools.bytes() + schema;
        (bytes as u64).div_ceil(BYTES_OF_A_TOKEN) + 16 * self.messages.len() as u64
    }
}

/// The tools of a run as they stand in every request: printed once, and the end of each request's body as they are. The
/// order is the caller's and must not change within a run, or the provider's cache is lost.
#[derive(Debug, Clone)]
pub struct RenderedTools {
    api: Api,
    count: usize,
    /// `,"tools":[…]}`, or `}` where there are none: servers refuse an empty array.
    end: Bytes,
}

impl RenderedTools {
    /// Prints `tools` for the API of `profile`. Descriptions are cut to the profile's cap.
    ///
    /// Strict mode stays off: it would force a `null` upstream for every optional field that the model leaves out.
    pub fn new<'a>(profile: &Profile, tools: impl IntoIterator<Item = &'a Tool>) -> Self {
        let functions = tools.into_iter().map(|tool| Function {
            name: &tool.model_name,
            description: first_characters(&tool.description, profile.description_cap),
            parameters: &tool.parameters,
            strict: false,
        });
        let functions: Vec<Function<'_>> = functions.collect();
        let count = functions.len();
        let printed = match profile.api {
            Api::ChatCompletions => {
                let tools = functions.into_iter().map(|function| Nested { kind: "function", function });
                serde_json::to_string(&tools.collect::<Vec<_>>())
            }
            Api::Responses => {
                let tools = functions.into_iter().map(|function| Flat { kind: "function", function });
                serde_json::to_string(&tools.collect::<Vec<_>>())
            }
            Api::Messages => {
                let tools = functions.into_iter().enumerate().map(|(index, function)| InputTool {
                    name: function.name,
                    description: function.description,
                    input_schema: without_combinators(function.parameters),
                    cache_control: (index + 1 == count).then_some(CacheControl::EPHEMERAL),
                });
                serde_json::to_string(&tools.collect::<Vec<_>>())
            }
        };
        let printed = printed.expect("strings and raw JSON print");
        let end = if count > 0 { format!(",\"tools\":{printed}}}").into() } else { Bytes::from_static(b"}") };
        Self { api: profile.api, count, end }
    }

    /// How much memory they take.
    pub fn bytes(&self) -> usize {
        self.end.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The body of `request`: `fields`, an object of at least one field, and the tools.
pub(super) fn body(request: &ModelRequest<'_>, fields: &impl Serialize) -> Body {
    let texts = request.messages.iter().map(|message| match message {
        Message::System(text) | Message::User(text) | Message::ToolResult { content: text, .. } => text.len(),
        Message::Assistant(said) => said.text.as_ref().map_or(0, String::len),
    });
    // An eighth more for what is escaped.
    let expected = texts.map(|length| length + length / 8 + EXPECTED_BESIDE_TEXTS / 4).sum::<usize>();
    let mut own = Vec::with_capacity(expected + EXPECTED_BESIDE_TEXTS);
    serde_json::to_writer(&mut own, fields).expect("strings, numbers and JSON values print");
    // The end closes the object.
    own.pop();
    Body::of_parts([own.into(), request.tools.end.clone()])
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a RawValue,
    strict: bool,
}

/// A tool of chat completions.
#[derive(Serialize)]
struct Nested<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

/// A tool of the Responses API.
#[derive(Serialize)]
struct Flat<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    function: Function<'a>,
}

/// A tool of the Messages API.
#[derive(Serialize)]
struct InputTool<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    input_schema: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

/// The schema without what the Messages API takes below its top only: one tool that has it there would have every request
/// refused. What a call has to fit is checked by ourselves.
fn without_combinators(schema: &RawValue) -> Cow<'_, RawValue> {
    const COMBINATORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
    if !COMBINATORS.iter().any(|name| schema.get().contains(name)) {
        return Cow::Borrowed(schema);
    }
    let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(schema.get()) else { return Cow::Borrowed(schema) };
    fields.retain(|name, _| !COMBINATORS.contains(&name.as_str()));
    serde_json::value::to_raw_value(&fields).map_or(Cow::Borrowed(schema), Cow::Owned)
}

/// What an adapter keeps of an answer in a form of its own: for the API and the model that gave it alone.
pub(super) fn keep(api: &str, model: &str, name: &str, kept: Value) -> Vec<Value> {
    vec![json!({"api": api, "model": model, name: kept})]
}

/// What [`keep`] put there, where it is this API's and this model's.
pub(super) fn kept<'a>(said: &'a AssistantMessage, api: &str, model: &str, name: &str) -> Option<&'a Value> {
    let [item] = said.provider_items.as_slice() else { return None };
    let is_own = item.get("api")? == api && item.get("model")? == model;
    item.get(name).filter(|_| is_own)
}

/// Whether [`keep`] made this.
pub(super) fn is_kept(item: &Value) -> bool {
    item.get("api").is_some()
}

fn first_characters(text: &str, cap: usize) -> &str {
    text.char_indices().nth(cap).map_or(text, |(end, _)| &text[..end])
}

/// Refuses what every server would refuse, or answer with nonsense: calls without their one answer right after them,
/// answers without a call, tools of another API, more tools than the model takes.
pub(super) fn check(request: &ModelRequest<'_>, profile: &Profile) -> Result<(), LlmError> {
    let tools = request.tools;
    if tools.count > 0 && tools.api != profile.api {
        return Err(LlmError::Invalid(format!("tools are rendered for {:?}, not for {:?}", tools.api, profile.api)));
    }
    if tools.count > profile.tool_cap {
        return Err(LlmError::Invalid(format!("{} tools, but the model takes {}", tools.count, profile.tool_cap)));
    }
    if request.messages.is_empty() {
        return Err(LlmError::Invalid("there are no messages".to_owned()));
    }
    check_pairing(request.messages)
}

fn check_pairing(messages: &[Message]) -> Result<(), LlmError> {
    let mut known = HashSet::new();
    let mut open: Vec<&str> = Vec::new();
    for message in messages {
        if let Message::ToolResult { call_id, .. } = message {
            let Some(position) = open.iter().position(|id| id == call_id) else {
                return Err(LlmError::Invalid(format!("answer to {call_id}, which is not an open call")));
            };
            open.remove(position);
            continue;
        }
        if !open.is_empty() {
            break;
        }
        if let Message::Assistant(said) = message {
            for ToolCall { id, .. } in &said.calls {
                if id.is_empty() || !known.insert(id.as_str()) {
                    return Err(LlmError::Invalid(format!("call id {id:?} is empty or used twice")));
                }
                open.push(id);
            }
        }
    }
    match open.first() {
        Some(id) => Err(LlmError::Invalid(format!("call {id} has no answer right after it"))),
        None => Ok(()),
    }
}

/// Gives every call of a reply an id that is unique within the run: the server's own, or one of ours where it gave none
/// or gave it before.
pub(super) struct CallIds<'a> {
    taken: HashSet<&'a str>,
    given: HashSet<String>,
    step: usize,
}

impl<'a> CallIds<'a> {
    /// For a reply to the conversation `messages`.
    pub(super) fn after(messages: &'a [Message]) -> Self {
        let calls = messages.iter().filter_map(|message| match message {
            Message::Assistant(said) => Some(said.calls.iter()),
            _ => None,
        });
        let taken = calls.flatten().map(|call| call.id.as_str()).collect();
        Self { taken, given: HashSet::new(), step: messages.len() }
    }

    /// The id of the next call, `offered` being the server's.
    pub(super) fn next(&mut self, offered: Option<&str>) -> String {
        let mut id = offered.unwrap_or_default().to_owned();
        let mut number = self.given.len();
        while id.is_empty() || self.taken.contains(id.as_str()) || self.given.contains(&id) {
            id = format!("call_{}_{number}", self.step);
            number += 1;
        }
        self.given.insert(id.clone());
        id
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::effect::Effect;
    use crate::job::ConnectionName;

    pub(in crate::llm) fn tool(name: &str, description: &str, parameters: &str) -> Tool {
        Tool {
            name: name.to_owned(),
            model_name: name.to_owned(),
            connection: ConnectionName::new("gmail").unwrap(),
            effect: Effect::Read,
            hinted: None,
            description: description.to_owned(),
            parameters: Arc::from(RawValue::from_string(parameters.to_owned()).unwrap()),
        }
    }

    /// The end of a body that has one more field.
    fn printed(tools: &RenderedTools) -> Value {
        serde_json::from_slice(&Body::of_parts([Bytes::from(r#"{"x":0"#), tools.end.clone()]).to_vec()).unwrap()
    }

    pub(in crate::llm) fn call(id: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: "gmail_fetch_mails".to_owned(), arguments: "{}".to_owned() }
    }

    pub(in crate::llm) fn calls(ids: &[&str]) -> Message {
        let calls = ids.iter().map(|id| call(id)).collect();
        Message::Assistant(AssistantMessage { calls, ..AssistantMessage::default() })
    }

    pub(in crate::llm) fn answer(call_id: &str) -> Message {
        Message::ToolResult { call_id: call_id.to_owned(), content: "[]".to_owned() }
    }

    pub(in crate::llm) fn user(text: &str) -> Message {
        Message::User(text.to_owned())
    }

    pub(in crate::llm) fn request<'a>(messages: &'a [Message], tools: &'a RenderedTools) -> ModelRequest<'a> {
        ModelRequest {
            model: "gpt-4o",
            messages,
            tools,
            tool_choice: ToolChoice::Auto,
            output_schema: None,
            max_output_tokens: None,
            run_id: "order-4711",
            user: "user_123",
        }
    }

    #[test]
    fn a_conversation_whose_calls_are_answered_may_be_sent() {
        let history = [
            user("go"),
            calls(&["a", "b"]),
            answer("b"),
            answer("a"),
            calls(&["c"]),
            answer("c"),
            user("and?"),
            calls(&[]),
        ];
        assert_eq!(check_pairing(&history), Ok(()));
    }

    #[test]
    fn a_conversation_that_breaks_call_and_answer_pairing_is_not_sent() {
        let broken: [&[Message]; 9] = [
            &[calls(&["a"])],
            &[calls(&["a", "b"]), answer("a")],
            &[calls(&["a"]), user("wait"), answer("a")],
            &[calls(&["a"]), calls(&["b"]), answer("a"), answer("b")],
            &[answer("a")],
            &[calls(&["a"]), answer("a"), answer("a")],
            &[calls(&["a", "a"]), answer("a"), answer("a")],
            &[calls(&["a"]), answer("a"), calls(&["a"]), answer("a")],
            &[calls(&[""]), answer("")],
        ];
        for history in broken {
            assert!(matches!(check_pairing(history), Err(LlmError::Invalid(_))), "{history:?}");
        }
    }

    #[test]
    fn tools_of_another_api_and_too_many_tools_are_not_sent() {
        let chat = Profile::default();
        let many = vec![tool("t", "", "{}"); 129];
        let history = [user("go")];
        let tools = RenderedTools::new(&chat, &many);
        assert!(matches!(check(&request(&history, &tools), &chat), Err(LlmError::Invalid(_))));
        let tools = RenderedTools::new(&chat, &many[..128]);
        assert_eq!(check(&request(&history, &tools), &chat), Ok(()));
        let other = chat.over(Api::Responses);
        assert!(matches!(check(&request(&history, &tools), &other), Err(LlmError::Invalid(_))));
        assert!(matches!(check(&request(&[], &tools), &Profile::default()), Err(LlmError::Invalid(_))));
    }

    #[test]
    fn tools_are_rendered_in_the_form_of_their_api_with_short_descriptions() {
        let tools = [tool("t", &"é".repeat(2000), r#"{"type": "object",  "properties": {}}"#)];
        let rendered = |api| {
            let profile = Profile::default().over(api);
            printed(&RenderedTools::new(&profile, &tools))
        };
        let function = json!({
            "name": "t", "description": "é".repeat(1024), "strict": false,
            "parameters": {"type": "object", "properties": {}}
        });
        assert_eq!(rendered(Api::ChatCompletions)["tools"], json!([{"type": "function", "function": function}]));
        let schema =
            r#"{"type": "object", "anyOf": [{"required": ["a"]}], "properties": {"a": {"anyOf": [{"type": "null"}]}}}"#;
        let tools = [tool("t", "", r#"{"type": "object"}"#), tool("u", "U.", schema)];
        assert_eq!(
            printed(&RenderedTools::new(&Profile::default().over(Api::Messages), &tools))["tools"],
            json!([
                {"name": "t", "input_schema": {"type": "object"}},
                {"name": "u", "description": "U.", "cache_control": {"type": "ephemeral"},
                    "input_schema": {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}]}}}},
            ])
        );
        let mut flat = function;
        flat["type"] = json!("function");
        assert_eq!(rendered(Api::Responses)["tools"], json!([flat]));
        assert_eq!(printed(&RenderedTools::new(&Profile::default(), &[])), json!({"x": 0}), "no empty array");
    }

    #[test]
    fn ids_that_are_missing_or_were_given_before_are_replaced_by_our_own() {
        let history = [user("go"), calls(&["call_0", "call_3_1"]), answer("call_0")];
        let mut ids = CallIds::after(&history);
        assert_eq!(ids.next(Some("fresh")), "fresh");
        assert_eq!(ids.next(Some("fresh")), "call_3_2", "call_3_1 is taken");
        assert_eq!(ids.next(Some("call_0")), "call_3_3");
        assert_eq!(ids.next(None), "call_3_4");
        assert_eq!(ids.next(Some("")), "call_3_5");
    }
}

//! Reads the messages of a request as strictly as the real API: turns, calls and their results, and what was thought.

use serde_json::{Map, Value, json};

use super::conversation::{Done, History, result_of, text_of};
use super::errors::MessagesError;
use super::models::Profile;

/// What the ids of calls begin with. Those that a model made while thinking carry its name, so that a thought that did not come
/// back to it is noticed without a store; another model is not to see it.
pub(super) fn call_prefix(profile: &Profile) -> String {
    let family = profile.name.split('-').nth(1).filter(|_| profile.reasoning).unwrap_or_default();
    format!("toolu_{family}")
}

/// What was thought before the answer of this number, signed.
pub(super) fn thought(profile: &Profile, number: u64) -> Value {
    let thinking = format!("Rules were looked up for answer {number}.");
    let signature = signature(profile, &thinking);
    json!({"type": "thinking", "thinking": thinking, "signature": signature})
}

fn signature(profile: &Profile, thinking: &str) -> String {
    format!("signed-{}-{}", profile.name, thinking.len() * 31 + thinking.bytes().map(usize::from).sum::<usize>())
}

/// What was said and done so far.
pub(super) fn read(body: &Map<String, Value>, profile: &Profile) -> Result<History, MessagesError> {
    let system = body.get("system").unwrap_or(&Value::Null);
    if let Some(blocks) = system.as_array() {
        blocks.iter().try_for_each(|block| check_text("system", block))?;
    } else if !system.is_null() && !system.is_string() {
        return Err(MessagesError::invalid("system: must be a text or a list of blocks"));
    }
    let messages = body.get("messages").and_then(Value::as_array).filter(|messages| !messages.is_empty());
    let messages = messages.ok_or_else(|| MessagesError::invalid("messages: at least one message is required"))?;
    let mut reader = Reader { profile, history: History::default(), open: Vec::new(), known: Vec::new() };
    if messages[0]["role"] != "user" {
        return Err(MessagesError::invalid("messages: first message must use the \"user\" role"));
    }
    for (index, message) in messages.iter().enumerate() {
        let path = format!("messages.{index}");
        let fields =
            message.as_object().is_some_and(|fields| fields.keys().all(|key| key == "role" || key == "content"));
        if !fields {
            return Err(MessagesError::invalid(format!("{path}: needs role and content, and nothing else")));
        }
        let content = match &message["content"] {
            Value::String(text) => vec![json!({"type": "text", "text": text})],
            Value::Array(blocks) if !blocks.is_empty() => blocks.clone(),
            _ => return Err(MessagesError::invalid(format!("{path}: all messages must have non-empty content"))),
        };
        match message["role"].as_str() {
            Some("user") => reader.user(&path, &content)?,
            Some("assistant") => reader.assistant(&path, &content)?,
            _ => return Err(MessagesError::invalid(format!("{path}.role: unknown role"))),
        }
    }
    reader.all_answered(&format!("messages.{}", messages.len()))?;
    if messages.last().is_some_and(|message| message["role"] == "assistant") {
        let problem =
            "This model does not support assistant message prefill. The conversation must end with a user message.";
        return Err(MessagesError::invalid(problem));
    }
    Ok(reader.history)
}

struct Reader<'a> {
    profile: &'a Profile,
    history: History,
    /// Calls of the message before.
    open: Vec<Done>,
    known: Vec<String>,
}

impl Reader<'_> {
    fn all_answered(&self, path: &str) -> Result<(), MessagesError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = self.open.iter().map(|call| call.id.as_str()).collect();
        Err(MessagesError::invalid(format!(
            "{path}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block must have \
             a corresponding `tool_result` block in the next message.",
            ids.join(", ")
        )))
    }

    fn user(&mut self, path: &str, content: &[Value]) -> Result<(), MessagesError> {
        let (mut step, mut texts) = (Vec::new(), Vec::new());
        for (index, block) in content.iter().enumerate() {
            let path = format!("{path}.content.{index}");
            match block["type"].as_str() {
                Some("text") => {
                    check_text(&path, block)?;
                    texts.push(block["text"].as_str().unwrap_or_default());
                }
                Some("tool_result") => {
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    let Some(position) = self.open.iter().position(|call| call.id == id) else {
                        let problem = format!("{path}: unexpected `tool_use_id` found in `tool_result` blocks: {id}");
                        return Err(MessagesError::invalid(problem));
                    };
                    if !texts.is_empty() {
                        let problem = format!("{path}: `tool_result` blocks have to come first in their message");
                        return Err(MessagesError::invalid(problem));
                    }
                    let result = result_content(&path, &block["content"])?;
                    step.push(Done { result, ..self.open.remove(position) });
                }
                _ => return Err(MessagesError::invalid(format!("{path}.type: unknown type of block"))),
            }
        }
        self.all_answered(path)?;
        if !step.is_empty() {
            self.history.step(step);
        }
        if !texts.is_empty() {
            self.history.user(texts.join("\n"));
        }
        Ok(())
    }

    fn assistant(&mut self, path: &str, content: &[Value]) -> Result<(), MessagesError> {
        self.all_answered(path)?;
        let mut thought = false;
        for (index, block) in content.iter().enumerate() {
            let path = format!("{path}.content.{index}");
            match block["type"].as_str() {
                Some("text") => check_text(&path, block)?,
                Some("thinking") => {
                    let thinking = block["thinking"].as_str().unwrap_or_default();
                    if block["signature"] != signature(self.profile, thinking) {
                        let problem = format!("{path}: Invalid `signature` in `thinking` block");
                        return Err(MessagesError::invalid(problem));
                    }
                    thought = true;
                }
                Some("tool_use") => self.call(&path, block, thought)?,
                _ => return Err(MessagesError::invalid(format!("{path}.type: unknown type of block"))),
            }
        }
        if self.open.is_empty() {
            self.history.assistant_text();
        }
        Ok(())
    }

    fn call(&mut self, path: &str, block: &Value, thought: bool) -> Result<(), MessagesError> {
        let bad = |problem: &str| Err(MessagesError::invalid(format!("{path}{problem}")));
        let id = block["id"].as_str().unwrap_or_default();
        let legal = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | '-');
        if id.is_empty() || !id.chars().all(legal) {
            return bad(".id: String should match pattern '^[a-zA-Z0-9_-]+$'");
        }
        if self.known.iter().any(|known| known == id) {
            return bad(": `tool_use` ids must be unique");
        }
        let (Some(name), true) = (block["name"].as_str(), block["input"].is_object()) else {
            return bad(".input: Input should be a valid dictionary");
        };
        if self.profile.reasoning && id.starts_with(&call_prefix(self.profile)) && !thought {
            return bad(": `thinking` blocks must be passed back with the `tool_use` blocks that they led to");
        }
        self.known.push(id.to_owned());
        let arguments = block["input"].clone();
        self.open.push(Done { id: id.to_owned(), name: name.to_owned(), arguments, result: String::new() });
        Ok(())
    }
}

/// What a tool said: a text or blocks, or nothing. What a caller adds in a block of its own is no part of the result.
fn result_content(path: &str, content: &Value) -> Result<String, MessagesError> {
    match content {
        Value::Null | Value::String(_) => Ok(result_of(content)),
        Value::Array(blocks) => {
            blocks.iter().try_for_each(|block| check_text(path, block))?;
            Ok(blocks.first().map(|block| result_of(&Value::from(text_of(&block["text"])))).unwrap_or_default())
        }
        _ => Err(MessagesError::invalid(format!("{path}.content: must be a text or a list of blocks"))),
    }
}

fn check_text(path: &str, block: &Value) -> Result<(), MessagesError> {
    let text = block["text"].as_str().filter(|_| block["type"] == "text");
    match text {
        None => Err(MessagesError::invalid(format!("{path}: a block of text is wanted"))),
        Some(text) if text.trim().is_empty() => {
            Err(MessagesError::invalid(format!("{path}: text content blocks must contain non-whitespace text")))
        }
        Some(_) => Ok(()),
    }
}

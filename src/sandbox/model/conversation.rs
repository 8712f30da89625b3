//! A request to the model in words that both wire forms share.

use jiff::Timestamp;
use serde_json::{Value, json};

/// What the model is asked, and what was done about it already.
#[derive(Debug)]
pub(super) struct Conversation {
    /// The last text of the user.
    pub(super) prompt: String,
    /// Rounds of calls since that text.
    pub(super) steps: Vec<Vec<Done>>,
    pub(super) tools: Vec<ToolSpec>,
    pub(super) choice: Choice,
    /// Whether one answer may hold several calls.
    pub(super) parallel: bool,
    /// The schema that a final answer has to fit.
    pub(super) schema: Option<Value>,
    pub(super) now: Timestamp,
}

/// Collects a conversation while its messages are read, one episode for each thing that the user asks.
#[derive(Debug, Default)]
pub(super) struct History {
    episodes: Vec<(String, Vec<Vec<Done>>)>,
    /// A final text was said since the last call.
    said: bool,
}

impl History {
    /// The user spoke. Right after tool results that is a remark on the work that goes on, not a new wish.
    pub(super) fn user(&mut self, text: String) {
        let working = !self.said && self.episodes.last().is_some_and(|(_, steps)| !steps.is_empty());
        if !working {
            self.episodes.push((text, Vec::new()));
        }
        self.said = false;
    }

    /// The assistant spoke without calling tools.
    pub(super) fn assistant_text(&mut self) {
        self.said = true;
    }

    /// A round of calls was answered.
    pub(super) fn step(&mut self, step: Vec<Done>) {
        self.said = false;
        if self.episodes.is_empty() {
            self.episodes.push((String::new(), Vec::new()));
        }
        self.episodes.last_mut().into_iter().for_each(|(_, steps)| steps.push(step.clone()));
    }

    /// The last wish that asks for something, such as before a remark on a wrong answer, with what was done about it.
    pub(super) fn last_wish(self, asks: impl Fn(&str) -> bool) -> (String, Vec<Vec<Done>>) {
        let mut episodes = self.episodes;
        let wish = episodes.iter().rposition(|(prompt, _)| asks(prompt));
        let index = wish.unwrap_or(episodes.len().saturating_sub(1));
        if episodes.is_empty() { Default::default() } else { episodes.swap_remove(index) }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ToolSpec {
    pub(super) name: String,
    pub(super) parameters: Value,
}

/// A call with its result.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: Value,
    pub(super) result: String,
}

/// Whether tools may, must or must not be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Auto,
    Never,
    Required,
    Named(String),
}

impl Choice {
    /// Reads `tool_choice`; a named tool may be nested under `function` or not.
    pub(super) fn read(value: Option<&Value>) -> Self {
        match value {
            Some(Value::String(word)) if word == "none" => Self::Never,
            Some(Value::String(word)) if word == "required" => Self::Required,
            Some(choice @ Value::Object(_)) => {
                let name = choice["function"]["name"].as_str().or(choice["name"].as_str());
                name.map_or(Self::Auto, |name| Self::Named(name.to_owned()))
            }
            _ => Self::Auto,
        }
    }
}

/// What the model says.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Text(String),
    /// Names and arguments.
    Calls(Vec<(String, Value)>),
}

impl Reply {
    /// Tokens, at four characters each.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Text(text) => tokens(text),
            Self::Calls(calls) => {
                calls.iter().map(|(name, arguments)| tokens(name) + tokens(&arguments.to_string())).sum()
            }
        }
    }
}

/// Four characters are a token, roughly.
pub(super) fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(4)
}

/// Of a repeated prefix whole blocks of 128 tokens come from the cache, from 1,024 on.
pub(super) fn cached(input: usize, repeated: bool) -> usize {
    if repeated && input >= 1_024 { input / 128 * 128 } else { 0 }
}

/// The text of a message's content: a string, or parts with `text`.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// What a tool said, as text: out of the frame that callers put around it, an object with this one field.
pub(super) fn result_of(content: &Value) -> String {
    let text = text_of(content);
    let Ok(Value::Object(frame)) = serde_json::from_str(&text) else { return text };
    match frame.get("tool_result").filter(|_| frame.len() == 1) {
        Some(Value::String(inner)) => inner.clone(),
        Some(inner) => inner.to_string(),
        None => text,
    }
}

/// A call's arguments, which travel as text.
pub(super) fn arguments_of(value: &Value) -> Value {
    value.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| json!({}))
}

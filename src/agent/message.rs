//! What a run and a model say to each other, in no provider's form. The adapters in `llm` translate.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One entry of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// How the agent shall behave.
    System(String),
    /// What the caller asks for, or a note of the worker to the model.
    User(String),
    /// What the model said.
    Assistant(AssistantMessage),
    /// The one answer to one tool call.
    ToolResult {
        /// The [`ToolCall::id`] in the assistant's message before it.
        call_id: String,
        /// The answer as the model sees it.
        content: String,
    },
}

/// What a model said in one turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AssistantMessage {
    /// The text, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The tool calls it wants, in its order; ids are unique within the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// The provider's own items of this turn (encrypted reasoning with its calls), to be sent back as they came.
    /// Only the adapter that made them reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provider_items: Vec<Value>,
}

/// A tool call as the model wrote it: data, not yet trusted in any way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's id of the call, or one made by the adapter where it gave none or gave one twice.
    pub id: String,
    /// The tool's name as the model knows it.
    pub name: String,
    /// The arguments as text, as the model wrote them; not necessarily JSON.
    pub arguments: String,
}

/// Why a model stopped. Servers give words of their own, so this is never the signal to run calls: their presence is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It was done, or wants its calls answered.
    Stop,
    /// The output was cut: calls in it may be half a call.
    Length,
    /// A filter of the provider cut in.
    ContentFilter,
    /// The model refused; its words.
    Refusal(String),
    /// A word we do not know; treated like [`Finish::Stop`].
    Other(String),
}

impl Finish {
    /// The reason without the model's or the server's words: for log lines.
    pub fn outline(&self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Refusal(_) => "refusal",
            Self::Other(_) => "other",
        }
    }
}

/// What a model call cost, in tokens. Absent is not zero: servers leave figures out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input_tokens: u64,
    /// All output tokens, reasoning included.
    pub output_tokens: u64,
    /// Input tokens that came from the provider's cache.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Input tokens that the provider put into its cache for some minutes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Input tokens that it put there for an hour.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_1h_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A model's answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReply {
    /// Its text and its tool calls, as they go back to it in the next request.
    pub message: AssistantMessage,
    /// Why it stopped.
    pub finish: Finish,
    /// What it cost, where the server said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The model's name as the server gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The server's id of the request, for its support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// How free the model is to call tools in one turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// Not at all: it shall answer in words.
    None,
}
/// Whether the model's words are an answer of the form that the job wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conformity {
    /// They are JSON that fits the job's schema.
    Fits,
    /// They are not, for these reasons.
    Misfit(String),
}

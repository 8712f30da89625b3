//! What a run did to the world, and what people say of it later.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A side effect and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectEntry {
    /// The model's id of the call, by which a person settles what became of it; not in replies of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The tool's name, such as `gmail_send_email`.
    pub tool: String,
    /// The connection it ran through.
    pub connection: String,
    /// Done, failed, unknown or denied; once a person has said it, done or not done.
    pub state: EffectState,
    /// Scalekit's id of the execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// The arguments' main points, for a person.
    pub summary: String,
}

/// What is known of a side effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EffectState {
    /// The tool answered that it ran; or a person says so.
    Done,
    /// It was not done.
    Failed,
    /// It may have been done: the call left, and no answer came.
    Unknown,
    /// It was not done, as nobody allowed it.
    Denied,
    /// It had been unknown, and a person says that it was not done.
    NotDone,
}

impl EffectState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Denied => "denied",
            Self::NotDone => "not_done",
        }
    }
}

/// What a person says of an effect that was unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// It was done.
    Done,
    /// It was not.
    NotDone,
}

impl Settlement {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "not_done",
        }
    }
}

impl From<Settlement> for EffectState {
    fn from(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Done => Self::Done,
            Settlement::NotDone => Self::NotDone,
        }
    }
}

/// Data of `agentkit.job.effect_settled`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EffectSettled {
    /// The effect as the terminal reply named it, with the state that it has now: done or not done.
    pub effect: EffectEntry,
    /// Who said so.
    pub by: String,
    /// The job's own metadata.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
}

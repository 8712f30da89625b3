//! What a journal says of approvals: what was asked, and what was decided.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decision::{Door, Verdict};

/// A call that waits for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskedCall {
    /// Names the approval.
    pub id: String,
    /// Which of the open turn's calls.
    pub call_id: String,
    /// A decision about other arguments is none about this call.
    pub arguments_digest: String,
    /// What other arguments are checked against; null where the tool is gone.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments_schema: Value,
}

/// What was decided about a call that waited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The approval that was asked for.
    pub approval: String,
    /// What becomes of the call.
    pub verdict: Verdict,
    /// How the decision came.
    pub door: Door,
    /// Who decided, as far as that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, in that person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the call is made with instead, where it was edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Map<String, Value>>,
}

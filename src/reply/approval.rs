//! What callers and deciders hear of approvals.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decision::{Door, Verdict};

/// Data of `agentkit.job.approval_required`: all calls of a turn that wait for a person, in one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalRequired {
    /// The calls; the run goes on once all are decided.
    pub approvals: Vec<ApprovalEntry>,
    /// Until when the run waits.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub waiting_until: Timestamp,
    /// The job's own metadata.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
}

/// A call that waits for a person.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalEntry {
    /// Names the approval in a decision.
    pub id: String,
    /// The model's id of the call.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// The connection that it would run through.
    pub connection: String,
    /// What the tool does to the world: `write`, `idempotent` or `read`.
    pub effect: String,
    /// The arguments' main points, for a person.
    pub summary: String,
    /// The arguments, whole.
    pub arguments: Map<String, Value>,
    /// A decision names it: about other arguments it decides nothing.
    pub arguments_digest: String,
    /// What other arguments must fit, where it is known.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments_schema: Value,
    /// Whether a decision may change the arguments.
    pub editable: bool,
    /// The tools by which the run had read something before.
    pub read_before: Vec<String>,
    /// A page where a person can decide; whoever has it can, so show it to that person only. Absent where none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// Neither arguments nor link.
impl fmt::Debug for ApprovalEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ApprovalEntry")
            .field("id", &self.id)
            .field("tool", &self.tool)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// What was decided about a call that waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalOutcome {
    /// The tool's name.
    pub tool: String,
    /// Its connection.
    pub connection: String,
    /// What was decided.
    pub decision: Verdict,
    /// Who decided, as far as that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How the decision came.
    pub door: Door,
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// How long the call had waited by then.
    pub waited_seconds: u64,
}

/// Data of `agentkit.decision.refused`: a decision that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DecisionRefused {
    /// The approval that it named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// One of a closed set: `unreadable`, `unknown`, `ended`, `other_arguments`, `already`, `already_decided`, `expired`,
    /// `not_editable`, `invalid_arguments`.
    pub code: String,
    /// The same in a sentence.
    pub reason: String,
}

impl super::Reply {
    /// Whether it says anything of approvals, which readers of earlier versions do not know.
    pub fn speaks_of_approval(&self) -> bool {
        match &self.event {
            super::ReplyEvent::Completed(completed) => !completed.account.approvals.is_empty(),
            super::ReplyEvent::Failed(failed) => !failed.account.approvals.is_empty(),
            _ => false,
        }
    }
}

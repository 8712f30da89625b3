//! What a run is held to.

use serde::{Deserialize, Serialize};

use super::approval::ApprovalRules;
use super::links::AnswerRules;

/// The rules of one run, fixed at its start, so that a changed configuration does not change a run under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The model that the run begins with, such as `gpt-4o`, whatever the configuration says later.
    pub model: String,
    /// What the system message was when the run began; the same words again keep the provider's cache warm.
    pub instructions: String,
    /// Model turns at most.
    pub steps: u32,
    /// Tool calls at most.
    pub tool_calls: u32,
    /// Input and output tokens at most.
    pub tokens: u64,
    /// Working seconds at most.
    pub seconds: u64,
    /// Reading calls that run at the same time.
    pub parallel_reads: usize,
    /// Bytes of one tool result that the model sees.
    pub result_bytes: usize,
    /// What the run may cost, in billionths of a US dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_nano_usd: Option<u64>,
    /// Seconds to wait for the user's authorization.
    pub authorization_seconds: u64,
    /// Which calls wait for a person.
    #[serde(default, skip_serializing_if = "ApprovalRules::is_idle")]
    pub approval: ApprovalRules,
    /// Whether the model gets what tools say in a frame; not in runs of earlier versions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frames_results: bool,
    /// What becomes of links in the answer.
    #[serde(default, skip_serializing_if = "AnswerRules::keeps_all")]
    pub answer: AnswerRules,
}

//! Why a job failed, and what its caller can do about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An error in the words of the person who must do something about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// One of a closed set.
    pub code: ErrorCode,
    /// One sentence that names what failed, without secrets.
    pub message: String,
    /// What the caller, the user or the operator can do about it.
    pub hint: String,
    /// The connection concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The tool concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Scalekit's id of the tool call concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
}

impl ErrorDetail {
    /// An error with the code's own hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let hint = code.hint().to_owned();
        Self { code, message: message.into(), hint, connection: None, tool: None, execution_id: None }
    }

    /// The same with another hint.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// The same, naming the connection concerned.
    pub fn connection(self, connection: impl Into<String>) -> Self {
        Self { connection: Some(connection.into()), ..self }
    }

    /// The same, naming the tool concerned.
    pub fn tool(self, tool: impl Into<String>) -> Self {
        Self { tool: Some(tool.into()), ..self }
    }
}

/// Why a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message is not a job.
    InvalidJob,
    /// Nobody vouches for who sent the job, or it asks for what its producer may not.
    ProducerNotAllowed,
    /// The id was used for a different job.
    IdConflict,
    /// Scalekit knows no connection of that name.
    ConnectionNotFound,
    /// The connection is switched off at Scalekit.
    ConnectionDisabled,
    /// There is no tool that the run may use.
    NoTools,
    /// The user authorized, but the application has not verified the user.
    VerificationPending,
    /// The user did not authorize in time.
    AuthorizationExpired,
    /// Nobody decided about a call in time.
    ApprovalExpired,
    /// The account was disconnected on purpose.
    AccountDisconnected,
    /// The model's server refused the request.
    ModelRejected,
    /// The model's account has no budget left.
    ModelQuota,
    /// The provider's content filter stepped in.
    ContentFiltered,
    /// The model refused.
    Refused,
    /// More model turns than allowed.
    StepLimit,
    /// More tool calls than allowed.
    ToolCallLimit,
    /// More tokens than allowed.
    TokenLimit,
    /// More money than allowed: by the job's own limit, or by a budget of the operator.
    BudgetExceeded,
    /// More working time than allowed.
    DeadlineExceeded,
    /// The model made the same call with the same result again and again.
    LoopDetected,
    /// Too many tool calls went wrong.
    ToolErrors,
    /// The answer does not fit the job's schema.
    InvalidOutput,
    /// Something that should pass did not pass, however often it was tried.
    AttemptsExhausted,
    /// Somebody cancelled the job.
    Cancelled,
    /// A fault of the worker.
    Internal,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::InvalidJob,
        Self::ProducerNotAllowed,
        Self::IdConflict,
        Self::ConnectionNotFound,
        Self::ConnectionDisabled,
        Self::NoTools,
        Self::VerificationPending,
        Self::AuthorizationExpired,
        Self::ApprovalExpired,
        Self::AccountDisconnected,
        Self::ModelRejected,
        Self::ModelQuota,
        Self::ContentFiltered,
        Self::Refused,
        Self::StepLimit,
        Self::ToolCallLimit,
        Self::TokenLimit,
        Self::BudgetExceeded,
        Self::DeadlineExceeded,
        Self::LoopDetected,
        Self::ToolErrors,
        Self::InvalidOutput,
        Self::AttemptsExhausted,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The code as it stands in replies and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::IdConflict => "id_conflict",
            Self::ConnectionNotFound => "connection_not_found",
            Self::ConnectionDisabled => "connection_disabled",
            Self::NoTools => "no_tools",
            Self::VerificationPending => "verification_pending",
            Self::AuthorizationExpired => "authorization_expired",
            Self::ApprovalExpired => "approval_expired",
            Self::ProducerNotAllowed => "producer_not_allowed",
            Self::AccountDisconnected => "account_disconnected",
            Self::ModelRejected => "model_rejected",
            Self::ModelQuota => "model_quota",
            Self::ContentFiltered => "content_filtered",
            Self::Refused => "refused",
            Self::StepLimit => "step_limit",
            Self::ToolCallLimit => "tool_call_limit",
            Self::TokenLimit => "token_limit",
            Self::BudgetExceeded => "budget_exceeded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::LoopDetected => "loop_detected",
            Self::ToolErrors => "tool_errors",
            Self::InvalidOutput => "invalid_output",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    /// Whether a job that is refused so cannot have had a run of its own.
    pub(crate) fn is_before_any_run(self) -> bool {
        matches!(self, Self::InvalidJob | Self::ProducerNotAllowed | Self::IdConflict)
    }

    /// What to do, where nothing more exact is known.
    pub fn hint(self) -> &'static str {
        match self {
            Self::InvalidJob => "correct the message; `agentkit-worker schema job` prints what a job looks like",
            Self::IdConflict => {
                "give each job an id of its own; send the very same body again to get the same reply again"
            }
            Self::ConnectionNotFound => {
                "compare the name with AgentKit > Connections in the Scalekit dashboard; upper and lower case count"
            }
            Self::ConnectionDisabled => "enable the connection under AgentKit > Connections in the Scalekit dashboard",
            Self::NoTools => {
                "check the connection name and that its account is ACTIVE; `agentkit-worker tools` lists what a user has"
            }
            Self::VerificationPending => {
                "the application must call Scalekit's user verification for this user; a new link does not help"
            }
            Self::AuthorizationExpired => "ask the user to open the link, then send the job again under a new id",
            Self::ProducerNotAllowed => {
                "publish with the property `user_id`, as a user that the operator lets do this; see config/producers.toml"
            }
            Self::ApprovalExpired => {
                "decide sooner, or raise `approval.wait_seconds`; then send the job again under a new id"
            }
            Self::AccountDisconnected => {
                "ask the user to connect the account again, then send the job again under a new id"
            }
            Self::ModelRejected => {
                "check the model's name and API in the worker's configuration; `agentkit-worker doctor` tests it"
            }
            Self::ModelQuota => "top up or raise the spending limit of the model provider's account",
            Self::ContentFiltered => {
                "change the prompt, or what the tools may return; the provider's filter stepped in"
            }
            Self::Refused => "change the prompt; the model declined to do this",
            Self::StepLimit => "ask for less in one job, or raise `limits.steps`",
            Self::ToolCallLimit => "ask for less in one job, or raise `limits.tool_calls`",
            Self::TokenLimit => "ask for less in one job, allow fewer tools, or raise `limits.tokens`",
            Self::BudgetExceeded => {
                "ask for less in one job, raise `limits.cost`, or have the operator raise the budget that the message names"
            }
            Self::DeadlineExceeded => "ask for less in one job, or raise `limits.seconds`",
            Self::LoopDetected => "make the prompt more exact, or allow fewer tools",
            Self::ToolErrors => "see `effects` and the message; allow only the tools that the job needs",
            Self::InvalidOutput => "simplify `output_schema` or say in the prompt what shall be filled in",
            Self::AttemptsExhausted => {
                "see the message for what kept failing; send the job again under a new id once it works"
            }
            Self::Cancelled => "send the job again under a new id if it is still wanted",
            Self::Internal => "report this with the job id; the worker's log says more",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_of_codes_is_whole() {
        let schema = serde_json::to_value(schemars::schema_for!(ErrorCode)).unwrap().to_string();
        let known: BTreeSet<&str> = ErrorCode::ALL.map(ErrorCode::as_str).into();
        assert_eq!(known.len(), schema.matches("\"const\":").count(), "{schema}");
        assert!(known.iter().all(|code| schema.contains(&format!("\"{code}\""))), "{schema}");
    }
}

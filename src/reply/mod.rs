//! What a caller gets back: CloudEvents with deterministic ids.

mod approval;
mod cut;
mod effect;
mod error;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::approval::{ApprovalEntry, ApprovalOutcome, ApprovalRequired, DecisionRefused};
pub use self::effect::{EffectEntry, EffectSettled, EffectState, Settlement};
pub use self::error::{ErrorCode, ErrorDetail};
use crate::job::JobId;
use crate::money::ModelCost;

/// The code of the [`Notice`] that goes with a cost that is not known.
pub const COST_UNKNOWN: &str = "cost_unknown";
/// The `source` of every event and the `app_id` of every message.
pub const SOURCE: &str = "agentkit-worker";
/// Media type of a structured-mode CloudEvent.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// A CloudEvent 1.0 in structured JSON. The same reply sent twice has the same `id`, so a consumer can drop the second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// The CloudEvents version, always `1.0`.
    pub specversion: String,
    /// Deterministic: the job id (with `@` and the producer, where producers are named) and what kind of event it is; all terminal events of a job share one id, unless an
    /// operator lets a job that was given up run again.
    pub id: String,
    /// Who sent it.
    pub source: String,
    /// The job id.
    pub subject: String,
    /// When it was made.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: Timestamp,
    /// Media type of `data`.
    pub datacontenttype: String,
    /// Type and data.
    #[serde(flatten)]
    pub event: ReplyEvent,
}

/// The kinds of reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum ReplyEvent {
    /// The agent answered. Terminal.
    #[serde(rename = "agentkit.job.completed")]
    Completed(Box<Completed>),
    /// There will be no answer. Terminal.
    #[serde(rename = "agentkit.job.failed")]
    Failed(Box<Failed>),
    /// The user must authorize connections first. Terminal only where `final` is true.
    #[serde(rename = "agentkit.job.authorization_required")]
    AuthorizationRequired(Box<AuthorizationRequired>),
    /// Calls wait for a person. Not terminal.
    #[serde(rename = "agentkit.job.approval_required")]
    ApprovalRequired(Box<ApprovalRequired>),
    /// A decision changed nothing. Goes to the decision's own `reply_to`; not terminal, and no event of the run.
    #[serde(rename = "agentkit.decision.refused")]
    DecisionRefused(DecisionRefused),
    /// A person said what became of an effect that was unknown, after the terminal reply. Nothing else changes.
    #[serde(rename = "agentkit.job.effect_settled")]
    EffectSettled(Box<EffectSettled>),
    /// How far the run has come; best effort, only where the job asked for it.
    #[serde(rename = "agentkit.job.progress")]
    Progress(Progress),
}

impl ReplyEvent {
    /// The event type, as in the `type` attribute.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Completed(_) => "agentkit.job.completed",
            Self::Failed(_) => "agentkit.job.failed",
            Self::AuthorizationRequired(_) => "agentkit.job.authorization_required",
            Self::ApprovalRequired(_) => "agentkit.job.approval_required",
            Self::DecisionRefused(_) => "agentkit.decision.refused",
            Self::EffectSettled(_) => "agentkit.job.effect_settled",
            Self::Progress(_) => "agentkit.job.progress",
        }
    }

    /// What the run did, where it has ended with an answer or without.
    pub fn account(&self) -> Option<&Account> {
        match self {
            Self::Completed(completed) => Some(&completed.account),
            Self::Failed(failed) => Some(&failed.account),
            _ => None,
        }
    }

    /// Whether a budget was used up.
    pub(crate) fn is_over_budget(&self) -> bool {
        matches!(self, Self::Failed(failed) if failed.error.code == ErrorCode::BudgetExceeded)
    }

    /// Whether nothing follows.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Completed(_) | Self::Failed(_) => true,
            Self::AuthorizationRequired(event) => event.is_final,
            Self::ApprovalRequired(_) | Self::DecisionRefused(_) | Self::EffectSettled(_) | Self::Progress(_) => false,
        }
    }
}

/// Data of `agentkit.job.completed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completed {
    /// The model's last text; may be empty.
    pub text: String,
    /// The answer as JSON, where the job gave a schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Whether the outcome of a side effect is in doubt.
    pub status: Status,
    /// What was called, what it did, cost and took; its fields stand beside these.
    #[serde(flatten)]
    pub account: Account,
}

/// Whether the outcome of a side effect is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All effects are known.
    Completed,
    /// At least one entry of `effects` is `unknown`.
    CompletedWithUnknownEffects,
}

/// Data of `agentkit.job.failed`: the error and everything known so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// What went wrong and what to do.
    pub error: ErrorDetail,
    /// What the model had said last, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What was called, what it did, cost and took until then; its fields stand beside these.
    #[serde(flatten)]
    pub account: Account,
}

/// What happened in a run: the part that completed and failed replies have in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// Why the run ended: `answered`, `length`, or the error's code.
    pub stop_reason: String,
    /// Requests to the model that were answered, over all attempts.
    pub steps: u32,
    /// Tool calls that ran.
    pub tool_calls: u32,
    /// Everything that was done to the world, or may have been done.
    pub effects: Vec<EffectEntry>,
    /// What was decided about calls that waited for a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalOutcome>,
    /// Tokens and calls of all requests to the model, those of earlier attempts included.
    pub usage: TotalUsage,
    /// The model that gave the answer, by its name as the provider answered it, such as `gpt-4o-2024-08-06`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// All models that were to be asked, in that order, where there was more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelUse>,
    /// When and how long.
    pub timing: Timing,
    /// How often the run was taken up, the first time included.
    pub attempts: u32,
    /// Calls that were tried again, by what and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<RetryEntry>,
    /// Things worth knowing that are no errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
    /// The job's own metadata.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
}

/// Tokens of all model calls of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TotalUsage {
    /// Input tokens, cached ones included.
    pub input_tokens: u64,
    /// Output tokens, reasoning included.
    pub output_tokens: u64,
    /// Input tokens that came from the provider's cache.
    pub cached_tokens: u64,
    /// Model calls that were answered.
    pub model_calls: u32,
    /// Whether some call's tokens are not known (no figures given, or asked and never answered).
    pub unknown: bool,
    /// What all of them cost, at list prices; null, with the notice `cost_unknown`, where a price or a usage is not known.
    #[serde(default = "ModelCost::unsaid", skip_serializing_if = "ModelCost::is_unsaid")]
    #[schemars(with = "Option<crate::money::Money>")]
    pub cost: ModelCost,
}

/// One of several models of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUse {
    /// Its name as the configuration or the job has it.
    pub model: String,
    /// How many requests it answered; none where it was known before that it is of no use.
    pub calls: u32,
    /// Why the run left it for another one, such as `model_gone` or `unavailable`; absent of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// When and how long a run worked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// When the job was first taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// Milliseconds of work; waiting for the user or for a free worker does not count.
    pub working_milliseconds: u64,
}

/// Calls of one kind that were tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryEntry {
    /// The tool, or `model`.
    pub call: String,
    /// An error code such as `rate_limited` or `unavailable`.
    pub reason: String,
    /// Retries for this reason, over all attempts of the run.
    pub count: u32,
}

/// Something worth knowing that is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// One of a closed set, such as `journal_lost`.
    pub code: String,
    /// The same in a sentence.
    pub message: String,
}

/// Data of `agentkit.job.authorization_required`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorizationRequired {
    /// The user who must authorize, as the job names them.
    pub identifier: String,
    /// All connections of the job that need it, in one event.
    pub authorizations: Vec<AuthorizationEntry>,
    /// Until when the run waits for the user; it goes on by itself once the user has authorized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub waiting_until: Option<Timestamp>,
    /// Whether the run ended with this event.
    #[serde(rename = "final", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
    /// The job's own metadata.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
}

/// One connection that the user must authorize.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorizationEntry {
    /// The connection's name at Scalekit, as the job names it.
    pub connection: String,
    /// The account's status at Scalekit, or `MISSING` where there is none.
    pub status: String,
    /// Where the user authorizes; whoever opens it binds their account, so show it to this user only. Absent where a
    /// link does not help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Until when the link works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires_at: Option<Timestamp>,
    /// What the caller can do: show the link, or, where there is none, how to get one.
    pub hint: String,
}

impl std::fmt::Debug for AuthorizationEntry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AuthorizationEntry")
            .field("connection", &self.connection)
            .field("status", &self.status)
            .field("link", &self.link.as_ref().map(|_| "REDACTED"))
            .finish_non_exhaustive()
    }
}

/// Data of `agentkit.job.progress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Model turns so far.
    pub step: u32,
    /// What the run is doing: `accounts`, `tools`, `model`, `tool_call`, `retry`, `parked`.
    pub phase: String,
    /// The tool concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
}

impl Account {
    /// What is known of a job that is refused: nothing was done for it, or nobody knows what.
    pub(crate) fn of_refused(code: ErrorCode, metadata: Value) -> Self {
        let mut account = Self { stop_reason: code.as_str().to_owned(), metadata, ..Self::default() };
        if !code.is_before_any_run() {
            account.usage.unknown = true;
            account.usage.cost = ModelCost::Unknown;
            let message = "what the job cost is not known, as how far its run was is not".to_owned();
            account.notices.push(Notice { code: COST_UNKNOWN.to_owned(), message });
        }
        account
    }
}

impl Reply {
    /// Whether it names several models, which readers of earlier versions do not know.
    pub fn names_models(&self) -> bool {
        self.event.account().is_some_and(|account| !account.models.is_empty())
    }

    /// The mark of the event that ends a job.
    pub(crate) const RESULT: &str = "result";

    /// A terminal reply of `job`; all terminal replies of a job have the same id, unless an operator opens its run again.
    pub fn terminal(job: &JobId, time: Timestamp, event: ReplyEvent) -> Self {
        Self::new(job, Self::RESULT, time, event)
    }

    /// The one reply to a message that is no job and has no id that can be read; `id` is a name made of its bytes.
    pub fn rejection(id: &str, time: Timestamp, event: ReplyEvent) -> Self {
        Self::of(id, id, Self::RESULT, time, event)
    }

    /// Whether it says that a budget was used up.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.event.is_over_budget()
    }

    /// A reply that something follows; `mark` tells it from the job's others.
    pub fn interim(job: &JobId, mark: &str, time: Timestamp, event: ReplyEvent) -> Self {
        Self::new(job, mark, time, event)
    }

    /// What is said of a decision in the message `message`; no event of the job that it names.
    pub fn about_decision(job: &str, message: &str, time: Timestamp, event: ReplyEvent) -> Self {
        Self::of(job, job, &format!("decision:{message}"), time, event)
    }

    fn new(job: &JobId, mark: &str, time: Timestamp, event: ReplyEvent) -> Self {
        Self::of(&job.unique(), job.as_str(), mark, time, event)
    }

    fn of(unique: &str, job: &str, mark: &str, time: Timestamp, event: ReplyEvent) -> Self {
        Self {
            specversion: "1.0".into(),
            id: format!("{unique}:{mark}"),
            source: SOURCE.into(),
            subject: job.into(),
            time,
            datacontenttype: "application/json".into(),
            event,
        }
    }

    /// The JSON Schema of the event, as printed by `schema reply`.
    pub fn schema() -> Value {
        let mut schema = schemars::schema_for!(Reply).to_value();
        schema["title"] = "agentkit-worker reply".into();
        schema
    }
}

/// Counts repeated calls by what and why, in a stable order.
pub fn retry_entries(counts: &BTreeMap<(String, String), u32>) -> Vec<RetryEntry> {
    counts
        .iter()
        .map(|((call, reason), count)| RetryEntry { call: call.clone(), reason: reason.clone(), count: *count })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn failed() -> Reply {
        let error = ErrorDetail::new(ErrorCode::NoTools, "the list is empty").connection("gmail");
        let event = ReplyEvent::Failed(Box::new(Failed { error, text: None, account: Account::default() }));
        Reply::terminal(&JobId::new("j").unwrap(), Timestamp::UNIX_EPOCH, event)
    }

    #[test]
    fn a_reply_is_a_cloud_event_with_a_deterministic_id() {
        let value = serde_json::to_value(failed()).unwrap();
        assert_eq!(value["specversion"], "1.0");
        assert_eq!(value["id"], "j:result");
        assert_eq!(value["type"], "agentkit.job.failed");
        assert_eq!(value["data"]["error"]["code"], "no_tools");
        assert_eq!(value, serde_json::to_value(failed()).unwrap());
    }

    #[test]
    fn a_reply_fits_its_own_schema_and_reads_back() {
        let value = serde_json::to_value(failed()).unwrap();
        let problems = Schema::compile(&Reply::schema()).unwrap().problems(&value);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(serde_json::from_value::<Reply>(value).unwrap(), failed());
    }

    #[test]
    fn the_schema_refuses_an_unknown_error_code() {
        let mut value = serde_json::to_value(failed()).unwrap();
        value["data"]["error"]["code"] = json!("whatever");
        assert!(!Schema::compile(&Reply::schema()).unwrap().problems(&value).is_empty());
    }

    #[test]
    fn a_link_is_not_shown_by_debug() {
        let entry = AuthorizationEntry {
            connection: "gmail".into(),
            status: "PENDING_AUTH".into(),
            link: Some("https://secret".into()),
            expires_at: None,
            hint: String::new(),
        };
        assert!(!format!("{entry:?}").contains("secret"));
    }
}

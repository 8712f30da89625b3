//! What can happen to a run, as it is journalled: the run's state is these entries folded, and nothing else.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use super::asked::{AskedCall, Settled};
pub use super::attempts::Pause;
use super::effect::{CallKey, Effect};
use super::message::{Conformity, ModelReply};
pub use super::outcome::ToolOutcome;
pub use super::settings::Settings;
pub use super::settled_effect::SettledEffect;
use crate::job::{ConnectionName, Job};
use crate::reply::Reply;

/// Version of the journal's form. A journal of an older version is read; a newer one is refused.
///
/// | version | since then there is |
/// |---|---|
/// | 1 | all but the following |
/// | 2 | [`Entry::schema`], [`Event::GivenUp`], [`Event::JournalLost`], [`Pause::JournalAway`] |
/// | 2 | `refused_while_active` of [`Event::AuthorizationRequested`], `alone` of [`Event::AttemptStarted`], `answer` of [`Event::ModelReplied`] |
/// | 3 | [`Event::EndLost`] |
/// | 4 | [`Event::ApprovalAsked`], [`Event::ApprovalDecided`], [`Pause::Approval`], jobs and replies that speak of approval |
/// | 5 | [`Event::EffectSettled`], [`Event::SettlementDelivered`], jobs with `reply_url` |
/// | 6 | [`Event::ModelSwitched`], [`Event::HistoryCompacted`], replies that name several models |
/// | 6 | jobs with `priority`, `tenant` or connections of MCP servers (`mcp:NAME`) |
/// | 6 | runs with a limit of their cost, replies that say that a budget is used up |
/// | 6 | [`Plan::Search`] |
pub const SCHEMA_VERSION: u32 = 6;
/// What a journal is written as whose effects a person settled, or whose replies go to an address.
const SETTLEMENT_VERSION: u32 = 5;
/// What a journal is written as that speaks of approval.
const APPROVAL_VERSION: u32 = 4;
/// What the end of a journal that was cut is written as.
const LOSS_VERSION: u32 = 3;
/// What all events but the newest are written as: an older worker goes on with a run that has none of these.
pub const COMMON_VERSION: u32 = 2;
/// Lines without a version are of this one.
const FIRST_VERSION: u32 = 1;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The version that the line needs, up to [`SCHEMA_VERSION`]: while workers of two versions are at work, a run that an
    /// old one began may hold lines of a new one.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub schema: u32,
    /// When it happened, by the clock of the worker that wrote it.
    pub at: Timestamp,
    /// The change of the run that this entry records; replaying all of them in order rebuilds the run.
    pub event: Event,
}

impl Entry {
    /// A line of the oldest version that knows the event.
    pub fn new(at: Timestamp, event: Event) -> Self {
        Self { schema: event.needs(), at, event }
    }
}

fn first_version() -> u32 {
    FIRST_VERSION
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first_version(version: &u32) -> bool {
    *version == FIRST_VERSION
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none_at_all(count: &usize) -> bool {
    *count == 0
}

/// [`Event::Retried::call`] of a request to the model.
pub const MODEL_CALL: &str = "model";
/// [`Event::ToolNotRun::reason`] of a call that did not leave yet, as its start might get lost with the store. The time
/// since it had started is no working time.
pub const NOT_SECURED: &str = "not_secured";
/// The same of one that the broker does not know of yet.
pub const NOT_WITNESSED: &str = "not_witnessed";

/// What can happen to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The job was taken up for the first time.
    Started(Box<Started>),
    /// A worker took the run. One that follows another without an end between them means that a worker died.
    AttemptStarted {
        /// The worker's name, for people.
        worker: String,
        /// Whether no other run that workers had died with was under way in that process: if it dies, this run is blamed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        alone: bool,
    },
    /// The worker gave the run out of its hands in good order.
    AttemptEnded {
        /// What the run waits for; decides whether the attempt counts as a failed one.
        cause: Pause,
        /// The same in a sentence, for whoever reads the journal.
        detail: String,
    },
    /// The broker confirmed a wake-up message of this generation: copies of earlier ones are stale.
    WakeUpPublished {
        /// Counts the wake-ups of the run.
        #[serde(rename = "turn")]
        generation: u32,
    },
    /// All connections are ACTIVE, as far as Scalekit knows.
    AccountsReady,
    /// The caller was told that the user must authorize.
    AuthorizationRequested {
        /// The connections that need it.
        connections: Vec<ConnectionName>,
        /// Until when the run waits.
        until: Timestamp,
        /// When the first of the links ends, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        links_end: Option<Timestamp>,
        /// Whether a call was refused although Scalekit calls the account ACTIVE: then only a call shows that it is good again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refused_while_active: bool,
    },
    /// These calls wait for a person. The caller is told after it.
    ApprovalAsked {
        /// All calls of the open turn that wait.
        calls: Vec<AskedCall>,
        /// Until when.
        until: Timestamp,
    },
    /// A person said what becomes of a call, or nobody did in time.
    ApprovalDecided(Box<Settled>),
    /// These tools are pinned for the run, sorted by name.
    ToolsListed {
        /// What the model is offered; runs that offer the same share it.
        tools: Arc<[PinnedTool]>,
        /// How many more there are, beyond the model's cap.
        left_out: usize,
        /// How many tools that searches find are offered beside them; none where the run does not search. A worker of an
        /// earlier version offers no search.
        #[serde(default, skip_serializing_if = "is_none_at_all")]
        finds: usize,
    },
    /// A request to the model is about to leave; without a [`Event::ModelReplied`] its cost is not known.
    ModelAsked,
    /// The model answered; journalled together with the start of its first calls, or with the end.
    ModelReplied {
        /// Text, tool calls, why it stopped and the tokens used, as read from the provider's answer.
        reply: Box<ModelReply>,
        /// What becomes of each of its calls, in its order.
        plans: Vec<Plan>,
        /// Whether its words are the answer of the form that the job wants, where it wants one and there are no calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Conformity>,
        /// What it cost, in billionths of a US dollar, at the price of that day; absent where price or usage is not known, and
        /// in journals up to version 5. An older worker takes no notice of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nano_usd: Option<u64>,
    },
    /// From here on the run asks another model: the present one is not asked again before something has changed. What only
    /// the former one could read of its own words is dropped.
    ModelSwitched {
        /// The model that was asked until then.
        from: String,
        /// The model that is asked from then on.
        to: String,
        /// The code of the failure, such as `model_gone` or `unavailable`.
        reason: String,
    },
    /// The conversation was too long for the model: what these calls answered is left out of it from here on.
    HistoryCompacted {
        /// The calls.
        results: Vec<String>,
    },
    /// A call failed and is tried again in place.
    Retried {
        /// The tool, or `model`.
        call: String,
        /// The error's code, such as `rate_limited`: one of a closed set, as replies count retries by it.
        reason: String,
    },
    /// A tool call is about to leave.
    ToolStarted {
        /// Which of the open turn's calls.
        call_id: String,
    },
    /// A tool call that had started is proven not to have run; it will be made again.
    ToolNotRun {
        /// Which of the open turn's calls.
        call_id: String,
        /// The code of the failure, which proves that nothing ran, or [`NOT_SECURED`] or [`NOT_WITNESSED`].
        reason: String,
    },
    /// A tool call has its one outcome.
    ToolFinished {
        /// Which of the open turn's calls.
        call_id: String,
        /// Its result, its failure, or that it may have run; the model is told the same.
        outcome: ToolOutcome,
    },
    /// The store lost the last lines of the journal, or all of them and the run was begun anew. What they said is not known.
    JournalLost,
    /// The store lost the last lines of the journal: the broker was witness to the start of this call, unknown to it.
    EndLost {
        /// The model's id of the call.
        call_id: String,
        /// The tool's name as the model calls it, such as `gmail_send_email`.
        tool: String,
    },
    /// The run is given up for good: its end is followed by a dead letter with these words, before it counts as delivered.
    #[serde(rename = "put_aside")]
    GivenUp(GivenUp),
    /// The run ended: this very reply is published, however often it takes.
    Finished(Box<Reply>),
    /// The broker confirmed the reply. Nothing follows, unless an operator opens the run again.
    Delivered,
    /// An operator wants the run to go on where it had stopped: its end is taken back and its failures are forgiven. What
    /// was done or is in doubt stays so.
    Reopened,
    /// A person said what became of an effect that was unknown when the run ended.
    EffectSettled(Box<SettledEffect>),
    /// The broker confirmed that the caller was told of it.
    SettlementDelivered {
        /// The model's id of the call.
        call_id: String,
    },
}

/// What a run starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The version that the entry needs, as [`Entry::schema`].
    pub schema: u32,
    /// As it was published, prompt included: the journal alone is enough to go on with the run.
    pub job: Arc<Job>,
    /// The job's digest: the same id with another digest is a conflict.
    pub digest: String,
    /// What the worker's configuration made of the job.
    pub settings: Settings,
    /// Whether the run had a journal before that the store lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub journal_lost: bool,
    /// Whether it may have written by then, unknown to this journal: it makes no write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writes_lost: bool,
    /// Whether it is the operator's own, beside producers: no producer's job goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operators: bool,
}

/// What may be lost with the journal of a run that is begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Reads and model calls: whatever changes something would stand in the run's message.
    Reads,
    /// Writes as well: another message of the job, gone since, may have stood for its run.
    Writes,
}

/// Why a run was put given_up, as its dead letter says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// One of a closed set, such as `attempts_exhausted`; the metric of dead letters counts by it.
    pub reason: String,
    /// A sentence with what happened last.
    pub detail: String,
    /// What the run was at.
    pub step: String,
}

/// A tool as it is pinned for a run; its definition is found again in the tool_catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTool {
    /// Name at Scalekit.
    pub name: String,
    /// Name as the model knows it.
    pub model_name: String,
    /// The connection that runs it.
    pub connection: ConnectionName,
    /// What it does to the world.
    pub effect: Effect,
}

/// What becomes of a tool call that the model asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// The call leaves for Scalekit, with these arguments and no others.
    Run {
        /// The tool as pinned.
        tool: PinnedTool,
        /// The arguments, checked against the tool's schema.
        arguments: Map<String, Value>,
        /// Names the call by what it does.
        key: CallKey,
    },
    /// The model looked for further tools: nothing leaves, and the call is answered at once.
    Search {
        /// Names the call by what it looks for.
        key: CallKey,
        /// What was found: offered from the next step on.
        found: Vec<PinnedTool>,
        /// What the model is told.
        told: String,
    },
    /// It never runs; the model is told why.
    Refuse {
        /// What the model is told.
        reason: String,
    },
}

impl Event {
    /// Whether it tells of a search for tools.
    fn has_search(&self) -> bool {
        matches!(self, Self::ModelReplied { plans, .. } if plans.iter().any(|plan| matches!(plan, Plan::Search { .. })))
    }

    /// Whether the run got further by this event: what failed before it is forgiven.
    pub fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::AccountsReady
                | Self::ToolsListed { .. }
                | Self::ModelReplied { .. }
                | Self::ToolFinished { .. }
                | Self::ApprovalDecided(_)
        )
    }

    /// The oldest version that knows the event, and all that is said in it.
    fn needs(&self) -> u32 {
        let speaks_of_approval = match self {
            Self::Started(started) => !started.job.approval.is_unsaid(),
            Self::Finished(reply) => reply.speaks_of_approval(),
            Self::AttemptEnded { cause, .. } => *cause == Pause::Approval,
            Self::ApprovalAsked { .. } | Self::ApprovalDecided(_) => true,
            _ => false,
        };
        match self {
            Self::Started(started) if reaches_further(started) => SCHEMA_VERSION,
            Self::Finished(reply) if reply.is_over_budget() => SCHEMA_VERSION,
            Self::ModelSwitched { .. } | Self::HistoryCompacted { .. } => SCHEMA_VERSION,
            Self::Finished(reply) if reply.names_models() => SCHEMA_VERSION,
            _ if self.has_search() => SCHEMA_VERSION,
            Self::EffectSettled(_) | Self::SettlementDelivered { .. } => SETTLEMENT_VERSION,
            Self::Started(started) if started.job.reply_url.is_some() => SETTLEMENT_VERSION,
            _ if speaks_of_approval => APPROVAL_VERSION,
            Self::EndLost { .. } => LOSS_VERSION,
            _ => COMMON_VERSION,
        }
    }

    /// The event's name, for logs and timelines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::AttemptStarted { .. } => "attempt_started",
            Self::AttemptEnded { .. } => "attempt_ended",
            Self::WakeUpPublished { .. } => "wake_up_published",
            Self::AccountsReady => "accounts_ready",
            Self::AuthorizationRequested { .. } => "authorization_requested",
            Self::ApprovalAsked { .. } => "approval_asked",
            Self::ApprovalDecided(_) => "approval_decided",
            Self::ToolsListed { .. } => "tools_listed",
            Self::ModelAsked => "model_asked",
            Self::ModelReplied { .. } => "model_replied",
            Self::ModelSwitched { .. } => "model_switched",
            Self::HistoryCompacted { .. } => "history_compacted",
            Self::Retried { .. } => "retried",
            Self::ToolStarted { .. } => "tool_started",
            Self::ToolNotRun { .. } => "tool_not_run",
            Self::ToolFinished { .. } => "tool_finished",
            Self::JournalLost => "journal_lost",
            Self::EndLost { .. } => "end_lost",
            Self::GivenUp(_) => "put_aside",
            Self::Finished(_) => "finished",
            Self::Delivered => "delivered",
            Self::Reopened => "reopened",
            Self::EffectSettled(_) => "effect_settled",
            Self::SettlementDelivered { .. } => "settlement_delivered",
        }
    }
}

/// Whether workers up to version 5 would read a job as another one, or go on without a limit of its cost.
fn reaches_further(started: &Started) -> bool {
    let job = &started.job;
    job.priority.is_some()
        || started.settings.cost_nano_usd.is_some()
        || job.limits.cost.is_some()
        || job.tenant.is_some()
        || job.connections.iter().any(|connection| connection.mcp_server().is_some())
}

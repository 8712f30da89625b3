//! What a run knows of itself: plain data, read through accessors, changed by `run` and `turn` only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::approvals::Approvals;
use super::asked_models::AskedModels;
use super::attempts::AttemptBefore;
use super::awaited::Awaited;
use super::counted_tokens::CountedTokens;
use super::effect::{CallKey, Effect};
use super::event::{GivenUp, Pause, PinnedTool, Plan, Settings, Started};
pub use super::ledger::LedgerEntry;
use super::message::{Message, ToolCall};
use super::search::SearchRoom;
use super::settled_effect::KeptSettlement;
use super::spent::Spent;
use crate::clock::milliseconds_between;
use crate::job::{ConnectionName, Job, OfferedEffects};
use crate::reply::{EffectState, ErrorDetail, Reply, TotalUsage};
use crate::standing::{RunState, StandingSince};

/// How a run ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Conclusion {
    /// The model stopped without another tool call.
    Answered {
        /// Its last text; empty where it said nothing.
        text: String,
        /// The answer as JSON, where the job wants one.
        output: Option<Value>,
        /// `answered` or `length`.
        stop_reason: &'static str,
    },
    /// Without one.
    Failed(Box<ErrorDetail>),
}

impl Conclusion {
    /// The run ends without an answer, for this reason.
    pub fn failed(error: ErrorDetail) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// One call of the open turn.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenCall {
    /// As the model wrote it.
    pub call: ToolCall,
    /// Whether it leaves for Scalekit or is answered by the worker itself; decided when the model's reply was
    /// journalled.
    pub plan: Plan,
    pub(super) state: CallState,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum CallState {
    Planned,
    Started,
    /// Answered: what the model is told, and whether the tool did what was asked.
    Answered {
        content: String,
        succeeded: bool,
    },
}

/// Deaths of workers that had several suspects under way count for each of these up to so many.
const SHARED_CRASHES: u32 = 2;

/// A run's whole state.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own; no two of them make a state")]
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub(super) started: Started,
    pub(super) started_at: Timestamp,
    pub(super) standing: StandingSince,
    pub(super) accounts_ready: bool,
    pub(super) authorization: Option<Awaited>,
    pub(super) authorizations_requested: u32,
    pub(super) authorization_waits: u32,
    pub(super) tools: Option<Arc<[PinnedTool]>>,
    pub(super) tools_left_out: usize,
    pub(super) models: AskedModels,
    pub(super) search: Option<SearchRoom>,
    pub(super) messages: Vec<Message>,
    pub(super) counted: CountedTokens,
    pub(super) left_out: BTreeSet<String>,
    pub(super) turn: Vec<OpenCall>,
    pub(super) conclusion: Option<Conclusion>,
    pub(super) last_text: Option<String>,
    pub(super) steps: u32,
    pub(super) calls_made: u32,
    pub(super) asked: bool,
    pub(super) usage: TotalUsage,
    pub(super) spent: Spent,
    pub(super) answered_by: Option<String>,
    pub(super) ledger: Vec<LedgerEntry>,
    pub(super) fenced: BTreeSet<CallKey>,
    pub(super) approvals: Approvals,
    pub(super) repeats: BTreeMap<(CallKey, String), u32>,
    pub(super) fruitless_turns: u32,
    pub(super) corrections: u32,
    pub(super) retries: BTreeMap<(String, String), u32>,
    pub(super) attempts: u32,
    pub(super) attempt_began: Timestamp,
    pub(super) attempt_ended: Option<(Timestamp, Pause)>,
    pub(super) attempt_before: Option<AttemptBefore>,
    pub(super) active: bool,
    pub(super) alone: bool,
    pub(super) crash_count: u32,
    pub(super) transient_failures: u32,
    pub(super) rate_limited: u32,
    pub(super) wake_up_generation: u32,
    pub(super) working_milliseconds: u64,
    pub(super) last_at: Timestamp,
    pub(super) sequence: u64,
    pub(super) journal_lost: bool,
    pub(super) given_up: Option<GivenUp>,
    pub(super) finished: Option<Box<Reply>>,
    pub(super) delivered: bool,
    pub(super) reopened: u32,
    pub(super) settlements: Vec<KeptSettlement>,
}

impl Run {
    /// A run of `started`, whose first entry was written at `at`.
    pub fn start(started: Started, at: Timestamp) -> Self {
        let messages =
            vec![Message::System(started.settings.instructions.clone()), Message::User(started.job.prompt.clone())];
        Self {
            models: AskedModels::new(&started.settings.model),
            journal_lost: started.journal_lost,
            started,
            started_at: at,
            standing: (RunState::Queued, at),
            accounts_ready: false,
            authorization: None,
            authorizations_requested: 0,
            authorization_waits: 0,
            tools: None,
            tools_left_out: 0,
            search: None,
            messages,
            counted: CountedTokens::default(),
            left_out: BTreeSet::new(),
            turn: Vec::new(),
            conclusion: None,
            last_text: None,
            steps: 0,
            calls_made: 0,
            asked: false,
            usage: TotalUsage::default(),
            spent: Spent::default(),
            answered_by: None,
            ledger: Vec::new(),
            fenced: BTreeSet::new(),
            approvals: Approvals::default(),
            repeats: BTreeMap::new(),
            fruitless_turns: 0,
            corrections: 0,
            retries: BTreeMap::new(),
            attempts: 0,
            attempt_began: at,
            attempt_ended: None,
            attempt_before: None,
            active: false,
            alone: false,
            crash_count: 0,
            transient_failures: 0,
            rate_limited: 0,
            wake_up_generation: 0,
            working_milliseconds: 0,
            last_at: at,
            sequence: 1,
            given_up: None,
            finished: None,
            delivered: false,
            reopened: 0,
            settlements: Vec::new(),
        }
    }

    /// What all model calls of the run took so far.
    pub fn usage(&self) -> TotalUsage {
        self.usage
    }

    /// The job as it was published; its id names the journal.
    pub fn job(&self) -> &Job {
        &self.started.job
    }

    /// The digest that the job had when the run started.
    pub fn digest(&self) -> &str {
        &self.started.digest
    }

    /// The rules of the run.
    pub fn settings(&self) -> &Settings {
        &self.started.settings
    }

    /// The conversation so far; every call in it is answered once, directly after the turn that made it.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// How the run's offer is shared out, where its model may search for further tools.
    pub fn search(&self) -> Option<SearchRoom> {
        self.search
    }

    /// The tools pinned for the run, once there are any: those from the start, and then those found.
    pub fn pinned(&self) -> &[PinnedTool] {
        self.tools.as_deref().unwrap_or_default()
    }

    /// A call of the open turn.
    pub fn open_call(&self, call_id: &str) -> Option<&OpenCall> {
        self.turn.iter().find(|open| open.call.id == call_id)
    }

    /// Whether this very write is in doubt, so that it must not be made in this run again.
    pub fn is_fenced(&self, key: &CallKey) -> bool {
        self.fenced.contains(key)
    }

    /// Working time left, zero where it is used up.
    pub fn remaining(&self, now: Timestamp) -> SignedDuration {
        let worked = self.working_milliseconds_at(now);
        let allowed = self.settings().seconds.saturating_mul(1000);
        SignedDuration::from_millis(i64::try_from(allowed.saturating_sub(worked)).unwrap_or(i64::MAX))
    }

    /// Working time in milliseconds, up to `now`.
    pub fn working_milliseconds_at(&self, now: Timestamp) -> u64 {
        let since = if self.works() { milliseconds_between(self.last_at, now) } else { 0 };
        self.working_milliseconds.saturating_add(since)
    }

    /// Whether time that passes is working time. A run that has ended waits for nothing but an operator, who may open it again.
    /// Tries whether an account is accepted again belong to the wait for the user: a day of them must not use up what the job
    /// may work.
    pub(super) fn works(&self) -> bool {
        self.active
            && self.finished.is_none()
            && !self.authorization.as_ref().is_some_and(|awaited| awaited.refused_while_active)
    }

    /// Whether anything was started that is more than reading.
    pub fn has_effects(&self) -> bool {
        self.last_effect().is_some()
    }

    /// The last call that was started and is more than reading: its id, and its tool.
    pub fn last_effect(&self) -> Option<(&str, &str)> {
        let made = |entry: &&LedgerEntry| entry.tool.effect != Effect::Read && entry.state != EffectState::Denied;
        let last = self.ledger.iter().rev().find(made)?;
        Some((&last.call_id, &last.tool.name))
    }

    /// Whether the journal knows this call: it is one of the open turn, or was started.
    pub fn knows_call(&self, call_id: &str) -> bool {
        self.open_call(call_id).is_some() || self.ledger.iter().any(|entry| entry.call_id == call_id)
    }

    /// Whether the run is known to have lost entries of its journal.
    pub fn has_lost_entries(&self) -> bool {
        self.journal_lost
    }

    /// Whether the run may have written before its journal began, unknown to it: what it would write may be done.
    pub fn has_lost_writes(&self) -> bool {
        self.started.writes_lost
    }

    /// Whether the run is the operator's own, beside those of producers.
    pub fn is_operators(&self) -> bool {
        self.started.operators
    }

    /// Whether the run may start something that is more than reading, by its tools or else by its job, or has.
    pub fn may_have_effects(&self) -> bool {
        let allowed = match &self.tools {
            Some(tools) if self.search.is_none() => tools.iter().any(|tool| tool.effect != Effect::Read),
            // What is listed, or found, may be any that the job allows.
            _ => self.job().tools.effects == OfferedEffects::All,
        };
        allowed || self.has_effects()
    }

    /// Whether the last worker that had the run has not given it out of its hands in good order.
    pub fn is_under_way(&self) -> bool {
        self.active
    }

    /// The run's reply, once there is one.
    pub fn reply(&self) -> Option<&Reply> {
        self.finished.as_deref()
    }

    /// Why the run was put given_up, where it was: then a dead letter is part of its end.
    pub fn given_up(&self) -> Option<&GivenUp> {
        self.given_up.as_ref()
    }

    /// Whether the broker confirmed that reply.
    pub fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// Scalekit's ids of the executions that are not this call; `None` where another call of its tool may have run under an
    /// id that nobody knows.
    pub fn known_executions(&self, call_id: &str) -> Option<Vec<String>> {
        let Plan::Run { tool, .. } = &self.open_call(call_id)?.plan else { return None };
        let others = || self.ledger.iter().filter(|entry| !(entry.open && entry.call_id == call_id));
        let nameless = others().any(|entry| {
            let ran = !matches!(entry.state, EffectState::Failed | EffectState::Denied | EffectState::NotDone);
            entry.tool.name == tool.name && entry.execution_id.is_none() && ran
        });
        (!nameless).then(|| others().filter_map(|entry| entry.execution_id.clone()).collect())
    }

    /// How often the run was taken up.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How many workers in a row died with this run, without its getting any further; one that has it now counts as dead,
    /// too. Deaths among other suspects count up to [`SHARED_CRASHES`] only, as any of them may have been the cause.
    pub fn crash_count(&self) -> u32 {
        self.crash_count + u32::from(self.active && (self.alone || self.crash_count < SHARED_CRASHES))
    }

    /// Whether so many workers died with this run that it must be alone under way: one more death may be the `limit`.
    pub fn is_crash_suspect(&self, limit: u32) -> bool {
        self.crash_count() >= SHARED_CRASHES.min(limit.saturating_sub(1)).max(1)
    }

    /// How many attempts in a row ended in a transient failure, without the run's getting any further.
    pub fn transient_failures(&self) -> u32 {
        self.transient_failures
    }

    /// How many attempts in a row ended in a rate limit, without the run's getting any further.
    pub fn rate_limited(&self) -> u32 {
        self.rate_limited
    }

    /// What the user must authorize, where the run waits for that.
    pub fn awaited_authorization(&self) -> Option<&Awaited> {
        self.unmet_authorization().filter(|_| !self.accounts_ready)
    }

    /// The same, also while the run goes on for a try whether the account is accepted again.
    pub fn unmet_authorization(&self) -> Option<&Awaited> {
        self.authorization.as_ref()
    }

    /// A call on this connection went through: the user is not waited for any more, as far as it is concerned.
    pub(super) fn accepted(&mut self, connection: &ConnectionName) {
        let Some(awaited) = &mut self.authorization else { return };
        awaited.connections.retain(|awaited| awaited != connection);
        self.authorization.take_if(|awaited| awaited.connections.is_empty());
    }

    /// How often the caller was told that the user must authorize.
    pub fn authorizations_requested(&self) -> u32 {
        self.authorizations_requested
    }

    /// How often the run had to wait for the user; a fresh link within one wait does not count.
    pub fn authorization_waits(&self) -> u32 {
        self.authorization_waits
    }

    /// Whether something may have been noted for webhooks to find the run, as far as its journal tells.
    pub fn may_be_parked(&self) -> bool {
        self.authorization_waits > 0 || self.journal_lost
    }

    /// Number of the last wake-up that the broker confirmed; copies of earlier ones are stale.
    pub fn wake_up_generation(&self) -> u32 {
        self.wake_up_generation
    }

    /// Number of model turns so far.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Number of entries folded so far.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

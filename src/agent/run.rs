//! The run: one state machine, fed by events only, that says what to do next.
//!
//! `next` decides, `apply` folds an event into the state, `replay` folds a journal through the same `apply`. Nothing in
//! here reads a clock, draws a random number or does I/O, so a replayed run equals the live one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::effect::{CallKey, Effect, InDoubt, Ran, in_doubt};
use super::event::{Entry, Event, Pause, PinnedTool, Plan, SCHEMA_VERSION, Settings, Started};
use super::message::{Message, ToolCall};
use super::turn::{self, Conclusion};
use crate::clock::milliseconds_between;
use crate::job::{ConnectionName, Job};
use crate::reply::{EffectState, Reply, TotalUsage};

/// What the executor shall do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make sure that every connection's account is ACTIVE.
    CheckAccounts,
    /// Find the tools that the run may use, and pin them.
    ListTools,
    /// Ask the model.
    CallModel,
    /// Run these calls of the open turn: several that only read, or one that does not.
    CallTools(Vec<String>),
    /// This write had started when its worker died: find out what became of it, else report it as unknown.
    SettleDoubt(String),
    /// The run has come to its end: make the reply and journal it.
    Finish(Box<Conclusion>),
    /// Publish this very reply.
    Deliver(Box<Reply>),
    /// Nothing is left to do.
    Done,
}

/// An event that cannot follow what happened before: the journal is damaged or from a newer worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJournal {
    /// Written by a newer worker: let one of that version go on.
    #[error("the journal has schema version {found}, this worker reads up to {SCHEMA_VERSION}")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// Entry `index` cannot be where it is.
    #[error("journal entry {index} ({event}) cannot follow what stands before it")]
    Illegal {
        /// Counted from 0.
        index: u64,
        /// The event's name.
        event: &'static str,
    },
    /// Entry `index` is not an entry.
    #[error("journal entry {index} cannot be read: {problem}")]
    Unreadable {
        /// Counted from 0.
        index: u64,
        /// What is wrong with it.
        problem: String,
    },
}

/// One call of the open turn.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenCall {
    /// As the model wrote it.
    pub call: ToolCall,
    /// What becomes of it.
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

/// A tool call that started, for the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// The model's id of the call.
    pub call_id: String,
    /// The tool.
    pub tool: PinnedTool,
    /// For a person.
    pub summary: String,
    /// What is known; a call that is still out counts as unknown.
    pub state: EffectState,
    /// Scalekit's id of the execution.
    pub execution_id: Option<String>,
    /// Whether its outcome is still awaited.
    pub(super) open: bool,
}

/// A run's whole state.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own; no two of them make a state")]
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub(super) started: Started,
    pub(super) started_at: Timestamp,
    pub(super) accounts_ready: bool,
    pub(super) authorization: Option<(Vec<ConnectionName>, Timestamp)>,
    pub(super) authorizations_requested: u32,
    pub(super) tools: Option<Vec<PinnedTool>>,
    pub(super) tools_left_out: usize,
    pub(super) messages: Vec<Message>,
    pub(super) turn: Vec<OpenCall>,
    pub(super) conclusion: Option<Conclusion>,
    pub(super) last_text: Option<String>,
    pub(super) steps: u32,
    pub(super) calls_made: u32,
    pub(super) asked: bool,
    pub(super) usage: TotalUsage,
    pub(super) answered_by: Option<String>,
    pub(super) ledger: Vec<LedgerEntry>,
    pub(super) fenced: BTreeSet<CallKey>,
    pub(super) repeats: BTreeMap<(CallKey, String), u32>,
    pub(super) fruitless_turns: u32,
    pub(super) corrections: u32,
    pub(super) retries: BTreeMap<(String, String), u32>,
    attempts: u32,
    active: bool,
    strikes: u32,
    transient_failures: u32,
    wake_up_turn: u32,
    working_milliseconds: u64,
    last_at: Timestamp,
    sequence: u64,
    pub(super) finished: Option<Box<Reply>>,
    delivered: bool,
}

impl Run {
    /// A run of `started`, whose first entry was written at `at`.
    pub fn start(started: Started, at: Timestamp) -> Self {
        let messages =
            vec![Message::System(started.settings.instructions.clone()), Message::User(started.job.prompt.clone())];
        Self {
            started,
            started_at: at,
            accounts_ready: false,
            authorization: None,
            authorizations_requested: 0,
            tools: None,
            tools_left_out: 0,
            messages,
            turn: Vec::new(),
            conclusion: None,
            last_text: None,
            steps: 0,
            calls_made: 0,
            asked: false,
            usage: TotalUsage::default(),
            answered_by: None,
            ledger: Vec::new(),
            fenced: BTreeSet::new(),
            repeats: BTreeMap::new(),
            fruitless_turns: 0,
            corrections: 0,
            retries: BTreeMap::new(),
            attempts: 0,
            active: false,
            strikes: 0,
            transient_failures: 0,
            wake_up_turn: 0,
            working_milliseconds: 0,
            last_at: at,
            sequence: 1,
            finished: None,
            delivered: false,
        }
    }

    /// The run that `lines` tell of, or `None` where there are none.
    pub fn replay(lines: &[String]) -> Result<Option<Self>, BadJournal> {
        let mut run: Option<Self> = None;
        for (index, line) in (0..).zip(lines) {
            let entry: Entry = serde_json::from_str(line).map_err(|error| unreadable(index, line, &error))?;
            run = Some(match (run, entry.event) {
                (None, Event::Started(started)) if started.schema > SCHEMA_VERSION => {
                    return Err(BadJournal::Newer { found: started.schema });
                }
                (None, Event::Started(started)) => Self::start(*started, entry.at),
                (None, event) => return Err(BadJournal::Illegal { index, event: event.name() }),
                (Some(mut run), event) => {
                    run.apply(Entry { at: entry.at, event })?;
                    run
                }
            });
        }
        Ok(run)
    }

    /// What to do next, at `now`.
    pub fn next(&self, now: Timestamp) -> Step {
        if let Some(reply) = &self.finished {
            return if self.delivered { Step::Done } else { Step::Deliver(reply.clone()) };
        }
        if let Some(conclusion) = &self.conclusion {
            return Step::Finish(Box::new(conclusion.clone()));
        }
        if let Some(doubt) = self.turn.iter().find(|open| open.is_in_doubt()) {
            return Step::SettleDoubt(doubt.call.id.clone());
        }
        if self.remaining(now).is_zero() {
            return Step::Finish(Box::new(turn::deadline_exceeded(self.settings().seconds)));
        }
        if !self.accounts_ready {
            return Step::CheckAccounts;
        }
        if self.tools.is_none() {
            return Step::ListTools;
        }
        if !self.turn.is_empty() {
            return Step::CallTools(self.next_batch());
        }
        match turn::limit_reached(self) {
            Some(conclusion) => Step::Finish(Box::new(conclusion)),
            None => Step::CallModel,
        }
    }

    /// Folds one entry into the state.
    pub fn apply(&mut self, entry: Entry) -> Result<(), BadJournal> {
        let Entry { at, event } = entry;
        let illegal = BadJournal::Illegal { index: self.sequence, event: event.name() };
        if self.active {
            self.working_milliseconds += milliseconds_between(self.last_at, at);
        }
        self.last_at = at;
        self.sequence += 1;
        if event.is_progress() {
            self.strikes = 0;
            self.transient_failures = 0;
        }
        match event {
            Event::AttemptStarted { .. } => {
                self.strikes += u32::from(self.active);
                self.attempts += 1;
                self.active = true;
                self.usage.unknown |= self.asked;
                self.asked = false;
            }
            Event::AttemptEnded { cause, .. } => {
                self.active = false;
                self.usage.unknown |= self.asked;
                self.asked = false;
                self.transient_failures += u32::from(cause == Pause::Transient);
            }
            Event::WakeUpPublished { turn } => self.wake_up_turn = turn,
            _ if self.finished.is_some() && !matches!(event, Event::Delivered) => return Err(illegal),
            Event::AccountsReady => {
                self.accounts_ready = true;
                self.authorization = None;
            }
            Event::AuthorizationRequested { connections, until } => {
                self.accounts_ready = false;
                self.authorizations_requested += 1;
                self.authorization = Some((connections, until));
            }
            Event::ToolsListed { tools, left_out } if self.tools.is_none() => {
                self.tools = Some(tools);
                self.tools_left_out = left_out;
            }
            Event::ModelAsked if self.turn.is_empty() => {
                self.usage.unknown |= self.asked;
                self.asked = true;
            }
            Event::ModelReplied { reply, plans }
                if self.turn.is_empty() && plans.len() == reply.message.calls.len() =>
            {
                self.asked = false;
                turn::open(self, *reply, plans);
            }
            Event::Retried { call, reason } => *self.retries.entry((call, reason)).or_default() += 1,
            Event::ToolStarted { call_id } => {
                let open = self.open_call_mut(&call_id).ok_or(illegal.clone())?;
                if matches!(open.state, CallState::Answered { .. }) || !matches!(open.plan, Plan::Run { .. }) {
                    return Err(illegal);
                }
                open.state = CallState::Started;
                turn::record_start(self, &call_id);
            }
            Event::ToolNotRun { call_id, .. } => {
                let open = self.open_call_mut(&call_id).filter(|open| open.state == CallState::Started);
                open.ok_or(illegal)?.state = CallState::Planned;
                turn::forget_start(self, &call_id);
            }
            Event::ToolFinished { call_id, outcome } => {
                self.open_call_mut(&call_id).filter(|open| open.state == CallState::Started).ok_or(illegal)?;
                turn::finish_call(self, &call_id, &outcome);
            }
            Event::Finished(reply) => self.finished = Some(reply),
            Event::Delivered if self.finished.is_some() => self.delivered = true,
            Event::Started(_)
            | Event::ToolsListed { .. }
            | Event::ModelAsked
            | Event::ModelReplied { .. }
            | Event::Delivered => return Err(illegal),
        }
        Ok(())
    }

    /// The job.
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

    /// The tools pinned for the run, once there are any.
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
        let since = if self.active { milliseconds_between(self.last_at, now) } else { 0 };
        self.working_milliseconds.saturating_add(since)
    }

    /// Whether the last worker that had the run has not given it out of its hands in good order.
    pub fn is_under_way(&self) -> bool {
        self.active
    }

    /// The run's reply, once there is one.
    pub fn reply(&self) -> Option<&Reply> {
        self.finished.as_deref()
    }

    /// Scalekit's ids of the executions whose outcome is known.
    pub fn known_executions(&self) -> impl Iterator<Item = &str> {
        self.ledger.iter().filter_map(|entry| entry.execution_id.as_deref())
    }

    /// How often the run was taken up.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How many workers in a row died with this run, without its getting any further.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    /// How many attempts in a row ended in a transient failure, without the run's getting any further.
    pub fn transient_failures(&self) -> u32 {
        self.transient_failures
    }

    /// The connections that the user must authorize and until when the run waits, where it waits.
    pub fn awaited_authorization(&self) -> Option<(&[ConnectionName], Timestamp)> {
        self.authorization.as_ref().map(|(connections, until)| (connections.as_slice(), *until))
    }

    /// How often the caller was told that the user must authorize.
    pub fn authorizations_requested(&self) -> u32 {
        self.authorizations_requested
    }

    /// Number of the last wake-up that the broker confirmed; copies of earlier ones are stale.
    pub fn wake_up_turn(&self) -> u32 {
        self.wake_up_turn
    }

    /// Number of model turns so far.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Number of entries folded so far.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn open_call_mut(&mut self, call_id: &str) -> Option<&mut OpenCall> {
        self.turn.iter_mut().find(|open| open.call.id == call_id)
    }

    /// Calls that may run now: up to the first that does not only read, which runs alone.
    fn next_batch(&self) -> Vec<String> {
        let mut batch = Vec::new();
        for open in &self.turn {
            let Plan::Run { tool, .. } = &open.plan else { continue };
            if matches!(open.state, CallState::Answered { .. }) {
                continue;
            }
            if tool.effect != Effect::Read {
                if batch.is_empty() {
                    batch.push(open.call.id.clone());
                }
                break;
            }
            batch.push(open.call.id.clone());
            if batch.len() >= self.settings().parallel_reads.max(1) {
                break;
            }
        }
        batch
    }
}

impl OpenCall {
    /// The call started, its worker died, and it must not simply run again.
    fn is_in_doubt(&self) -> bool {
        let Plan::Run { tool, .. } = &self.plan else { return false };
        self.state == CallState::Started && in_doubt(tool.effect, Ran::Perhaps) == InDoubt::Unknown
    }
}

/// A line that a newer worker wrote may hold events we do not know: the version in the first line tells that apart.
fn unreadable(index: u64, line: &str, error: &serde_json::Error) -> BadJournal {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    match value.pointer("/event/started/schema").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(SCHEMA_VERSION) => {
            BadJournal::Newer { found: u32::try_from(found).unwrap_or(u32::MAX) }
        }
        _ => BadJournal::Unreadable { index, problem: error.to_string() },
    }
}

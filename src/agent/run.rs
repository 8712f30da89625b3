//! The run: one state machine, fed by events only, that says what to do next.
//!
//! `next` decides, `apply` folds an event into the state, `replay` folds a journal through the same `apply`. Nothing in
//! here reads a clock, draws a random number or does I/O, so a replayed run equals the live one.

use jiff::Timestamp;

use super::effect::{Effect, InDoubt, Ran, in_doubt};
use super::event::{Entry, Event, Pause, Plan, SCHEMA_VERSION};
use super::state::{CallState, Conclusion};
pub use super::state::{LedgerEntry, OpenCall, Run};
use super::turn;
use crate::clock::milliseconds_between;
use crate::reply::Reply;

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

impl Run {
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

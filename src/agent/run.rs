//! The run: one state machine, fed by events only, that says what to do next.
//!
//! `next` decides, `apply` folds an event into the state, `replay` folds a journal through the same `apply`. Nothing in
//! here reads a clock, draws a random number or does I/O, so a replayed run equals the live one.

use jiff::Timestamp;

pub use super::attempts::AttemptBefore;
pub use super::awaited::Awaited;
use super::compaction;
use super::effect::{Effect, InDoubt, Ran, in_doubt};
use super::event::{Entry, Event, MODEL_CALL, NOT_SECURED, NOT_WITNESSED, Pause, Plan, SCHEMA_VERSION};
use super::search::SearchRoom;
use super::standing::stand;
use super::state::{CallState, Conclusion};
pub use super::state::{LedgerEntry, OpenCall, Run};
pub use super::transition::BadJournal;
use super::turn;
use crate::clock::milliseconds_between;
use crate::reply::Reply;

/// Why a model call failed whose answer may have been made, and is to be paid, although it did not arrive whole.
const MAY_HAVE_COST: [&str; 3] = ["timed_out", "interrupted", "bad_answer"];

/// Whether a model call that failed for this reason may have to be paid. What a filter stopped may have been made before.
pub fn may_have_cost(reason: &str) -> bool {
    MAY_HAVE_COST.contains(&reason) || reason == "content_filtered"
}

/// What the executor shall do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make sure that every connection's account is ACTIVE.
    CheckAccounts,
    /// These calls wait for a person: ask.
    AskApproval(Vec<String>),
    /// Calls wait for a person, who was asked.
    AwaitApproval,
    /// Nobody has decided about these approvals in time.
    ExpireApprovals(Vec<String>),
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

impl Run {
    /// When the present attempt began.
    pub fn attempt_began(&self) -> Timestamp {
        self.attempt_began
    }

    /// The attempt before the present one, where there was one.
    pub fn attempt_before(&self) -> Option<AttemptBefore> {
        self.attempt_before
    }

    /// The run that `lines` tell of, or `None` where there are none.
    pub fn replay(lines: &[String]) -> Result<Option<Self>, BadJournal> {
        let mut run: Option<Self> = None;
        for (index, line) in (0..).zip(lines) {
            let entry: Entry = serde_json::from_str(line).map_err(|error| unreadable(index, line, &error))?;
            if entry.schema > SCHEMA_VERSION {
                return Err(BadJournal::Newer { found: entry.schema });
            }
            run = Some(match (run, entry.event) {
                (None, Event::Started(started)) if started.schema > SCHEMA_VERSION => {
                    return Err(BadJournal::Newer { found: started.schema });
                }
                (None, Event::Started(started)) => Self::start(*started, entry.at),
                (None, event) => return Err(BadJournal::Illegal { index, event: event.name() }),
                (Some(mut run), event) => {
                    run.apply(Entry { event, ..entry })?;
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
        if self.approvals.any_wait() {
            let expired = self.approvals.expired(now);
            // Told in any case: also who had no time to decide hears of the call.
            let waits = expired.is_empty() || !self.approvals.told;
            return if waits { Step::AwaitApproval } else { Step::ExpireApprovals(expired) };
        }
        if !self.accounts_ready {
            return Step::CheckAccounts;
        }
        if self.tools.is_none() {
            return Step::ListTools;
        }
        if !self.turn.is_empty() {
            let batch = self.next_batch();
            return if batch.is_empty() { Step::AskApproval(self.held_calls()) } else { Step::CallTools(batch) };
        }
        match turn::limit_reached(self) {
            Some(conclusion) => Step::Finish(Box::new(conclusion)),
            None => Step::CallModel,
        }
    }

    /// What the run is at, at `now`, for people: the step that comes next, or that its last worker did not end.
    pub fn doing(&self, now: Timestamp) -> String {
        let tool = |call_id: &String| match self.open_call(call_id).map(|open| &open.plan) {
            Some(Plan::Run { tool, .. }) => tool.name.clone(),
            _ => call_id.clone(),
        };
        match self.next(now) {
            Step::CheckAccounts => "checking the accounts".to_owned(),
            Step::ListTools => "listing the tools".to_owned(),
            Step::CallModel => format!("asking the model, turn {}", self.steps + 1),
            Step::AskApproval(_) | Step::AwaitApproval | Step::ExpireApprovals(_) => "waiting for approval".to_owned(),
            Step::CallTools(calls) => format!("calling {}", calls.iter().map(tool).collect::<Vec<_>>().join(", ")),
            Step::SettleDoubt(call) => format!("calling {}", tool(&call)),
            Step::Finish(_) => "making the reply".to_owned(),
            Step::Deliver(_) => "delivering the reply".to_owned(),
            Step::Done => "nothing".to_owned(),
        }
    }

    /// Folds one entry into the state: the whole of it, or nothing where it may not follow.
    pub fn apply(&mut self, entry: Entry) -> Result<(), BadJournal> {
        self.check(std::slice::from_ref(&entry.event))?;
        let Entry { at, event, .. } = entry;
        let waited = match &event {
            // What the next worker says of an attempt without an end: nobody knows how long the last one worked, and most of
            // the gap is waiting for the next one.
            Event::AttemptStarted { .. }
            | Event::GivenUp(_)
            | Event::JournalLost
            | Event::EndLost { .. }
            | Event::ApprovalDecided(_)
            | Event::AttemptEnded { cause: Pause::JournalAway, .. } => true,
            Event::ToolNotRun { reason, .. } => [NOT_SECURED, NOT_WITNESSED].contains(&reason.as_str()),
            _ => false,
        };
        if self.works() && !waited {
            self.working_milliseconds += milliseconds_between(self.last_at, at);
        }
        let last_at = std::mem::replace(&mut self.last_at, at);
        self.sequence += 1;
        self.standing = stand(self.standing, &event, at);
        if event.is_progress() {
            self.forgive();
        }
        match event {
            // `check` lets none pass.
            Event::Started(_) => {}
            Event::AttemptStarted { alone, .. } => {
                self.crash_count = self.crash_count();
                self.attempt_before = (self.attempts > 0).then(|| {
                    let (ended, pause) = match self.attempt_ended {
                        Some((ended, pause)) => (ended, Some(pause)),
                        None => (last_at, None),
                    };
                    AttemptBefore { began: self.attempt_began, ended, pause }
                });
                (self.attempt_began, self.attempt_ended) = (at, None);
                self.attempts += 1;
                self.active = true;
                self.alone = alone;
                self.usage.unknown |= self.asked;
                self.asked = false;
            }
            Event::AttemptEnded { cause, .. } => {
                self.active = false;
                self.attempt_ended = Some((at, cause));
                // Who asks to come later has done nothing that is to be paid.
                self.usage.unknown |= self.asked && cause != Pause::RateLimited;
                self.asked = false;
                self.transient_failures += u32::from(cause == Pause::Transient);
                self.rate_limited += u32::from(cause == Pause::RateLimited);
                if matches!(cause, Pause::Transient | Pause::RateLimited) {
                    self.models.forgive();
                }
                // The call was refused once more, and the same wait goes on.
                self.accounts_ready &= cause != Pause::Authorization;
                self.approvals.told |= cause == Pause::Approval;
            }
            Event::WakeUpPublished { generation } => self.wake_up_generation = generation,
            Event::AccountsReady => {
                self.accounts_ready = true;
                self.authorization = self.authorization.take().filter(|awaited| awaited.refused_while_active);
                self.authorization.iter_mut().for_each(|awaited| awaited.tried_at = Some(at));
            }
            Event::AuthorizationRequested { connections, until, links_end, refused_while_active } => {
                self.accounts_ready = false;
                self.authorizations_requested += 1;
                let before = self.authorization.take();
                self.authorization_waits += u32::from(before.is_none());
                let tried_at = before.and_then(|awaited| awaited.tried_at);
                let awaited = Awaited { connections, until, asked_at: at, links_end, refused_while_active, tried_at };
                self.authorization = Some(awaited);
            }
            Event::ApprovalAsked { calls, until } => self.approvals.ask(calls, at, until),
            Event::ApprovalDecided(settled) => self.decide(*settled, at),
            Event::ToolsListed { tools, left_out, finds } => {
                self.authorization = None;
                self.search = (finds > 0).then(|| SearchRoom { first: tools.len(), finds });
                self.tools = Some(tools);
                self.tools_left_out = left_out;
            }
            Event::ModelAsked => {
                self.usage.unknown |= self.asked;
                self.asked = true;
            }
            Event::ModelReplied { reply, plans, answer, nano_usd } => {
                self.asked = false;
                self.authorization = None;
                self.spent.add(nano_usd);
                turn::open(self, *reply, plans, answer);
            }
            Event::ModelSwitched { to, reason, .. } => {
                self.usage.unknown |= self.asked && MAY_HAVE_COST.contains(&reason.as_str());
                self.asked = false;
                self.models.switch(&to, &reason);
                turn::forget_foreign_items(self);
            }
            Event::HistoryCompacted { results } => {
                // A request that was refused for its length cost nothing.
                self.asked = false;
                compaction::leave_out(self, results);
            }
            Event::Retried { call, reason } => {
                self.usage.unknown |= call == MODEL_CALL && MAY_HAVE_COST.contains(&reason.as_str());
                *self.retries.entry((call, reason)).or_default() += 1;
            }
            Event::ToolStarted { call_id } => {
                self.set_call_state(&call_id, CallState::Started);
                turn::record_start(self, &call_id);
            }
            Event::ToolNotRun { call_id, .. } => {
                self.set_call_state(&call_id, CallState::Planned);
                turn::forget_start(self, &call_id);
            }
            Event::ToolFinished { call_id, outcome } => {
                if let Some(Plan::Run { tool, .. }) = self.open_call(&call_id).map(|open| &open.plan) {
                    let connection = tool.connection.clone();
                    self.accepted(&connection);
                }
                turn::finish_call(self, &call_id, &outcome);
            }
            Event::JournalLost => self.journal_lost = true,
            Event::EndLost { call_id, tool } => {
                self.journal_lost = true;
                turn::lose_end(self, &call_id, &tool);
            }
            Event::GivenUp(why) => self.given_up = Some(why),
            Event::Finished(reply) => self.finished = Some(reply),
            Event::Delivered => self.delivered = true,
            Event::EffectSettled(said) => self.keep_settlement(*said, at),
            Event::SettlementDelivered { call_id } => self.keep_told(&call_id),
            Event::Reopened => {
                self.given_up = None;
                self.finished = None;
                self.delivered = false;
                self.reopened += 1;
                self.active = false;
                self.forgive();
                self.models.forgive_all();
            }
        }
        Ok(())
    }

    /// What failed before is not counted any more.
    fn forgive(&mut self) {
        self.crash_count = 0;
        self.transient_failures = 0;
        self.rate_limited = 0;
        self.models.forgive();
    }

    fn set_call_state(&mut self, call_id: &str, state: CallState) {
        if let Some(open) = self.turn.iter_mut().find(|open| open.call.id == call_id) {
            open.state = state;
        }
    }

    /// Calls that may run now: up to the first that waits for a person, or does not only read, which runs alone.
    fn next_batch(&self) -> Vec<String> {
        let mut batch = Vec::new();
        for (index, open) in self.turn.iter().enumerate() {
            let Plan::Run { tool, .. } = &open.plan else { continue };
            if matches!(open.state, CallState::Answered { .. }) {
                continue;
            }
            if self.is_held(index) {
                break;
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

/// A line that a newer worker wrote may hold events we do not know: its version tells that apart.
fn unreadable(index: u64, line: &str, error: &serde_json::Error) -> BadJournal {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let schema = value.get("schema").or_else(|| value.pointer("/event/started/schema"));
    match schema.and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(SCHEMA_VERSION) => {
            BadJournal::Newer { found: u32::try_from(found).unwrap_or(u32::MAX) }
        }
        _ => {
            // The library's words repeat what stands there: at any length, and it is the user's.
            let what = if error.is_data() { "no event that this version knows" } else { "no JSON" };
            BadJournal::Unreadable { index, problem: format!("{what} (column {})", error.column()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::event::{GivenUp, ToolOutcome};
    use super::super::script::{Script, says, started, wants};
    use super::*;
    use crate::job::ConnectionName;
    use crate::reply::{ErrorCode, ErrorDetail};

    const READ: &str = "gmail_fetch_mails";
    const WRITE: &str = "gmail_send_message";
    const TO: &str = r#"{"to": "a"}"#;

    fn authorization_requested(script: &Script) -> Event {
        Event::AuthorizationRequested {
            connections: vec![ConnectionName::new("gmail").unwrap()],
            until: script.now + SignedDuration::from_secs(3600),
            links_end: None,
            refused_while_active: false,
        }
    }

    #[test]
    fn a_simple_run_goes_step_by_step_to_its_reply() {
        let mut script = Script::new(|_| {});
        script.attempt();
        assert_eq!(script.next(), Step::CheckAccounts);
        script.event(Event::AccountsReady);
        assert_eq!(script.next(), Step::ListTools);
        let tools = script.toolset.tools().iter().map(|tool| tool.pinned()).collect();
        script.event(Event::ToolsListed { tools, left_out: 0, finds: 0 });
        assert_eq!(script.next(), Step::CallModel);
        script.model(wants(&[("c1", READ, "{}")]));
        assert_eq!(script.next(), Step::CallTools(vec!["c1".into()]));
        script.start("c1").done("c1", "5 mails");
        assert_eq!(script.next(), Step::CallModel);
        script.model(says("you have 5 mails"));
        let reply = script.reply();
        script.event(Event::Finished(Box::new(reply.clone())));
        assert_eq!(script.next(), Step::Deliver(Box::new(reply)));
        script.event(Event::Delivered);
        assert_eq!(script.next(), Step::Done);
        assert_eq!(script.run.sequence(), script.journal.len() as u64);
    }

    #[test]
    fn reads_run_together_up_to_the_limit_and_a_write_is_a_barrier() {
        let mut script = Script::ready(|started| started.settings.parallel_reads = 2);
        script.model(wants(&[
            ("r1", READ, "{}"),
            ("r2", READ, "{}"),
            ("r3", READ, "{}"),
            ("w1", WRITE, TO),
            ("m1", "gmail_mark_read", "{}"),
            ("r4", READ, "{}"),
        ]));
        assert_eq!(script.batch(), ["r1", "r2"]);
        script.start("r1").start("r2").done("r2", "b");
        assert_eq!(script.batch(), ["r1", "r3"], "a read that is still out may run again");
        script.done("r1", "a");
        assert_eq!(script.batch(), ["r3"]);
        script.start("r3").done("r3", "c");
        assert_eq!(script.batch(), ["w1"]);
        script.start("w1").done("w1", "sent");
        assert_eq!(script.batch(), ["m1"], "what is idempotent runs alone as well");
        script.start("m1").done("m1", "marked");
        assert_eq!(script.batch(), ["r4"]);
    }

    #[test]
    fn a_run_that_is_opened_again_goes_on_where_it_stood_with_a_reply_of_its_own() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", WRITE, TO)])).start("w1").attempt().attempt();
        assert_eq!((script.run.crash_count(), script.run.doing(script.now)), (2, format!("calling {WRITE}")));
        assert!(script.try_event(Event::Reopened).is_err(), "it has not ended");
        let given_up = Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, "died"));
        let first = super::super::conclusion::reply(&script.run, given_up, script.now);
        script.event(Event::Finished(Box::new(first.clone())));
        assert!(script.try_event(Event::Reopened).is_err(), "its reply is not delivered");
        script.event(Event::Delivered).event(Event::Reopened);
        assert_eq!((script.run.crash_count(), script.run.is_under_way()), (0, false));
        script.attempt();
        assert_eq!(script.next(), Step::SettleDoubt("w1".into()), "what was started is in doubt, not started again");
        script.unknown("w1").model(says("it may have been sent"));
        assert_eq!(script.reply().id, format!("{}:2", first.id));
    }

    #[test]
    fn a_fresh_link_is_wanted_when_one_ran_out_and_belongs_to_the_same_wait() {
        let mut script = Script::new(|_| {});
        script.attempt();
        let (asked, until) = (script.now, script.now + SignedDuration::from_hours(24));
        let requested = |minutes: Option<i64>| Event::AuthorizationRequested {
            connections: vec![ConnectionName::new("gmail").unwrap()],
            until,
            links_end: minutes.map(|minutes| asked + SignedDuration::from_mins(minutes)),
            refused_while_active: false,
        };
        for (ends_after, from) in [(Some(2), Some(10)), (Some(15), Some(15)), (None, None)] {
            script.event(requested(ends_after));
            let awaited = script.run.awaited_authorization().unwrap();
            let asked = awaited.asked_at;
            for minutes in 0..60 {
                let now = asked + SignedDuration::from_mins(minutes);
                let wants = from.is_some_and(|from| minutes >= from);
                assert_eq!(awaited.wants_new_links(now), wants, "{ends_after:?} after {minutes} minutes");
            }
        }
        assert_eq!((script.run.authorizations_requested(), script.run.authorization_waits()), (3, 1));
        script.event(Event::AccountsReady).event(requested(None));
        assert_eq!((script.run.authorizations_requested(), script.run.authorization_waits()), (4, 2));
    }

    fn refused_while_active(script: &Script, names: &[&str], until: Timestamp) -> Event {
        Event::AuthorizationRequested {
            connections: names.iter().map(|name| ConnectionName::new(*name).unwrap()).collect(),
            until,
            links_end: Some(script.now + SignedDuration::from_hours(1)),
            refused_while_active: true,
        }
    }

    #[test]
    fn a_wait_goes_on_while_calls_are_refused_although_the_account_is_active() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", WRITE, TO)])).start("w1").not_run("w1");
        let until = script.now + SignedDuration::from_hours(24);
        let asked = refused_while_active(&script, &["gmail"], until);
        script.event(asked).pause(Pause::Authorization);
        let asked_at = script.run.awaited_authorization().unwrap().asked_at;
        let left = script.run.remaining(script.now);
        for _ in 0..10 {
            script.attempt();
            assert_eq!(script.next(), Step::CheckAccounts);
            script.event(Event::AccountsReady);
            assert!(script.run.awaited_authorization().is_none() && script.run.unmet_authorization().is_some());
            assert_eq!(script.batch(), ["w1"], "the very call is tried");
            script.start("w1").asleep(60).not_run("w1").pause(Pause::Authorization);
            assert_eq!(script.run.remaining(script.now), left, "tries are no working time");
            let awaited = script.run.awaited_authorization().unwrap();
            assert_eq!((awaited.until, awaited.asked_at), (until, asked_at));
            assert!(awaited.tried_at.is_some());
        }
        assert_eq!((script.run.authorizations_requested(), script.run.authorization_waits()), (1, 1));
        // A worker that dies in such a try leaves the wait as it is, too.
        script.attempt().event(Event::AccountsReady).start("w1").attempt().start("w1").done("w1", "sent");
        assert!(script.run.unmet_authorization().is_none());
        script.model(says("done"));
        assert_eq!(script.account().effects.len(), 1);
    }

    #[test]
    fn a_wait_for_two_ends_for_each_by_its_own_call() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("r1", READ, "{}"), ("r2", READ, "{}")]));
        script.start("r1").start("r2").not_run("r1").not_run("r2");
        let asked = refused_while_active(&script, &["gmail", "slack"], script.now + SignedDuration::from_hours(24));
        script.event(asked).pause(Pause::Authorization).attempt().event(Event::AccountsReady);
        script.start("r1").start("r2").done("r1", "mails");
        let left = script.run.unmet_authorization().map(|awaited| awaited.connections.clone());
        assert_eq!(left, Some(vec![ConnectionName::new("slack").unwrap()]));
        script.done("r2", "mails");
        script.model(says("done"));
        assert!(script.run.unmet_authorization().is_none(), "the model goes on, so every account was accepted");
    }

    #[test]
    fn what_is_not_known_to_be_free_makes_the_cost_unknown() {
        for (call, reason, unknown) in [
            ("model", "timed_out", true),
            ("model", "interrupted", true),
            ("model", "bad_answer", true),
            ("model", "unavailable", false),
            ("model", "rate_limited", false),
            ("model", "not_sent", false),
            (READ, "timed_out", false),
        ] {
            let mut script = Script::ready(|_| {});
            script.event(Event::Retried { call: call.into(), reason: reason.into() }).model(says("done"));
            assert_eq!(script.account().usage.unknown, unknown, "{call} {reason}");
        }
    }

    #[test]
    fn a_call_is_not_told_from_another_one_of_its_tool_that_may_have_run_without_a_known_id() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", WRITE, TO), ("w2", WRITE, r#"{"to": "b"}"#), ("w3", WRITE, r#"{"to": "c"}"#)]));
        script.start("w1").done("w1", "sent").start("w2").failed("w2", "no such user").start("w3");
        assert_eq!(script.run.known_executions("w3"), Some(vec!["x-w1".to_owned()]));
        script.unknown("w3").model(wants(&[("r1", READ, "{}"), ("w4", WRITE, r#"{"to": "d"}"#)]));
        assert_eq!(script.run.known_executions("w4"), None, "the row may be the other one's");
        assert!(script.run.known_executions("r1").is_some());
    }

    #[test]
    fn a_run_without_parallel_reads_still_reads() {
        let mut script = Script::ready(|started| started.settings.parallel_reads = 0);
        script.model(wants(&[("r1", READ, "{}"), ("r2", READ, "{}")]));
        assert_eq!(script.batch(), ["r1"]);
    }

    #[test]
    fn a_write_whose_worker_died_is_in_doubt() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", WRITE, TO), ("r1", READ, "{}")]));
        script.start("w1").attempt();
        assert_eq!(script.next(), Step::SettleDoubt("w1".into()));
        script.asleep(1_000_000);
        assert_eq!(script.next(), Step::SettleDoubt("w1".into()), "the deadline does not hide a doubt");
        script.unknown("w1");
        assert!(script.results()[0].1.contains("Do not repeat it"));
    }

    #[test]
    fn what_may_run_twice_runs_again_after_its_worker_died() {
        for name in [READ, "gmail_mark_read"] {
            let mut script = Script::ready(|_| {});
            script.model(wants(&[("c1", name, "{}")]));
            script.start("c1").attempt();
            assert_eq!(script.batch(), ["c1"]);
            script.start("c1").done("c1", "ok");
            script.model(says("done"));
            assert_eq!(script.account().tool_calls, 1, "a call made twice is one call");
        }
    }

    #[test]
    fn a_call_that_is_proven_not_to_have_run_is_offered_again() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", WRITE, TO)]));
        script.start("w1").not_run("w1");
        assert_eq!(script.batch(), ["w1"]);
        let event = authorization_requested(&script);
        script.event(event).pause(Pause::Authorization).attempt();
        assert_eq!(script.next(), Step::CheckAccounts, "a lost authorization comes first");
        assert!(script.run.awaited_authorization().is_some());
        script.event(Event::AccountsReady);
        assert!(script.run.awaited_authorization().is_none());
        assert_eq!(script.run.authorizations_requested(), 1);
        assert_eq!(script.batch(), ["w1"], "the same run goes on at the same call");
        script.start("w1").done("w1", "sent").model(says("done"));
        let account = script.account();
        assert_eq!((account.tool_calls, account.effects.len()), (1, 1));
    }

    #[test]
    fn waiting_is_no_working_time() {
        let mut script = Script::ready(|started| started.settings.seconds = 60);
        let worked = script.run.working_milliseconds_at(script.now);
        script.pause(Pause::RateLimited).asleep(100_000);
        assert_eq!(script.run.working_milliseconds_at(script.now), worked + 1000);
        script.attempt();
        assert_eq!(script.next(), Step::CallModel);
        script.asleep(57);
        assert_eq!(script.failure(), ErrorCode::DeadlineExceeded);
    }

    #[test]
    fn the_wait_for_the_witness_of_a_write_is_no_working_time() {
        let mut script = Script::ready(|started| started.settings.seconds = 60);
        script.model(wants(&[("w1", WRITE, TO)])).start("w1");
        let worked = script.run.working_milliseconds_at(script.now);
        script.asleep(100_000);
        script.event(Event::ToolNotRun { call_id: "w1".into(), reason: NOT_WITNESSED.into() });
        assert_eq!(script.run.working_milliseconds_at(script.now), worked);
        assert_eq!(script.batch(), ["w1"]);
        script.start("w1").asleep(57).not_run("w1");
        assert_eq!(script.failure(), ErrorCode::DeadlineExceeded, "all else is working time");
    }

    #[test]
    fn time_in_which_a_dead_workers_run_lay_untouched_is_no_working_time() {
        let mut script = Script::ready(|started| started.settings.seconds = 60);
        script.asleep(100_000).attempt();
        assert_eq!(script.run.working_milliseconds_at(script.now), 2000);
        assert_eq!(script.next(), Step::CallModel);
    }

    #[test]
    fn neither_what_passed_before_a_dead_workers_run_was_given_up_nor_until_it_was_opened_again_is_working_time() {
        let mut script = Script::ready(|started| started.settings.seconds = 60);
        let worked = script.run.working_milliseconds_at(script.now);
        let (reason, detail, step) = ("poison".to_owned(), String::new(), String::new());
        script.asleep(100_000).event(Event::GivenUp(GivenUp { reason, detail, step }));
        let died = Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, "died"));
        let reply = super::super::conclusion::reply(&script.run, died, script.now);
        script.event(Event::Finished(Box::new(reply))).asleep(100_000).event(Event::Delivered);
        script.asleep(100_000).event(Event::Reopened).asleep(100_000).attempt();
        // A second between two entries.
        assert!(script.run.working_milliseconds_at(script.now) <= worked + 2000);
        assert_eq!(script.next(), Step::CallModel);
    }

    #[test]
    fn what_passed_before_the_next_worker_said_what_had_become_of_the_journal_is_no_working_time() {
        for event in [Event::AttemptEnded { cause: Pause::JournalAway, detail: String::new() }, Event::JournalLost] {
            let mut script = Script::ready(|started| started.settings.seconds = 60);
            script.asleep(100_000).event(event).attempt();
            assert_eq!(script.next(), Step::CallModel);
        }
    }

    #[test]
    fn a_clock_that_steps_backwards_breaks_nothing() {
        let mut script = Script::ready(|_| {});
        script.asleep(-100_000).model(says("done"));
        assert!(script.run.remaining(script.now) <= SignedDuration::from_secs(600));
        assert!(matches!(script.next(), Step::Finish(_)));
    }

    #[test]
    fn the_deadline_stops_an_open_turn_and_spares_a_finished_one() {
        let mut script = Script::ready(|started| started.settings.seconds = 60);
        script.model(wants(&[("r1", READ, "{}")])).asleep(60);
        assert_eq!(script.failure(), ErrorCode::DeadlineExceeded);
        let mut script = Script::ready(|started| started.settings.seconds = 60);
        script.model(says("done")).asleep(60);
        assert!(matches!(script.reply().event, crate::reply::ReplyEvent::Completed(_)));
    }

    #[test]
    fn deaths_and_transient_failures_count_until_the_run_gets_further() {
        let mut script = Script::ready(|_| {});
        script.attempt().attempt();
        assert_eq!((script.run.crash_count(), script.run.transient_failures()), (2, 0));
        script.pause(Pause::Transient).attempt().pause(Pause::Transient).attempt();
        assert_eq!((script.run.crash_count(), script.run.transient_failures()), (2, 2));
        for cause in [Pause::Shutdown, Pause::Authorization, Pause::RateLimited, Pause::ContinueAsNew] {
            script.pause(cause).attempt();
        }
        assert_eq!((script.run.crash_count(), script.run.transient_failures()), (2, 2), "good order costs nothing");
        script.model(wants(&[("r1", READ, "{}")]));
        assert_eq!((script.run.crash_count(), script.run.transient_failures()), (1, 0), "if its worker is dead now");
        script.start("r1").attempt();
        assert_eq!(script.run.crash_count(), 2, "a start is no progress");
        script.start("r1").done("r1", "ok");
        assert_eq!(script.run.crash_count(), 1);
        assert_eq!(script.run.attempts(), 10);
    }

    #[test]
    fn the_last_wake_up_is_known_also_after_the_end() {
        let mut script = Script::ready(|_| {});
        script.pause(Pause::Shutdown).event(Event::WakeUpPublished { generation: 3 });
        assert_eq!(script.run.wake_up_generation(), 3);
    }

    fn every_event(script: &Script) -> Vec<Event> {
        let call_id = || "c1".to_owned();
        let outcome = ToolOutcome::Done { content: "ok".into(), execution_id: None };
        let plan = Plan::Refuse { reason: "no".into() };
        let reply = crate::agent::conclusion::reply(&script.run, super::super::turn::deadline_exceeded(1), script.now);
        vec![
            Event::Started(Box::new(started())),
            Event::AttemptStarted { worker: "w".into(), alone: false },
            Event::AttemptEnded { cause: Pause::Shutdown, detail: String::new() },
            Event::WakeUpPublished { generation: 1 },
            Event::AccountsReady,
            authorization_requested(script),
            Event::ToolsListed { tools: [].into(), left_out: 0, finds: 0 },
            Event::ModelAsked,
            Event::HistoryCompacted { results: vec!["c0".into()] },
            Event::ModelSwitched { from: "model-1".into(), to: "b".into(), reason: "unavailable".into() },
            Event::ModelReplied {
                reply: Box::new(wants(&[("c9", READ, "{}")])),
                plans: vec![plan],
                answer: None,
                nano_usd: None,
            },
            Event::Retried { call: "model".into(), reason: "503".into() },
            Event::ToolStarted { call_id: call_id() },
            Event::ToolNotRun { call_id: call_id(), reason: "429".into() },
            Event::ToolFinished { call_id: call_id(), outcome },
            Event::Finished(Box::new(reply)),
            Event::Delivered,
        ]
    }

    #[test]
    fn only_what_can_follow_may_follow() {
        let always = ["attempt_started", "attempt_ended", "wake_up_published"];
        let alive = ["accounts_ready", "authorization_requested", "retried", "finished"];
        let new = Script::new(|_| {});
        let ready = Script::ready(|_| {});
        let mut planned = Script::ready(|_| {});
        planned.model(wants(&[("c1", READ, "{}"), ("c2", "nonsense", "{}")]));
        let mut out = Script::ready(|_| {});
        out.model(wants(&[("c1", READ, "{}"), ("c2", READ, "{}")])).start("c1");
        let mut answered = Script::ready(|_| {});
        answered.model(wants(&[("c1", READ, "{}"), ("c2", READ, "{}")])).start("c1").done("c1", "ok");
        let mut finished = Script::ready(|_| {});
        finished.model(says("done"));
        let reply = finished.reply();
        finished.event(Event::Finished(Box::new(reply)));
        let table: [(&Script, &[&str], &[&str]); 6] = [
            (&new, &alive, &["tools_listed", "model_asked", "model_switched", "model_replied"]),
            (&ready, &alive, &["model_asked", "model_switched", "model_replied"]),
            (&planned, &alive, &["tool_started"]),
            (&out, &alive, &["tool_started", "tool_not_run", "tool_finished"]),
            (&answered, &alive, &[]),
            (&finished, &[], &["delivered"]),
        ];
        for (row, (script, some, more)) in table.iter().enumerate() {
            for event in every_event(script) {
                let name = event.name();
                let legal = always.contains(&name) || some.contains(&name) || more.contains(&name);
                let refused = BadJournal::Illegal { index: script.run.sequence(), event: name };
                let expected = if legal { Ok(()) } else { Err(refused) };
                assert_eq!(script.try_event(event), expected, "row {row}, {name}");
            }
        }
    }

    #[test]
    fn a_refused_call_never_starts() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("c1", "nonsense", "{}"), ("c2", READ, "{}")]));
        assert!(script.try_event(Event::ToolStarted { call_id: "c1".into() }).is_err());
        assert_eq!(script.batch(), ["c2"]);
    }

    #[test]
    fn a_reply_whose_calls_and_plans_do_not_pair_is_refused() {
        let script = Script::ready(|_| {});
        let reply = Box::new(wants(&[("c1", READ, "{}")]));
        assert!(
            script.try_event(Event::ModelReplied { reply, plans: Vec::new(), answer: None, nano_usd: None }).is_err()
        );
    }

    #[test]
    fn no_journal_is_no_run_and_a_journal_must_start_with_its_start() {
        assert_eq!(Run::replay(&[]), Ok(None));
        let mut script = Script::new(|_| {});
        script.attempt();
        let headless = Run::replay(&script.journal[1..]);
        assert_eq!(headless, Err(BadJournal::Illegal { index: 0, event: "attempt_started" }));
    }

    #[test]
    fn a_journal_of_a_newer_worker_is_left_to_it() {
        let script = Script::new(|started| started.schema = SCHEMA_VERSION + 1);
        assert_eq!(Run::replay(&script.journal), Err(BadJournal::Newer { found: SCHEMA_VERSION + 1 }));
        for (line, found) in [
            (
                r#"{"at": "1970-01-01T00:00:00Z", "event": {"started": {"schema": 7, "job": "in a form of its own"}}}"#,
                7,
            ),
            (r#"{"event": {"started": {"schema": 99999999999}}}"#, u32::MAX),
        ] {
            assert_eq!(Run::replay(&[line.to_owned()]), Err(BadJournal::Newer { found }));
        }
    }

    #[test]
    fn what_is_said_of_a_damaged_line_repeats_nothing_of_it() {
        let mut script = Script::ready(|_| {});
        script.model(says("fine"));
        let words = "what the user wrote ".repeat(10_000);
        let line = script.journal.last().unwrap().replace(r#""calls":[]"#, &format!(r#""calls":["{words}"]"#));
        let lines = [line, format!(r#"{{"at":"1970-01-01T00:00:00Z","event":"{words}"}}"#)];
        for line in lines.iter().filter(|line| line.contains(&words)) {
            let mut journal = script.journal.clone();
            *journal.last_mut().unwrap() = line.clone();
            let said = Run::replay(&journal).unwrap_err().to_string();
            assert!(!said.contains("what the user wrote") && said.len() < 200, "{} bytes", said.len());
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("c1", READ, "{}")]));
        for index in 0..script.journal.len() {
            let whole = &script.journal[index];
            for damaged in ["", "null", "{}", "[]", "\u{0}", &whole[..whole.len() / 2], &format!("{whole}{whole}")] {
                let mut journal = script.journal.clone();
                journal[index] = damaged.to_owned();
                let error = Run::replay(&journal).unwrap_err();
                assert!(
                    matches!(error, BadJournal::Unreadable { index: found, .. } if found == index as u64),
                    "{damaged}: {error}"
                );
            }
        }
        let mut doubled = script.journal.clone();
        doubled.push(doubled[doubled.len() - 1].clone());
        let illegal = BadJournal::Illegal { index: doubled.len() as u64 - 1, event: "model_replied" };
        assert_eq!(Run::replay(&doubled), Err(illegal));
    }
}

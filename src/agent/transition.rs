//! Which event may follow which state: one match that lists every legal transition.

use super::event::{Event, Plan, SCHEMA_VERSION};
use super::state::{CallState, Run};

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
        /// The JSON error, with its column but without the line's text.
        problem: String,
    },
}

impl Run {
    /// Proves that `events` may follow what happened before, one after another, without changing anything.
    ///
    /// Only events that do not decide about each other may stand in one append; that they do is illegal, too.
    pub fn check(&self, events: &[Event]) -> Result<(), BadJournal> {
        for (index, event) in events.iter().enumerate() {
            if !self.may_follow(event) || events[..index].iter().any(|earlier| earlier.decides_about(event)) {
                return Err(BadJournal::Illegal { index: self.sequence + index as u64, event: event.name() });
            }
        }
        Ok(())
    }

    fn may_follow(&self, event: &Event) -> bool {
        let state = |call_id: &str| self.open_call(call_id).map(|open| (&open.plan, &open.state));
        match event {
            Event::Started(_) => false,
            Event::AttemptStarted { .. } | Event::AttemptEnded { .. } | Event::WakeUpPublished { .. } => true,
            Event::Delivered => self.finished.is_some(),
            Event::Reopened => self.delivered,
            Event::EffectSettled(said) => self.may_settle(said).is_ok(),
            Event::SettlementDelivered { call_id } => self.settlement(call_id).is_some_and(|kept| !kept.told),
            _ if self.finished.is_some() => false,
            Event::AccountsReady
            | Event::AuthorizationRequested { .. }
            | Event::Retried { .. }
            | Event::JournalLost
            | Event::EndLost { .. }
            | Event::GivenUp(_)
            | Event::Finished(_) => true,
            Event::ToolsListed { .. } => self.tools.is_none(),
            Event::ModelAsked => self.turn.is_empty(),
            Event::ModelSwitched { from, to, .. } => self.turn.is_empty() && self.models.may_switch(from, to),
            Event::ModelReplied { reply, plans, .. } => {
                self.turn.is_empty() && plans.len() == reply.message.calls.len()
            }
            Event::HistoryCompacted { results } => self.turn.is_empty() && self.may_leave_out(results),
            Event::ToolStarted { call_id } => {
                matches!(state(call_id), Some((Plan::Run { .. }, CallState::Planned | CallState::Started)))
                    && self.approvals.may_leave(call_id)
            }
            Event::ApprovalAsked { calls, .. } => calls.iter().all(|asked| {
                matches!(state(&asked.call_id), Some((Plan::Run { .. }, CallState::Planned)))
                    && !self.approvals.was_asked(&asked.call_id)
            }),
            Event::ApprovalDecided(settled) => self.approvals.waits(&settled.approval).is_some(),
            Event::ToolNotRun { call_id, .. } | Event::ToolFinished { call_id, .. } => {
                matches!(state(call_id), Some((_, CallState::Started)))
            }
        }
    }
}

impl Event {
    /// Whether `later`, in the same append, may become illegal by this event, or legal.
    fn decides_about(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Retried { .. } | Self::WakeUpPublished { .. }, _)
            | (Self::JournalLost | Self::EndLost { .. } | Self::GivenUp(_), Self::Finished(_))
            // A call that was held back may leave at once: it may start before and after.
            | (Self::ToolNotRun { .. }, Self::ToolStarted { .. }) => false,
            (Self::ToolStarted { call_id: one }, Self::ToolStarted { call_id: other }) => one == other,
            (Self::ApprovalDecided(one), Self::ApprovalDecided(other)) => one.approval == other.approval,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Script, says, wants};
    use super::*;

    fn started(call_id: &str) -> Event {
        Event::ToolStarted { call_id: call_id.to_owned() }
    }

    #[test]
    fn an_append_holds_events_that_do_not_decide_about_each_other_or_is_refused_whole() {
        let mut script = Script::ready(|_| {});
        let read = "gmail_fetch_mails";
        script.model(wants(&[("c1", read, "{}"), ("c2", read, "{}")]));
        let before = script.run.clone();
        let retried = || Event::Retried { call: read.into(), reason: "503".into() };
        let outcome = super::super::event::ToolOutcome::Done { content: "ok".into(), execution_id: None };
        let finished = |call_id: &str| Event::ToolFinished { call_id: call_id.into(), outcome: outcome.clone() };
        assert_eq!(script.run.check(&[started("c1"), started("c2")]), Ok(()));
        assert_eq!(script.run.check(&[retried(), started("c1")]), Ok(()));
        script.start("c1");
        let not_run = || Event::ToolNotRun { call_id: "c1".into(), reason: "not_witnessed".into() };
        assert_eq!(script.run.check(&[not_run(), started("c1")]), Ok(()));
        script.run = before.clone();
        let sequence = script.run.sequence();
        let illegal = |index: u64, event| Err(BadJournal::Illegal { index: sequence + index, event });
        assert_eq!(script.run.check(&[started("c1"), started("c1")]), illegal(1, "tool_started"));
        assert_eq!(script.run.check(&[started("c1"), finished("c1")]), illegal(1, "tool_finished"));
        assert_eq!(script.run.check(&[started("c1"), started("c3")]), illegal(1, "tool_started"));
        assert_eq!(script.run.check(&[finished("c1"), started("c2")]), illegal(0, "tool_finished"));
        assert!(script.run == before, "a proof changes nothing");
    }

    #[test]
    fn a_run_is_given_up_and_finished_in_one_append() {
        let mut script = Script::ready(|_| {});
        script.model(says("done"));
        let given_up =
            super::super::event::GivenUp { reason: "poison".into(), detail: String::new(), step: String::new() };
        let reply = script.reply();
        let events = [Event::GivenUp(given_up), Event::Finished(Box::new(reply))];
        assert_eq!(script.run.check(&events), Ok(()));
        assert!(script.run.check(&[events[1].clone(), events[0].clone()]).is_err());
        assert!(
            script.run.check(&[events[1].clone(), Event::Delivered]).is_err(),
            "nothing is delivered before it is kept"
        );
    }
}

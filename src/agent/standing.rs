//! How a run stands after each event, for lists: what `standing` shows of it.

use jiff::Timestamp;

use super::event::{Entry, Event};
use super::state::Run;
use crate::reply::ReplyEvent;
use crate::standing::{RunState, StandingSince};

/// How a run that stood like this stands after `event`.
pub(super) fn after(before: RunState, event: &Event) -> RunState {
    match event {
        Event::Reopened => RunState::Waiting,
        _ if before.is_ended() => before,
        Event::AttemptStarted { .. } => RunState::Running,
        Event::AttemptEnded { .. } => RunState::Waiting,
        Event::Finished(reply) => match reply.event {
            ReplyEvent::Completed(_) => RunState::Completed,
            _ => RunState::Failed,
        },
        _ => before,
    }
}

impl Run {
    /// How the run stands, and since when.
    pub fn standing(&self) -> StandingSince {
        self.standing
    }

    /// How it will stand after these.
    pub fn standing_after(&self, entries: &[Entry]) -> StandingSince {
        entries.iter().fold(self.standing, |standing, entry| stand(standing, &entry.event, entry.at))
    }
}

pub(super) fn stand((before, since): StandingSince, event: &Event, at: Timestamp) -> StandingSince {
    let state = after(before, event);
    (state, if state == before { since } else { at })
}

#[cfg(test)]
mod tests {
    use super::super::conclusion;
    use super::super::event::Pause;
    use super::super::script::{Script, says};
    use super::super::state::Conclusion;
    use super::*;
    use crate::reply::{ErrorCode, ErrorDetail};

    fn paused(cause: Pause) -> Event {
        Event::AttemptEnded { cause, detail: String::new() }
    }

    #[test]
    fn a_run_stands_as_its_last_worker_left_it_and_its_end_stays_until_it_is_opened_again() {
        let mut script = Script::new(|_| {});
        assert_eq!(script.run.standing().0, RunState::Queued);
        script.attempt();
        assert_eq!(script.run.standing().0, RunState::Running);
        for cause in [Pause::Shutdown, Pause::Authorization, Pause::Approval, Pause::RateLimited] {
            script.event(paused(cause));
            assert_eq!(script.run.standing().0, RunState::Waiting, "{cause:?}");
            script.attempt();
            assert_eq!(script.run.standing().0, RunState::Running, "{cause:?}");
        }
        let given_up = Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, "died"));
        let reply = conclusion::reply(&script.run, given_up, script.now);
        script.event(Event::Finished(Box::new(reply)));
        let ended = script.run.standing();
        assert_eq!(ended.0, RunState::Failed);
        script.attempt().event(Event::Delivered);
        assert_eq!(script.run.standing(), ended, "who delivers the reply changes nothing");
        script.event(Event::Reopened);
        assert_eq!(script.run.standing().0, RunState::Waiting);
    }

    #[test]
    fn what_will_stand_is_what_stands_then() {
        let mut script = Script::ready(|_| {});
        script.model(says("done"));
        let finished = Event::Finished(Box::new(script.reply()));
        let entries = [Entry::new(script.now, finished.clone()), Entry::new(script.now, Event::Delivered)];
        let foretold = script.run.standing_after(&entries);
        script.event(finished);
        assert_eq!((script.run.standing().0, foretold.0), (RunState::Completed, RunState::Completed));
    }
}

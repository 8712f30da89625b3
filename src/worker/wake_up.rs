//! The headers by which a wake-up message differs from the job as its caller sent it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::milliseconds_between;
use crate::queue::Message;

/// Not before this instant (RFC 3339).
const DUE: &str = "x-agentkit-due";
/// Number of the wake-up; a copy older than the journal knows is stale.
const TURN: &str = "x-agentkit-turn";
/// Why the run waited, for people and for the poll of parked runs.
const REASON: &str = "x-agentkit-reason";

/// Whether the run had started anything that is more than reading: if its journal gets lost, it must not start again.
const EFFECTS: &str = "x-agentkit-effects";
/// Whether the message met a run of its job that was not ours to go on with.
const MET: &str = "x-agentkit-met";

/// Reason: the run waits for its user.
pub(super) const AUTHORIZATION: &str = "authorization";
/// Reason: somebody said that the account which the run waits for has changed.
pub(super) const WEBHOOK: &str = "webhook";
/// Reason: somebody asked to come later.
pub(super) const RATE_LIMITED: &str = "rate_limited";
/// Reason: something failed that should pass.
pub(super) const TRANSIENT: &str = "transient";
/// Reason: to stand for the delivery of a run that is under way.
pub(super) const CONTINUE: &str = "continue";
/// Reason: a worker gave the run back in good order, and could not journal that.
pub(super) const GIVEN_BACK: &str = "given_back";
/// Reason: the reply is out; only the journal is still to be sealed.
pub(super) const SEAL: &str = "seal";
/// Reason: the worker found the journal gone, or shorter than it was.
pub(super) const JOURNAL_LOST: &str = "journal_lost";
/// Reason: the run was alive elsewhere and has no journal any more; its owner was given time to say so.
pub(super) const ORPHANED: &str = "orphaned";

/// A message is early by less than this: it counts as due. The shortest wait tier is a second.
const TOLERANCE: Duration = Duration::from_millis(500);

/// What the headers of a message say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeUp {
    /// Number of the wake-up.
    pub turn: u32,
    /// Why the run waited.
    pub reason: String,
    /// Not before this instant.
    pub due: Option<Timestamp>,
    /// Whether the run had started anything that is more than reading.
    pub effects: bool,
    /// Whether the message met a run of its job that was not ours to go on with, so that there was a journal.
    pub met: bool,
}

impl WakeUp {
    /// The first thing that is said of a run, for this reason.
    pub(super) fn new(reason: &str) -> Self {
        Self { turn: 0, reason: reason.to_owned(), due: None, effects: false, met: false }
    }

    /// Reads the headers; `None` for a job as its caller sent it.
    pub fn of(message: &Message) -> Option<Self> {
        let headers = &message.properties.headers;
        Some(Self {
            turn: headers.get(TURN)?.parse().ok()?,
            reason: headers.get(REASON).cloned().unwrap_or_default(),
            due: headers.get(DUE).and_then(|due| due.parse().ok()),
            effects: headers.contains_key(EFFECTS),
            met: headers.contains_key(MET),
        })
    }

    /// `message` with fresh headers of ours: nothing that the broker added is carried along.
    pub fn stamp(&self, message: &Message) -> Message {
        let mut message = message.clone();
        message.properties.headers.retain(|name, _| name == "traceparent");
        let headers = &mut message.properties.headers;
        headers.insert(TURN.into(), self.turn.to_string());
        headers.insert(REASON.into(), self.reason.clone());
        headers.extend(self.due.map(|due| (DUE.into(), due.to_string())));
        headers.extend(self.effects.then(|| (EFFECTS.into(), "1".to_owned())));
        headers.extend(self.met.then(|| (MET.into(), "1".to_owned())));
        message
    }

    /// How long the message still has to wait at `now`, if it does.
    pub fn remaining(&self, now: Timestamp) -> Option<Duration> {
        let remaining = Duration::from_millis(milliseconds_between(now, self.due?));
        (remaining > TOLERANCE).then_some(remaining)
    }
}

/// The instant `wait` after `now`.
pub fn due(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_as_its_caller_sent_it_is_no_wake_up() {
        assert_eq!(WakeUp::of(&Message::default()), None);
    }

    #[test]
    fn a_wake_up_keeps_the_trace_and_drops_what_the_broker_added() {
        let mut message = Message::default();
        message.properties.headers.insert("traceparent".into(), "00-1-2-01".into());
        message.properties.headers.insert("x-delivery-count".into(), "7".into());
        let wake_up = WakeUp {
            turn: 3,
            reason: "authorization".into(),
            due: Some(due(Timestamp::UNIX_EPOCH, Duration::from_secs(90))),
            effects: true,
            met: true,
        };
        let stamped = wake_up.stamp(&message);
        assert!(stamped.properties.headers.contains_key("traceparent"));
        assert!(!stamped.properties.headers.contains_key("x-delivery-count"));
        assert_eq!(WakeUp::of(&stamped), Some(wake_up));
    }

    #[test]
    fn any_wait_from_a_second_to_thirty_days_is_kept_within_a_second_or_a_tenth() {
        use crate::queue::amqp::Tier;
        let month = 30 * 86_400_000;
        let waits = (1000..200_000).step_by(137).chain((200_000..month).step_by(7_654_321)).chain([month]);
        for wanted in waits.map(Duration::from_millis) {
            let due = due(Timestamp::UNIX_EPOCH, wanted);
            let wake_up = WakeUp { due: Some(due), ..WakeUp::new("") };
            let (mut now, mut hops) = (Timestamp::UNIX_EPOCH, 0);
            // As the broker and the worker do it: into the longest tier that fits, and on, until nothing is left.
            while let Some(remaining) = wake_up.remaining(now) {
                now += SignedDuration::try_from(Tier::for_wait(remaining).wait()).unwrap();
                hops += 1;
            }
            let waited = Duration::from_millis(milliseconds_between(Timestamp::UNIX_EPOCH, now));
            let allowed = Duration::from_secs(1).max(wanted / 10);
            assert!(waited.abs_diff(wanted) <= allowed, "{wanted:?} became {waited:?}");
            assert!(hops <= 30 * 24 + 20, "{wanted:?} took {hops} hops");
        }
    }

    #[test]
    fn a_message_waits_until_it_is_due() {
        let wake_up = WakeUp { due: Some(due(Timestamp::UNIX_EPOCH, Duration::from_secs(90))), ..WakeUp::new("") };
        assert_eq!(wake_up.remaining(Timestamp::UNIX_EPOCH), Some(Duration::from_secs(90)));
        assert_eq!(wake_up.remaining(due(Timestamp::UNIX_EPOCH, Duration::from_millis(89_600))), None);
        assert_eq!(wake_up.remaining(due(Timestamp::UNIX_EPOCH, Duration::from_secs(100))), None);
    }
}

//! The headers by which a wake-up message differs from the job as its caller sent it. Anybody can write them: what they can do
//! at most where no worker signed them stands in [`super::signature`].

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::run::Run;
use crate::clock::milliseconds_between;
use crate::queue::Message;
use crate::worker::message::signature::UNPROVEN;
use crate::worker::message::version::carried_headers;

/// Not before this instant (RFC 3339).
const DUE: &str = "x-agentkit-due";
/// Number of the wake-up; a copy older than the journal knows is stale.
const GENERATION: &str = "x-agentkit-turn";
/// Why the run waited, for people and for the poll of parked runs.
const REASON: &str = "x-agentkit-reason";

/// Whether the run had started anything that is more than reading: if its journal gets lost, it must not start again.
const EFFECTS: &str = "x-agentkit-effects";
/// Whether the message saw its run alive in another worker's hands.
const SAW_LIVE_OWNER: &str = "x-agentkit-met";
/// Whether the message found its run under way when it came for the first time.
const COPY: &str = "x-agentkit-copy";

/// How many entries the run's journal had when the message was published.
const ENTRIES: &str = "x-agentkit-entries";
/// The model's id of the call that was about to leave then.
const CALL: &str = "x-agentkit-call";
const TOOL: &str = "x-agentkit-tool";

/// All of these.
pub(super) const HEADERS: [&str; 9] = [DUE, GENERATION, REASON, EFFECTS, SAW_LIVE_OWNER, COPY, ENTRIES, CALL, TOOL];

/// A message is early by less than this: it counts as due. The shortest wait tier is a second.
const TOLERANCE: Duration = Duration::from_millis(500);

/// A worker lets a message wait no longer than this, however long its run does: one that nobody signed and that is due later
/// is due now.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_hours(30 * 24);

/// Who says what a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A worker.
    Ours,
    /// Nobody signed it: somebody forged it, or a worker of a version that did not sign yet.
    Unproven,
}

/// Why a message is the wake-up that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The caller's own message, deferred.
    Unsaid,
    /// The run waits for its user.
    Authorization,
    /// The run waits for a person's approval.
    Approval,
    /// Somebody said that the account which the run waits for has changed.
    Webhook,
    /// Somebody asked to come later.
    RateLimited,
    /// Something failed that should pass.
    Transient,
    /// It stands for the delivery of a run that is under way.
    Continue,
    /// A worker gave the run back in good order, and could not journal that.
    GivenBack,
    /// The run has ended, and its reply queue takes nothing.
    ReplyWaits,
    /// The reply is out; only the journal is still to be sealed.
    Seal,
    /// The worker found the journal gone, or shorter than it was.
    JournalLost,
    /// The run has no journal any more, or this is a copy and nobody goes on with the run: its owner, or the message that
    /// stands for it, was given time.
    Orphaned,
    /// A person wants the run to go on.
    Operator,
    /// The dead letter of a run that its workers died over, replayed.
    Poison,
    /// The broker gave the message up, and it is to be given up in good order.
    DeliveryLimit,
    /// What another version says.
    Other(String),
}

impl Reason {
    const KNOWN: [(Self, &str); 15] = [
        (Self::Unsaid, ""),
        (Self::Authorization, "authorization"),
        (Self::Approval, "approval"),
        (Self::Webhook, "webhook"),
        (Self::RateLimited, "rate_limited"),
        (Self::Transient, "transient"),
        (Self::Continue, "continue"),
        (Self::GivenBack, "given_back"),
        (Self::ReplyWaits, "reply_waits"),
        (Self::Seal, "seal"),
        (Self::JournalLost, "journal_lost"),
        (Self::Orphaned, "orphaned"),
        (Self::Operator, "operator"),
        (Self::Poison, "poison"),
        (Self::DeliveryLimit, "delivery_limit"),
    ];

    fn read(text: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|(_, word)| *word == text);
        known.map_or_else(|| Self::Other(text.to_owned()), |(reason, _)| reason)
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Other(text) => text,
            reason => Self::KNOWN.into_iter().find(|(known, _)| known == reason).map_or("", |(_, word)| word),
        }
    }
}

/// What the headers of a message say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WakeUp {
    /// Number of the wake-up; 0 where no run has made one yet.
    pub generation: u32,
    /// Why the run waited.
    pub reason: Reason,
    /// Not before this instant.
    pub due: Option<Timestamp>,
    /// Whether the run had started anything that is more than reading.
    pub effects: bool,
    /// Whether the message saw its run alive in another worker's hands, so that there was a journal.
    pub saw_live_owner: bool,
    /// Whether the message found its run under way when it came for the first time: another one stands for the run.
    pub is_copy: bool,
    /// How many entries the journal had when the message was published, where the run had effects or might have them soon:
    /// with fewer than these it has lost its end.
    pub entries: Option<u64>,
    /// The call that was about to leave then, where there was one.
    pub call: Option<WitnessedCall>,
    /// Whether all this is to be believed.
    pub trust: Trust,
}

/// A call that is more than reading, as the broker knows of it before it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WitnessedCall {
    /// The model's id of it.
    pub id: String,
    /// Its tool at Scalekit.
    pub tool: String,
}

impl WakeUp {
    /// The first thing that is said of a run, for this reason.
    pub(crate) fn new(reason: Reason) -> Self {
        Self {
            generation: 0,
            reason,
            due: None,
            effects: false,
            saw_live_owner: false,
            is_copy: false,
            entries: None,
            call: None,
            trust: Trust::Ours,
        }
    }

    /// What a message says, whose headers say `wake_up`: nothing, where it is as its caller sent it.
    pub(crate) fn said_by(wake_up: Option<&Self>) -> Self {
        wake_up.cloned().unwrap_or_else(|| Self::new(Reason::Unsaid))
    }

    /// What is known of `run`: if its journal gets lost, or loses its end, this message tells.
    pub(crate) fn of_run(run: &Run, generation: u32, reason: Reason) -> Self {
        let effects = run.has_effects();
        let call = run.last_effect().map(|(id, tool)| WitnessedCall { id: id.to_owned(), tool: tool.to_owned() });
        Self { generation, effects, entries: effects.then(|| run.sequence()), call, ..Self::new(reason) }
    }

    /// The same, and nothing less than the message before it knew, which this one takes the place of: a run whose journal was
    /// cut knows less of itself.
    pub(crate) fn knowing(self, said: Option<&Self>) -> Self {
        let Some(said) = said else { return self };
        let (generation, effects) = (self.generation.max(said.generation), self.effects || said.effects);
        let (entries, call) =
            if said.entries > self.entries { (said.entries, said.call.clone()) } else { (self.entries, self.call) };
        Self { generation, effects, entries, call, trust: said.trust, ..self }
    }

    /// Reads the headers; `None` for a job as its caller sent it.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let headers = &message.properties.headers;
        Some(Self {
            generation: headers.get(GENERATION)?.parse().ok()?,
            reason: Reason::read(headers.get(REASON).map_or("", String::as_str)),
            due: headers.get(DUE).and_then(|due| due.parse().ok()),
            effects: headers.contains_key(EFFECTS),
            saw_live_owner: headers.contains_key(SAW_LIVE_OWNER),
            is_copy: headers.contains_key(COPY),
            entries: headers.get(ENTRIES).and_then(|entries| entries.parse().ok()),
            call: headers
                .get(CALL)
                .zip(headers.get(TOOL))
                .map(|(id, tool)| WitnessedCall { id: id.clone(), tool: tool.clone() }),
            trust: if headers.contains_key(UNPROVEN) { Trust::Unproven } else { Trust::Ours },
        })
    }

    /// `message` with fresh headers of ours: nothing that the broker added is carried along.
    pub(crate) fn stamp(&self, message: &Message) -> Message {
        let mut message = message.clone();
        message.properties.headers = carried_headers(&message);
        let headers = &mut message.properties.headers;
        headers.insert(GENERATION.into(), self.generation.to_string());
        headers.insert(REASON.into(), self.reason.as_str().to_owned());
        headers.extend(self.due.map(|due| (DUE.into(), due.to_string())));
        headers.extend(self.effects.then(|| (EFFECTS.into(), "1".to_owned())));
        headers.extend(self.saw_live_owner.then(|| (SAW_LIVE_OWNER.into(), "1".to_owned())));
        headers.extend(self.is_copy.then(|| (COPY.into(), "1".to_owned())));
        headers.extend(self.entries.map(|entries| (ENTRIES.into(), entries.to_string())));
        if let Some(call) = &self.call {
            headers.extend([(CALL.into(), call.id.clone()), (TOOL.into(), call.tool.clone())]);
        }
        if self.trust == Trust::Unproven {
            headers.insert(UNPROVEN.into(), "1".to_owned());
        }
        message
    }

    /// How long the message still has to wait at `now`, if it does.
    pub(crate) fn remaining(&self, now: Timestamp) -> Option<Duration> {
        let remaining = Duration::from_millis(milliseconds_between(now, self.due?));
        let is_believed = self.trust == Trust::Ours || remaining <= LONGEST_WAIT;
        (remaining > TOLERANCE && is_believed).then_some(remaining)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::clock::after;

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
            generation: 3,
            reason: Reason::Authorization,
            due: Some(after(Timestamp::UNIX_EPOCH, Duration::from_secs(90))),
            effects: true,
            saw_live_owner: true,
            is_copy: true,
            entries: Some(17),
            call: Some(WitnessedCall { id: "call_ü".into(), tool: "gmail_send_message".into() }),
            trust: Trust::Unproven,
        };
        let stamped = wake_up.stamp(&message);
        assert!(stamped.properties.headers.contains_key("traceparent"));
        assert!(!stamped.properties.headers.contains_key("x-delivery-count"));
        assert_eq!(WakeUp::of(&stamped), Some(wake_up));
    }

    #[test]
    fn every_reason_is_read_as_it_was_written_and_a_strange_one_is_kept() {
        for (reason, word) in Reason::KNOWN.into_iter().chain([(Reason::Other("of_tomorrow".into()), "of_tomorrow")]) {
            let stamped = WakeUp::new(reason.clone()).stamp(&Message::default());
            assert_eq!(stamped.properties.headers.get(REASON).map(String::as_str), Some(word));
            assert_eq!(WakeUp::of(&stamped).map(|wake_up| wake_up.reason), Some(reason));
        }
    }

    #[test]
    fn a_message_that_takes_the_place_of_another_knows_nothing_less() {
        let call = |id: &str| Some(WitnessedCall { id: id.to_owned(), tool: "send".to_owned() });
        let said = WakeUp {
            generation: 3,
            effects: true,
            entries: Some(9),
            call: call("c1"),
            ..WakeUp::new(Reason::Continue)
        };
        let fresh = WakeUp { generation: 1, ..WakeUp::new(Reason::GivenBack) };
        let known = fresh.clone().knowing(Some(&said));
        assert_eq!(known, WakeUp { reason: Reason::GivenBack, ..said.clone() });
        let cut = WakeUp { entries: Some(4), call: call("c0"), effects: true, ..fresh.clone() };
        assert_eq!(cut.knowing(Some(&said)), known);
        let longer = WakeUp { generation: 4, entries: Some(12), call: call("c2"), effects: true, ..fresh.clone() };
        assert_eq!(longer.clone().knowing(Some(&said)), longer);
        assert_eq!(fresh.clone().knowing(None), fresh);
    }

    #[test]
    fn any_wait_from_a_second_to_thirty_days_is_kept_within_a_second_or_a_tenth() {
        use crate::queue::amqp::Tier;
        let month = 30 * 86_400_000;
        let waits = (1000..200_000).step_by(137).chain((200_000..month).step_by(7_654_321)).chain([month]);
        for wanted in waits.map(Duration::from_millis) {
            let due = after(Timestamp::UNIX_EPOCH, wanted);
            let wake_up = WakeUp { due: Some(due), ..WakeUp::new(Reason::Unsaid) };
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
    fn a_message_that_nobody_signed_waits_no_longer_than_a_worker_would_let_it() {
        let now = Timestamp::UNIX_EPOCH;
        let unproven = |due| WakeUp { due: Some(due), trust: Trust::Unproven, ..WakeUp::new(Reason::Unsaid) };
        let month = after(now, LONGEST_WAIT);
        assert_eq!(unproven(month).remaining(now), Some(LONGEST_WAIT));
        for later in [after(month, Duration::from_secs(1)), Timestamp::MAX] {
            assert_eq!(unproven(later).remaining(now), None);
            let ours = WakeUp { trust: Trust::Ours, ..unproven(later) };
            assert!(ours.remaining(now) > Some(LONGEST_WAIT));
        }
        assert_eq!(unproven(Timestamp::MIN).remaining(Timestamp::MAX), None);
    }

    #[test]
    fn a_message_waits_until_it_is_due() {
        let wake_up =
            WakeUp { due: Some(after(Timestamp::UNIX_EPOCH, Duration::from_secs(90))), ..WakeUp::new(Reason::Unsaid) };
        assert_eq!(wake_up.remaining(Timestamp::UNIX_EPOCH), Some(Duration::from_secs(90)));
        assert_eq!(wake_up.remaining(after(Timestamp::UNIX_EPOCH, Duration::from_millis(89_600))), None);
        assert_eq!(wake_up.remaining(after(Timestamp::UNIX_EPOCH, Duration::from_secs(100))), None);
    }
}

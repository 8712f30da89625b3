//! Dead letters: messages that are given up, each with its reason, for a person to look at.

use jiff::Timestamp;
use serde_json::Value;

use super::wake_up::{Reason, WakeUp};
use crate::agent::event::GivenUp;
use crate::queue::{Delivery, Message, QueueError};

/// Header of a dead letter: why it was given up.
pub(crate) const DEAD_REASON: &str = "x-agentkit-dead-reason";
/// Header of a dead letter: how often it was tried.
pub(crate) const DEAD_ATTEMPTS: &str = "x-agentkit-dead-attempts";
/// Header of a dead letter: the last step that is known.
pub(crate) const DEAD_STEP: &str = "x-agentkit-dead-step";
/// Header of a dead letter: what went wrong, for people.
pub(crate) const DEAD_DETAIL: &str = "x-agentkit-dead-detail";
/// Header of a dead letter: when it was given up (RFC 3339).
pub(crate) const DEAD_AT: &str = "x-agentkit-dead-at";

/// Header of the broker's: how often, where and why it dead-lettered the message.
const DEATHS: &str = "x-death";
/// Characters of a letter's detail.
const LONGEST_DETAIL: usize = 500;

/// Why a message is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetterReason {
    /// Its bytes are not a job.
    InvalidJob,
    /// Its producer may not send it.
    ProducerNotAllowed,
    /// Its run's workers died, one after another.
    Poison,
    /// It was delivered so often that the broker would drop it soon.
    DeliveryLimit,
    /// Its run's journal says what cannot be.
    DamagedJournal,
    /// Its headers, which nobody signed, say what its run's journal does not know.
    Unfounded,
}

impl DeadLetterReason {
    /// As in the header and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::ProducerNotAllowed => "producer_not_allowed",
            Self::Poison => "poison",
            Self::DeliveryLimit => "delivery_limit",
            Self::DamagedJournal => "damaged_journal",
            Self::Unfounded => "unfounded",
        }
    }
}

/// The letter is sent again, or thrown away.
pub(crate) async fn removed(letter: Delivery) -> Result<(), QueueError> {
    letter.ack().await
}

/// Whether the broker made this letter because the job queue's delivery limit was reached. Not where it did so again with one
/// that came from here: that message is left to people.
pub(crate) fn is_from_the_broker(letter: &Message) -> bool {
    let headers = &letter.properties.headers;
    let deaths: Vec<Value> = headers.get(DEATHS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    !headers.contains_key(DEAD_REASON)
        && deaths.iter().any(|death| death["reason"] == DeadLetterReason::DeliveryLimit.as_str())
        && WakeUp::of(letter).is_none_or(|wake_up| wake_up.reason != Reason::DeliveryLimit)
}

/// `letter` with the headers that say why it was given up, after how many attempts, and when.
pub(crate) fn dead_letter(mut letter: Message, why: &GivenUp, attempts: u32, now: Timestamp) -> Message {
    let detail = why.detail.chars().filter(|character| !character.is_control()).take(LONGEST_DETAIL).collect();
    letter.properties.headers.extend([
        (DEAD_REASON.to_owned(), why.reason.clone()),
        (DEAD_ATTEMPTS.to_owned(), attempts.to_string()),
        (DEAD_STEP.to_owned(), why.step.clone()),
        (DEAD_DETAIL.to_owned(), detail),
        (DEAD_AT.to_owned(), now.to_string()),
    ]);
    letter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_letter_that_the_broker_made_and_no_worker_has_dealt_with_is_answered_for() {
        let letter = |headers: &[(&str, &str)]| {
            let mut message = Message::default();
            message.properties.headers =
                headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            is_from_the_broker(&message)
        };
        let limit = r#"[{"reason": "delivery_limit", "queue": "agentkit.jobs"}, {"reason": "expired"}]"#;
        assert!(letter(&[("x-death", limit)]));
        assert!(letter(&[("x-death", limit), ("x-agentkit-turn", "3"), ("x-agentkit-reason", "continue")]));
        assert!(!letter(&[("x-death", limit), ("x-agentkit-turn", "3"), ("x-agentkit-reason", "delivery_limit")]));
        assert!(!letter(&[("x-death", limit), (DEAD_REASON, "poison")]));
        for deaths in ["", "[]", "{", r#"[{"reason": "expired"}]"#] {
            assert!(!letter(&[("x-death", deaths)]), "{deaths}");
        }
        assert!(!letter(&[]));
    }
}

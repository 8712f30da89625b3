//! Dead letters: messages that are given up, each with its reason, for a person to look at.

use jiff::Timestamp;

use crate::agent::event::GivenUp;
use crate::queue::Message;

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

/// Characters of a letter's detail.
const LONGEST_DETAIL: usize = 500;

/// Why a message is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetterReason {
    /// Its bytes are not a job.
    InvalidJob,
    /// Its run's workers died, one after another.
    Poison,
    /// It was delivered so often that the broker would drop it soon.
    DeliveryLimit,
    /// Its run's journal says what cannot be.
    DamagedJournal,
}

impl DeadLetterReason {
    /// As in the header and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::Poison => "poison",
            Self::DeliveryLimit => "delivery_limit",
            Self::DamagedJournal => "damaged_journal",
        }
    }
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

//! The attempts of a run: the present one, the one before, and why they end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a worker gave a run out of its hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// The worker shuts down.
    Shutdown,
    /// The user must authorize.
    Authorization,
    /// A person must approve.
    Approval,
    /// Somebody asked us to come later.
    RateLimited,
    /// Something that should pass failed; costs one of the run's attempts.
    Transient,
    /// The broker's consumer timeout came near: the same run goes on under a new delivery. Of version 1.
    ContinueAsNew,
    /// The journal could not be reached; said afterwards, by the next worker.
    JournalAway,
}

impl Pause {
    /// As in the journal, for log lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Authorization => "authorization",
            Self::Approval => "approval",
            Self::RateLimited => "rate_limited",
            Self::Transient => "transient",
            Self::ContinueAsNew => "continue_as_new",
            Self::JournalAway => "journal_away",
        }
    }
}

/// The attempt before the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptBefore {
    /// When it began.
    pub began: Timestamp,
    /// When it ended; without a pause that is when its last entry was written.
    pub ended: Timestamp,
    /// Why it ended; `None` where its worker was never heard of again.
    pub pause: Option<Pause>,
}

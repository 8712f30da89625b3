//! The attempts of a run: the present one, and the one before.

use jiff::Timestamp;

use super::event::Pause;
use super::state::Run;

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

impl Run {
    /// When the present attempt began.
    pub fn attempt_began(&self) -> Timestamp {
        self.attempt_began
    }

    /// The attempt before the present one, where there was one.
    pub fn attempt_before(&self) -> Option<AttemptBefore> {
        self.attempt_before
    }
}

//! A run's wait for its user's authorization.

use jiff::Timestamp;

use crate::clock::milliseconds_between;
use crate::job::ConnectionName;

/// A link that runs out sooner is not followed by a fresh one before this time: nobody wants a mail a minute.
const LEAST_BETWEEN_LINKS_MILLISECONDS: u64 = 600_000;

/// A wait for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// What the user must authorize.
    pub connections: Vec<ConnectionName>,
    /// The end of the wait.
    pub until: Timestamp,
    /// When the caller was last told.
    pub asked_at: Timestamp,
    /// When the first of the links ends, where that is known.
    pub links_end: Option<Timestamp>,
    /// Whether a call was refused while Scalekit called the account ACTIVE, so that only a call can end the wait.
    pub refused_while_active: bool,
    /// When the run went on last, to make that call.
    pub tried_at: Option<Timestamp>,
}

impl Awaited {
    /// Whether a link has run out, so that the caller needs a fresh one; said every ten minutes at most.
    pub fn wants_new_links(&self, now: Timestamp) -> bool {
        let asked_lately = milliseconds_between(self.asked_at, now) < LEAST_BETWEEN_LINKS_MILLISECONDS;
        self.links_end.is_some_and(|end| end <= now) && !asked_lately
    }

    /// Whether the caller was told of all these connections.
    pub fn covers(&self, connections: &[ConnectionName]) -> bool {
        connections.iter().all(|connection| self.connections.contains(connection))
    }
}

//! The parking edge: which runs wait for which user, so that a webhook finds them at once.
//!
//! Two implementations, [`mod@redis`] shared by all workers and [`memory`] for the embedded mode, pass one contract test
//! suite. It makes things faster and nothing else: every parked run also has a wake-up message with a delay, so an index
//! that is lost, stale or down costs a wait.

pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::job::{ConnectionName, Identifier, JobId};

/// For what a run waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// For its user to authorize.
    #[default]
    Authorization,
    /// For a person to approve calls.
    Approval,
}

impl WaitsFor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Approval];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Approval => "approval",
        }
    }
}

/// A run that waits for its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// The run that an authorization wakes.
    pub job: JobId,
    /// For what; an entry that does not say is of a version that knew of nothing else.
    #[serde(default)]
    pub waits_for: WaitsFor,
    /// The connections that the user must authorize.
    pub connections: Vec<ConnectionName>,
    /// What the run's journal does not know of the message that wakes it, in the worker's own form.
    pub message: String,
}

/// Some of the runs that wait for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedPage {
    /// They, in no order.
    pub runs: Vec<Parked>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<PageCursor>,
}

/// A place between two pages, for the index that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCursor(String);

/// So many runs make a page, more or less.
const PAGE: usize = 100;

/// The index did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the index of parked runs is unavailable: {0}")]
pub struct ParkingError(pub String);

/// The parked runs of all users.
#[async_trait]
pub trait Parking: Send + Sync {
    /// Notes that a run waits for `identifier`, in place of what was noted of it before; forgotten after `keep`.
    async fn park(&self, identifier: &Identifier, parked: &Parked, keep: Duration) -> Result<(), ParkingError>;
    /// Forgets a run that waits for this no more: it goes on, or has ended.
    async fn unpark(&self, identifier: &Identifier, job: &JobId, waits_for: WaitsFor) -> Result<(), ParkingError>;
    /// About a hundred of the runs that wait for `identifier` and for nobody else, the first ones or those from a place
    /// on. A run that waits from the first page to the last is on one of them, or now and then on two.
    async fn page(&self, identifier: &Identifier, from: Option<&PageCursor>) -> Result<ParkedPage, ParkingError>;
    /// The run of this job, where it waits for `identifier`.
    async fn find(&self, identifier: &Identifier, job: &JobId) -> Result<Option<Parked>, ParkingError>;
    /// Up to `most` of the runs that wait for this, of all users: those whose wait ends first come first.
    async fn first(&self, waits_for: WaitsFor, most: usize) -> Result<Vec<(Identifier, JobId)>, ParkingError>;
    /// How many runs wait for this, of all users.
    async fn count(&self, waits_for: WaitsFor) -> Result<u64, ParkingError>;
}

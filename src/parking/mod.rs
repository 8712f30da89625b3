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

/// A run that waits for its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// The job.
    pub job: JobId,
    /// The connections that the user must authorize.
    pub connections: Vec<ConnectionName>,
    /// The message that wakes the run, in the worker's own form.
    pub message: String,
}

/// The index did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the index of parked runs is unavailable: {0}")]
pub struct ParkingError(pub String);

/// The parked runs of all users.
#[async_trait]
pub trait Parking: Send + Sync {
    /// Notes that a run waits for `identifier`, in place of what was noted of it before; forgotten after `keep`.
    async fn park(&self, identifier: &Identifier, parked: &Parked, keep: Duration) -> Result<(), ParkingError>;
    /// Forgets a run that goes on or has ended.
    async fn unpark(&self, identifier: &Identifier, job: &JobId) -> Result<(), ParkingError>;
    /// The runs that wait for `identifier` and for nobody else, in no order.
    async fn waiting(&self, identifier: &Identifier) -> Result<Vec<Parked>, ParkingError>;
    /// How many runs wait, of all users.
    async fn count(&self) -> Result<u64, ParkingError>;
}

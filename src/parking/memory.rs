//! The parked runs of one process, for the embedded mode.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::{Parked, Parking, ParkingError};
use crate::clock::SharedClock;
use crate::job::{Identifier, JobId};

/// Parked runs in memory; as many as the process's journal has.
#[derive(Debug)]
pub struct MemoryParking {
    clock: SharedClock,
    runs: Mutex<Runs>,
}

type Runs = HashMap<(Identifier, JobId), (Parked, Timestamp)>;

impl MemoryParking {
    /// An empty index.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, runs: Mutex::default() }
    }

    /// The runs whose time is not over.
    fn runs(&self) -> MutexGuard<'_, Runs> {
        let now = self.clock.now();
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|_, (_, until)| *until > now);
        runs
    }
}

#[async_trait]
impl Parking for MemoryParking {
    async fn park(&self, identifier: &Identifier, parked: &Parked, keep: Duration) -> Result<(), ParkingError> {
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let until = self.clock.now().saturating_add(keep).unwrap_or(Timestamp::MAX);
        self.runs().insert((identifier.clone(), parked.job.clone()), (parked.clone(), until));
        Ok(())
    }

    async fn unpark(&self, identifier: &Identifier, job: &JobId) -> Result<(), ParkingError> {
        self.runs().remove(&(identifier.clone(), job.clone()));
        Ok(())
    }

    async fn waiting(&self, identifier: &Identifier) -> Result<Vec<Parked>, ParkingError> {
        let runs = self.runs();
        Ok(runs.iter().filter(|((user, _), _)| user == identifier).map(|(_, (parked, _))| parked.clone()).collect())
    }

    async fn count(&self) -> Result<u64, ParkingError> {
        Ok(self.runs().len() as u64)
    }
}

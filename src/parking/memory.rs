//! The parked runs of one process, for the embedded mode.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::{PAGE, PageCursor, Parked, ParkedPage, Parking, ParkingError, WaitsFor};
use crate::clock::SharedClock;
use crate::job::{Identifier, JobId};

/// Parked runs in memory; as many as the process's journal has.
#[derive(Debug)]
pub struct MemoryParking {
    clock: SharedClock,
    runs: Mutex<Runs>,
}

type Runs = HashMap<Identifier, BTreeMap<JobId, (Parked, Timestamp)>>;

impl MemoryParking {
    /// An empty index.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, runs: Mutex::default() }
    }

    /// The runs whose time is not over.
    fn runs(&self) -> MutexGuard<'_, Runs> {
        let now = self.clock.now();
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|_, of_user| {
            of_user.retain(|_, (_, until)| *until > now);
            !of_user.is_empty()
        });
        runs
    }
}

#[async_trait]
impl Parking for MemoryParking {
    async fn park(&self, identifier: &Identifier, parked: &Parked, keep: Duration) -> Result<(), ParkingError> {
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let until = self.clock.now().saturating_add(keep).unwrap_or(Timestamp::MAX);
        self.runs().entry(identifier.clone()).or_default().insert(parked.job.clone(), (parked.clone(), until));
        Ok(())
    }

    async fn unpark(&self, identifier: &Identifier, job: &JobId, _: WaitsFor) -> Result<(), ParkingError> {
        if let Some(of_user) = self.runs().get_mut(identifier) {
            of_user.remove(job);
        }
        Ok(())
    }

    async fn page(&self, identifier: &Identifier, from: Option<&PageCursor>) -> Result<ParkedPage, ParkingError> {
        let runs = self.runs();
        let last = from.and_then(|cursor| JobId::from_key(&cursor.0));
        let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = runs.get(identifier).into_iter().flat_map(|of_user| of_user.range((from, Bound::Unbounded)));
        let runs: Vec<Parked> = rest.take(PAGE).map(|(_, (parked, _))| parked.clone()).collect();
        let next = runs.last().filter(|_| runs.len() == PAGE).map(|parked| PageCursor(parked.job.key().to_owned()));
        Ok(ParkedPage { runs, next })
    }

    async fn find(&self, identifier: &Identifier, job: &JobId) -> Result<Option<Parked>, ParkingError> {
        let runs = self.runs();
        Ok(runs.get(identifier).and_then(|of_user| of_user.get(job)).map(|(parked, _)| parked.clone()))
    }

    async fn first(&self, waits_for: WaitsFor, most: usize) -> Result<Vec<(Identifier, JobId)>, ParkingError> {
        let runs = self.runs();
        let all = runs.iter().flat_map(|(identifier, of_user)| of_user.values().map(move |run| (identifier, run)));
        let mut waiting: Vec<_> = all.filter(|(_, (parked, _))| parked.waits_for == waits_for).collect();
        waiting.sort_by_key(|(_, (_, until))| *until);
        let named = waiting.into_iter().map(|(identifier, (parked, _))| (identifier.clone(), parked.job.clone()));
        Ok(named.take(most).collect())
    }

    async fn count(&self, waits_for: WaitsFor) -> Result<u64, ParkingError> {
        let runs = self.runs();
        let all = runs.values().flat_map(BTreeMap::values);
        Ok(all.filter(|(parked, _)| parked.waits_for == waits_for).count() as u64)
    }
}

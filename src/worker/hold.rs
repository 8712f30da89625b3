//! A run in a worker's hands: its state, its journal, and the right to go on with it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::interruption::Interruption;
use super::lease::Lease;
use crate::agent::event::{Entry, Event, Started};
use crate::agent::run::Run;
use crate::clock::SharedClock;
use crate::journal::JournalError;
use crate::retry::{Policy, Verdict, retry};

/// Appends that fail for want of the store are repeated for about a second; repeating the very same append is safe.
const APPEND: Policy =
    Policy { attempts: 5, initial_milliseconds: 100, max_milliseconds: 800, max_retry_after_milliseconds: 0 };

/// How long journals and leases last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// A lease not renewed for so long is free for others: how fast a dead worker is noticed.
    pub lease: Duration,
    /// An unfinished run's journal is kept so long after its last entry: longer than the longest wait for a user.
    pub unfinished: Duration,
    /// A delivered run's journal is kept so long: the time in which a repeated job gets the same reply again.
    pub delivered: Duration,
}

/// A run that this worker took.
pub struct Hold {
    lease: Arc<Lease>,
    clock: SharedClock,
    lifetimes: Lifetimes,
    run: Run,
}

impl Hold {
    /// A run as it stands in the journal.
    pub(super) fn new(lease: Arc<Lease>, clock: SharedClock, lifetimes: Lifetimes, run: Run) -> Self {
        Self { lease, clock, lifetimes, run }
    }

    /// Takes up a run that has no journal yet: the first entry is written before anything else happens.
    pub(super) async fn start(
        lease: Arc<Lease>,
        clock: SharedClock,
        lifetimes: Lifetimes,
        started: Started,
    ) -> Result<Self, Interruption> {
        let at = clock.now();
        let hold = Self::new(lease, clock, lifetimes, Run::start(started.clone(), at));
        hold.append(0, &[Entry::new(at, Event::Started(Box::new(started)))]).await?;
        Ok(hold)
    }

    /// The run's state.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The right to go on with it.
    pub(super) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The clock that entries are dated by.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Journals `events` in one step, then applies them.
    pub async fn record(&mut self, events: Vec<Event>) -> Result<(), Interruption> {
        let at = self.clock.now();
        let entries: Vec<Entry> = events.into_iter().map(|event| Entry::new(at, event)).collect();
        self.append(self.run.sequence(), &entries).await?;
        for entry in entries {
            debug!(job.id = %self.run.job().id(), event = entry.event.name(), "journalled");
            self.run.apply(entry).map_err(|error| Interruption::Damaged(error.to_string()))?;
        }
        Ok(())
    }

    /// Gives the run free at once, so that its next message does not have to wait for the lease to run out.
    pub async fn release(&self) {
        self.lease.release().await;
    }

    async fn append(&self, sequence: u64, entries: &[Entry]) -> Result<(), Interruption> {
        let lines: Vec<String> =
            entries.iter().map(|entry| serde_json::to_string(entry).expect("entries are JSON types only")).collect();
        let delivered = entries.iter().any(|entry| entry.event == Event::Delivered);
        let retain = if delivered { self.lifetimes.delivered } else { self.lifetimes.unfinished };
        let verdict = |error: &JournalError| match error {
            JournalError::Unavailable(_) => Verdict::Again,
            JournalError::OwnershipLost | JournalError::Lost => Verdict::Stop,
        };
        let notice = |error: &JournalError, attempt, _| {
            warn!(job.id = %self.run.job().id(), %error, attempt, "an append to the journal is repeated");
        };
        let append = || self.lease.append(sequence, &lines, retain);
        retry(APPEND, verdict, notice, append).await.map_err(Interruption::from)
    }
}

//! A run in a worker's hands: its state, its journal, and the right to go on with it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::interruption::Interruption;
use super::takeovers::Takeovers;
use crate::agent::event::{Entry, Event};
use crate::agent::run::Run;
use crate::clock::SharedClock;
use crate::job::JobId;
use crate::journal::{Append, Epoch, Journal, JournalError};
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
    journal: Arc<dyn Journal>,
    clock: SharedClock,
    lifetimes: Lifetimes,
    id: JobId,
    epoch: Epoch,
    run: Run,
}

impl Hold {
    /// A run as it stands in the journal under `epoch`.
    pub fn new(journal: Arc<dyn Journal>, clock: SharedClock, lifetimes: Lifetimes, epoch: Epoch, run: Run) -> Self {
        let id = run.job().id();
        Self { journal, clock, lifetimes, id, epoch, run }
    }

    /// Takes up a run that has no journal yet: the first entries are written before anything else happens.
    pub async fn start(
        journal: Arc<dyn Journal>,
        clock: SharedClock,
        lifetimes: Lifetimes,
        epoch: Epoch,
        first: Event,
    ) -> Result<Self, Interruption> {
        let Event::Started(started) = &first else { return Err(Interruption::OwnershipLost) };
        let at = clock.now();
        let run = Run::start((**started).clone(), at);
        let hold = Self::new(journal, clock, lifetimes, epoch, run);
        hold.append(0, &[Entry::new(at, first)]).await?;
        Ok(hold)
    }

    /// The run's state.
    pub fn run(&self) -> &Run {
        &self.run
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
            debug!(job.id = %self.id, event = entry.event.name(), "journalled");
            self.run.apply(entry).map_err(|error| Interruption::Damaged(error.to_string()))?;
        }
        Ok(())
    }

    /// Renews the lease for as long as it is polled; ready only when the run is lost. It borrows nothing, so that work on
    /// the run can go on beside it.
    pub fn keeper(&self, takeovers: &Takeovers) -> impl Future<Output = Interruption> + Send + use<> {
        let (journal, id, epoch, lease) = (self.journal.clone(), self.id.clone(), self.epoch, self.lifetimes.lease);
        let taken = takeovers.taken(self.id.clone(), self.epoch);
        async move {
            tokio::pin!(taken);
            loop {
                tokio::select! {
                    () = &mut taken => return Interruption::OwnershipLost,
                    () = tokio::time::sleep(lease / 3) => {}
                }
                match journal.renew(&id, epoch, lease).await {
                    Ok(()) => {}
                    // The store may come back before the lease ends; if not, the next append is refused.
                    Err(JournalError::Unavailable(error)) => {
                        warn!(job.id = %id, error, "the lease could not be renewed");
                    }
                    Err(error) => return error.into(),
                }
            }
        }
    }

    /// Gives the run free at once, so that its next message does not have to wait for the lease to run out.
    pub async fn release(&self) {
        if let Err(error) = self.journal.renew(&self.id, self.epoch, Duration::ZERO).await {
            debug!(job.id = %self.id, %error, "the lease could not be given back and runs out by itself");
        }
    }

    async fn append(&self, sequence: u64, entries: &[Entry]) -> Result<(), Interruption> {
        let lines: Vec<String> =
            entries.iter().map(|entry| serde_json::to_string(entry).expect("entries are JSON types only")).collect();
        let delivered = entries.iter().any(|entry| entry.event == Event::Delivered);
        let append = Append {
            epoch: self.epoch,
            sequence,
            entries: &lines,
            lease: self.lifetimes.lease,
            retain: if delivered { self.lifetimes.delivered } else { self.lifetimes.unfinished },
        };
        let verdict = |error: &JournalError| match error {
            JournalError::Unavailable(_) => Verdict::Again,
            JournalError::OwnershipLost | JournalError::Lost => Verdict::Stop,
        };
        let notice = |error: &JournalError, attempt, _| {
            warn!(job.id = %self.id, %error, attempt, "an append to the journal is repeated");
        };
        retry(APPEND, verdict, notice, || self.journal.append(&self.id, append)).await.map_err(Interruption::from)
    }
}

//! A run in a worker's hands: its state, its journal, and the right to go on with it.

use std::sync::Arc;

use tracing::{debug, warn};

use super::interruption::Interruption;
use super::lease::Lease;
use crate::agent::conclusion;
use crate::agent::event::{Entry, Event, Started};
use crate::agent::run::Run;
use crate::agent::turn::Conclusion;
use crate::clock::SharedClock;
use crate::journal::{JournalError, Remains};
use crate::reply::Reply;
use crate::retry::{Policy, RetryDecision, retry};
use crate::worker::rules::Lifetimes;

/// Appends that fail for want of the store are repeated for about a second; repeating the very same append is safe.
const APPEND: Policy =
    Policy { attempts: 5, initial_milliseconds: 100, max_milliseconds: 800, max_retry_after_milliseconds: 0 };

/// A run that this worker claimed.
pub(crate) struct LeasedRun {
    lease: Arc<Lease>,
    clock: SharedClock,
    lifetimes: Lifetimes,
    /// Boxed: it is moved from hand to hand.
    run: Box<Run>,
}

impl LeasedRun {
    /// A run as it stands in the journal.
    pub(crate) fn new(lease: Arc<Lease>, clock: SharedClock, lifetimes: Lifetimes, run: Run) -> Self {
        Self { lease, clock, lifetimes, run: Box::new(run) }
    }

    /// A run that has no journal yet: it and what is `first` are journalled in one step, before anything else happens.
    pub(crate) async fn start(
        lease: Arc<Lease>,
        clock: SharedClock,
        lifetimes: Lifetimes,
        started: Started,
        first: Vec<Event>,
    ) -> Result<Self, Interruption> {
        let at = clock.now();
        let mut leased = Self::new(lease, clock, lifetimes, Run::start(started.clone(), at));
        leased.run.check(&first).map_err(|error| Interruption::Illegal(error.to_string()))?;
        let events = [Event::Started(Box::new(started))].into_iter().chain(first);
        let mut entries: Vec<Entry> = events.map(|event| Entry::new(at, event)).collect();
        leased.append(0, &entries).await?;
        leased.apply(entries.split_off(1))?;
        Ok(leased)
    }

    /// The run's state.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// The right to go on with it.
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The clock that entries are dated by.
    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Proves that `events` may follow what happened before, journals them in one step, then applies them. What may not
    /// follow never reaches the journal.
    pub(crate) async fn record(&mut self, events: Vec<Event>) -> Result<(), Interruption> {
        self.run.check(&events).map_err(|error| Interruption::Illegal(error.to_string()))?;
        let at = self.clock.now();
        let entries: Vec<Entry> = events.into_iter().map(|event| Entry::new(at, event)).collect();
        self.append(self.run.sequence(), &entries).await?;
        self.apply(entries)
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Interruption> {
        for entry in entries {
            debug!(event = entry.event.name(), "journalled");
            self.run.apply(entry).map_err(|error| Interruption::Damaged(error.to_string()))?;
        }
        Ok(())
    }

    /// Journals `first` and the run's end in one step, so that none of them stands alone; returns the reply.
    pub(crate) async fn conclude(
        &mut self,
        first: Vec<Event>,
        conclusion: Conclusion,
    ) -> Result<Box<Reply>, Interruption> {
        let (at, mut after) = (self.clock.now(), Run::clone(&self.run));
        for event in &first {
            let applied = after.apply(Entry::new(at, event.clone()));
            applied.map_err(|error| Interruption::Illegal(error.to_string()))?;
        }
        let reply = Box::new(conclusion::reply(&after, conclusion, at));
        let mut events = first;
        events.push(Event::Finished(reply.clone()));
        self.record(events).await?;
        Ok(reply)
    }

    /// Journals that the run's reply is delivered, and gives the run free in the same step.
    pub(crate) async fn seal(&mut self) -> Result<(), Interruption> {
        self.lease.let_go();
        self.record(vec![Event::Delivered]).await
    }

    /// Gives the run free at once, so that its next message does not have to wait for the lease to run out.
    pub(crate) async fn release(&self) {
        self.lease.release().await;
    }

    async fn append(&self, sequence: u64, entries: &[Entry]) -> Result<(), Interruption> {
        let (lines, Lifetimes { unfinished, delivered, sealed, .. }) = (lines(entries), self.lifetimes);
        let end = entries.iter().find(|entry| entry.event == Event::Delivered);
        let remains = end.filter(|_| sealed > delivered).and_then(|end| self.run.remains(end.at));
        let retain = match (end, &remains) {
            (None, _) => unfinished,
            (Some(_), Some(_)) => delivered,
            (Some(_), None) => delivered.max(sealed),
        };
        let remains = remains.as_deref().map(self::lines);
        let remains = remains.as_deref().map(|entries| Remains { entries, retain: sealed });
        let decide = |error: &JournalError| match error {
            JournalError::Unavailable(_) => RetryDecision::Again,
            JournalError::OwnershipLost | JournalError::Lost => RetryDecision::Stop,
        };
        let notice = |error: &JournalError, attempt, _| warn!(%error, attempt, "an append to the journal is repeated");
        let append = || self.lease.append(sequence, &lines, retain, remains);
        retry(APPEND, decide, notice, append).await.map_err(Interruption::from)
    }
}

fn lines(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| serde_json::to_string(entry).expect("entries are JSON types only")).collect()
}

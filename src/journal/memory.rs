//! Journals in this process's memory, for the embedded mode: gone with the process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::{Append, Epoch, FORCED_RETENTION, IDLE_RETENTION, Journal, JournalError, Take, TakeMode};
use crate::clock::SharedClock;
use crate::job::JobId;

/// The journals of one process.
///
/// Holds a bounded number of runs. A new run that finds no room drops those whose time is over; where there are none,
/// it drops the one without a live lease that would expire first.
#[derive(Debug)]
pub struct MemoryJournal {
    clock: SharedClock,
    most_runs: usize,
    runs: Mutex<HashMap<JobId, Run>>,
}

#[derive(Debug)]
struct Run {
    epoch: Epoch,
    owner: String,
    lease_until: Timestamp,
    keep_until: Timestamp,
    forced_at: Option<Timestamp>,
    entries: Vec<String>,
}

impl MemoryJournal {
    /// Journals for up to `most_runs` runs at a time.
    pub fn new(clock: SharedClock, most_runs: usize) -> Self {
        Self { clock, most_runs, runs: Mutex::default() }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<JobId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(&self, runs: &mut HashMap<JobId, Run>, now: Timestamp) -> Result<(), JournalError> {
        if runs.len() < self.most_runs {
            return Ok(());
        }
        runs.retain(|_, run| run.keep_until > now);
        if runs.len() < self.most_runs {
            return Ok(());
        }
        let idle = runs.iter().filter(|(_, run)| run.lease_until <= now).min_by_key(|(_, run)| run.keep_until);
        let Some(idle) = idle.map(|(job, _)| job.clone()) else {
            return Err(JournalError::Unavailable(format!("{} runs are alive, no more fit", runs.len())));
        };
        runs.remove(&idle);
        Ok(())
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn take(&self, job: &JobId, owner: &str, lease: Duration, mode: TakeMode) -> Result<Take, JournalError> {
        let now = self.clock.now();
        let mut runs = self.runs();
        let present = runs.get(job).filter(|run| run.keep_until > now);
        if let Some(run) = present
            && mode == TakeMode::Polite
            && run.owner != owner
            && run.lease_until > now
        {
            let remaining = run.lease_until.duration_since(now).unsigned_abs();
            return Ok(Take::Held { owner: run.owner.clone(), remaining });
        }
        let lowest = present.map_or(0, |run| run.epoch.0 + 1);
        let epoch = Epoch(lowest.max(u64::try_from(now.as_millisecond()).unwrap_or(0)));
        if present.is_none() {
            runs.remove(job);
            self.make_room(&mut runs, now)?;
        }
        let run = runs.entry(job.clone()).or_insert_with(|| Run {
            epoch,
            owner: String::new(),
            lease_until: now,
            keep_until: now,
            forced_at: None,
            entries: Vec::new(),
        });
        run.epoch = epoch;
        run.forced_at = (mode == TakeMode::Force).then_some(now);
        owner.clone_into(&mut run.owner);
        run.lease(now, lease);
        Ok(Take::Taken { epoch, entries: run.entries.clone() })
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        let now = self.clock.now();
        let mut runs = self.runs();
        let run = owned(&mut runs, job, append.epoch, now)?;
        let sequence = usize::try_from(append.sequence).map_err(|_| JournalError::Lost)?;
        let Some(behind) = run.entries.get(sequence..) else {
            return Err(JournalError::Lost);
        };
        if behind.is_empty() {
            run.entries.extend_from_slice(append.entries);
        } else if behind != append.entries {
            return Err(JournalError::OwnershipLost);
        }
        run.lease_until = after(now, append.lease);
        run.keep_until = after(now, append.retain.max(append.lease));
        Ok(())
    }

    async fn renew(&self, job: &JobId, epoch: Epoch, lease: Duration) -> Result<(), JournalError> {
        let now = self.clock.now();
        owned(&mut self.runs(), job, epoch, now)?.lease(now, lease);
        Ok(())
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        Ok(runs.get(job).filter(|run| run.keep_until > now).map(|run| run.entries.clone()).unwrap_or_default())
    }

    async fn taken_by_force(&self) -> Result<HashMap<JobId, Epoch>, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        let forced = runs.iter().filter(|(_, run)| run.forced_at.is_some_and(|at| after(at, FORCED_RETENTION) > now));
        Ok(forced.map(|(job, run)| (job.clone(), run.epoch)).collect())
    }
}

impl Run {
    fn lease(&mut self, now: Timestamp, lease: Duration) {
        self.lease_until = after(now, lease);
        self.keep_until = self.keep_until.max(after(now, lease.saturating_add(IDLE_RETENTION)));
    }
}

fn owned<'a>(
    runs: &'a mut HashMap<JobId, Run>,
    job: &JobId,
    epoch: Epoch,
    now: Timestamp,
) -> Result<&'a mut Run, JournalError> {
    let run = runs.get_mut(job).filter(|run| run.keep_until > now).ok_or(JournalError::Lost)?;
    match run.epoch.cmp(&epoch) {
        std::cmp::Ordering::Equal => Ok(run),
        std::cmp::Ordering::Greater => Err(JournalError::OwnershipLost),
        std::cmp::Ordering::Less => Err(JournalError::Lost),
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    const LEASE: Duration = Duration::from_secs(30);

    fn job(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    async fn run_until(journal: &MemoryJournal, name: &str, retain: Duration) {
        let Take::Taken { epoch, .. } = journal.take(&job(name), "w", LEASE, TakeMode::Polite).await.unwrap() else {
            panic!("{name} is held");
        };
        let entries = [name.to_owned()];
        let append = Append { epoch, sequence: 0, entries: &entries, lease: Duration::ZERO, retain };
        journal.append(&job(name), append).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_journal_drops_expired_runs_then_the_one_nearest_to_its_end_and_never_a_live_one() {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let journal = MemoryJournal::new(clock.clone(), 2);
        run_until(&journal, "short", Duration::from_secs(10)).await;
        run_until(&journal, "long", Duration::from_secs(1000)).await;
        clock.advance(SignedDuration::from_secs(11));
        run_until(&journal, "longer", Duration::from_secs(2000)).await;
        assert_eq!(journal.read(&job("long")).await.unwrap(), ["long"]);

        journal.take(&job("live"), "w", LEASE, TakeMode::Polite).await.unwrap();
        assert_eq!(journal.read(&job("long")).await.unwrap(), Vec::<String>::new());
        assert_eq!(journal.read(&job("longer")).await.unwrap(), ["longer"]);

        journal.take(&job("longer"), "w", LEASE, TakeMode::Polite).await.unwrap();
        let refused = journal.take(&job("one more"), "w", LEASE, TakeMode::Force).await;
        assert!(matches!(refused, Err(JournalError::Unavailable(_))), "{refused:?}");
        assert_eq!(journal.runs().len(), 2);
    }

    #[tokio::test]
    async fn a_clock_that_goes_backwards_never_lowers_an_epoch() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let journal = MemoryJournal::new(clock.clone(), 2);
        let mut last = Epoch(0);
        for _ in 0..3 {
            let taken = journal.take(&job("a"), "w", LEASE, TakeMode::Polite).await.unwrap();
            let Take::Taken { epoch, .. } = taken else { panic!("{taken:?}") };
            assert!(epoch > last);
            last = epoch;
            clock.advance(SignedDuration::from_secs(-3600));
        }
    }
}

//! Journals in this process's memory, for the embedded mode: gone with the process.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::index::{FoundRun, Indexed, RunCursor, RunPage, RunQuery};
use super::{
    Announced, Append, Claim, ClaimMode, FencingToken, IDLE_RETENTION, Journal, JournalError, Remains, STOLEN_RETENTION,
};
use crate::clock::{SharedClock, after};
use crate::job::JobId;
use crate::standing::RunRow;

/// The journals of one process.
///
/// Holds a bounded number of runs. A new run that finds no room drops those whose time is over; where there are none,
/// it drops the one without a live lease that would expire first. Of what remains of runs it holds as much.
#[derive(Debug)]
pub struct MemoryJournal {
    clock: SharedClock,
    most_runs: usize,
    runs: Mutex<HashMap<JobId, Run>>,
    /// What remains of runs whose time is over.
    remains: Mutex<HashMap<JobId, Kept>>,
    /// Notes of jobs whose runs have not begun, and until when they are kept; as many as runs.
    notes: Mutex<HashMap<JobId, (String, Timestamp)>>,
}

#[derive(Debug)]
struct Run {
    token: FencingToken,
    owner: String,
    lease_until: Timestamp,
    keep_until: Timestamp,
    stolen_at: Option<Timestamp>,
    entries: Vec<String>,
    row: Option<RunRow>,
}

#[derive(Debug)]
struct Kept {
    entries: Vec<String>,
    row: Option<RunRow>,
    until: Timestamp,
}

impl MemoryJournal {
    /// Journals for up to `most_runs` runs at a time.
    pub fn new(clock: SharedClock, most_runs: usize) -> Self {
        Self { clock, most_runs, runs: Mutex::default(), remains: Mutex::default(), notes: Mutex::default() }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<JobId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<JobId, (String, Timestamp)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries of `run`, or what remains of it where there are none.
    fn entries(&self, job: &JobId, run: Option<&Run>, now: Timestamp) -> Vec<String> {
        if let Some(run) = run.filter(|run| !run.entries.is_empty()) {
            return run.entries.clone();
        }
        let remains = self.remains();
        let kept = remains.get(job).filter(|kept| kept.until > now);
        kept.map(|kept| kept.entries.clone()).unwrap_or_default()
    }

    fn remains(&self) -> MutexGuard<'_, HashMap<JobId, Kept>> {
        self.remains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_remains(&self, job: &JobId, kept: Remains<'_>, row: Option<RunRow>, now: Timestamp) {
        let mut remains = self.remains();
        if remains.len() >= self.most_runs && !remains.contains_key(job) {
            remains.retain(|_, kept| kept.until > now);
        }
        if remains.len() >= self.most_runs
            && !remains.contains_key(job)
            && let Some(first) = remains.iter().min_by_key(|(_, kept)| kept.until).map(|(job, _)| job.clone())
        {
            remains.remove(&first);
        }
        remains.insert(job.clone(), Kept { entries: kept.entries.to_vec(), row, until: after(now, kept.retain) });
    }

    /// The row of `run`, or of what remains of it where it is gone.
    fn row(&self, job: &JobId, run: Option<&Run>, now: Timestamp) -> Option<RunRow> {
        if let Some(run) = run.filter(|run| run.keep_until > now) {
            return run.row.clone();
        }
        self.remains().get(job).filter(|kept| kept.until > now).and_then(|kept| kept.row.clone())
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
    async fn claim(&self, job: &JobId, owner: &str, lease: Duration, mode: ClaimMode) -> Result<Claim, JournalError> {
        let now = self.clock.now();
        let mut runs = self.runs();
        let present = runs.get(job).filter(|run| run.keep_until > now);
        if let Some(run) = present
            && mode == ClaimMode::IfFree
            && run.owner != owner
            && run.lease_until > now
        {
            let remaining = run.lease_until.duration_since(now).unsigned_abs();
            return Ok(Claim::Held { owner: run.owner.clone(), remaining });
        }
        let lowest = present.map_or(0, |run| run.token.0 + 1);
        let token = FencingToken(lowest.max(u64::try_from(now.as_millisecond()).unwrap_or(0)));
        if present.is_none() {
            runs.remove(job);
            self.make_room(&mut runs, now)?;
        }
        let run = runs.entry(job.clone()).or_insert_with(|| Run {
            token,
            owner: String::new(),
            lease_until: now,
            keep_until: now,
            stolen_at: None,
            entries: Vec::new(),
            row: None,
        });
        run.token = token;
        run.stolen_at = (mode == ClaimMode::Steal).then_some(now);
        owner.clone_into(&mut run.owner);
        run.lease(now, lease);
        Ok(Claim::Granted { token, entries: self.entries(job, Some(run), now) })
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        let now = self.clock.now();
        let mut runs = self.runs();
        let run = owned(&mut runs, job, append.token, now)?;
        let sequence = usize::try_from(append.sequence).map_err(|_| JournalError::Lost)?;
        let Some(behind) = run.entries.get(sequence..) else {
            return Err(JournalError::Lost);
        };
        if behind.is_empty() {
            run.entries.extend_from_slice(append.entries);
            if sequence == 0 {
                self.notes().remove(job);
            }
        } else if behind != append.entries {
            return Err(JournalError::OwnershipLost);
        }
        run.lease_until = after(now, append.lease);
        run.keep_until = after(now, append.retain.max(append.lease));
        if let Some(indexed) = append.index {
            run.row = Some(row(job, &indexed));
        }
        if let Some(remains) = append.remains {
            self.keep_remains(job, remains, run.row.clone(), now);
        }
        Ok(())
    }

    async fn renew(&self, job: &JobId, token: FencingToken, lease: Duration) -> Result<(), JournalError> {
        let now = self.clock.now();
        owned(&mut self.runs(), job, token, now)?.lease(now, lease);
        Ok(())
    }

    async fn secure(&self, _: &JobId, _: FencingToken, _: u64, _: Duration) -> Result<(), JournalError> {
        // It survives as long as whoever asks.
        Ok(())
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        Ok(self.entries(job, runs.get(job).filter(|run| run.keep_until > now), now))
    }

    async fn length(&self, job: &JobId) -> Result<u64, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        Ok(runs.get(job).filter(|run| run.keep_until > now).map_or(0, |run| run.entries.len() as u64))
    }

    async fn announce(&self, job: &JobId, note: &str, retain: Duration) -> Result<Announced, JournalError> {
        if self.length(job).await? > 0 {
            return Ok(Announced::Begun);
        }
        let now = self.clock.now();
        let mut notes = self.notes();
        if notes.len() >= self.most_runs {
            notes.retain(|_, (_, until)| *until > now);
        }
        let mut until = after(now, retain);
        match notes.get(job).filter(|(_, until)| *until > now) {
            Some((kept, _)) if kept != note => return Ok(Announced::Other(kept.clone())),
            Some((_, present)) => until = until.max(*present),
            None if notes.len() >= self.most_runs => {
                return Err(JournalError::Unavailable(format!("{} jobs wait already", notes.len())));
            }
            None => {}
        }
        notes.insert(job.clone(), (note.to_owned(), until));
        Ok(Announced::Kept)
    }

    async fn announced(&self, job: &JobId) -> Result<Option<String>, JournalError> {
        let now = self.clock.now();
        Ok(self.notes().get(job).filter(|(_, until)| *until > now).map(|(note, _)| note.clone()))
    }

    async fn withdraw(&self, job: &JobId, note: &str, retain: Duration) -> Result<(), JournalError> {
        let until = after(self.clock.now(), retain);
        let mut notes = self.notes();
        if notes.get(job).is_some_and(|(kept, kept_until)| kept == note && *kept_until <= until) {
            notes.remove(job);
        }
        Ok(())
    }

    async fn find(&self, job: &JobId) -> Result<Option<FoundRun>, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        Ok(self.row(job, runs.get(job), now).map(FoundRun::Certain))
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        let over: Vec<JobId> = self.remains().keys().filter(|job| !runs.contains_key(job)).cloned().collect();
        let all = runs.keys().chain(&over).filter_map(|job| self.row(job, runs.get(job), now));
        let behind = |row: &RunRow| query.cursor.as_ref().is_none_or(|cursor| RunCursor::of(row) < *cursor);
        let mut rows: Vec<RunRow> = all.filter(|row| query.wants(row) && behind(row)).collect();
        rows.sort_by_cached_key(|row| Reverse(RunCursor::of(row)));
        let more = rows.len() > query.rows();
        rows.truncate(query.rows());
        let next = rows.last().filter(|_| more).map(RunCursor::of);
        Ok(RunPage { runs: rows.into_iter().map(FoundRun::Certain).collect(), next })
    }

    async fn now(&self) -> Result<Timestamp, JournalError> {
        Ok(self.clock.now())
    }

    async fn stolen(&self) -> Result<HashMap<JobId, FencingToken>, JournalError> {
        let now = self.clock.now();
        let runs = self.runs();
        let stolen = runs.iter().filter(|(_, run)| run.stolen_at.is_some_and(|at| after(at, STOLEN_RETENTION) > now));
        Ok(stolen.map(|(job, run)| (job.clone(), run.token)).collect())
    }
}

impl Run {
    fn lease(&mut self, now: Timestamp, lease: Duration) {
        self.lease_until = after(now, lease);
        self.keep_until = self.keep_until.max(after(now, lease.saturating_add(IDLE_RETENTION)));
    }
}

/// To the millisecond, as every store has it.
fn row(job: &JobId, indexed: &Indexed<'_>) -> RunRow {
    let at = Timestamp::from_millisecond(indexed.since.as_millisecond()).unwrap_or(indexed.since);
    RunRow { id: job.clone(), identifier: indexed.identifier.clone(), state: indexed.state, at }
}

fn owned<'a>(
    runs: &'a mut HashMap<JobId, Run>,
    job: &JobId,
    token: FencingToken,
    now: Timestamp,
) -> Result<&'a mut Run, JournalError> {
    let run = runs.get_mut(job).filter(|run| run.keep_until > now).ok_or(JournalError::Lost)?;
    match run.token.cmp(&token) {
        std::cmp::Ordering::Equal => Ok(run),
        std::cmp::Ordering::Greater => Err(JournalError::OwnershipLost),
        std::cmp::Ordering::Less => Err(JournalError::Lost),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    const LEASE: Duration = Duration::from_secs(30);

    fn job(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    async fn run_until(journal: &MemoryJournal, name: &str, retain: Duration) {
        let Claim::Granted { token, .. } = journal.claim(&job(name), "w", LEASE, ClaimMode::IfFree).await.unwrap()
        else {
            panic!("{name} is held");
        };
        let entries = [name.to_owned()];
        let append =
            Append { token, sequence: 0, entries: &entries, lease: Duration::ZERO, retain, remains: None, index: None };
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

        journal.claim(&job("live"), "w", LEASE, ClaimMode::IfFree).await.unwrap();
        assert_eq!(journal.read(&job("long")).await.unwrap(), Vec::<String>::new());
        assert_eq!(journal.read(&job("longer")).await.unwrap(), ["longer"]);

        journal.claim(&job("longer"), "w", LEASE, ClaimMode::IfFree).await.unwrap();
        let refused = journal.claim(&job("one more"), "w", LEASE, ClaimMode::Steal).await;
        assert!(matches!(refused, Err(JournalError::Unavailable(_))), "{refused:?}");
        assert_eq!(journal.runs().len(), 2);
    }

    #[tokio::test]
    async fn a_clock_that_goes_backwards_never_lowers_an_epoch() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let journal = MemoryJournal::new(clock.clone(), 2);
        let mut last = FencingToken(0);
        for _ in 0..3 {
            let taken = journal.claim(&job("a"), "w", LEASE, ClaimMode::IfFree).await.unwrap();
            let Claim::Granted { token, .. } = taken else { panic!("{taken:?}") };
            assert!(token > last);
            last = token;
            clock.advance(SignedDuration::from_secs(-3600));
        }
    }
}

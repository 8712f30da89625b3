//! One occurrence of one group of recipients: claim a part, publish its jobs, note it, until nothing due is left.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::SignedDuration;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Scheduler;
use super::digest::Overlap;
use super::groups::{Group, Planned};
use super::occurrence::Occurrence;
use super::plan::portion_of;
use super::recipients::{Recipient, Recipients, SourceError};
use crate::audit::Unrecorded;
use crate::digest_store::{Firing, LeaseHolder, Memory, StoreError};
use crate::job::Job;
use crate::queue::{Destination, Message, QueueError};

/// Recipients that are looked up and noted together.
pub(super) const BATCH: usize = 256;
/// Publishes that wait for their confirm at the same time; the publisher has its own bound below.
const IN_FLIGHT: usize = 32;
/// A claim takes this fraction of a firing's parts, so that several replicas get some.
const SHARE: u32 = 8;
/// A job that was published and has not ended after this time is not taken for running any more: it waits for a user a day
/// at most and works for hours at most, so its end was not noted.
const RUNNING_AT_MOST: SignedDuration = SignedDuration::from_hours(48);
/// A job waits for its user until shortly before the next occurrence asks again: nine tenths of the time.
const WAIT_TENTHS: i32 = 9;

/// Why a firing stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum FireError {
    /// The broker does not take jobs.
    #[error("jobs cannot be published: {0}")]
    Queue(#[from] QueueError),
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The recipients cannot be read.
    #[error("recipients cannot be read: {0}")]
    Source(#[from] SourceError),
    /// The store has lost everything and must be told before anything else is fired.
    #[error("the store has lost everything")]
    Forgotten,
    /// The scheduler was told to stop.
    #[error("stopped")]
    Stopped,
    /// The audit record did not take its line.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

/// What became of a firing's recipients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that the broker confirmed.
    pub published: u64,
    /// Recipients whose last job still runs, or whose job cannot be made.
    pub skipped: u64,
    /// Recipients that had their job already.
    pub duplicates: u64,
}

impl Scheduler {
    /// Fires the first `due` parts of `occurrence`; answers how long others hold some of them.
    pub(super) async fn fire(
        &self,
        planned: &Planned,
        group: &Group,
        occurrence: Occurrence,
        due: u32,
    ) -> Result<Option<Duration>, FireError> {
        let digest = &planned.digest;
        let firing =
            Firing { digest: &digest.name, group: group.schedule.key(), at: occurrence.at, portions: digest.portions };
        let share = digest.portions.div_ceil(SHARE) as usize;
        let mut total = Counts::default();
        let began = Instant::now();
        loop {
            let claim = self.store.claim(firing, due, share, &self.rules.owner, self.rules.lease).await?;
            let holder = LeaseHolder { owner: &self.rules.owner, lease: self.rules.lease, portions: &claim.portions };
            if planned.recollection().contradicts(claim.born) {
                self.store.settle(firing, holder, false).await?;
                return Err(FireError::Forgotten);
            }
            if claim.portions.is_empty() {
                if claim.held_for.is_none() {
                    planned.recollection().finished(firing, 0..due);
                }
                if total != Counts::default() {
                    info!(
                        digest = digest.name,
                        local = %occurrence.local,
                        published = total.published,
                        skipped = total.skipped,
                        duplicates = total.duplicates,
                        jobs_per_second = a_second(total.published, began.elapsed()),
                        "digest fired"
                    );
                }
                return Ok(claim.held_for);
            }
            let pass = Pass { scheduler: self, planned, group, occurrence, firing, holder };
            match pass.run().await {
                Ok(counts) => {
                    total.published += counts.published;
                    total.skipped += counts.skipped;
                    total.duplicates += counts.duplicates;
                    planned.recollection().finished(firing, claim.portions.iter().copied());
                    self.store.settle(firing, holder, true).await?;
                }
                Err(error) => {
                    if let Err(error) = self.store.settle(firing, holder, false).await {
                        warn!(digest = digest.name, %error, "claims could not be given back and run out by themselves");
                    }
                    return Err(error);
                }
            }
        }
    }

    pub(super) async fn publish_all(&self, jobs: Vec<(String, Job)>) -> Sent {
        let now = self.clock.now();
        let mut sent = Sent::default();
        let publishes = jobs.into_iter().map(|(name, job)| async move {
            let result = self.publisher.publish(&Destination::Jobs, Message::of_job(&job, Some(now))).await;
            (name, result)
        });
        let mut results = futures_util::stream::iter(publishes).buffer_unordered(IN_FLIGHT);
        while let Some((name, result)) = results.next().await {
            match result {
                Ok(_) => sent.published.push(name),
                Err(error @ QueueError::TooLarge { .. }) => {
                    error!(%error, "a digest's job is too large");
                    sent.refused.push(name);
                }
                Err(error) => sent.error = Some(error),
            }
        }
        sent
    }
}

/// What became of a batch; each job is in one place, or was not confirmed.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) published: Vec<String>,
    pub(super) refused: Vec<String>,
    pub(super) error: Option<QueueError>,
}

/// One reading of all recipients for the parts that were claimed.
struct Pass<'a> {
    scheduler: &'a Scheduler,
    planned: &'a Planned,
    group: &'a Group,
    occurrence: Occurrence,
    firing: Firing<'a>,
    holder: LeaseHolder<'a>,
}

impl Pass<'_> {
    async fn run(&self) -> Result<Counts, FireError> {
        let digest = &self.planned.digest;
        let portions: BTreeSet<u32> = self.holder.portions.iter().copied().collect();
        let mut counts = Counts::default();
        let mut recipients = Recipients::open(&digest.recipients, &*self.scheduler.store).await?;
        let mut batch: Vec<Recipient> = Vec::new();
        while let Some(next) = recipients.next().await? {
            // Those that cannot be read were named when the groups were made.
            let Ok(recipient) = next else { continue };
            let ours = portions.contains(&portion_of(recipient.identifier.as_str(), digest.portions))
                && self.group.has(&recipient)
                && !batch.iter().any(|other| other.identifier == recipient.identifier);
            if !ours {
                continue;
            }
            batch.push(recipient);
            if batch.len() == BATCH {
                self.batch(std::mem::take(&mut batch), &mut counts).await?;
            }
        }
        self.batch(batch, &mut counts).await?;
        Ok(counts)
    }

    async fn batch(&self, batch: Vec<Recipient>, counts: &mut Counts) -> Result<(), FireError> {
        let (scheduler, digest) = (self.scheduler, &self.planned.digest);
        if batch.is_empty() {
            return Ok(());
        }
        if scheduler.stop.is_cancelled() {
            return Err(FireError::Stopped);
        }
        let names: Vec<&str> = batch.iter().map(|recipient| recipient.identifier.as_str()).collect();
        let memories = scheduler.store.recall(&digest.name, &names).await?;
        let mut jobs = Vec::new();
        let mut skipped = Vec::new();
        for (recipient, memory) in batch.iter().zip(memories) {
            let name = recipient.identifier.as_str();
            if memory.fired == Some(self.occurrence.at) {
                counts.duplicates += 1;
                self.counted("duplicate");
            } else if digest.overlap == Overlap::Skip && self.still_runs(memory) {
                info!(digest = digest.name, "the last job still runs; a recipient is left out this time");
                skipped.push(name.to_owned());
            } else {
                match self.job(recipient, memory) {
                    Ok(job) => jobs.push((name.to_owned(), job)),
                    Err(problem) => {
                        warn!(digest = digest.name, problem, "recipient left out");
                        skipped.push(name.to_owned());
                    }
                }
            }
        }
        let sent = scheduler.publish_all(jobs).await;
        skipped.extend(sent.refused);
        let published: Vec<&str> = sent.published.iter().map(String::as_str).collect();
        let skipped: Vec<&str> = skipped.iter().map(String::as_str).collect();
        if !published.is_empty() || !skipped.is_empty() {
            scheduler.store.note(self.firing, &published, &skipped, self.holder).await?;
        }
        counts.published += published.len() as u64;
        counts.skipped += skipped.len() as u64;
        for _ in &published {
            self.counted("published");
        }
        for _ in &skipped {
            self.counted("skipped");
        }
        sent.error.map_or(Ok(()), |error| Err(error.into()))
    }

    fn job(&self, recipient: &Recipient, memory: Memory) -> Result<Job, String> {
        let schedule = &self.group.schedule;
        let at = self.occurrence.at;
        let last = memory.success.filter(|success| *success < at);
        let since = last.or_else(|| schedule.before(self.occurrence).map(|before| before.at)).unwrap_or(at);
        let until_next = schedule.next_after(at).map(|next| next.at.duration_since(at) / 10 * WAIT_TENTHS);
        let most = self.scheduler.rules.authorization_wait;
        let wait = until_next.and_then(|wait| Duration::try_from(wait).ok()).map_or(most, |wait| wait.min(most));
        self.planned.digest.job(recipient, schedule, self.occurrence, since, wait)
    }

    fn still_runs(&self, memory: Memory) -> bool {
        let at = self.occurrence.at;
        memory.running.is_some_and(|running| running < at && at.duration_since(running) <= RUNNING_AT_MOST)
    }

    fn counted(&self, result: &'static str) {
        self.scheduler.metrics.digest_fired(&self.planned.digest.name, result);
    }
}

fn a_second(count: u64, elapsed: Duration) -> u64 {
    count * 1000 / u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1)
}

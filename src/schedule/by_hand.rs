//! What a person does to a digest: fires it outside its schedule, keeps it from firing, lets it fire again. Each has its line in
//! the audit record before it is done.

use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::Scheduler;
use super::digest::Digest;
use super::firing::{BATCH, Counts, FireError};
use super::recipients::{Recipient, Recipients};
use crate::audit::{Audit, AuditEvent, AuditRecord, Unrecorded, Unwritten};
use crate::digest_store::{DigestStore, Hold, Memory, StoreError};
use crate::job::Job;

/// Why a digest is not held or let go.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit record did not take its line.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

/// Keeps a digest from firing, in all workers and over restarts.
pub async fn pause(
    digest: &Digest,
    store: &dyn DigestStore,
    audit: &Audit,
    now: Timestamp,
    by: &str,
) -> Result<(), HoldError> {
    record(digest, AuditEvent::DigestPaused, audit, now, by).await?;
    Ok(store.hold(&digest.name, Hold::Pause, now).await?)
}

/// Lets a digest fire again, from now on.
pub async fn resume(
    digest: &Digest,
    store: &dyn DigestStore,
    audit: &Audit,
    now: Timestamp,
    by: &str,
) -> Result<(), HoldError> {
    record(digest, AuditEvent::DigestResumed, audit, now, by).await?;
    Ok(store.hold(&digest.name, Hold::Resume, now).await?)
}

async fn record(digest: &Digest, event: AuditEvent, audit: &Audit, now: Timestamp, by: &str) -> Result<(), Unrecorded> {
    let line = AuditRecord { digest: Some(digest.name.clone()), ..AuditRecord::of_operator(now, event, by) };
    audit.record(vec![line], Unwritten::Drop).await
}

impl Scheduler {
    /// Publishes a job outside the schedule for each recipient, or for one; `mark` makes the ids, so the same mark never
    /// runs a recipient's job twice. `by` is who wants it.
    pub async fn fire_now(
        &self,
        digest: &Digest,
        only: Option<&str>,
        mark: &str,
        by: &str,
    ) -> Result<Counts, FireError> {
        let now = self.clock.now();
        let line = AuditRecord {
            digest: Some(digest.name.clone()),
            identifier: only.map(str::to_owned),
            ..AuditRecord::of_operator(now, AuditEvent::DigestRun, by)
        };
        self.audit.record(vec![line], Unwritten::Drop).await?;
        let mut counts = Counts::default();
        let mut recipients = Recipients::open(&digest.recipients, &*self.store).await?;
        let mut batch = Vec::new();
        loop {
            let next = recipients.next().await?;
            let ended = next.is_none();
            match next {
                Some(Ok(recipient)) if only.is_none_or(|only| only == recipient.identifier.as_str()) => {
                    batch.push(recipient);
                }
                Some(Err(bad)) => warn!(digest = digest.name, %bad, "recipient left out"),
                _ => {}
            }
            if batch.len() == BATCH || ended {
                let names: Vec<&str> = batch.iter().map(|recipient| recipient.identifier.as_str()).collect();
                let memories = self.store.recall(&digest.name, &names).await?;
                let mut jobs = Vec::new();
                for (recipient, memory) in batch.drain(..).zip(memories) {
                    match extra_job(digest, &recipient, memory, now, self.rules.authorization_wait, mark) {
                        Ok(job) => jobs.push((recipient.identifier.as_str().to_owned(), job)),
                        Err(problem) => {
                            warn!(digest = digest.name, problem, "recipient left out");
                            counts.skipped += 1;
                        }
                    }
                }
                let sent = self.publish_all(jobs).await;
                counts.published += sent.published.len() as u64;
                counts.skipped += sent.refused.len() as u64;
                if let Some(error) = sent.error {
                    return Err(error.into());
                }
            }
            if ended {
                return Ok(counts);
            }
        }
    }
}

fn extra_job(
    digest: &Digest,
    recipient: &Recipient,
    memory: Memory,
    now: Timestamp,
    wait: Duration,
    mark: &str,
) -> Result<Job, String> {
    let schedule = digest.schedule_of(recipient)?;
    let since = memory.success.or_else(|| schedule.latest_until(now).map(|last| last.at)).unwrap_or(now);
    digest.extra_job(recipient, &schedule, now, since, wait, mark)
}

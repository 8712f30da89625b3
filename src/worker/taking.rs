//! Taking a run: patiently while the journal is away, and with an eye for a journal that lost its data.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Lifetimes;
use super::wake_up::WakeUp;
use crate::job::JobId;
use crate::journal::{Append, JournalError, Take, TakeMode};

/// First and longest wait for a journal that is away. The delivery and its place are kept meanwhile, so a journal that is
/// down slows the worker to a halt instead of sending every message round and round.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// The mark is kept for longer than any journal.
const MARK_KEPT: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Worker {
    /// Takes the run of `job`, or waits for the journal until it can, and says when it asked; `None` when the worker stops
    /// first, or the delivery has been held for as long as it should be.
    pub(super) async fn take(&self, job: &JobId, charge: &Charge) -> Option<(Instant, Take)> {
        // Each attempt is an owner of its own: a redelivery to the very process that still works on the run must find it
        // taken, too.
        let owner = format!("{}/{}", self.rules.name, self.attempts.fetch_add(1, Ordering::Relaxed));
        let trying = async {
            let mut wait = PATIENCE.0;
            loop {
                let asked = Instant::now();
                match self.journal.take(job, &owner, self.rules.lifetimes.lease, TakeMode::Polite).await {
                    Ok(take) => return (asked, take),
                    // Said once a job: a hundred jobs that wait for an hour must not fill the log.
                    Err(error) if wait == PATIENCE.0 => warn!(job.id = %job, %error, "the job waits for the journal"),
                    Err(error) => debug!(job.id = %job, %error, "the job waits on for the journal"),
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PATIENCE.1);
            }
        };
        tokio::select! {
            take = trying => Some(take),
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep_until(charge.due()) => None,
        }
    }

    /// Whether a run without a journal had one before: its wake-up says so, or it was delivered before and the journal's
    /// whole data is younger than the job.
    pub(super) async fn journal_was_lost(&self, charge: &Charge) -> bool {
        if WakeUp::of(&charge.message).is_some_and(|wake_up| wake_up.turn > 0 || wake_up.met) {
            return true;
        }
        if !charge.redelivered {
            return false;
        }
        let (published, now) = (charge.message.properties.timestamp, self.clock.now());
        self.data_began().await.is_some_and(|began| is_younger(began, published, now, self.rules.hold_at_most))
    }

    /// When the journal's data began: read from a mark of our own, which is made where it is missing.
    pub(super) async fn data_began(&self) -> Option<Timestamp> {
        let mark = JobId::internal("data-began");
        if let Ok(lines) = self.journal.read(&mark).await
            && let Some(line) = lines.first()
        {
            return serde_json::from_str::<Mark>(line).ok().map(|mark| mark.began);
        }
        let began = self.clock.now();
        match self.make_mark(&mark, began).await {
            Ok(()) => {
                info!(%began, "the journal is empty: its data begins now");
                Some(began)
            }
            Err(error) => {
                warn!(%error, "the beginning of the journal's data could not be marked");
                None
            }
        }
    }

    async fn make_mark(&self, mark: &JobId, began: Timestamp) -> Result<(), JournalError> {
        let Lifetimes { lease, .. } = self.rules.lifetimes;
        let taken = self.journal.take(mark, &self.rules.name, lease, TakeMode::Polite).await?;
        // Somebody else is just making it, or has made it.
        let Take::Taken { epoch, entries } = taken else { return Ok(()) };
        if entries.is_empty() {
            let line = serde_json::to_string(&Mark { began }).expect("a time prints");
            let append = Append { epoch, sequence: 0, entries: &[line], lease, retain: MARK_KEPT };
            self.journal.append(mark, append).await?;
        }
        self.journal.renew(mark, epoch, Duration::ZERO).await
    }
}

/// Whether the data that `began` then is younger than the time at which a redelivered message was in a worker's hands
/// before: after it was `published`. Where it does not say so, that is as long ago as a delivery is held at most.
fn is_younger(began: Timestamp, published: Option<Timestamp>, now: Timestamp, held_at_most: Duration) -> bool {
    let held_at_most = SignedDuration::try_from(held_at_most).unwrap_or(SignedDuration::MAX);
    let since = published.unwrap_or_else(|| now.saturating_sub(held_at_most).unwrap_or(Timestamp::MIN));
    // AMQP timestamps are cut to the second.
    began.as_second() > since.as_second() + 1
}

/// The one line of the mark's journal.
#[derive(serde::Serialize, serde::Deserialize)]
struct Mark {
    began: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_is_younger_than_the_job_was_lost_in_between() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let hold = Duration::from_secs(900);
        assert!(is_younger(at(100), Some(at(0)), at(110), hold));
        assert!(!is_younger(at(0), Some(at(100)), at(110), hold));
        assert!(!is_younger(at(1), Some(at(0)), at(110), hold), "a timestamp is cut to the second");
        assert!(is_younger(at(100), None, at(110), hold), "somebody may have had it before that");
        assert!(!is_younger(at(0), None, at(1000), hold), "no delivery is held for so long");
    }
}

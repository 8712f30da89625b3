//! An eye for a journal that lost its data.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::Intake;
use crate::job::{Job, JobId};
use crate::journal::{Append, Claim, ClaimMode, JournalError};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::{AfterLoss, Lifetimes};
use crate::worker::run::leased_run::LeasedRun;
use crate::worker::settle::disposition::{Deferral, unjournalled};

/// The mark is kept for longer than any journal.
const MARK_KEPT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A message without a journal waits for its owner so long beyond the lease: what that has to say comes after
/// [`crate::worker::settle::disposition::JOURNAL_WAIT`].
const ORPHAN_WAIT: Duration = Duration::from_secs(10);

impl Intake {
    /// Decides at once about a run of ours whose journal turned out to be gone, or shorter than it was, as its message would
    /// after a while: nobody knows better what it did, and another message of it that knew less would go on with what is left.
    pub(super) fn decide_anew<'a>(
        &'a self,
        run: LeasedRun,
        job: &'a Arc<Job>,
        mut delivery: InFlightDelivery,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let generation = run.run().wake_up_generation().max(delivery.generation()).max(1);
            let knows = run.wake_up(generation, Reason::JournalLost).knowing(delivery.wake_up());
            // A store that loses what it was just told is given time.
            let again = delivery.wake_up().is_some_and(|wake_up| wake_up.reason == Reason::JournalLost);
            let left = if again { Ok(None) } else { run.lease().claim_again().await };
            if let Ok(Some((lease, lines))) = left {
                drop(run);
                delivery.learn(Some(knows));
                return self.go_on_while_ours(lease, &lines, job, delivery, None).await;
            }
            if let Err(error) = left {
                warn!(%error, "what is left of the run's journal waits for its message");
            }
            self.settler.settle_run(delivery, job, run, unjournalled(Reason::JournalLost)).await;
        })
    }

    pub(super) fn say_journal_lost(&self, delivery: &InFlightDelivery) {
        let effects = delivery.wake_up().is_some_and(|wake_up| wake_up.effects);
        self.metrics.journal_lost();
        warn!(
            effects,
            restarts = self.rules.after_loss == AfterLoss::Restart,
            "the journal of the run is gone: the store lost its data"
        );
    }

    /// Whether a run that was alive elsewhere when this message came last has no journal any more. Who has it knows what
    /// it did, and says so once it finds the journal gone: a claimant would know less.
    pub(super) async fn is_orphaned(&self, job: &Job, wake_up: &WakeUp) -> bool {
        let was_alive = wake_up.saw_live_owner || wake_up.reason == Reason::Continue;
        let said_already = [Reason::JournalLost, Reason::Orphaned].contains(&wake_up.reason);
        was_alive && !said_already && self.journal.read(&job.id()).await.is_ok_and(|lines| lines.is_empty())
    }

    /// The owner is given time.
    pub(super) fn wait_for_owner(&self, wake_up: &WakeUp) -> Deferral {
        Deferral::saying(self.orphan_wait(), WakeUp { reason: Reason::Orphaned, ..wake_up.clone() })
    }

    /// How long the owner of a run without a journal is given.
    pub(super) fn orphan_wait(&self) -> Duration {
        self.rules.lifetimes.lease + ORPHAN_WAIT
    }

    /// Whether a run without a journal had one before: its wake-up says so, or it was delivered before and the journal's
    /// whole data is younger than the job, or may be.
    pub(super) async fn journal_was_lost(&self, delivery: &InFlightDelivery) -> bool {
        if delivery.wake_up().is_some_and(|wake_up| wake_up.generation > 0 || wake_up.saw_live_owner) {
            return true;
        }
        if !delivery.was_redelivered() {
            return false;
        }
        let (published, now) = (delivery.message().properties.timestamp, self.clock.now());
        self.data_began().await.is_none_or(|began| is_younger(began, published, now, self.rules.hold_at_most))
    }

    /// When the journal's data began: read from a mark of our own, which is made where it is missing.
    pub(crate) async fn data_began(&self) -> Option<Timestamp> {
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
        let claim = self.journal.claim(mark, &self.rules.name, lease, ClaimMode::IfFree).await?;
        // Somebody else is just making it, or has made it.
        let Claim::Granted { token, entries } = claim else { return Ok(()) };
        if entries.is_empty() {
            let line = serde_json::to_string(&Mark { began }).expect("a time prints");
            let entries = &[line];
            let append = Append { token, sequence: 0, entries, lease, retain: MARK_KEPT, remains: None, index: None };
            self.journal.append(mark, append).await?;
        }
        self.journal.renew(mark, token, Duration::ZERO).await
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

//! An eye for a journal that lost its data.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::Intake;
use super::decide::Found;
use crate::job::{Job, JobId};
use crate::journal::{Append, Claim, ClaimMode, JournalError};
use crate::retry::{Policy, RetryDecision, retry_until};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::Lifetimes;
use crate::worker::settle::disposition::Deferral;

/// The mark is kept for longer than any journal.
const MARK_KEPT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Who finds another worker at the mark looks again: that one needs as long as two commands.
const MARKING: Policy =
    Policy { attempts: 6, initial_milliseconds: 50, max_milliseconds: 1000, max_retry_after_milliseconds: 0 };
/// A message without a journal waits for its owner so long beyond the lease: what that has to say comes after
/// [`crate::worker::settle::disposition::JOURNAL_WAIT`].
const ORPHAN_WAIT: Duration = Duration::from_secs(10);

impl Intake {
    /// Whether a run that was alive elsewhere when this message came last has no journal any more. Who has it knows what
    /// it did, and says so once it finds the journal gone: a claimant would know less.
    pub(super) async fn is_orphaned(&self, job: &Job, wake_up: &WakeUp) -> bool {
        let was_alive = wake_up.saw_live_owner || wake_up.reason == Reason::Continue;
        let said_already = [Reason::JournalLost, Reason::Orphaned].contains(&wake_up.reason);
        was_alive && !said_already && self.journal.read(&job.id()).await.is_ok_and(|lines| lines.is_empty())
    }

    /// The owner is given time.
    pub(super) async fn wait_for_owner(&self, wake_up: &WakeUp) -> Deferral {
        let data_began = self.data_began().await;
        Deferral::saying(self.orphan_wait(), WakeUp { reason: Reason::Orphaned, data_began, ..wake_up.clone() })
    }

    /// How long the owner of a run without a journal is given.
    pub(super) fn orphan_wait(&self) -> Duration {
        self.rules.lifetimes.lease + ORPHAN_WAIT
    }

    /// What is known of a run without a journal: it had one before where its wake-up says so, or where it was delivered
    /// before and the journal's whole data is younger than the job, or may be.
    pub(super) async fn no_journal(&self, delivery: &InFlightDelivery) -> Found<'static> {
        let is_known = delivery.wake_up().is_some_and(|wake_up| wake_up.generation > 0 || wake_up.saw_live_owner);
        if !is_known && !delivery.was_redelivered() {
            return Found::NoJournal { lost: false, data_began: None };
        }
        let (published, now) = (delivery.message().properties.timestamp, self.clock.now());
        let data_began = self.data_began().await;
        let is_younger = |began| is_younger(began, published, now, self.rules.hold_at_most);
        Found::NoJournal { lost: is_known || data_began.is_none_or(is_younger), data_began }
    }

    /// When the journal's data began, the same for every worker: read from a mark of our own, which is made where it is
    /// missing. `None` where the journal does not answer.
    pub(crate) async fn data_began(&self) -> Option<Timestamp> {
        let mark = JobId::internal("data-began");
        let decide = |error: &NoMark| match error {
            NoMark::BeingMade => RetryDecision::Again,
            NoMark::Damaged | NoMark::Journal(_) => RetryDecision::Stop,
        };
        let made = retry_until(self.stop.cancelled(), MARKING, decide, |_, _, _| {}, || self.read_or_make(&mark)).await;
        made.inspect_err(|error| warn!(%error, "it is not known when the journal's data began")).ok()
    }

    async fn read_or_make(&self, mark: &JobId) -> Result<Timestamp, NoMark> {
        if let Some(line) = self.journal.read(mark).await?.first() {
            return serde_json::from_str::<Mark>(line).map(|mark| mark.began).map_err(|_| NoMark::Damaged);
        }
        let Lifetimes { lease, .. } = self.rules.lifetimes;
        let owner = format!("{}/{}", self.rules.name, self.claims.fetch_add(1, Ordering::Relaxed));
        let claim = self.journal.claim(mark, &owner, lease, ClaimMode::IfFree).await?;
        let Claim::Granted { token, entries } = claim else { return Err(NoMark::BeingMade) };
        if !entries.is_empty() {
            self.journal.renew(mark, token, Duration::ZERO).await?;
            return Err(NoMark::BeingMade);
        }
        let began = self.clock.now();
        let line = serde_json::to_string(&Mark { began }).expect("a time prints");
        let append = Append { token, sequence: 0, entries: &[line], lease, retain: MARK_KEPT, remains: None };
        self.journal.append(mark, append).await?;
        info!(%began, "the journal is empty: its data begins now");
        self.journal.renew(mark, token, Duration::ZERO).await?;
        Ok(began)
    }
}

/// Why there is no mark.
#[derive(Debug, thiserror::Error)]
enum NoMark {
    /// Another worker is about to make it, or just has.
    #[error("another worker is just marking it")]
    BeingMade,
    #[error("the mark cannot be read")]
    Damaged,
    #[error(transparent)]
    Journal(#[from] JournalError),
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

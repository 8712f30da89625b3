//! Looking whether a parked run can go on, without claiming it and without a word in its journal.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use super::Intake;
use super::decide::WEBHOOK_BUSY;
use crate::agent::run::{BadJournal, Run, Step};
use crate::clock::milliseconds_between;
use crate::job::Job;
use crate::scalekit::AccountStatus;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, Trust, WakeUp};
use crate::worker::resources::accounts::Accepted;
use crate::worker::run::check_accounts::next_look;
use crate::worker::run::interruption::operator_error;
use crate::worker::settle::disposition::{Deferral, Disposition, Stale};

/// A webhook's wake-up that finds Scalekit or the journal out of reach looks again after this time.
const WEBHOOK_WAIT: Duration = Duration::from_secs(5);

/// A run whose call was refused although its account is ACTIVE is woken by webhooks to try again, but not more often.
const LEAST_BETWEEN_TRIES: Duration = Duration::from_secs(10);

/// What a look at a parked run found.
enum Look {
    /// It is to be claimed: its accounts are ready, its time is over, or its user needs a new link.
    Claim,
    /// It does not wait for its user, or cannot be read.
    NotParked,
    /// There is none, or it is another job's.
    Missing,
    /// Its user is still waited for; the next look is after this time.
    Waits(Duration),
    /// Nobody can tell yet; the next look is after this time.
    Unknown(Duration),
}

impl Intake {
    /// What becomes of a message that needs no claim, if anything.
    pub(super) async fn before_the_claim(&self, job: &Job, delivery: &InFlightDelivery) -> Option<Disposition> {
        let wake_up = delivery.wake_up()?;
        if self.is_orphaned(job, wake_up).await {
            return Some(Disposition::Defer(self.wait_for_owner(wake_up)));
        }
        match wake_up.reason {
            Reason::Authorization | Reason::Webhook => self.look(job, wake_up).await,
            Reason::Approval => self.look_at_approvals(job, wake_up).await,
            _ => None,
        }
    }

    /// Looks at a run that waits for its user: a day of polling costs reads only. `None` where it is to be claimed.
    pub(super) async fn look(&self, job: &Job, wake_up: &WakeUp) -> Option<Disposition> {
        let by_webhook = wake_up.reason == Reason::Webhook;
        if by_webhook {
            // Before the look: it does not see what a later webhook tells of.
            self.executor.parked.wake_up_taken(&job.id()).await;
        }
        match self.look_at(job, wake_up, by_webhook).await {
            // Somebody's job, who says that it is a webhook's copy.
            Look::Missing if wake_up.trust == Trust::Unproven => None,
            // A webhook's copy is never the only message of a run: it may vanish.
            Look::NotParked | Look::Missing | Look::Waits(_) if by_webhook => {
                Some(Disposition::DropStale(Stale::WebhookCopy))
            }
            // Whatever else the run is about is the business of who claims it.
            Look::Claim | Look::NotParked | Look::Missing => None,
            Look::Waits(wait) | Look::Unknown(wait) => Some(Disposition::Defer(Deferral::same(wait))),
        }
    }

    async fn look_at(&self, job: &Job, wake_up: &WakeUp, by_webhook: bool) -> Look {
        let now = self.clock.now();
        let run = match self.journal.read(&job.id()).await.map(|lines| Run::replay(&lines)) {
            Ok(Ok(Some(run))) => run,
            Ok(Ok(None)) => return Look::Missing,
            // Whoever takes the run waits for the journal; a webhook's copy would be gone.
            Err(_) | Ok(Err(BadJournal::Newer { .. })) if by_webhook => return Look::Unknown(WEBHOOK_WAIT),
            _ => return Look::NotParked,
        };
        if run.digest() != job.digest() {
            return Look::Missing;
        }
        let stale = wake_up.generation < run.wake_up_generation();
        if !stale && run.has_lost_entries() {
            // The message may have become the run's own when the loss was noticed.
            return Look::Claim;
        }
        if stale || run.next(now) != Step::CheckAccounts {
            return Look::NotParked;
        }
        if by_webhook && run.is_under_way() {
            return Look::Unknown(WEBHOOK_BUSY);
        }
        let Some(awaited) = run.awaited_authorization() else { return Look::NotParked };
        if now >= awaited.until {
            return Look::Claim;
        }
        let next = next_look(self.executor.rules, &run, now, awaited.until);
        // What somebody saw a moment ago may be from before the webhook.
        let accepted = if by_webhook { Accepted::RecentIfActive } else { Accepted::Recent };
        let mut ready = true;
        for connection in &awaited.connections {
            match self.executor.accounts.account(&job.identifier, connection, accepted).await {
                Ok(account) if account.status == AccountStatus::Active => {}
                Ok(account)
                    if account.status == AccountStatus::Disconnected && !self.executor.rules.relink_disconnected =>
                {
                    return Look::Claim;
                }
                Ok(_) => ready = false,
                Err(error) if operator_error(connection, &error).is_some() => return Look::Claim,
                Err(error) => {
                    warn!(%connection, error = error.outline(), "the account could not be looked at");
                    debug!(%connection, %error, "Scalekit's words");
                    let asked = error.come_back_after().unwrap_or_default();
                    return Look::Unknown(asked.max(if by_webhook { WEBHOOK_WAIT } else { next }));
                }
            }
        }
        // What a try brings about at Scalekit may cause the next webhook: they must not chase each other.
        let rest = awaited.tried_at.map_or(Duration::ZERO, |at| LEAST_BETWEEN_TRIES.saturating_sub(since(at, now)));
        if ready && by_webhook && !rest.is_zero() {
            return Look::Unknown(rest);
        }
        if ready || awaited.wants_new_links(now) {
            return Look::Claim;
        }
        debug!(reason = wake_up.reason.as_str(), "the user is still waited for");
        Look::Waits(next)
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(milliseconds_between(then, now))
}

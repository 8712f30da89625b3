//! Claiming a run: patiently while the journal is away.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::Intake;
use crate::job::JobId;
use crate::journal::{Claim, ClaimMode};
use crate::retry::{Backoff, Policy, RetryDecision};
use crate::worker::message::in_flight_delivery::InFlightDelivery;

/// Waits for a journal that is away. The delivery and its place are kept meanwhile, so a journal that is down slows the
/// worker to a halt instead of sending every message round and round.
const PATIENT: Policy =
    Policy { attempts: u32::MAX, initial_milliseconds: 500, max_milliseconds: 5000, max_retry_after_milliseconds: 0 };

impl Intake {
    /// Claims the run of `job`, or waits for the journal until it can, and says when it asked; `None` when the worker stops
    /// first, or the delivery has been held for as long as it should be.
    pub(super) async fn claim(&self, job: &JobId, delivery: &InFlightDelivery) -> Option<(Instant, Claim)> {
        // Each attempt is an owner of its own: a redelivery to the very process that still works on the run must find it
        // taken, too.
        let owner = format!("{}/{}", self.rules.name, self.claims.fetch_add(1, Ordering::Relaxed));
        let trying = async {
            let mut backoff = Backoff::new(PATIENT);
            loop {
                let asked = Instant::now();
                match self.journal.claim(job, &owner, self.rules.lifetimes.lease, ClaimMode::IfFree).await {
                    Ok(claim) => return (asked, claim),
                    // Said once a job: a hundred jobs that wait for an hour must not fill the log.
                    Err(error) if backoff.made() == 1 => warn!(%error, "the job waits for the journal"),
                    Err(error) => debug!(%error, "the job waits on for the journal"),
                }
                tokio::time::sleep(backoff.next(RetryDecision::Again).unwrap_or_default()).await;
            }
        };
        tokio::select! {
            claim = trying => Some(claim),
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep_until(delivery.due()) => None,
        }
    }
}

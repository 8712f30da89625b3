//! Claiming a run: patiently while the journal is away.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::Intake;
use super::decide::Found;
use crate::agent::run::Run;
use crate::job::JobId;
use crate::journal::{Claim, ClaimMode, JournalError};
use crate::retry::{Policy, RetryDecision, retry_until};
use crate::worker::message::in_flight_delivery::InFlightDelivery;

/// Waits for a journal that is away. The delivery and its place are kept meanwhile, so a journal that is down slows the
/// worker to a halt instead of sending every message round and round.
const PATIENT: Policy =
    Policy { attempts: u32::MAX, initial_milliseconds: 500, max_milliseconds: 5000, max_retry_after_milliseconds: 0 };

/// Why a run could not be claimed.
pub(super) enum Unclaimed {
    /// The journal is away.
    Unreachable,
    /// Only others can read it.
    Locked,
    /// Nobody can.
    Damaged(String),
}

impl Unclaimed {
    pub(super) fn found(&self) -> Found<'_> {
        match self {
            Self::Unreachable => Found::Unreachable,
            Self::Locked => Found::Locked,
            Self::Damaged(problem) => Found::Damaged(problem),
        }
    }
}

impl Intake {
    /// The run that another worker has, as its journal tells it just now.
    pub(super) async fn run_elsewhere(&self, job: &JobId) -> Option<Run> {
        let lines = self.journal.read(job).await.ok()?;
        Run::replay(&lines).ok()?
    }

    /// Claims the run of `job`, or waits for the journal until it can, and says as whom and when it asked. Fails when the
    /// worker stops first, or the delivery has been held for as long as it should be; at once where waiting changes nothing.
    pub(super) async fn claim(
        &self,
        job: &JobId,
        delivery: &InFlightDelivery,
    ) -> Result<(String, Instant, Claim), Unclaimed> {
        // Each attempt is an owner of its own: a redelivery to the very process that still works on the run must find it
        // taken, too.
        let owner = format!("{}/{}", self.rules.name, self.claims.fetch_add(1, Ordering::Relaxed));
        let end = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep_until(delivery.due()) => {}
            }
        };
        let notice = |error: &JournalError, attempt, _| {
            // Said once a job: a hundred jobs that wait for an hour must not fill the log.
            if attempt == 2 {
                warn!(%error, "the job waits for the journal");
            } else {
                debug!(%error, "the job waits on for the journal");
            }
        };
        let claim = || async {
            let asked = Instant::now();
            let claim = self.journal.claim(job, &owner, self.rules.lifetimes.lease, ClaimMode::IfFree).await?;
            Ok((asked, claim))
        };
        let decide = |error: &JournalError| match error {
            JournalError::Decrypt(_) => RetryDecision::Stop,
            _ => RetryDecision::Again,
        };
        match retry_until(end, PATIENT, decide, notice, claim).await {
            Ok((asked, claim)) => Ok((owner, asked, claim)),
            Err(JournalError::Decrypt(error)) if error.may_pass() => {
                error!(%error, "the run waits: its journal cannot be read here; nothing of it is lost");
                Err(Unclaimed::Locked)
            }
            Err(JournalError::Decrypt(error)) => {
                error!(%error, "the journal of the run cannot be read");
                Err(Unclaimed::Damaged(error.to_string()))
            }
            Err(_) => Err(Unclaimed::Unreachable),
        }
    }
}

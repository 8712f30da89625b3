//! What a person says to a call that waits: journalled where it comes first, and then the run is woken. All doors lead here.

use std::sync::Arc;

use tracing::{info, instrument, warn};

use super::runs::{RunError, Runs};
use crate::agent::event::Event;
use crate::agent::ruling::{Objection, rule};
use crate::agent::run::{BadJournal, Run};
use crate::decision::{Decision, Door};
use crate::job::JobId;
use crate::journal::ClaimMode;
use crate::metrics::Metrics;
use crate::retry::{Policy, RetryDecision, retry};
use crate::worker::run::interruption::Interruption;

/// A run that is just being parked, or that another decision is made about, is free after a moment. About ten seconds.
const PATIENT: Policy =
    Policy { attempts: 30, initial_milliseconds: 50, max_milliseconds: 800, max_retry_after_milliseconds: 0 };

/// Makes decisions.
pub(crate) struct Decider {
    pub(crate) runs: Runs,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a decision was not journalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDecided {
    /// It changes nothing, however often it comes.
    #[error("{0}")]
    Refused(#[from] Objection),
    /// Not now: the run is in other hands, or a service is away. Whatever was journalled is found again.
    #[error("not now: {0}")]
    NotNow(String),
}

impl From<RunError> for NotDecided {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Unknown(_) => Objection::Unknown.into(),
            RunError::BadJournal(error) if !matches!(error, BadJournal::Newer { .. }) => {
                warn!(%error, "the journal of the run that a decision is about is damaged");
                Objection::Unknown.into()
            }
            error => Self::NotNow(error.to_string()),
        }
    }
}

impl Decider {
    /// Journals the decision, where it is the first, and wakes the run once nothing of it waits any more. At the return
    /// both are safe; that it was journalled before is [`Objection::Already`], and then the run is woken again.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %decision.job))]
    pub(crate) async fn decide(&self, decision: &Decision, door: Door) -> Result<(), NotDecided> {
        let again = |error: &NotDecided| match error {
            NotDecided::NotNow(_) => RetryDecision::Again,
            NotDecided::Refused(_) => RetryDecision::Stop,
        };
        let notice = |error: &NotDecided, attempt, _| {
            if attempt == 10 {
                warn!(%error, "a decision waits");
            }
        };
        retry(PATIENT, again, notice, || self.try_to_decide(decision, door)).await
    }

    /// The run, as its journal tells it.
    pub(crate) async fn run(&self, id: &JobId) -> Result<Run, NotDecided> {
        Ok(self.runs.read(id).await?)
    }

    async fn try_to_decide(&self, decision: &Decision, door: Door) -> Result<(), NotDecided> {
        // Most that is refused needs no claim.
        let run = self.run(&decision.job).await?;
        if let Err(refusal) = rule(&run, decision, door, self.runs.clock.now()) {
            if refusal == Objection::Already && !run.is_under_way() {
                self.wake(&run).await?;
            }
            return Err(refusal.into());
        }
        let mut leased = self.runs.claim(&decision.job, ClaimMode::IfFree).await?;
        let settled = match rule(leased.run(), decision, door, self.runs.clock.now()) {
            Ok(settled) => settled,
            Err(refusal) => {
                leased.release().await;
                return Err(refusal.into());
            }
        };
        let verdict = settled.verdict;
        let recorded = leased.record(vec![Event::ApprovalDecided(Box::new(settled))]).await;
        leased.release().await;
        recorded.map_err(|error| match error {
            Interruption::Illegal(_) | Interruption::Damaged(_) => Objection::Unknown.into(),
            error => NotDecided::NotNow(error.to_string()),
        })?;
        info!(decision = verdict.as_str(), door = door.as_str(), "a call that waited is decided about");
        self.metrics.approval_decided(verdict, door);
        self.wake(leased.run()).await
    }

    async fn wake(&self, run: &Run) -> Result<(), NotDecided> {
        if run.approvals().any_wait() || run.reply().is_some() {
            return Ok(());
        }
        self.runs.wake(run).await.map_err(RunError::from)?;
        self.runs.unpark(run).await;
        Ok(())
    }
}

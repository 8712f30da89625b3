//! What a person can do to a run from outside, while workers work: cancel it, wake it, open it again.

use tracing::instrument;

use super::runs::{RunError, Runs};
use crate::agent::conclusion;
use crate::agent::event::{Event, Started};
use crate::agent::run::Run;
use crate::agent::turn::Conclusion;
use crate::audit::AuditEvent;
use crate::job::JobId;
use crate::journal::ClaimMode;
use crate::reply::{ErrorCode, ErrorDetail};

/// Acts on runs.
pub struct Operator {
    pub(super) runs: Runs,
}

/// What came of [`Operator::cancel`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cancel {
    /// It is cancelled; the worker that had the run stops and its message brings the reply to the caller.
    UnderWay,
    /// It is cancelled; a wake-up that brings the reply to the caller is on its way.
    Waiting,
    /// It had ended before; nothing was changed.
    Ended(Box<Run>),
}

/// What came of [`Operator::reopen`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reopen {
    /// There is no journal: the job starts anew.
    Unknown,
    /// The run has not ended: its next message goes on with it.
    Unfinished,
    /// It was given up; now its next message goes on with it.
    Reopened,
    /// It has an end that stays: its next message only gets the same reply again.
    Ended(Box<Run>),
}

impl Operator {
    /// An operator of these runs.
    pub fn new(runs: Runs) -> Self {
        Self { runs }
    }

    /// Ends a run with `failed/cancelled`. The end is journalled here; the caller is told by the worker that gets the run's
    /// next message. A run that is under way needs none: its worker puts back the one it has, or a wake-up of at most half a
    /// minute stands for it already.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn cancel(&self, id: &JobId) -> Result<Cancel, RunError> {
        let run = self.runs.read(id).await?;
        if run.reply().is_some() {
            return Ok(Cancel::Ended(Box::new(run)));
        }
        let mut leased = self.runs.claim(id, ClaimMode::Steal).await?;
        if leased.run().reply().is_some() {
            leased.release().await;
            return Ok(Cancel::Ended(Box::new(leased.run().clone())));
        }
        if let Err(error) = self.runs.record(leased.run(), AuditEvent::Cancelled).await {
            leased.release().await;
            return Err(error.into());
        }
        let reply = conclusion::reply(leased.run(), Conclusion::failed(cancelled()), self.runs.clock.now());
        leased.record(vec![Event::Finished(Box::new(reply))]).await?;
        leased.release().await;
        if leased.run().is_under_way() {
            return Ok(Cancel::UnderWay);
        }
        self.runs.wake(leased.run()).await?;
        Ok(Cancel::Waiting)
    }

    /// The same to a run that no worker has begun yet: the job's message finds it ended, and brings the reply to the caller.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %started.job.id()))]
    pub(crate) async fn cancel_before_the_first_attempt(&self, started: Started) -> Result<(), RunError> {
        let mut leased = self.runs.begin(started).await?;
        let ended = match self.runs.record(leased.run(), AuditEvent::Cancelled).await {
            Ok(()) => leased.conclude(Vec::new(), Conclusion::failed(cancelled())).await.map_err(RunError::from),
            Err(error) => Err(error.into()),
        };
        leased.release().await;
        ended?;
        Ok(())
    }

    /// Publishes a wake-up now, unless the run has ended. Returns the run as it was.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn resume(&self, id: &JobId) -> Result<Run, RunError> {
        let run = self.runs.read(id).await?;
        if !run.is_delivered() {
            self.runs.record(&run, AuditEvent::Resumed).await?;
            self.runs.wake(&run).await?;
        }
        Ok(run)
    }

    /// Takes back the end of a run that was given up (`attempts_exhausted`), so that the next message of the same id goes
    /// on with it where it had stopped: nothing that was done is done again, and what is in doubt stays fenced off.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn reopen(&self, id: &JobId) -> Result<Reopen, RunError> {
        let run = match self.runs.read(id).await {
            Ok(run) => run,
            Err(RunError::Unknown(_)) => return Ok(Reopen::Unknown),
            Err(error) => return Err(error),
        };
        if !run.is_delivered() {
            self.runs.record(&run, AuditEvent::Replayed).await?;
            return Ok(Reopen::Unfinished);
        }
        if !run.may_be_reopened() {
            return Ok(Reopen::Ended(Box::new(run)));
        }
        let mut leased = self.runs.claim(id, ClaimMode::IfFree).await?;
        let recorded = self.runs.record(leased.run(), AuditEvent::Replayed).await;
        let result = match recorded {
            Ok(()) => leased.record(vec![Event::Reopened]).await.map_err(RunError::from),
            Err(error) => Err(error.into()),
        };
        leased.release().await;
        result?;
        Ok(Reopen::Reopened)
    }
}

fn cancelled() -> ErrorDetail {
    ErrorDetail::new(ErrorCode::Cancelled, "an operator cancelled the job")
}
